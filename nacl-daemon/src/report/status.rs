//! What a daemon enforces, where and how; how it started, reloaded and ended.

use std::{fmt::Write as _, path::Path, time::Duration};

use anstyle::{AnsiColor, Color, Style};

use super::{conntrack, console, count_of, named};
use crate::{
    observe::{
        Brief, BriefInterface, Change, Happened, InterfaceModes, InterfaceStatus, Memory, Modes, Place, PolicyStatus,
        Setting, Status,
    },
    resolve::{Layers, Mode, OnExit, Side},
    service::review::Findings,
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const RED: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Red)));
const LOUD: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));

/// The answer of `nacld status`.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    let Status { version, pid, started, until, policy, last_reload, pending, problems, on_exit, interfaces, .. } =
        status;
    let _ = writeln!(out, "{BOLD}nacld {version}{BOLD:#}, pid {pid}, running since {started}");
    if let Some(until) = until {
        let _ = writeln!(out, "{LOUD}detaches by itself at {until}{LOUD:#}");
    }
    let short = policy.sha256.get(..12).unwrap_or_default();
    let _ = writeln!(out, "policy {} (sha256 {short}…), read {}", policy.file.display(), policy.loaded);
    if let Some(reload) = last_reload {
        match &reload.error {
            None => drop(writeln!(out, "last reload {}: in force", reload.time)),
            Some(error) => {
                let _ =
                    writeln!(out, "{RED}last reload {} failed{RED:#}, the policy before it is in force:", reload.time);
                let _ = writeln!(out, "  {error}");
                out.push_str(&reload.diagnostics);
            }
        }
    }
    if let Some(pending) = pending {
        let _ = writeln!(
            out,
            "{LOUD}the policy awaits confirmation{LOUD:#}: it is undone at {} (in {} s) unless `nacld confirm` comes; `nacld rollback` undoes it now",
            pending.until, pending.seconds_left
        );
    }
    if *on_exit == OnExit::Keep {
        let _ = writeln!(out, "stays in force when the daemon ends (on_exit = \"keep\")");
    }
    for problem in problems {
        let _ = writeln!(out, "{RED}problem{RED:#}  {problem}");
    }
    out.push('\n');
    out.push_str(&super::broken::section(&status.broken));
    out.push_str(&interfaces_text(interfaces));
    out
}

/// Where a policy is enforced, and how.
pub fn interfaces_text(interfaces: &[InterfaceStatus]) -> String {
    let mut out = String::new();
    for interface in interfaces {
        one(&mut out, interface);
    }
    out
}

