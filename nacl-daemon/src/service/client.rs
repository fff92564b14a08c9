//! Asking a running daemon, over its socket. The verbs' half of `api`.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use super::api::{Answer, Detached, Problem, Reloaded, Rules, SCHEMA};
use crate::observe::Status;

/// A daemon that did not do what it was asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no nacld is running on {}", .0.display())]
    NotRunning(PathBuf),
    /// It may not be asked.
    #[error("no permission to ask the nacld on {}", .0.display())]
    NotAllowed(PathBuf),
    /// It cannot be reached for another reason.
    #[error("cannot reach the nacld on {}", path.display())]
    Unreachable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to nacld broke")]
    Broken(#[from] hyper::Error),
    /// The answer makes no sense.
    #[error("nacld on {} gave an answer this nacld does not understand: {why}", path.display())]
    Strange {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It said no.
    #[error("{}", .0.error)]
    Refused(Problem),
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning(_) => Some(
                "start one with `nacld run --config FILE`, or name its socket with --socket PATH or NACLD_SOCKET"
                    .to_owned(),
            ),
            Self::NotAllowed(_) => Some("run as root, or as a member of the socket file's group".to_owned()),
            Self::Refused(problem) => problem.hint.clone(),
            _ => None,
        }
    }
}

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// Of the daemon on this socket. Nothing is sent yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What the daemon tells of itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// Rule tables with hits, of one interface or of all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rules(&self, interface: Option<&str>) -> Result<Rules, ClientError> {
        self.ask(Method::GET, &query("/v1/rules", [("interface", interface)])).await
    }

    /// Has the policy file read again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reload(&self, force: bool) -> Result<Reloaded, ClientError> {
        self.ask(Method::POST, &query("/v1/reload", [("force", force.then_some("true"))])).await
    }

    /// Has one interface detached.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn detach(&self, interface: &str, netns: Option<&str>) -> Result<Detached, ClientError> {
        self.ask(Method::POST, &query("/v1/detach", [("interface", Some(interface)), ("netns", netns)])).await
    }

    /// Ends the daemon. When this returns, its programs are gone.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop(&self) -> Result<Detached, ClientError> {
        self.ask(Method::POST, "/v1/stop").await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, uri: &str) -> Result<T, ClientError> {
        let response = self.send(method, uri).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let strange = |why: String| ClientError::Strange { path: self.path.clone(), why };
        let read = |error: serde_json::Error| strange(error.to_string());
        if !status.is_success() {
            let problem: Answer<Problem> = serde_json::from_slice(&body).map_err(read)?;
            return Err(ClientError::Refused(problem.body));
        }
        let answer: Answer<T> = serde_json::from_slice(&body).map_err(read)?;
        if answer.schema != SCHEMA {
            return Err(strange(format!("schema {}, and {SCHEMA} is known here", answer.schema)));
        }
        Ok(answer.body)
    }

    /// Sends a request and returns the answer unread, as a stream of events needs it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(&self, method: Method, uri: &str) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(self.path.clone()),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(self.path.clone()),
            _ => ClientError::Unreachable { path: self.path.clone(), source },
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the request; an error of it shows in the answer too.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(uri).header(HOST, "nacld").body(Empty::<Bytes>::new());
        let request =
            request.map_err(|error| ClientError::Strange { path: self.path.clone(), why: error.to_string() })?;
        Ok(sender.send_request(request).await?)
    }
}

/// A path with its query; what is absent is left out.
fn query<const N: usize>(path: &str, fields: [(&str, Option<&str>); N]) -> String {
    let fields: Vec<_> = fields.iter().filter_map(|(key, value)| value.map(|value| (*key, value))).collect();
    if fields.is_empty() {
        return path.to_owned();
    }
    let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    format!("{path}?{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        assert_eq!(query("/v1/rules", [("interface", None)]), "/v1/rules");
        assert_eq!(query("/v1/rules", [("interface", Some("a&b=c"))]), "/v1/rules?interface=a%26b%3Dc");
    }
}
