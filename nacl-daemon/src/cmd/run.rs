//! `nacld run`.

use nacl_daemon::{
    logs,
    report::{broken, layout, status, watch},
    service::{
        heap,
        plane::Kernel,
        serve::{self, Config, Ended, Notice, Tell, Undone},
        state::chain,
    },
};

use crate::{Exit, cli};

pub fn run(args: &cli::Run) -> anyhow::Result<Exit> {
    heap::keep_small();
    let config = Config {
        file: args.config.clone(),
        socket: args.socket.socket.clone(),
        socket_group: args.socket_group.clone(),
        lifetime: args.lifetime,
        confirm: args.confirm,
        on_exit: args.on_exit.map(Into::into),
        force: args.force,
        trace: args.trace,
        watch: args.watch,
        follow: args.follow,
        wait: args.wait,
        metrics: args.metrics,
    };
    let logged = logs::notices_are_logged(args.log_format());
    let tell: Tell = if logged { Box::new(|notice| logs::notice(&notice)) } else { Box::new(tell) };
    // Ctrl-C is the ordinary way to end a daemon in a terminal, so it is no failure.
    let kernel = Kernel {
        // What detaches by itself must not outlive whoever would do it.
        state: (!args.no_pins && args.lifetime.is_none()).then(|| args.store.state.clone()),
        owner: std::path::absolute(&args.socket.socket)?.display().to_string(),
        store: None,
    };
    let ended = super::runtime()?.block_on(serve::run(config, Box::new(kernel), tell))?;
    Ok(if ended == Ended::NotConfirmed { Exit::Failed } else { Exit::Done })
}

#[expect(clippy::needless_pass_by_value, reason = "the shape the library calls")]
fn tell(notice: Notice) {
    let told = match notice {
        Notice::Diagnostics(diagnostics) => super::tell(&diagnostics.coloured),
        Notice::Findings(findings) => super::tell(layout::fit(&status::findings(findings), super::error_width())),
        Notice::Ready { status, socket, lifetime, .. } => super::say(status::ready(status, socket, lifetime)),
        Notice::Restored(interfaces) => super::say(status::restored(interfaces)),
        Notice::Reloaded { change, pending, .. } => super::say(status::changed(change, pending)),
        Notice::Confirmed { .. } => super::say("confirmed: the policy stays in force\n"),
        Notice::Undone { why: Undone::TimeOver, .. } => {
            super::say("not confirmed in time: what was before is in force again\n")
        }
        Notice::Undone { why: Undone::Asked, .. } => super::say("rolled back: what was before is in force again\n"),
        Notice::Set { modes, .. } => super::say(status::set(modes)),
        Notice::NotReloaded { error, .. } => super::tell(status::not_reloaded(&chain(error), error.hint().as_deref())),
        Notice::Interface { happened, .. } => super::say(status::happened(happened)),
        Notice::Record(record) => super::say(watch::record(record)),
        Notice::Broken(found) => super::say(broken::found(found)),
        Notice::Missed(count) => super::tell(format!("{count} packets were not shown: too many at once\n")),
        Notice::Ended { why, interfaces, stay } => super::say(status::ended(why.name(), interfaces, stay)),
        // For logs and service managers.
        Notice::Applying { .. } | Notice::Reloading | Notice::Ending => Ok(()),
    };
    if let Err(error) = told {
        // A daemon goes on enforcing when nobody reads what it prints.
        tracing::debug!(reason = %error, "cannot print");
    }
}
