//! Who may do what over the socket. The file's permissions say who may open it; here is said, for every endpoint at once, that
//! changing is for root. No endpoint decides it for itself.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use nix::unistd::geteuid;
use tokio::{net::UnixStream, time::timeout};

use super::{
    api::{Failure, Problem},
    listen::Bounds,
};

/// The largest body that is read. The largest that means something is a few dozen bytes.
pub const LARGEST_BODY: usize = 64 << 10;

/// Who is at the other end of a connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user it ran as when it connected.
    pub uid: u32,
    /// Its process id, where the daemon's namespace has one for it.
    pub pid: Option<i32>,
}

impl Peer {
    /// Whoever comes in over a port: the kernel does not say who that is.
    pub const NOBODY: Self = Self { uid: u32::MAX, pid: None };

    /// Of a connection. Nobody where the kernel does not say: such a one may not change anything.
    pub fn of(stream: &UnixStream) -> Self {
        stream.peer_cred().map_or(Self::NOBODY, |peer| Self { uid: peer.uid(), pid: peer.pid() })
    }

    /// Whether it may change anything: root, or whom the daemon itself runs as.
    pub fn may_change(&self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }
}

/// Whether a request of this method changes something.
const fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Lets through what the peer may ask, with its body read to the end: no endpoint waits for a slow one.
pub async fn admit(request: Request, next: Next) -> Result<Response, Failure> {
    let peer = request.extensions().get::<Peer>().copied();
    if changes(request.method()) {
        let path = request.uri().path();
        match peer {
            Some(peer) if peer.may_change() => {
                tracing::info!(uid = peer.uid, pid = peer.pid, "{} {path}", request.method());
            }
            _ => return Err(forbidden(path, peer)),
        }
    }
    let (head, body) = request.into_parts();
    let patience = head.extensions.get::<Bounds>().copied().unwrap_or_default().patience;
    let body = match timeout(patience, to_bytes(body, LARGEST_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Err(short(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or broke off")),
        Err(_) => return Err(short(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    };
    Ok(next.run(Request::from_parts(head, Body::from(body))).await.into_response())
}

fn short(status: StatusCode, error: &str) -> Failure {
    Failure(status, Problem { error: error.to_owned(), ..Problem::default() })
}

fn forbidden(path: &str, peer: Option<Peer>) -> Failure {
    let who = peer.map_or_else(String::new, |peer| format!(", and you are user {}", peer.uid));
    let own = geteuid();
    let may = if own.is_root() { "root".to_owned() } else { format!("root and for user {own}, as whom nacld runs") };
    let error = format!("{path} changes what is enforced: that is for {may}{who}");
    let hint = Some("run it by sudo; who may open the socket may only look".to_owned());
    Failure(StatusCode::FORBIDDEN, Problem { error, hint, ..Problem::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_asking_is_no_change() {
        for (method, change) in [
            (Method::GET, false),
            (Method::HEAD, false),
            (Method::POST, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::PATCH, true),
            (Method::OPTIONS, true),
            (Method::from_bytes(b"FROB").expect("a method"), true),
        ] {
            assert_eq!(changes(&method), change, "{method}");
        }
    }

    #[test]
    fn root_and_the_daemon_s_own_user_may_change() {
        let own = geteuid().as_raw();
        for (uid, may) in [(0, true), (own, true), (own + 1, false), (u32::MAX, false)] {
            assert_eq!(Peer { uid, pid: Some(1) }.may_change(), may, "{uid}");
        }
    }
}
