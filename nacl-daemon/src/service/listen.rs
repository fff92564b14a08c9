//! The HTTP server on the daemon's socket and, where asked for, on a port: who connects, how many at once, and for how long. What is
//! asked is none of its business.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_io_timeout::TimeoutStream;

use super::{access::Peer, api};

/// What a client may take of the daemon.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long it may take for its request, and for a part of its answer. One that asks nothing for so long is let go.
    pub patience: Duration,
    /// Connections at once of those who may change something, and as many of those who may only look: the second cannot
    /// keep the first out.
    pub places: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { patience: Duration::from_secs(10), places: 64 }
    }
}

/// The largest head of a request, and the most headers in it.
const LARGEST_HEAD: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// How long to wait where the system has no descriptor for another connection.
const PAUSE: Duration = Duration::from_millis(100);

struct Places {
    changing: Arc<Semaphore>,
    looking: Arc<Semaphore>,
}

impl Places {
    fn take(&self, peer: Peer) -> Option<OwnedSemaphorePermit> {
        let places = if peer.may_change() { &self.changing } else { &self.looking };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// Where connections come in.
pub trait Door: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Who is at its other end.
    fn peer(stream: &Self::Stream) -> Peer;
    /// Writes what fits, without waiting.
    fn try_write(stream: &Self::Stream, bytes: &[u8]) -> io::Result<usize>;
}

impl Door for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }

    fn peer(stream: &UnixStream) -> Peer {
        Peer::of(stream)
    }

    fn try_write(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
        stream.try_write(bytes)
    }
}

impl Door for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }

    fn peer(_: &TcpStream) -> Peer {
        Peer::NOBODY
    }

    fn try_write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        stream.try_write(bytes)
    }
}

/// Answers until `until` is over, then lets open requests end.
///
/// # Errors
/// The listener is broken.
pub async fn serve<D: Door>(
    listener: D,
    router: Router,
    bounds: Bounds,
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    let Bounds { patience, places: most } = bounds;
    let places = Places { changing: Arc::new(Semaphore::new(most)), looking: Arc::new(Semaphore::new(most)) };
    let connections = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_headers(MOST_HEADERS).max_buf_size(LARGEST_HEAD);
    tokio::pin!(until);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut until => break,
            accepted = listener.next() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                tracing::warn!(reason = %error, "a connection has to wait");
                sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let peer = D::peer(&stream);
        let Some(place) = places.take(peer) else {
            refuse::<D>(&stream, most);
            continue;
        };
        let service = TowerToHyperService::new(router.clone().layer(Extension(peer)).layer(Extension(bounds)));
        let stream = TokioIo::new(patient(stream, patience));
        let connection = connections.watch(builder.serve_connection(stream, service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(uid = peer.uid, pid = peer.pid, reason = %error, "a connection ended");
            }
            drop(place);
        });
    }
    connections.shutdown().await;
    Ok(())
}

/// A stream that ends where the other end does not take what is written to it.
fn patient<S: AsyncRead + AsyncWrite>(stream: S, patience: Duration) -> Pin<Box<TimeoutStream<S>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience));
    Box::pin(stream)
}

/// Says that there is no place, without waiting for anything.
fn refuse<D: Door>(stream: &D::Stream, most: usize) {
    let body = api::problem(&format!("{most} connections are open already"), Some("try again when one has ended"));
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // A fresh socket takes it whole, or nobody reads it.
    let _ = D::try_write(stream, answer.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        path::PathBuf,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use axum::{
        body::{Body, Bytes},
        middleware,
        routing::{get, post},
    };
    use futures_util::stream;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::oneshot,
        time::timeout,
    };

    use super::*;
    use crate::service::access;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A server with one endpoint that takes a body, and one whose answer never ends.
    struct Server {
        directory: tempfile::TempDir,
        streaming: Arc<AtomicUsize>,
        _stop: oneshot::Sender<()>,
    }

    struct Guard(Arc<AtomicUsize>);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Server {
        fn start(bounds: Bounds) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
            let streaming = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&streaming);
            let endless = move || {
                count.fetch_add(1, Ordering::SeqCst);
                let guard = Guard(Arc::clone(&count));
                let piece = |guard| async { Some((Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 << 10])), guard)) };
                async move { Body::from_stream(stream::unfold(guard, piece)) }
            };
            let router = Router::new()
                .route("/", post(async |body: Bytes| format!("{} bytes", body.len())))
                .route("/endless", get(endless))
                .layer(middleware::from_fn(access::admit));
            let (stop, stopped) = oneshot::channel::<()>();
            tokio::spawn(serve(listener, router, bounds, async move { drop(stopped.await) }));
            Self { directory, streaming, _stop: stop }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("socket")
        }

        /// A client that says something and then nothing more.
        async fn say(&self, text: &str) -> UnixStream {
            let mut stream = UnixStream::connect(self.path()).await.unwrap();
            // It may be refused before all was said.
            let _ = stream.write_all(text.as_bytes()).await;
            stream
        }

        /// What the server answers until it closes the connection by itself.
        async fn answer(&self, text: &str) -> String {
            rest(self.say(text).await).await
        }
    }

    async fn rest(mut stream: UnixStream) -> String {
        let mut answer = Vec::new();
        // The end may be a reset, where not all that was said had been read.
        let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it closes the connection");
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn quick() -> Bounds {
        Bounds { patience: Duration::from_millis(200), ..Bounds::default() }
    }

    #[tokio::test]
    async fn slow_clients_are_let_go() {
        let server = Server::start(quick());
        for (said, answer) in [
            ("", ""),
            ("POST / HTTP/1.1\r\nhost: x\r\n", ""),
            ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf", "HTTP/1.1 408"),
            // One that asks and then stays without asking more.
            ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nfull", "HTTP/1.1 200"),
        ] {
            let got = server.answer(said).await;
            assert!(got.starts_with(answer) && got.is_empty() == answer.is_empty(), "{said:?}: {got:?}");
        }
        // One that does not read what it asked for: what is made for it comes to an end.
        let stream = server.say("GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let begun = async {
            while server.streaming.load(Ordering::SeqCst) == 0 {
                sleep(Duration::from_millis(10)).await;
            }
            while server.streaming.load(Ordering::SeqCst) > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, begun).await.expect("it is let go");
        drop(stream);
    }

    #[tokio::test]
    async fn requests_are_bounded() {
        let server = Server::start(quick());
        let most = access::LARGEST_BODY;
        for (length, answer) in [(most, "HTTP/1.1 200"), (most + 1, "HTTP/1.1 413")] {
            let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
            let got = server.answer(&(head + &"x".repeat(length))).await;
            assert!(got.starts_with(answer), "{got:?}");
        }
        let long = format!("POST / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(LARGEST_HEAD));
        let many = format!("POST / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(MOST_HEADERS));
        for head in [long, many] {
            let got = server.answer(&head).await;
            assert!(got.starts_with("HTTP/1.1 431"), "{got:?}");
        }
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_they_come_back() {
        let server = Server::start(Bounds { places: 2, ..Bounds::default() });
        let request = "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let taken = [server.say("P").await, server.say("P").await];
        let got = server.answer(request).await;
        assert!(got.starts_with("HTTP/1.1 503") && got.contains("2 connections are open already"), "{got:?}");
        drop(taken);
        let again = async {
            while !server.answer(request).await.starts_with("HTTP/1.1 200") {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, again).await.expect("a place comes free");
    }
}
