//! The API: HTTP with JSON on a unix socket, under /v1/. Every answer is an object with `"schema": 1`; a stream of
//! events is one such object a line. Only translation lives here: what is done is done by [`Service`].

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    Curious, ReloadError, Service,
    load::LoadError,
    state::{self, StateError},
};
use crate::{
    observe::{Change, InterfaceRules, InterfaceStatus, Record, Status},
    report,
};

/// Version of the shapes below. Fields are added under the same number; anything else makes a new one.
pub const SCHEMA: u32 = 1;

/// What every answer is wrapped in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The answer itself.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Answer<T> {
    /// Wraps an answer.
    pub const fn new(body: T) -> Self {
        Self { schema: SCHEMA, body }
    }
}

/// Answer of `/v1/interfaces`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Interfaces {
    /// Where the policy is enforced.
    pub interfaces: Vec<InterfaceStatus>,
}

/// Answer of `/v1/rules`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Tables by interface.
    pub interfaces: Vec<InterfaceRules>,
}

/// Answer of `/v1/reload`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// What the switch did.
    #[serde(flatten)]
    pub change: Change,
    /// What was noticed about the file, as text.
    pub diagnostics: String,
}

/// Answer of `/v1/detach` and `/v1/stop`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Detached {
    /// What was detached.
    pub detached: Vec<String>,
    /// True when the daemon ends, because nothing is left to enforce.
    pub stopping: bool,
}

/// Any other answer than success.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Problem {
    /// What failed, and why.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What was noticed about a policy file, as text.
    pub diagnostics: String,
}

struct Failure(StatusCode, Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(Answer::new(self.1))).into_response()
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let status = match error {
            StateError::NotAttached { .. } => StatusCode::NOT_FOUND,
            StateError::NeedsRestart { .. } => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, Problem { error: state::chain(&error), ..Problem::default() })
    }
}

type Outcome<T> = Result<Json<Answer<T>>, Failure>;

/// The routes.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/interfaces", get(interfaces))
        .route("/v1/rules", get(rules))
        .route("/v1/events", get(events))
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .route("/v1/stop", post(stop))
        .fallback(async || {
            Failure(StatusCode::NOT_FOUND, Problem { error: "no such path".into(), ..Problem::default() })
        })
        .method_not_allowed_fallback(async || {
            let error = "another method is needed here: GET to ask, POST to change".into();
            Failure(StatusCode::METHOD_NOT_ALLOWED, Problem { error, ..Problem::default() })
        })
        .with_state(service)
}

/// The kernel is asked on a thread that may wait.
async fn blocking<T: Send + 'static>(
    service: Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, Failure> + Send + 'static,
) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(move || work(&service)).await;
    let body = done.unwrap_or_else(|error| {
        let error = format!("the daemon failed to answer: {error}");
        Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, Problem { error, ..Problem::default() }))
    })?;
    Ok(Json(Answer::new(body)))
}

async fn status(State(service): State<Arc<Service>>) -> Outcome<Status> {
    blocking(service, |service| Ok(service.state().status()?)).await
}

async fn interfaces(State(service): State<Arc<Service>>) -> Outcome<Interfaces> {
    blocking(service, |service| Ok(Interfaces { interfaces: service.state().status()?.interfaces })).await
}

#[derive(Deserialize)]
struct Which {
    interface: Option<String>,
}

async fn rules(State(service): State<Arc<Service>>, Query(which): Query<Which>) -> Outcome<Rules> {
    blocking(service, move |service| Ok(Rules { interfaces: service.state().rules(which.interface.as_deref())? })).await
}

#[derive(Deserialize)]
struct Force {
    #[serde(default)]
    force: bool,
}

