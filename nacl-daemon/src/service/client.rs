//! Asking a running daemon, over its socket. The verbs' half of `api`.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::net::UnixStream;

use super::api::{
    AllModes, Answer, Broken, Confirmed, ConnectionStats, Connections, Detached, Flows, Flushed, Problem, Reloaded,
    RolledBack, Rules, SCHEMA, SetMode,
};
use crate::observe::{BrokenReturn, Filter, InterfaceModes, Record, Status};

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
    /// It cannot do this: what was asked for makes no sense, or is not there.
    #[error("{}", .0.error)]
    Senseless(Box<Problem>),
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
            Self::Broken(_) => Some(
                "it was ended, or died; what is enforced is what was enforced before, unless it was told to detach: nacld doctor"
                    .to_owned(),
            ),
            Self::Refused(problem) => problem.hint.clone(),
            Self::Senseless(problem) => problem.hint.clone(),
            Self::Unreachable { .. } | Self::Strange { .. } => None,
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

    /// Mode and layers of one interface or of all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn modes(&self, interface: Option<&str>) -> Result<AllModes, ClientError> {
        match interface {
            Some(interface) => Ok(AllModes { interfaces: vec![self.ask(Method::GET, &mode_of(interface)).await?] }),
            None => self.ask(Method::GET, "/v1/modes").await,
        }
    }

    /// Has mode or layers of an interface changed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_mode(&self, interface: &str, set: &SetMode) -> Result<InterfaceModes, ClientError> {
        let body = serde_json::to_vec(set).map_err(|error| self.strange(error.to_string()))?;
        self.ask_with(Method::POST, &mode_of(interface), body).await
    }

    /// What is remembered of connections, on one interface or on all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connections(&self, interface: Option<&str>, filter: &Filter) -> Result<Connections, ClientError> {
        self.ask(Method::GET, &flows("/v1/conntrack", interface, filter, [])).await
    }

    /// Flows whose requests pass and whose replies do not, of one interface or of all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn broken(&self, interface: Option<&str>) -> Result<Broken, ClientError> {
        self.ask(Method::GET, &query("/v1/broken", [("interface", interface)])).await
    }

    /// Verdicts from now on, and broken returns as they are found; an empty `filter` lets all pass.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch(&self, interface: Option<&str>, filter: &str) -> Result<Watch, ClientError> {
        let filter = if filter.is_empty() {
            [("action", Some("all")), ("filter", None)]
        } else {
            [("action", None), ("filter", Some(filter))]
        };
        let [action, filter] = filter;
        let uri = query("/v1/events", [("interface", interface), ("broken", Some("true")), action, filter]);
        let response = self.send(Method::GET, &uri).await?;
        if !response.status().is_success() {
            let status = response.status();
            return Err(self.no(status, &response.into_body().collect().await?.to_bytes()));
        }
        Ok(Watch { client: self.clone(), body: response.into_body(), read: VecDeque::new(), left: Vec::new() })
    }

    /// How full connection tables are, of one interface or of all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connection_stats(&self, interface: Option<&str>) -> Result<ConnectionStats, ClientError> {
        self.ask(Method::GET, &query("/v1/conntrack/stats", [("interface", interface)])).await
    }

    /// What the windows of flow logs that run hold so far, of one interface or of all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn flows(&self, interface: Option<&str>) -> Result<Flows, ClientError> {
        self.ask(Method::GET, &query("/v1/flows", [("interface", interface)])).await
    }

    /// Has connections forgotten. `all`: also where neither an interface nor a filter says which.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn flush(
        &self,
        interface: Option<&str>,
        filter: &Filter,
        all: bool,
        force: bool,
    ) -> Result<Flushed, ClientError> {
        let flags = [("all", all), ("force", force)];
        self.ask(Method::POST, &flows("/v1/conntrack/flush", interface, filter, flags)).await
    }

    /// Has the policy file read again. `confirm`: for how long, unless it is confirmed; in whole seconds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reload(&self, force: bool, confirm: Option<Duration>) -> Result<Reloaded, ClientError> {
        let seconds = confirm.map(|confirm| confirm.as_secs().max(1).to_string());
        let fields = [("force", force.then_some("true")), ("confirm", seconds.as_deref())];
        self.ask(Method::POST, &query("/v1/reload", fields)).await
    }

    /// Has a change stay that awaits confirmation.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn confirm(&self) -> Result<Confirmed, ClientError> {
        self.ask(Method::POST, "/v1/confirm").await
    }

    /// Has a change undone that awaits confirmation.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn roll_back(&self) -> Result<RolledBack, ClientError> {
        self.ask(Method::POST, "/v1/rollback").await
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

    fn strange(&self, why: String) -> ClientError {
        ClientError::Strange { path: self.path.clone(), why }
    }

    /// Any other answer than success.
    fn no(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice(body) {
            Ok(Answer { body: problem, .. }) if matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) => {
                ClientError::Senseless(Box::new(problem))
            }
            Ok(Answer { body: problem, .. }) => ClientError::Refused(problem),
            Err(error) => self.strange(error.to_string()),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, uri: &str) -> Result<T, ClientError> {
        self.ask_with(method, uri, Vec::new()).await
    }

    async fn ask_with<T: DeserializeOwned>(&self, method: Method, uri: &str, body: Vec<u8>) -> Result<T, ClientError> {
        let response = self.send_with(method, uri, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(self.no(status, &body));
        }
        let answer: Answer<T> = serde_json::from_slice(&body).map_err(|error| self.strange(error.to_string()))?;
        if answer.schema != SCHEMA {
            return Err(self.strange(format!("schema {}, and {SCHEMA} is known here", answer.schema)));
        }
        Ok(answer.body)
    }

    /// Sends a request and returns the answer unread, as a stream of events needs it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(&self, method: Method, uri: &str) -> Result<Response<Incoming>, ClientError> {
        self.send_with(method, uri, Vec::new()).await
    }

    /// As [`Self::send`], with a body of JSON where it is not empty.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_with(&self, method: Method, uri: &str, json: Vec<u8>) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(self.path.clone()),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(self.path.clone()),
            _ => ClientError::Unreachable { path: self.path.clone(), source },
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the request; an error of it shows in the answer too.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(uri).header(HOST, "nacld");
        if !json.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::<Bytes>::from(json)).map_err(|error| self.strange(error.to_string()))?;
        Ok(sender.send_request(request).await?)
    }
}

