//! The API: HTTP with JSON on a unix socket, under /v1/. Every answer is an object with `"schema": 1`; a stream of
//! events is one such object a line. Only translation lives here: what is done is done by [`Service`], and who may ask is said
//! by [`access`]. `docs/api.md` is its page, and a test holds the two together.

use std::{borrow::Cow, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{Method, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use futures_util::stream;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    Curious, ReloadError, Service, Settled, access,
    load::LoadError,
    review::Findings,
    serve::Undone,
    state::{self, StateError},
};
use crate::{
    observe::{
        BrokenCount, BrokenReturn, Change, Filter as Connected, InterfaceFlows, InterfaceModes, InterfaceRules,
        InterfaceStatus, PendingStatus, Place as Named, PolicyStatus, Record, Remembered, SettingChange, Status,
        TrackingStats, filter::Expression, names,
    },
    report,
    resolve::{Layers, Mode},
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
    /// Until when it awaits confirmation; null: it stays.
    #[serde(default)]
    pub pending: Option<PendingStatus>,
    /// What was noticed about the file, as text.
    pub diagnostics: String,
    /// What its rules come to; null where nothing is found, and where that takes longer.
    #[serde(default)]
    pub findings: Option<Findings>,
}

/// How long an answer waits for what is found in a policy that is in force by then.
const FINDINGS_WITHIN: Duration = Duration::from_millis(500);

/// Answer of `/v1/confirm`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Confirmed {
    /// What stays in force.
    pub policy: PolicyStatus,
    /// What went wrong afterwards: programs that could not be taken off.
    pub problems: Vec<String>,
}

/// Answer of `/v1/rollback`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RolledBack {
    /// What is in force again; null where nothing was before.
    pub policy: Option<PolicyStatus>,
    /// True when the daemon ends, because nothing is left to enforce.
    pub stopping: bool,
    /// What went wrong: programs that could not be taken off.
    pub problems: Vec<String>,
}

/// What `POST /v1/interfaces/NAME/mode` is told, as JSON. What is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// Whether the network ACL remembers connections.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "names::some_mode")]
    pub mode: Option<Mode>,
    /// Which layers judge.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "names::some_layers")]
    pub layers: Option<Layers>,
    /// Whether what they deny is dropped; false is monitor mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// Also where it would cut an SSH connection.
    #[serde(default)]
    pub force: bool,
}

/// Answer of `/v1/modes`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AllModes {
    /// Mode, layers and enforcement by interface.
    pub interfaces: Vec<InterfaceModes>,
}

/// Answer of `/v1/conntrack`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connections {
    /// What is remembered, by interface; those that expire last first.
    pub connections: Vec<Remembered>,
}

/// Answer of `/v1/broken`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Broken {
    /// Flows whose requests pass and whose replies do not; what was met last comes first.
    pub broken: Vec<BrokenReturn>,
    /// How many there ever were, by interface and direction.
    pub broken_counts: Vec<BrokenCount>,
}

/// Answer of `/v1/conntrack/stats`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConnectionStats {
    /// Tables in numbers, by interface.
    pub interfaces: Vec<TrackingStats>,
}

/// Answer of `/v1/flows`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Flows {
    /// What the windows that run hold so far, by interface.
    pub interfaces: Vec<InterfaceFlows>,
}

/// Connections of one interface that were forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Name of the interface in the policy.
    pub interface: String,
    /// Its device.
    pub device: String,
    /// Its network namespace; null for the daemon's own.
    pub netns: Option<String>,
    /// How many.
    pub connections: u64,
}

/// Answer of `/v1/conntrack/flush`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Flushed {
    /// What was forgotten, by interface.
    pub interfaces: Vec<Forgotten>,
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

