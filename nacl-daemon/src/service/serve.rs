//! The life of a daemon: read the policy, attach all of it or nothing, answer, reload, and leave nothing behind.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::broadcast::error::RecvError,
    task::{JoinError, JoinHandle},
};

use super::{
    ReloadError, Service, api,
    client::Client,
    follow, links, listen,
    load::{self, Diagnostics, LoadError, Loader},
    metrics::{self, Loopback},
    notify,
    plane::Plane,
    review::{Findings, Subject},
    socket::{Socket, SocketError},
    state::{self, Settings, State, StateError},
};
use crate::{
    observe::{Brief, BrokenReturn, Change, Happened, InterfaceModes, InterfaceStatus, Record, Status},
    resolve::OnExit,
};

/// How long open requests may take to end once the daemon stops.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a daemon is to do.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own, as on the command line")]
pub struct Config {
    /// Policy file.
    pub file: PathBuf,
    /// Where to listen.
    pub socket: PathBuf,
    /// Group that may open the socket, and look; the daemon's own where none is named.
    pub socket_group: Option<String>,
    /// Detach by itself after this long.
    pub lifetime: Option<Duration>,
    /// Do not ask the lock-out guard.
    pub force: bool,
    /// How long the first policy waits for confirmation before it is undone.
    pub confirm: Option<Duration>,
    /// Whether what is in force stays there when the daemon is told to end; `None`: as the policy says.
    pub on_exit: Option<OnExit>,
    /// Serve the programs' log.
    pub trace: bool,
    /// Tell of dropped packets.
    pub watch: bool,
    /// Put the file in force whenever it changes.
    pub follow: bool,
    /// Be content where none of the policy's interfaces is here.
    pub wait: bool,
    /// Where metrics are served too.
    pub metrics: Option<Loopback>,
}

/// Something a person in front of the daemon wants to know.
#[derive(Debug)]
pub enum Notice<'a> {
    /// What was noticed about the policy file.
    Diagnostics(&'a Diagnostics),
    /// What the rules come to of the policy in force, where there is something to say.
    Findings(&'a Findings),
    /// A policy is put in force on so many interfaces, which may take a while: new ones are attached to.
    Applying {
        /// How many.
        interfaces: usize,
    },
    /// Everything is attached and the daemon answers.
    Ready {
        /// What is enforced, where and how.
        status: &'a Status,
        /// The same in brief.
        now: &'a Brief,
        /// Where it answers.
        socket: &'a std::path::Path,
        /// How long it lives.
        lifetime: Option<Duration>,
    },
    /// What a daemon before has left was taken over.
    Restored(&'a [String]),
    /// The policy file is read again.
    Reloading,
    /// A new policy is in force.
    Reloaded {
        /// What was done.
        change: &'a Change,
        /// How long it awaits confirmation, if it does.
        pending: Option<Duration>,
        /// What is in force now.
        now: &'a Brief,
    },
    /// A change was confirmed.
    Confirmed {
        /// What is in force now.
        now: &'a Brief,
    },
    /// A change was undone.
    Undone {
        /// Why.
        why: Undone,
        /// What is in force now.
        now: &'a Brief,
    },
    /// A setting was changed live.
    Set {
        /// What the interface has now.
        modes: &'a InterfaceModes,
        /// What is in force now.
        now: &'a Brief,
    },
    /// A new policy is not in force.
    NotReloaded {
        /// Why not.
        error: &'a ReloadError,
        /// What is in force as before.
        now: &'a Brief,
    },
    /// An interface came, went or has another name.
    Interface {
        /// Which, and what.
        happened: &'a Happened,
        /// What is in force now.
        now: &'a Brief,
    },
    /// A packet, as reported by the kernel.
    Record(&'a Record),
    /// Requests pass and their replies do not: one that was not known.
    Broken(&'a BrokenReturn),
    /// So many packets could not be told of.
    Missed(u64),
    /// The daemon ends: everything is detached next.
    Ending,
    /// Everything is detached.
    Ended {
        /// Why.
        why: Ended,
        /// What there was to the end.
        interfaces: &'a [InterfaceStatus],
        /// What stays in force.
        stay: &'a [String],
    },
}

/// Why a change was undone that awaited confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Nobody confirmed it in time.
    TimeOver,
    /// It was asked for.
    Asked,
}

/// Why a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// Its time was over.
    TimeOver,
    /// It was asked to, over the socket.
    Asked,
    /// Its policy was not confirmed, and there was none before.
    NotConfirmed,
}

impl Ended {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
            Self::TimeOver => "time is over",
            Self::Asked => "asked to end",
            Self::NotConfirmed => "not confirmed",
        }
    }
}

