//! Metrics on a port of this machine's own, for a Prometheus that cannot read a unix socket: `/metrics` and nothing else, and only
//! from this machine. What they say is said by `report::metrics`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode, header::HOST},
    middleware::{self, Next},
    response::Response,
    routing::{MethodRouter, get},
};
use tokio::net::TcpListener;

use super::{
    Service, access,
    api::{self, Failure},
};

/// The path there is.
pub const PATH: &str = "/metrics";

/// An address of this machine that nobody else reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loopback(SocketAddr);

impl FromStr for Loopback {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is no address with a port, such as 127.0.0.1:9464"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{} is not this machine's own, and whoever reached it would read what is enforced here: take 127.0.0.1:{}, and let an \
                 agent or a proxy on this machine pass it on",
                address.ip(),
                address.port()
            ));
        }
        Ok(Self(address))
    }
}

impl std::fmt::Display for Loopback {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Loopback {
    /// Listens there. Nothing is answered yet.
    ///
    /// # Errors
    /// It is taken, or there is no such address here.
    pub async fn bind(self) -> io::Result<TcpListener> {
        TcpListener::bind(self.0).await
    }
}

/// The one route.
pub fn router(service: Arc<Service>) -> Router {
    let route: MethodRouter<Arc<Service>> = get(api::metrics);
    Router::new()
        .route(PATH, route)
        .fallback(async || Failure::of(StatusCode::NOT_FOUND, "there is nothing here but /metrics"))
        .layer(middleware::from_fn(access::admit))
        .layer(middleware::from_fn(only_read_here))
        .with_state(service)
}

/// Lets through who reads, and calls this machine by a name that only this machine has.
async fn only_read_here(request: Request, next: Next) -> Result<Response, Failure> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Failure::of(StatusCode::METHOD_NOT_ALLOWED, "there is nothing to change here: GET /metrics"));
    }
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or_default());
    if host.is_some_and(|host| !is_own(host)) {
        return Err(Failure::of(
            StatusCode::MISDIRECTED_REQUEST,
            "only this machine's own names are answered: ask for 127.0.0.1, [::1] or localhost",
        ));
    }
    Ok(next.run(request).await)
}

/// Whether a `Host` is one that nobody else can have: a page of somebody else's, whose name is made to mean 127.0.0.1 once a browser
/// here has loaded it (DNS rebinding), asks under that name.
fn is_own(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_s_name() {
        for own in ["127.0.0.1:9464", "127.0.0.1", "localhost:9464", "LOCALHOST", "[::1]:9464", "[::1]"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["evil.example", "evil.example:9464", "localhost.evil.example:80", "10.0.0.1:9464", "", ":9464"] {
            assert!(!is_own(other), "{other}");
        }
    }

    #[test]
    fn nobody_else_s_address() {
        for own in ["127.0.0.1:9464", "127.1.2.3:1", "[::1]:9464"] {
            assert_eq!(own.parse::<Loopback>().map(|address| address.to_string()).as_deref(), Ok(own));
        }
        for other in ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "[2001:db8::1]:9464"] {
            let refused = other.parse::<Loopback>().unwrap_err();
            assert!(refused.contains("take 127.0.0.1:9464"), "{refused}");
        }
        for nonsense in ["9464", "127.0.0.1", "localhost:9464", ""] {
            assert!(nonsense.parse::<Loopback>().unwrap_err().contains("such as 127.0.0.1:9464"), "{nonsense}");
        }
    }
}