fn one(out: &mut String, status: &InterfaceStatus) {
    let InterfaceStatus {
        interface,
        device,
        netns,
        addresses,
        subnet,
        nacl,
        nacl_id,
        modes,
        groups,
        conntrack,
        side,
        hooks,
        packets,
        memory,
        ..
    } = status;
    let _ = write!(out, "{BOLD}{interface}{BOLD:#}");
    if interface != device {
        let _ = write!(out, " on {device}");
    }
    if let Some(netns) = netns {
        let _ = write!(out, " in netns {netns}");
    }
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    if !addresses.is_empty() {
        let _ = write!(out, "  {DIM}{}{DIM:#}", addresses.join(" "));
    }
    out.push('\n');
    if !modes.in_force.enforce {
        let live = if modes.policy.enforce { "; set live, the policy enforces" } else { "" };
        let _ = writeln!(
            out,
            "  {LOUD}MONITOR ONLY: packets are judged, counted and reported, and NONE IS DROPPED{LOUD:#}{live}"
        );
    }
    let id = nacl_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
    let subnet = subnet
        .as_ref()
        .map_or_else(|| "no subnet: everything is judged".to_owned(), |subnet| format!("subnet {subnet}"));
    let _ = writeln!(out, "  network ACL  {BOLD}{nacl}{BOLD:#}{id}, {}; {subnet}", modes.in_force.mode.name());
    let groups = match groups.as_deref() {
        None => format!("{DIM}none: that layer is off{DIM:#}"),
        Some([]) => format!("{LOUD}an empty list: nothing passes{LOUD:#}"),
        Some(groups) => format!("{BOLD}{}{BOLD:#}", groups.join(", ")),
    };
    let _ = writeln!(out, "  groups       {groups}");
    let _ = writeln!(out, "  mode         {}", mode(*modes));
    let _ = writeln!(out, "  layers       {}", layers(*modes));
    if conntrack.on() || conntrack.entries > 0 {
        let exceeded = match conntrack.conntrack_allowance_exceeded {
            0 => String::new(),
            exceeded => format!("; {LOUD}{} packets dropped: it was full{LOUD:#}", console::count(exceeded)),
        };
        let (entries, capacity) = (console::count(conntrack.entries), console::count(conntrack.capacity));
        let who = conntrack::who(conntrack.nacl, conntrack.groups);
        let _ = writeln!(out, "  conntrack    {entries} of {capacity} entries, remembered by {who}{exceeded}");
    }
    let looks = match side {
        Side::Host => "host: frames received are inbound",
        Side::Router => "router: frames received are outbound",
    };
    let _ = writeln!(out, "  side         {looks}");
    let _ = writeln!(out, "  ingress      {}", hooks.ingress);
    if let Some(why) = &hooks.fallback {
        let _ = writeln!(out, "               {DIM}not native XDP: {why}{DIM:#}");
    }
    let _ = writeln!(out, "  egress       {}", hooks.egress);
    let _ = writeln!(out, "  enforcing    {}", enforcing(*modes));
    if packets.allowed + packets.denied > 0 {
        let _ = writeln!(
            out,
            "  packets      {} allowed, {} denied",
            console::count(packets.allowed),
            console::count(packets.denied)
        );
    }
    let Memory { generations, counters, connections, other } = *memory;
    let [total, generations, counters, connections, other] =
        [generations + counters + connections + other, generations, counters, connections, other].map(console::bytes);
    let _ = writeln!(
        out,
        "  memory       {total}: {generations} tables (once for all interfaces with the same), {connections} connections, {counters} counters, {other} other"
    );
    for note in &status.notes {
        let _ = writeln!(out, "  {LOUD}note{LOUD:#}         {note}");
    }
    out.push('\n');
}

/// Mode in force; where it was set live, what the policy says.
fn mode(Modes { in_force, policy }: Modes) -> String {
    let mode = in_force.mode.name();
    if in_force.mode == policy.mode {
        return mode.to_owned();
    }
    format!("{LOUD}{mode}{LOUD:#} (set live; the policy says {})", policy.mode.name())
}

/// Layers in force, likewise.
fn layers(Modes { in_force, policy }: Modes) -> String {
    let layers = in_force.layers.name();
    if in_force.layers == policy.layers {
        return layers.to_owned();
    }
    format!("{LOUD}{layers}{LOUD:#} (set live; the policy says {})", policy.layers.name())
}

/// Whether what is denied is dropped, likewise.
fn enforcing(Modes { in_force, policy }: Modes) -> String {
    let live = match (in_force.enforce, policy.enforce) {
        (true, false) => " (set live; the policy says monitor only)",
        (false, true) => " (set live; the policy says yes)",
        _ => "",
    };
    let (style, word) = if in_force.enforce { (GREEN, "yes") } else { (LOUD, "NO, monitor only") };
    format!("{style}{word}{style:#}{live}")
}

/// The answer of `nacld mode`.
pub fn modes(interfaces: &[InterfaceModes]) -> String {
    let mut out = String::new();
    for InterfaceModes { interface, device, netns, modes, .. } in interfaces {
        let place = named(interface, device, netns.as_deref());
        let _ = write!(out, "{BOLD}{place}{BOLD:#}: mode {}, layers {}", mode(*modes), layers(*modes));
        // What is as usual needs no word.
        if !modes.in_force.enforce || !modes.policy.enforce {
            let _ = write!(out, ", enforcing {}", enforcing(*modes));
        }
        out.push('\n');
    }
    out
}