/// Any other answer than success, with its number.
pub struct Failure(pub StatusCode, pub Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(Answer::new(self.1))).into_response()
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let status = match error {
            StateError::NotAttached { .. } => StatusCode::NOT_FOUND,
            StateError::Ambiguous { .. } | StateError::NoGroups { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            StateError::NeedsRestart { .. }
            | StateError::Pending { .. }
            | StateError::NothingPending
            | StateError::TooLate => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, Problem { error: state::chain(&error), hint: error.hint(), ..Problem::default() })
    }
}

impl From<ReloadError> for Failure {
    fn from(error: ReloadError) -> Self {
        let error = match error {
            ReloadError::State(error) | ReloadError::Load(LoadError::State(error)) => return error.into(),
            ReloadError::Load(error) => error,
        };
        let status = match error {
            LoadError::Prepare(_) => StatusCode::UNPROCESSABLE_ENTITY,
            LoadError::Guard(_) => StatusCode::CONFLICT,
            LoadError::Host(_) | LoadError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, Problem { error: state::chain(&error), hint: error.hint(), ..Problem::default() })
    }
}

impl Failure {
    /// Said in one sentence.
    pub(super) fn of(status: StatusCode, error: impl Into<String>) -> Self {
        Self(status, Problem { error: error.into(), ..Problem::default() })
    }
}

/// What was asked makes no sense.
fn senseless(error: impl Into<String>) -> Failure {
    Failure::of(StatusCode::BAD_REQUEST, error)
}

type Outcome<T> = Result<Json<Answer<T>>, Failure>;

/// A problem as the body of an answer.
pub fn problem(error: &str, hint: Option<&str>) -> String {
    let problem = Problem { error: error.to_owned(), hint: hint.map(str::to_owned), ..Problem::default() };
    serde_json::to_string(&Answer::new(problem)).unwrap_or_default()
}

/// Something that can be asked of the daemon, or that it can be told to do.
pub struct Endpoint {
    /// GET to ask; POST to change, which is for root ([`access`]).
    pub method: Method,
    /// Path, with `{name}` where an interface is named.
    pub path: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    route: fn() -> MethodRouter<Arc<Service>>,
}

const fn ask(path: &'static str, about: &'static str, route: fn() -> MethodRouter<Arc<Service>>) -> Endpoint {
    Endpoint { method: Method::GET, path, about, route }
}

const fn change(path: &'static str, about: &'static str, route: fn() -> MethodRouter<Arc<Service>>) -> Endpoint {
    Endpoint { method: Method::POST, path, about, route }
}

/// All there is.
pub const ENDPOINTS: &[Endpoint] = &[
    ask("/v1", "this list", || get(endpoints)),
    ask("/v1/status", "what is enforced, where and how", || get(status)),
    ask("/v1/interfaces", "the interfaces of the status", || get(interfaces)),
    ask("/v1/rules", "rule tables with hits; ?interface=", || get(rules)),
    ask("/v1/modes", "mode and layers of every interface", || get(modes)),
    ask("/v1/interfaces/{name}/mode", "mode and layers of one", || get(mode)),
    change("/v1/interfaces/{name}/mode", "set mode or layers until the next reload", || post(set_mode)),
    ask("/v1/conntrack", "what is remembered of connections; ?interface=&address=&port=&protocol=&state=", || {
        get(connections)
    }),
    ask("/v1/conntrack/stats", "how full the connection tables are; ?interface=", || get(connection_stats)),
    change("/v1/conntrack/flush", "forget connections; as for the list, &all= and &force=", || post(flush)),
    ask("/v1/flows", "the flow log's windows that run, record by record; ?interface=", || get(flows)),
    ask("/v1/broken", "requests that pass and whose replies do not: why, and what mends it; ?interface=", || {
        get(broken)
    }),
    ask(
        "/v1/events",
        "verdicts as they happen, one object a line; ?interface=&action=&reason=&filter=&broken=",
        || get(events),
    ),
    ask("/v1/metrics", "the same in numbers, as OpenMetrics text for Prometheus", || get(metrics)),
    change("/v1/reload", "read the policy file again; ?force=&confirm=", || post(reload)),
    change("/v1/confirm", "make a change stay that awaits confirmation", || post(confirm)),
    change("/v1/rollback", "undo a change that awaits confirmation", || post(rollback)),
    change("/v1/detach", "detach an interface; ?interface=&netns=", || post(detach)),
    change("/v1/stop", "detach everything and end", || post(stop)),
];

