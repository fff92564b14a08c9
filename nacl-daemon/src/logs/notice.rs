//! What a daemon tells, as events with fields. Addresses and ports of packets are in it, also of those that an ICMP error quotes; no other byte of
//! what packets carry is: the kernel programs hand none out.

use tracing::{error, info, warn};

use super::TARGET;
use crate::{
    observe::{
        BriefInterface, BrokenReturn, Happened, InterfaceModes, InterfaceStatus, Number, Place, Record, Setting,
        broken::{Kind, TooBig},
    },
    policy::Severity,
    report::{
        broken::{ends, name},
        named,
    },
    service::{
        load::Finding,
        review::Findings,
        serve::{Notice, Undone},
        state::chain,
    },
};

/// Logs what a daemon tells, in place of printing it.
pub fn notice(notice: &Notice<'_>) {
    match notice {
        Notice::Diagnostics(diagnostics) => diagnostics.list.iter().for_each(finding),
        Notice::Findings(Findings { file, warnings, notes, complete }) => {
            let policy = file.display();
            if !complete {
                info!(target: TARGET, %policy, "too long to be looked through here: see nacld check");
            } else if *warnings > 0 {
                warn!(target: TARGET, %policy, warnings, notes, "findings about the rules: see nacld check");
            } else {
                info!(target: TARGET, %policy, warnings, notes, "findings about the rules: see nacld check");
            }
        }
        Notice::Applying { interfaces } => {
            tracing::debug!(target: TARGET, interfaces, "putting a policy in force");
        }
        Notice::Ready { status, now, socket, lifetime } => {
            status.interfaces.iter().for_each(enforced);
            let (policy, sha256, interfaces) = (now.file.display(), &now.sha256, now.interfaces.len());
            let detaches_after = lifetime.map(|lifetime| humantime::format_duration(lifetime).to_string());
            let socket = socket.display();
            info!(target: TARGET, %policy, sha256, interfaces, %socket, detaches_after, version = status.version, "ready");
        }
        Notice::Reloading => tracing::debug!(target: TARGET, "reading the policy again"),
        Notice::Restored(interfaces) => {
            for interface in *interfaces {
                info!(target: TARGET, interface, "taken over from the daemon before");
            }
        }
        Notice::Reloaded { change, pending, now } => {
            let (policy, sha256) = (now.file.display(), &now.sha256);
            for BriefInterface { place, epoch, enforce } in &now.interfaces {
                let Place { interface, device, netns } = place;
                let attached = change.attached.contains(interface);
                let netns = netns.as_deref();
                info!(target: TARGET, interface, device, netns, epoch, enforce, sha256, attached, "switched");
            }
            for Place { interface, device, netns } in &now.absent {
                let netns = netns.as_deref();
                warn!(target: TARGET, interface, device, netns, "it is not here, and is waited for");
            }
            for interface in &change.detached {
                info!(target: TARGET, interface, "detached: the policy no longer names it");
            }
            for change in &change.modes {
                let (mode, layers) = (change.now.mode.name(), change.now.layers.name());
                let interface = &change.interface;
                info!(target: TARGET, interface, mode, layers, set_live_before = change.live, "mode changed by the policy");
            }
            for reason in &change.problems {
                error!(target: TARGET, reason, "after the reload");
            }
            let undone_in = pending.map(|left| left.as_secs());
            info!(target: TARGET, %policy, sha256, interfaces = now.interfaces.len(), undone_in, "reloaded");
        }
        Notice::NotReloaded { error, now } => {
            let (policy, sha256, hint) = (now.file.display(), &now.sha256, error.hint());
            let reason = chain(*error);
            error!(target: TARGET, reason, hint, %policy, sha256, "not reloaded: the policy before it stays in force");
        }
        Notice::Confirmed { now } => info!(target: TARGET, sha256 = now.sha256, "confirmed"),
        Notice::Undone { why, now } => {
            let reason = match why {
                Undone::TimeOver => "not confirmed in time",
                Undone::Asked => "rolled back",
            };
            warn!(target: TARGET, reason, sha256 = now.sha256, "what was before is in force again");
        }
        Notice::Set { modes: InterfaceModes { interface, device, netns, modes, epoch, .. }, .. } => {
            let Setting { mode, layers, enforce } = modes.in_force;
            let (mode, layers, netns) = (mode.name(), layers.name(), netns.as_deref());
            info!(target: TARGET, interface, device, netns, epoch, mode, layers, enforce, "set live");
        }
        Notice::Interface { happened, .. } => interface(happened),
        Notice::Record(record) => packet(record),
        Notice::Broken(found) => broken(found),
        Notice::Missed(count) => warn!(target: TARGET, count, "packets were not told of: too many at once"),
        Notice::Ending => tracing::debug!(target: TARGET, "ending"),
        Notice::Ended { why, interfaces, stay } => {
            for InterfaceStatus { interface, device, netns, packets, .. } in *interfaces {
                let (allowed, denied, netns) = (packets.allowed, packets.denied, netns.as_deref());
                let stays = stay.contains(&named(interface, device, netns));
                info!(target: TARGET, interface, device, netns, allowed, denied, stays, "left");
            }
            info!(target: TARGET, reason = why.name(), "ended");
        }
    }
}