/// What `nacld mode` prints when it has changed something.
pub fn set(interface: &InterfaceModes) -> String {
    let mut out = modes(std::slice::from_ref(interface));
    let InterfaceModes { modes: Modes { in_force, policy }, groups, .. } = interface;
    if in_force != policy {
        let _ =
            writeln!(out, "{DIM}this holds until the next reload, which puts the policy's word in force again{DIM:#}");
    }
    if in_force.mode == Mode::Stateful && in_force.layers == Layers::Groups {
        let _ = writeln!(out, "{DIM}the network ACL does not judge, so its mode changes nothing{DIM:#}");
    }
    if in_force.layers == Layers::Both && groups.is_none() {
        let _ = writeln!(out, "{DIM}there are no security groups: the network ACL judges alone{DIM:#}");
    }
    out
}

/// What `nacld run` prints once everything is attached.
pub fn ready(status: &Status, socket: &Path, lifetime: Option<Duration>) -> String {
    let mut out = interfaces_text(&status.interfaces);
    let (enforced, monitored): (Vec<_>, Vec<_>) =
        status.interfaces.iter().partition(|interface| interface.modes.in_force.enforce);
    let mut does = Vec::new();
    if !enforced.is_empty() || monitored.is_empty() {
        does.push(format!("enforcing on {}", count_of(enforced.len(), "interface")));
    }
    if !monitored.is_empty() {
        let on = count_of(monitored.len(), "interface");
        does.push(format!("{LOUD}monitoring {on}, where nothing is dropped{LOUD:#}"));
    }
    let does = does.join(", ");
    let end = match lifetime {
        Some(lifetime) => format!("detaches by itself in {}; Ctrl-C does it now", humantime::format_duration(lifetime)),
        None if status.pending.is_some() => "Ctrl-C ends it".to_owned(),
        None => match status.on_exit {
            OnExit::Detach => "Ctrl-C detaches".to_owned(),
            OnExit::Keep => "Ctrl-C ends the daemon and leaves it in force".to_owned(),
        },
    };
    out.push_str(&trouble(&status.problems));
    if let Some(pending) = &status.pending {
        out.push_str(&awaits(Duration::from_secs(pending.seconds_left)));
    }
    let _ = writeln!(out, "{GREEN}ready{GREEN:#}: {does}, listening on {}; {end}", socket.display());
    out
}

/// What happened to an interface.
pub fn happened(happened: &Happened) -> String {
    let text = |place: &Place| named(&place.interface, &place.device, place.netns.as_deref());
    match happened {
        Happened::Came(place) => format!("{GREEN}attached{GREEN:#} to {BOLD}{}{BOLD:#}, which has come\n", text(place)),
        Happened::Went(place) => format!("{LOUD}{} is gone{LOUD:#}; it is waited for\n", text(place)),
        Happened::Renamed(place) => {
            format!("{BOLD}{}{BOLD:#} is called {} now; it is enforced as before\n", place.interface, place.device)
        }
        Happened::Failed(place, why) => {
            format!("{RED}cannot attach{RED:#} to {}, and tries again: {why}\n", text(place))
        }
    }
}

/// What a change that is undone by itself needs.
fn awaits(left: Duration) -> String {
    let left = humantime::format_duration(Duration::from_secs((left + Duration::from_millis(500)).as_secs()));
    format!("{LOUD}undone in {left}{LOUD:#} unless you type: nacld confirm\n")
}

/// A change that was confirmed.
pub fn confirmed(policy: &PolicyStatus, problems: &[String]) -> String {
    let mut out = format!("{GREEN}confirmed{GREEN:#}: the policy {} stays in force\n", policy.file.display());
    out.push_str(&trouble(problems));
    out
}

/// A change that was undone. `policy`: what is in force again.
pub fn rolled_back(policy: Option<&PolicyStatus>, problems: &[String]) -> String {
    let now = match policy {
        Some(policy) => format!("the policy read at {} is in force again", policy.loaded),
        None => "nothing was in force before, and nacld ends".to_owned(),
    };
    let mut out = format!("{LOUD}rolled back{LOUD:#}: {now}\n");
    out.push_str(&trouble(problems));
    out
}

fn trouble(problems: &[String]) -> String {
    problems.iter().fold(String::new(), |mut text, problem| {
        let _ = writeln!(text, "{RED}problem{RED:#}: {problem}");
        text
    })
}

/// What a daemon took over from one that is gone.
pub fn restored(interfaces: &[String]) -> String {
    format!(
        "{GREEN}taken over{GREEN:#} from a daemon that is gone, with connections and counters: {}\n",
        interfaces.join(", ")
    )
}