/// Answer of `/v1` and `/`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Contents {
    /// Version of nacld.
    pub version: String,
    /// What can be asked, and what can be changed.
    pub endpoints: Vec<Line>,
}

/// An endpoint as it is listed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// GET to ask, POST to change.
    pub method: String,
    /// Its path.
    pub path: String,
    /// What it is.
    pub about: String,
}

// Apart from `endpoints`, which is in the list itself.
fn contents() -> Contents {
    let line = |endpoint: &Endpoint| Line {
        method: endpoint.method.to_string(),
        path: endpoint.path.to_owned(),
        about: endpoint.about.to_owned(),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Contents { version, endpoints: ENDPOINTS.iter().map(line).collect() }
}

async fn endpoints() -> Json<Answer<Contents>> {
    Json(Answer::new(contents()))
}

/// The routes. Each request needs a [`access::Peer`] to be one who may change something.
pub fn router(service: Arc<Service>) -> Router {
    let routes =
        ENDPOINTS.iter().fold(Router::new(), |router, endpoint| router.route(endpoint.path, (endpoint.route)()));
    routes
        .route("/", get(endpoints))
        .fallback(async || {
            let hint = Some("GET /v1 lists the paths there are".to_owned());
            Failure(StatusCode::NOT_FOUND, Problem { error: "no such path".into(), hint, ..Problem::default() })
        })
        .method_not_allowed_fallback(async || {
            let error = "another method is needed here: GET to ask, POST to change".into();
            Failure(StatusCode::METHOD_NOT_ALLOWED, Problem { error, ..Problem::default() })
        })
        .layer(middleware::from_fn(access::admit))
        .with_state(service)
}

/// The kernel is asked on a thread that may wait.
async fn waiting<T: Send + 'static>(
    service: Arc<Service>,
    work: impl FnOnce(&Arc<Service>) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(move || work(&service)).await;
    done.unwrap_or_else(|error| {
        Err(Failure::of(StatusCode::INTERNAL_SERVER_ERROR, format!("the daemon failed to answer: {error}")))
    })
}

async fn blocking<T: Send + 'static>(
    service: Arc<Service>,
    work: impl FnOnce(&Arc<Service>) -> Result<T, Failure> + Send + 'static,
) -> Outcome<T> {
    Ok(Json(Answer::new(waiting(service, work).await?)))
}

async fn status(State(service): State<Arc<Service>>) -> Outcome<Status> {
    blocking(service, |service| Ok(service.reading()?.status)).await
}

async fn interfaces(State(service): State<Arc<Service>>) -> Outcome<Interfaces> {
    blocking(service, |service| Ok(Interfaces { interfaces: service.reading()?.status.interfaces })).await
}

/// Not JSON, and with no schema number of ours: the format has its own.
pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Result<Response, Failure> {
    let text = waiting(service, |service| {
        let failed = |error| Failure::of(StatusCode::INTERNAL_SERVER_ERROR, format!("the metrics: {error}"));
        report::metrics::text(service.reading()?).map_err(failed)
    });
    Ok(([(header::CONTENT_TYPE, report::metrics::CONTENT_TYPE)], text.await?).into_response())
}

#[derive(Deserialize)]
struct Which {
    interface: Option<String>,
}

async fn rules(State(service): State<Arc<Service>>, Query(which): Query<Which>) -> Outcome<Rules> {
    blocking(service, move |service| Ok(Rules { interfaces: service.state().rules(which.interface.as_deref())? })).await
}