fn finding(finding: &Finding) {
    let Finding { severity, code, message, file, line } = finding;
    let policy = file.display();
    match severity {
        Severity::Error => error!(target: TARGET, %policy, line, code, "{message}"),
        Severity::Warning => warn!(target: TARGET, %policy, line, code, "{message}"),
        Severity::Note => info!(target: TARGET, %policy, line, code, "{message}"),
    }
}

fn enforced(status: &InterfaceStatus) {
    let InterfaceStatus { interface, device, netns, nacl, modes, epoch, hooks, notes, .. } = status;
    let (mode, layers) = (modes.in_force.mode.name(), modes.in_force.layers.name());
    let (ingress, egress, not_native) = (&hooks.ingress, &hooks.egress, hooks.fallback.as_deref());
    let netns = netns.as_deref();
    info!(target: TARGET, interface, device, netns, nacl, mode, layers, epoch, ingress, egress, not_native, "attached");
    if !modes.in_force.enforce {
        warn!(target: TARGET, interface, device, netns, "NOT ENFORCING: packets are judged and counted, none is dropped");
    }
    for note in notes {
        warn!(target: TARGET, interface, device, netns, "{note}");
    }
}

fn interface(happened: &Happened) {
    let (Happened::Came(place) | Happened::Went(place) | Happened::Renamed(place) | Happened::Failed(place, _)) =
        happened;
    let Place { interface, device, netns } = place;
    let netns = netns.as_deref();
    match happened {
        Happened::Came(_) => info!(target: TARGET, interface, device, netns, "it came, and is enforced"),
        Happened::Went(_) => warn!(target: TARGET, interface, device, netns, "it went, and is waited for"),
        Happened::Renamed(_) => {
            warn!(target: TARGET, interface, device, netns, "it has another name, and is enforced as before");
        }
        Happened::Failed(_, reason) => {
            error!(target: TARGET, interface, device, netns, reason, "it is here, and cannot be attached to; it is tried again");
        }
    }
}

fn broken(found: &BrokenReturn) {
    let BrokenReturn {
        interface,
        device,
        netns,
        began,
        protocol,
        port,
        example,
        request,
        reply,
        message,
        enforced,
        kind,
        ..
    } = found;
    let (netns, began, (src, dst)) = (netns.as_deref(), began.name(), ends(example));
    let (remote, clients) =
        (found.remote.to_string(), found.clients.iter().map(|client| client.name()).collect::<Vec<_>>());
    let (request_by, reply_by) = (request.decided_by.to_string(), reply.decided_by.to_string());
    let (request_line, reply_line, clients) = (request.line, reply.line, clients.join(","));
    let message_by = message.as_ref().map(|message| message.decided_by.to_string());
    let message_line = message.as_ref().map(|message| message.line);
    let (router, mtu) = match kind {
        Kind::TooBig(TooBig { router, mtu, .. }) => (Some(router.to_string()), *mtu),
        _ => (None, None),
    };
    let (cut, name) = (matches!(kind, Kind::Cut { .. }), name(*kind));
    let rules: Vec<_> = found.fix.iter().flatten().map(|remedy| remedy.rule.as_str()).collect();
    let (fix, says) = (rules.join("; "), &found.says);
    warn!(
        target: TARGET,
        interface, device, netns, began, protocol, port, src, dst, remote, clients, request_by, request_line, reply_by, reply_line,
        message_by, message_line, router, mtu, enforced, cut, fix,
        "{name}: {says}"
    );
}

fn packet(record: &Record) {
    let Record { interface, device, direction, action, enforced, reason, layer, line, protocol, length, epoch, .. } =
        record;
    let netns = record.netns.as_deref();
    let rule = record.rule.map(|rule| match rule {
        Number::Rule(number) => number.to_string(),
        Number::Implied => "*".to_owned(),
    });
    let (src, dst, decided_by) = (record.source(), record.destination(), record.decided_by.to_string());
    let icmp = record.icmp_type.map(|kind| format!("{kind}/{}", record.icmp_code.unwrap_or_default()));
    let tcp_flags = record.tcp_flags.as_deref();
    info!(
        target: TARGET,
        interface, device, netns, direction, action, enforced, reason, layer, rule, line, decided_by, src, dst, protocol,
        icmp, tcp_flags, length, epoch,
        "packet"
    );
}
