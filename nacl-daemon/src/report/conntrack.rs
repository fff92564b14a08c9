//! What is remembered of connections, as a table; how full the tables are; what was forgotten.

use std::{fmt::Write as _, time::Duration};

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use nacl_common::Direction;

use super::{console, named, rule::protocol_name};
use crate::{
    observe::{Admitted, Remembered, TrackingStats},
    service::api::Forgotten,
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const LOUD: Style = Style::new().bold().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));

/// Connections, a table an interface.
pub fn list(connections: &[Remembered]) -> String {
    let mut out = String::new();
    if connections.is_empty() {
        let _ = writeln!(out, "{DIM}no connection is remembered{DIM:#}");
    }
    for of_one in connections.chunk_by(|one, next| one.interface == next.interface) {
        let [first, ..] = of_one else { continue };
        let place = named(&first.interface, &first.device, first.netns.as_deref());
        let _ = writeln!(out, "{BOLD}{place}{BOLD:#} · {}", counted(of_one.len() as u64));
        let mut table = plain();
        table.set_header([
            "Protocol",
            "Began",
            "Client",
            "Server",
            "State",
            "Expires in",
            "Network ACL",
            "Security group",
        ]);
        for connection in of_one {
            table.add_row(row(connection));
        }
        write(&mut out, &mut table, &[5]);
        if of_one.iter().flat_map(admitted).any(|rule| !rule.in_force) {
            let _ = writeln!(
                out,
                "{DIM}(gone): the policy has that rule no more; its connections live until they expire{DIM:#}"
            );
        }
        out.push('\n');
    }
    out
}

fn admitted(connection: &Remembered) -> impl Iterator<Item = &Admitted> {
    connection.nacl_rule.iter().chain(&connection.group_rule)
}

fn row(connection: &Remembered) -> [String; 8] {
    let Remembered { remote, remote_port, local, local_port, began, .. } = connection;
    let end = |address: &std::net::IpAddr, port: &Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(*address, *port).to_string(),
        None => address.to_string(),
    };
    let (remote, local) = (end(remote, remote_port), end(local, local_port));
    let (client, server) = match began {
        Direction::Inbound => (remote, local),
        Direction::Outbound => (local, remote),
    };
    let mut protocol = protocol_name(connection.protocol);
    if let Some(id) = connection.echo_id {
        let _ = write!(protocol, " id {id}");
    }
    let left = humantime::format_duration(Duration::from_secs(connection.expires_in)).to_string();
    [
        protocol,
        began.name().to_owned(),
        client,
        server,
        connection.state.clone(),
        left,
        mark(connection.nacl, connection.nacl_rule.as_ref()),
        mark(connection.group, connection.group_rule.as_ref()),
    ]
}

/// The rule that a layer let it in by; a dash where that layer did not.
fn mark(set: bool, rule: Option<&Admitted>) -> String {
    match (set, rule) {
        (false, _) => "-".to_owned(),
        (true, None) => "yes".to_owned(),
        (true, Some(Admitted { name, direction, rule, position, in_force, .. })) => {
            let number = rule.or(*position).map(|number| format!(" {number}")).unwrap_or_default();
            let gone = if *in_force { "" } else { " (gone)" };
            format!("{name} {}{number}{gone}", direction.name())
        }
    }
}

/// How full the tables are.
pub fn stats(interfaces: &[TrackingStats]) -> String {
    let mut out = String::new();
    for stats in interfaces {
        let TrackingStats { interface, device, netns, tracking, states } = stats;
        let _ = writeln!(out, "{BOLD}{}{BOLD:#}", named(interface, device, netns.as_deref()));
        let loud = if tracking.conntrack_allowance_exceeded > 0 { LOUD } else { Style::new() };
        let exceeded = console::count(tracking.conntrack_allowance_exceeded);
        let _ = writeln!(out, "  conntrack_allowance_exceeded   {loud}{exceeded}{loud:#}");
        let available = console::count(tracking.conntrack_allowance_available);
        let _ = writeln!(out, "  conntrack_allowance_available  {available}");
        let (entries, capacity) = (console::count(tracking.entries), console::count(tracking.capacity));
        let _ = writeln!(out, "  entries                        {entries} of {capacity}");
        let _ = writeln!(out, "  expired, not yet reclaimed     {}", console::count(tracking.expired));
        let _ = writeln!(out, "  remembers                      {}", who(tracking.nacl, tracking.groups));
        for state in states {
            let name = format!("{} {}", protocol_name(state.protocol), state.state);
            let _ = writeln!(out, "    {name:<29}{}", console::count(state.entries));
        }
        if let Some(warning) = tracking.warning() {
            let _ = writeln!(out, "  {LOUD}note{LOUD:#}  {warning}");
        }
        out.push('\n');
    }
    out
}

/// Who remembers, in words.
pub const fn who(nacl: bool, groups: bool) -> &'static str {
    match (nacl, groups) {
        (true, true) => "the network ACL and the security groups",
        (true, false) => "the network ACL",
        (false, true) => "the security groups",
        (false, false) => "nobody: stateless, and no security group judges",
    }
}

/// What was forgotten.
pub fn forgotten(interfaces: &[Forgotten]) -> String {
    let mut out = String::new();
    for Forgotten { interface, device, netns, connections } in interfaces {
        let place = named(interface, device, netns.as_deref());
        let _ = writeln!(out, "{BOLD}{place}{BOLD:#}: {} forgotten", counted(*connections));
    }
    out
}

fn counted(number: u64) -> String {
    match number {
        1 => "1 connection".to_owned(),
        number => format!("{} connections", console::count(number)),
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn write(out: &mut String, table: &mut Table, right: &[usize]) {
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        let _ = writeln!(out, "{}", line.trim_end());
    }
}