async fn broken(State(service): State<Arc<Service>>, Query(which): Query<Which>) -> Outcome<Broken> {
    blocking(service, move |service| {
        let state = service.state();
        Ok(Broken { broken: state.broken(which.interface.as_deref())?, broken_counts: state.broken_counts() })
    })
    .await
}

async fn modes(State(service): State<Arc<Service>>) -> Outcome<AllModes> {
    blocking(service, |service| Ok(AllModes { interfaces: service.state().modes(None)? })).await
}

async fn mode(State(service): State<Arc<Service>>, Path(name): Path<String>) -> Outcome<InterfaceModes> {
    blocking(service, move |service| {
        let modes = service.state().modes(Some(&name))?;
        modes.into_iter().next().ok_or_else(|| senseless("no such interface"))
    })
    .await
}

async fn set_mode(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    body: Result<Json<SetMode>, JsonRejection>,
) -> Outcome<InterfaceModes> {
    let Json(SetMode { mode, layers, enforce, force }) = body.map_err(|error| senseless(error.body_text()))?;
    let change = SettingChange { mode, layers, enforce };
    blocking(service, move |service| Ok(service.set(&name, change, force)?)).await
}

#[derive(Deserialize)]
struct WhichFlows {
    interface: Option<String>,
    #[serde(flatten)]
    filter: Connected,
}

type Asked<T> = Result<Query<T>, QueryRejection>;

async fn connections(State(service): State<Arc<Service>>, asked: Asked<WhichFlows>) -> Outcome<Connections> {
    let Query(WhichFlows { interface, filter }) = asked.map_err(|error| senseless(error.body_text()))?;
    blocking(service, move |service| {
        Ok(Connections { connections: service.state().connections(interface.as_deref(), &filter)? })
    })
    .await
}

async fn connection_stats(State(service): State<Arc<Service>>, Query(which): Query<Which>) -> Outcome<ConnectionStats> {
    blocking(service, move |service| {
        Ok(ConnectionStats { interfaces: service.state().tracking(which.interface.as_deref())? })
    })
    .await
}

/// Bytes of a long answer that are sent at once.
const PIECE: usize = 1 << 16;

/// A window may hold tens of megabytes of JSON, which stay until they are read: only so many at once read them as
/// [`super::FLOW_READERS`] says.
async fn flows(State(service): State<Arc<Service>>, Query(which): Query<Which>) -> Result<Response, Failure> {
    let Ok(place) = Arc::clone(&service.flow_readers).try_acquire_owned() else {
        let error = "others are reading flows already, as many as may at once".to_owned();
        let hint = Some("ask again in a moment".to_owned());
        return Err(Failure(StatusCode::SERVICE_UNAVAILABLE, Problem { error, hint, ..Problem::default() }));
    };
    let json = waiting(service, move |service| {
        let flows = Flows { interfaces: service.state().flows(which.interface.as_deref())? };
        let failed = |error: serde_json::Error| Failure::of(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        serde_json::to_vec(&Answer::new(flows)).map(Bytes::from).map_err(failed)
    });
    let pieces = stream::unfold((json.await?, place), async |(mut rest, place)| {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (rest, place)))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response())
}

#[derive(Deserialize)]
struct Forget {
    interface: Option<String>,
    #[serde(flatten)]
    filter: Connected,
    #[serde(default, deserialize_with = "yes")]
    all: bool,
    #[serde(default, deserialize_with = "yes")]
    force: bool,
}

/// A flattened query has only text.
fn yes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

