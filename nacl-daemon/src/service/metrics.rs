//! Metrics on a port of this machine's own, for a Prometheus that cannot read a unix socket: `/metrics` and nothing else, and only
//! from this machine. What they say is said by `report::metrics`.

use std::{io, net::SocketAddr, str::FromStr, sync::Arc};

use axum::{
    Router,
    http::StatusCode,
    middleware,
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
        .with_state(service)
}

#[cfg(test)]
mod tests {
    use super::*;

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