/// A daemon that could not start, run or end as it should.
#[derive(Debug, Error)]
pub enum RunError {
    /// The policy cannot or must not be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The machine lacks something; each with its remedy.
    #[error("this machine cannot attach eBPF programs now:\n  {}", .0.join("\n  "))]
    Lacking(Vec<String>),
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The port for metrics cannot be had.
    #[error("cannot serve metrics on {address}")]
    Metrics {
        /// Where.
        address: Loopback,
        /// Why not.
        source: io::Error,
    },
    /// Something could not be attached or detached.
    #[error(transparent)]
    State(#[from] StateError),
    /// Not everything could be detached.
    #[error("not everything could be detached:\n  {}", .0.join("\n  "))]
    Detach(Vec<String>),
    /// The system would not.
    #[error("the daemon cannot run")]
    Io(#[from] io::Error),
    /// A part of it failed.
    #[error("a part of the daemon failed")]
    Join(#[from] JoinError),
}

impl RunError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Load(error) => error.hint(),
            Self::Socket(error) => error.hint(),
            Self::State(error) => error.hint(),
            Self::Metrics { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("somebody else listens there (`ss -ltnp` says who): name another port".to_owned())
            }
            Self::Detach(_) => Some("`nacld detach --all` tries again without the daemon".to_owned()),
            _ => None,
        }
    }
}

/// Told everything that happens.
pub type Tell = Box<dyn Fn(Notice) + Send + Sync>;

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Runs a daemon to its end. Whatever the error, nothing stays attached.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, plane: Box<dyn Plane>, tell: Tell) -> Result<Ended, RunError> {
    // Before anything is attached: filters on clsact outlive a process that is killed by a signal it did not expect.
    let signals = Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        hangup: signal(SignalKind::hangup())?,
    };
    // Likewise: what cannot be had is said before anything is changed.
    let metrics = match config.metrics {
        Some(address) => Some(address.bind().await.map_err(|source| RunError::Metrics { address, source })?),
        None => None,
    };
    let tell = notify::with(tell.into());
    let teller = Arc::clone(&tell);
    let asked = config.clone();
    let (service, mut socket, subject) = tokio::task::spawn_blocking(move || start(plane, &asked, &teller)).await??;
    let ended = serve(&service, &mut socket, subject, metrics, signals, &config, &tell).await;
    tell(Notice::Ending);
    let interfaces = service.state().status().map(|status| status.interfaces).unwrap_or_default();
    let ending = Arc::clone(&service);
    // Whoever ends it in the ordinary way may want what is in force to stay; nobody else is known to.
    let told = matches!(ended, Ok(Ended::Interrupted | Ended::Terminated));
    let end = move || {
        let mut state = ending.state();
        if told { state.end() } else { state.detach_all().map(|_| Vec::new()) }
    };
    let stay = tokio::task::spawn_blocking(end).await?;
    // What the last windows hold. Writing may wait for a disk.
    let writing = Arc::clone(&service);
    tokio::task::spawn_blocking(move || writing.write_flow_logs()).await?;
    let stay = match stay {
        Ok(stay) => stay,
        Err(errors) => return Err(RunError::Detach(errors.iter().map(|error| state::chain(error)).collect())),
    };
    // Only now: who finds the socket gone may rely on the programs being gone.
    drop(socket);
    let why = ended?;
    tell(Notice::Ended { why, interfaces: &interfaces, stay: &stay });
    Ok(why)
}

/// Everything up to the point where the policy is in force.
fn start(
    plane: Box<dyn Plane>,
    config: &Config,
    tell: &Arc<dyn Fn(Notice) + Send + Sync>,
) -> Result<(Arc<Service>, Socket, Option<Subject>), RunError> {
    let Config { file, socket, socket_group, wait, trace, lifetime, force, confirm, on_exit, .. } = config;
    let loader = load::File { path: file.clone(), unguarded: *force || lifetime.is_some() };
    let lacking = plane.lacking();
    let until = lifetime.map(|lifetime| SystemTime::now() + lifetime);
    let mut state = State::new(plane, Settings { trace: *trace, wait: *wait, until, on_exit: *on_exit });
    if !lacking.is_empty() {
        // A mistake in the policy is told before what the machine lacks: it can be mended anywhere.
        let (prepared, diagnostics) = loader.load(&state, true);
        tell(Notice::Diagnostics(&diagnostics));
        prepared?;
        return Err(RunError::Lacking(lacking));
    }
    let socket = Socket::bind(socket, socket_group.as_deref())?;
    let restored = state.restore()?;
    if !restored.is_empty() {
        tell(Notice::Restored(&restored));
    }
    let (prepared, mut diagnostics) = loader.load(&state, confirm.is_some());
    tell(Notice::Diagnostics(&diagnostics));
    let begun = prepared.map_err(ReloadError::from).and_then(|prepared| {
        // What is asked for in so many words is not a policy that comes into force by itself.
        if confirm.is_none() && !force {
            state.may_start_with(&prepared)?;
        }
        state.give_up_what_cannot_stay(&prepared);
        tell(Notice::Applying { interfaces: prepared.interfaces.len() });
        state.apply(prepared, *confirm)?;
        Ok(())
    });
    let mut subject = None;
    match begun {
        Ok(()) => {
            subject = diagnostics.subject.take();
            for problem in state.sweep() {
                tracing::warn!(reason = problem, "after the start");
            }
        }
        // What is in force stays in force, and somebody must be in charge of it.
        Err(error) if state.in_charge() > 0 => {
            state.reloaded(Some(state::chain(&error)), &diagnostics.plain);
            tell(Notice::NotReloaded { error: &error, now: &state.brief() });
        }
        Err(ReloadError::Load(error)) => return Err(error.into()),
        Err(ReloadError::State(error)) => return Err(error.into()),
    }
    let service = Service::new(state, Box::new(loader), Arc::clone(tell));
    Ok((service, socket, subject))
}