async fn flush(State(service): State<Arc<Service>>, asked: Asked<Forget>) -> Outcome<Flushed> {
    let Query(Forget { interface, filter, all, force }) = asked.map_err(|error| senseless(error.body_text()))?;
    if interface.is_none() && filter.is_empty() && !all {
        let Failure(status, problem) = senseless("nothing says which connections are to be forgotten");
        let hint = Some("name an interface, filter by address, port, protocol or state, or say all".to_owned());
        return Err(Failure(status, Problem { hint, ..problem }));
    }
    blocking(service, move |service| {
        let done = service.forget(interface.as_deref(), &filter, force)?;
        let forgotten =
            |(Named { interface, device, netns }, connections)| Forgotten { interface, device, netns, connections };
        Ok(Flushed { interfaces: done.into_iter().map(forgotten).collect() })
    })
    .await
}

/// How a reload is to be done.
#[derive(Deserialize)]
struct Reload {
    #[serde(default)]
    force: bool,
    /// Seconds.
    confirm: Option<u64>,
}

async fn reload(State(service): State<Arc<Service>>, asked: Asked<Reload>) -> Outcome<Reloaded> {
    let Query(Reload { force, confirm }) = asked.map_err(|error| senseless(error.body_text()))?;
    if confirm == Some(0) {
        return Err(senseless("nobody can confirm in no time"));
    }
    let reloaded = waiting(Arc::clone(&service), move |service| {
        let (result, diagnostics) = service.reload(force, confirm.map(Duration::from_secs));
        let failed = |error: ReloadError| {
            let Failure(status, problem) = error.into();
            Failure(status, Problem { diagnostics: diagnostics.plain.clone(), ..problem })
        };
        let change = result.map_err(failed)?;
        let pending = service.state().pending_status();
        Ok(Reloaded { change, pending, diagnostics: diagnostics.plain, findings: None })
    });
    let reloaded = reloaded.await?;
    let findings = service.findings(FINDINGS_WITHIN).await;
    Ok(Json(Answer::new(Reloaded { findings, ..reloaded })))
}

async fn confirm(State(service): State<Arc<Service>>) -> Outcome<Confirmed> {
    blocking(service, |service| {
        let Settled { problems, .. } = service.confirm()?;
        Ok(Confirmed { policy: service.state().policy_status(), problems })
    })
    .await
}