async fn reload(State(service): State<Arc<Service>>, Query(Force { force }): Query<Force>) -> Outcome<Reloaded> {
    blocking(service, move |service| {
        let (result, diagnostics) = service.reload(force);
        match result {
            Ok(change) => Ok(Reloaded { change, diagnostics: diagnostics.plain }),
            Err(ReloadError::State(error)) => Err(error.into()),
            Err(ReloadError::Load(error)) => {
                let status = match error {
                    LoadError::Prepare(_) => StatusCode::UNPROCESSABLE_ENTITY,
                    LoadError::Guard(_) => StatusCode::CONFLICT,
                    LoadError::Host(_) => StatusCode::INTERNAL_SERVER_ERROR,
                };
                let problem =
                    Problem { error: state::chain(&error), hint: error.hint(), diagnostics: diagnostics.plain };
                Err(Failure(status, problem))
            }
        }
    })
    .await
}

#[derive(Deserialize)]
struct Place {
    interface: String,
    netns: Option<String>,
}

async fn detach(State(service): State<Arc<Service>>, Query(place): Query<Place>) -> Outcome<Detached> {
    blocking(service, move |service| {
        let mut state = service.state();
        state.detach(&place.interface, place.netns.as_deref())?;
        let stopping = state.attached() == 0;
        drop(state);
        service.attachments_changed.notify_one();
        if stopping {
            service.stop();
        }
        Ok(Detached { detached: vec![report::place(&place.interface, place.netns.as_deref())], stopping })
    })
    .await
}

async fn stop(State(service): State<Arc<Service>>) -> Outcome<Detached> {
    blocking(service, |service| {
        // Before the answer: who is told that the daemon stops may rely on the programs being gone.
        let detached = service.state().detach_all();
        service.stop();
        match detached {
            Ok(detached) => Ok(Detached { detached, stopping: true }),
            Err(errors) => {
                let error = errors.iter().map(|error| state::chain(error)).collect::<Vec<_>>().join("; ");
                Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, Problem { error, ..Problem::default() }))
            }
        }
    })
    .await
}

/// Which events a listener wants.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Filter {
    /// Only this interface.
    interface: Option<String>,
    /// `deny` (default), `allow` or `all`.
    #[serde(default)]
    action: Wanted,
    /// Only this reason, by its stable name.
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    #[default]
    Deny,
    Allow,
    All,
}

impl Filter {
    fn admits(&self, record: &Record) -> bool {
        let action = match self.action {
            Wanted::Deny => record.action == "deny",
            Wanted::Allow => record.action == "allow",
            Wanted::All => true,
        };
        action
            && self.interface.as_ref().is_none_or(|interface| *interface == record.interface)
            && self.reason.as_ref().is_none_or(|reason| *reason == record.reason)
    }
}

/// A line of the stream that stands for records a slow listener did not get.
#[derive(Debug, Serialize, Deserialize)]
struct Missed {
    missed: u64,
}

struct Listener {
    records: Receiver<Arc<Record>>,
    service: Arc<Service>,
    filter: Filter,
    _curious: Option<Curious>,
}

impl Listener {
    async fn next_line(&mut self) -> Option<String> {
        loop {
            let received = tokio::select! {
                received = self.records.recv() => received,
                () = self.service.stopped() => return None,
            };
            match received {
                Ok(record) if self.filter.admits(&record) => return line(&*record),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return line(&Missed { missed }),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn line<T: Serialize>(body: &T) -> Option<String> {
    let mut line = serde_json::to_string(&Answer::new(body)).ok()?;
    line.push('\n');
    Some(line)
}

async fn events(State(service): State<Arc<Service>>, Query(filter): Query<Filter>) -> Result<Response, Failure> {
    let records = service.listen();
    let curious = if filter.action == Wanted::Deny {
        None
    } else {
        let service = Arc::clone(&service);
        let asked = tokio::task::spawn_blocking(move || service.report_all()).await;
        Some(asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
    };
    let listener = Listener { records, service, filter, _curious: curious };
    let lines = stream::unfold(listener, async |mut listener| {
        let line = listener.next_line().await?;
        Some((Ok::<_, Infallible>(line), listener))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