async fn serve(
    service: &Arc<Service>,
    socket: &mut Socket,
    subject: Option<Subject>,
    metrics: Option<TcpListener>,
    mut signals: Signals,
    config: &Config,
    tell: &Arc<dyn Fn(Notice) + Send + Sync>,
) -> Result<Ended, RunError> {
    let stopped = Arc::clone(service);
    let (listener, router) = (socket.listener()?, api::router(Arc::clone(service)));
    let until = async move {
        stopped.stopped().await;
    };
    let mut server: JoinHandle<io::Result<()>> =
        tokio::spawn(listen::serve(listener, router, listen::Bounds::default(), until));
    let metrics = metrics.map(|listener| tokio::spawn(serve_metrics(listener, Arc::clone(service))));
    let pump = tokio::spawn(Arc::clone(service).pump());
    let seek = tokio::spawn(Arc::clone(service).seek());
    let expire = tokio::spawn(Arc::clone(service).expire());
    let links = tokio::spawn(links::watch(Arc::clone(service)));
    let flow_logs = tokio::spawn(Arc::clone(service).keep_flow_logs());
    let follow = config.follow.then(|| tokio::spawn(follow::follow(Arc::clone(service), config.file.clone())));
    let client = Client::new(socket.path());
    let watchdog =
        notify::watchdog_period().map(|period| tokio::spawn(notify::watchdog(client, period, notify::alive)));
    let watch = config.watch.then(|| tokio::spawn(watch(service, tell)));
    let (status, now) = {
        let state = service.state();
        (state.status()?, state.brief())
    };
    tell(Notice::Ready { status: &status, now: &now, socket: socket.path(), lifetime: config.lifetime });
    service.look_through(subject);

    let time_over = async {
        match config.lifetime {
            Some(lifetime) => tokio::time::sleep(lifetime).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(time_over);
    let ended = loop {
        tokio::select! {
            // In this order: the API ends because it was asked to stop, and then that is the reason and no fault.
            biased;
            _ = signals.interrupt.recv() => break Ok(Ended::Interrupted),
            _ = signals.terminate.recv() => break Ok(Ended::Terminated),
            () = &mut time_over => break Ok(Ended::TimeOver),
            why = service.stopped() => break Ok(why),
            result = &mut server => break Err(match result {
                Ok(Ok(())) => RunError::Io(io::Error::other("the API ended by itself")),
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            }),
            _ = signals.hangup.recv() => {
                let service = Arc::clone(service);
                // How it went is told by the service, whoever asked for it.
                tokio::task::spawn_blocking(move || drop(service.reload(false, None))).await?;
            }
        }
    };
    service.stop();
    if !server.is_finished() && tokio::time::timeout(PATIENCE, &mut server).await.is_err() {
        server.abort();
    }
    pump.abort();
    seek.abort();
    expire.abort();
    links.abort();
    flow_logs.abort();
    for task in [follow, watch, watchdog, metrics].into_iter().flatten() {
        task.abort();
    }
    ended
}

/// Serves metrics until it is aborted.
async fn serve_metrics(listener: TcpListener, service: Arc<Service>) {
    let router = metrics::router(service);
    if let Err(error) = listen::serve(listener, router, listen::Bounds::default(), std::future::pending()).await {
        // What is enforced does not depend on who counts it.
        tracing::error!(reason = %error, "metrics are served no more");
    }
}

/// Tells of dropped packets until it is aborted.
fn watch(service: &Arc<Service>, tell: &Arc<dyn Fn(Notice) + Send + Sync>) -> impl Future<Output = ()> + Send + use<> {
    let tell = Arc::clone(tell);
    let mut records = service.listen();
    async move {
        loop {
            match records.recv().await {
                Ok(record) => tell(Notice::Record(&record)),
                Err(RecvError::Lagged(missed)) => tell(Notice::Missed(missed)),
                Err(RecvError::Closed) => return,
            }
        }
    }
}