async fn rollback(State(service): State<Arc<Service>>) -> Outcome<RolledBack> {
    blocking(service, |service| {
        let Settled { problems, attached } = service.roll_back(Undone::Asked)?;
        let stopping = attached == 0;
        let policy = (!stopping).then(|| service.state().policy_status());
        Ok(RolledBack { policy, stopping, problems })
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
        let Named { interface, device, netns } = state.detach(&place.interface, place.netns.as_deref())?;
        let stopping = state.in_charge() == 0;
        drop(state);
        service.changed();
        if stopping {
            service.stop();
        }
        Ok(Detached { detached: vec![report::named(&interface, &device, netns.as_deref())], stopping })
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
pub struct Wish {
    /// Only this interface.
    interface: Option<String>,
    /// `deny`, `allow` or `all`; where it is not said, what the filter may want, and `deny` without one.
    action: Option<Wanted>,
    /// Only this reason, by its stable name.
    reason: Option<String>,
    /// Only what this expression is true of.
    filter: Option<Expression>,
    /// Broken returns too, as they are found.
    #[serde(default)]
    broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Deny,
    Allow,
    All,
}

impl Wish {
    fn wanted(&self) -> Wanted {
        let of_filter = |filter: &Expression| if filter.may_admit("allow") { Wanted::All } else { Wanted::Deny };
        self.action.or_else(|| self.filter.as_ref().map(of_filter)).unwrap_or(Wanted::Deny)
    }

    fn admits(&self, record: &Record) -> bool {
        let action = match self.wanted() {
            Wanted::Deny => record.action == "deny",
            Wanted::Allow => record.action == "allow",
            Wanted::All => true,
        };
        action
            && self.interface.as_ref().is_none_or(|interface| *interface == record.interface)
            && self.reason.as_ref().is_none_or(|reason| *reason == record.reason)
            && self.filter.as_ref().is_none_or(|filter| filter.admits(record))
    }

    fn admits_broken(&self, found: &BrokenReturn) -> bool {
        self.broken && self.interface.as_ref().is_none_or(|interface| *interface == found.interface)
    }
}

/// A line of the stream that stands for records a slow listener did not get.
#[derive(Debug, Serialize, Deserialize)]
struct Missed {
    missed: u64,
}

/// A line of the stream that tells of a broken return.
#[derive(Debug, Serialize, Deserialize)]
struct Found<'f> {
    broken: Cow<'f, BrokenReturn>,
}

/// A line of the stream that stands for records nobody got: there were too many at once, and the kernel reported only some.
#[derive(Debug, Serialize, Deserialize)]
struct Suppressed {
    suppressed: u64,
}

/// How often it is asked what could not be reported.
const SUPPRESSED_EVERY: Duration = Duration::from_secs(1);

struct Listener {
    records: Receiver<Arc<Record>>,
    broken: Receiver<Arc<BrokenReturn>>,
    service: Arc<Service>,
    wish: Wish,
    /// What was not reported so far, and when to ask again.
    suppressed: u64,
    ask: Interval,
    _curious: Option<Curious>,
}

impl Listener {
    async fn next_line(&mut self) -> Option<String> {
        loop {
            let received = tokio::select! {
                received = self.records.recv() => received,
                found = self.broken.recv() => match found {
                    Ok(found) if self.wish.admits_broken(&found) => {
                        return line(&Found { broken: Cow::Borrowed(&found) });
                    }
                    // What was missed here is in the list.
                    Ok(_) | Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return None,
                },
                _ = self.ask.tick() => match self.newly_suppressed().await {
                    0 => continue,
                    suppressed => return line(&Suppressed { suppressed }),
                },
                _ = self.service.stopped() => return None,
            };
            match received {
                Ok(record) if self.wish.admits(&record) => return line(&*record),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return line(&Missed { missed }),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Listener {
    /// What could not be reported since it was asked last. An interface that has gone has nothing to tell.
    async fn newly_suppressed(&mut self) -> u64 {
        let interface = self.wish.interface.clone();
        let now = self.service.ask(move |state| state.suppressed(interface.as_deref()).ok()).await;
        let Ok(Some(now)) = now else { return 0 };
        let before = std::mem::replace(&mut self.suppressed, now);
        now.saturating_sub(before)
    }
}

fn line<T: Serialize>(body: &T) -> Option<String> {
    let mut line = serde_json::to_string(&Answer::new(body)).ok()?;
    line.push('\n');
    Some(line)
}

async fn events(State(service): State<Arc<Service>>, asked: Asked<Wish>) -> Result<Response, Failure> {
    let Query(mut wish) = asked.map_err(|error| senseless(error.body_text()))?;
    // What the policy does not have, nobody would ever hear of.
    let wish = waiting(Arc::clone(&service), move |service| {
        let state = service.state();
        if let Some(asked) = &wish.interface {
            wish.interface = Some(state.name_here_or_not(asked)?);
        }
        if let Some(filter) = &wish.filter {
            filter.check(&state.nameable()).map_err(|error| senseless(error.to_string()))?;
        }
        drop(state);
        Ok(wish)
    })
    .await?;
    let (records, broken) = (service.listen(), service.listen_broken());
    let curious = if wish.wanted() == Wanted::Deny {
        None
    } else {
        Some(waiting(Arc::clone(&service), |service| Ok(service.report_all())).await?)
    };
    let mut ask = interval(SUPPRESSED_EVERY);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listener = Listener { records, broken, service, wish, suppressed: 0, ask, _curious: curious };
    // What there was before is none of this listener's.
    listener.newly_suppressed().await;
    let lines = stream::unfold(listener, async |mut listener| {
        let line = listener.next_line().await?;
        Some((Ok::<_, Infallible>(line), listener))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