/// What a daemon tells as it happens.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    body: Incoming,
    /// Whole lines, and the beginning of one.
    read: VecDeque<Vec<u8>>,
    left: Vec<u8>,
}

/// One line of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Told {
    /// Requests pass and their replies do not.
    Broken {
        /// Which.
        broken: Box<BrokenReturn>,
    },
    /// So many verdicts could not be told, because this end reads too slowly.
    Missed {
        /// How many.
        missed: u64,
    },
    /// So many were not reported, because there were too many at once.
    Suppressed {
        /// How many.
        suppressed: u64,
    },
    /// A verdict.
    Record(Box<Record>),
}

impl Watch {
    /// The next line as it was sent, and what it says; nothing when the daemon has ended.
    ///
    /// # Errors
    /// The connection broke, or a line makes no sense.
    pub async fn next(&mut self) -> Result<Option<(String, Told)>, ClientError> {
        loop {
            if let Some(line) = self.read.pop_front() {
                let told: Answer<Told> =
                    serde_json::from_slice(&line).map_err(|error| self.client.strange(error.to_string()))?;
                return Ok(Some((String::from_utf8_lossy(&line).into_owned(), told.body)));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(data) = frame?.into_data() else { continue };
            self.left.extend_from_slice(&data);
            while let Some(end) = self.left.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<_> = self.left.drain(..=end).collect();
                line.pop();
                self.read.push_back(line);
            }
        }
    }
}

/// The path of an interface's mode. A name of the policy may hold anything.
fn mode_of(interface: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(interface, percent_encoding::NON_ALPHANUMERIC);
    format!("/v1/interfaces/{name}/mode")
}

/// A path with the connections that are meant.
fn flows<const N: usize>(path: &str, interface: Option<&str>, filter: &Filter, flags: [(&str, bool); N]) -> String {
    let Filter { address, port, protocol, state } = filter;
    let texts = [
        ("interface", interface.map(str::to_owned)),
        ("address", address.map(|within| within.to_string())),
        ("port", port.map(|port| port.to_string())),
        ("protocol", protocol.map(|protocol| protocol.to_string())),
        ("state", state.map(|state| state.to_string())),
    ];
    let flags = flags.into_iter().map(|(key, set)| (key, set.then(|| "true".to_owned())));
    let fields: Vec<_> = texts.into_iter().chain(flags).collect();
    query_of(path, fields.iter().map(|(key, value)| (*key, value.as_deref())))
}

/// A path with its query; what is absent is left out.
fn query<const N: usize>(path: &str, fields: [(&str, Option<&str>); N]) -> String {
    query_of(path, fields.into_iter())
}

fn query_of<'f>(path: &str, fields: impl Iterator<Item = (&'f str, Option<&'f str>)>) -> String {
    let fields: Vec<_> = fields.filter_map(|(key, value)| value.map(|value| (key, value))).collect();
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
        assert_eq!(mode_of("a/b c"), "/v1/interfaces/a%2Fb%20c/mode");
        let filter = Filter { port: Some(443), state: "closed".parse().ok(), ..Filter::default() };
        assert_eq!(
            flows("/v1/x", None, &filter, [("all", false), ("force", true)]),
            "/v1/x?port=443&state=closed&force=true"
        );
    }
}