/// What `nacld run` prints when it has ended. `stay`: what stays in force.
pub fn ended(why: &str, interfaces: &[InterfaceStatus], stay: &[String]) -> String {
    if !stay.is_empty() {
        let stay = stay.join(", ");
        return format!(
            "{why}: {BOLD}{stay}{BOLD:#} {LOUD}stays in force{LOUD:#}; `nacld run` takes it over, `nacld detach --all` takes it off\n"
        );
    }
    let mut out = format!("{why}: detached");
    for (at, status) in interfaces.iter().enumerate() {
        let separator = if at == 0 { " from " } else { ", " };
        let place = named(&status.interface, &status.device, status.netns.as_deref());
        let _ = write!(
            out,
            "{separator}{BOLD}{place}{BOLD:#} ({} allowed, {} denied)",
            console::count(status.packets.allowed),
            console::count(status.packets.denied)
        );
    }
    out.push('\n');
    out
}

/// What a reload did.
pub fn changed(change: &Change, pending: Option<Duration>) -> String {
    let parts = [
        ("switched", &change.switched),
        ("attached", &change.attached),
        ("detached", &change.detached),
        ("waiting for", &change.waiting),
    ];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(_, interfaces)| !interfaces.is_empty())
        .map(|(verb, interfaces)| format!("{verb} {}", interfaces.join(", ")))
        .collect();
    let mut out = format!("{GREEN}reloaded{GREEN:#}: {}\n", parts.join("; "));
    for change in &change.modes {
        let (before, now) = (setting(change.before), setting(change.now));
        let was = if change.live { format!("{before} had been set live") } else { format!("was {before}") };
        let _ = writeln!(out, "{BOLD}{}{BOLD:#}: {now}, as the policy says ({was})", change.interface);
    }
    out.push_str(&trouble(&change.problems));
    if let Some(left) = pending {
        out.push_str(&awaits(left));
    }
    out
}

/// What is in force, on one line without colour: for a service manager.
pub fn brief(now: &Brief) -> String {
    let Brief { file, sha256, interfaces, absent } = now;
    let mut out = format!("{} (sha256 {}) on ", file.display(), sha256.get(..12).unwrap_or_default());
    for (at, BriefInterface { place: Place { interface, device, netns }, enforce, .. }) in interfaces.iter().enumerate()
    {
        out.push_str(if at == 0 { "" } else { ", " });
        out.push_str(&named(interface, device, netns.as_deref()));
        out.push_str(if *enforce { "" } else { " (MONITOR ONLY)" });
    }
    if interfaces.is_empty() {
        out.push_str("no interface");
    }
    for (at, Place { interface, device, netns }) in absent.iter().enumerate() {
        out.push_str(if at == 0 { "; not here, and waited for: " } else { ", " });
        out.push_str(&named(interface, device, netns.as_deref()));
    }
    out
}

/// What is found about the rules in force, in a line. Empty where nothing is.
pub fn findings(findings: &Findings) -> String {
    let Findings { file, warnings, notes, complete } = findings;
    let file = file.display();
    if !complete {
        return format!(
            "{DIM}a policy this long is not looked through here{DIM:#}; what its rules come to: `nacld check {file}`\n"
        );
    }
    let counts = [(*warnings, "warning"), (*notes, "note")];
    let counts: Vec<_> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| count_of(count, word)).collect();
    let style = if *warnings > 0 { LOUD } else { DIM };
    format!("{style}{} about the rules{style:#}: `nacld check {file}`\n", counts.join(", "))
}

/// Why a reload changed nothing.
pub fn not_reloaded(error: &str, hint: Option<&str>) -> String {
    let mut out = format!("{RED}not reloaded{RED:#}, the policy before it stays in force: {error}\n");
    if let Some(hint) = hint {
        let _ = writeln!(out, "{BOLD}hint{BOLD:#}: {hint}");
    }
    out
}

/// `mode stateless, layers both`; monitor mode is named.
fn setting(Setting { mode, layers, enforce }: Setting) -> String {
    let monitor = if enforce { "" } else { ", monitor only" };
    format!("mode {}, layers {}{monitor}", mode.name(), layers.name())
}
