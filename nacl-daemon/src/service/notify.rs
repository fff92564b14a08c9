//! What a daemon tells the service manager that started it (sd_notify(3)): that it is ready, that it reloads, what is in
//! force, that it lives. Nothing is sent where nobody asked: without NOTIFY_SOCKET. The variable stays in the environment,
//! because there is something to tell to the end.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{self, MissedTickBehavior};

use super::{client::Client, serve::Notice, state::chain};
use crate::{observe::Brief, report::status};

/// How long putting a policy in force may take, whatever the interface is: reading the file, and the surroundings.
const APART: Duration = Duration::from_secs(30);
/// How long one interface may take. It is the verifier's work above all: half a second, many times that on a slow machine.
const EACH: Duration = Duration::from_secs(10);

/// Tells the service manager too what is told to `tell`.
pub fn with(tell: Arc<dyn Fn(Notice) + Send + Sync>) -> Arc<dyn Fn(Notice) + Send + Sync> {
    let is_ready = AtomicBool::new(false);
    Arc::new(move |notice: Notice| {
        let is_ready = is_ready.fetch_or(matches!(notice, Notice::Ready { .. }), Ordering::Relaxed);
        of(&notice, is_ready);
        tell(notice);
    })
}

/// `is_ready`: the daemon was ready before this. Until then READY=1 is not said, whatever becomes of the policy file.
fn of(notice: &Notice<'_>, is_ready: bool) {
    match notice {
        // A time-out that is told of holds from now on; the manager's own holds if it is longer.
        Notice::Applying { interfaces } => {
            let longest = EACH.saturating_mul(u32::try_from(*interfaces).unwrap_or(u32::MAX)).saturating_add(APART);
            send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(longest.as_micros()).unwrap_or(u32::MAX))]);
        }
        Notice::Reloading => match NotifyState::monotonic_usec_now() {
            // Both in one message: without the time systemd 253 and later fail the reload.
            Ok(now) => send(&[NotifyState::Reloading, now, NotifyState::Status("reading the policy again")]),
            Err(error) => tracing::error!(reason = %error, "the service manager is not told of the reload"),
        },
        Notice::Ready { status, now, .. } => match status.last_reload.as_ref().and_then(|reload| reload.error.as_ref())
        {
            // Taken over from a daemon before, and the file cannot be used.
            Some(error) => ready(&refused(error, now)),
            None => ready(&status::brief(now)),
        },
        Notice::Reloaded { now, .. } if is_ready => ready(&status::brief(now)),
        Notice::NotReloaded { error, now } if is_ready => ready(&refused(&chain(*error), now)),
        Notice::Confirmed { now } | Notice::Set { now, .. } | Notice::Interface { now, .. } => {
            send(&[NotifyState::Status(&status::brief(now))]);
        }
        Notice::Undone { now, .. } => {
            send(&[NotifyState::Status(&format!("UNDONE; in force is {}", status::brief(now)))]);
        }
        Notice::Ending => send(&[NotifyState::Stopping, NotifyState::Status("detaching")]),
        Notice::Reloaded { .. }
        | Notice::NotReloaded { .. }
        | Notice::Restored(_)
        | Notice::Diagnostics(_)
        | Notice::Findings(_)
        | Notice::Record(_)
        | Notice::Broken(_)
        | Notice::Missed(_)
        | Notice::Ended { .. } => {}
    }
}

fn refused(error: &str, now: &Brief) -> String {
    format!("NOT RELOADED: {error}; in force is {}", status::brief(now))
}

/// A message is a line for each thing, so a status is one line.
fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&status.replace('\n', " "))]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(reason = %error, "the service manager cannot be told");
    }
}

/// How often the service manager wants to hear that the daemon lives, where it does.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
}

/// Tells the service manager that the daemon lives.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// Calls `alive` twice in each period, and only while the daemon does what it is for: the API answers, and to answer this
/// question it locks the state. A daemon that hangs falls silent, and is started anew. Runs until it is aborted.
pub async fn watchdog(client: Client, period: Duration, alive: impl Fn()) {
    let half = period / 2;
    let mut ticks = time::interval(half);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let reason = match time::timeout(half, client.modes(None)).await {
            Ok(Ok(_)) => {
                alive();
                continue;
            }
            Ok(Err(error)) => chain(&error),
            Err(elapsed) => io::Error::from(elapsed).to_string(),
        };
        tracing::error!(reason, "the daemon does not answer itself: the watchdog is not told that it lives");
    }
}
