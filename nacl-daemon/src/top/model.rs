//! What `nacld top` knows: the last two readings, verdicts, connections, and where the person is on the screen. No terminal, no
//! socket, no clock: everything comes in as a message.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nacl_common::{Action, Direction, Family};

use crate::{
    observe::{
        BrokenReturn, GroupRow, GroupRules, Hits, InterfaceRules, InterfaceStatus, Reading, Record, Remembered,
        RuleRow, WayHits, minus,
    },
    report::{console, rule::protocol_name},
    resolve::{Layers, Mode, Protocol},
    service::api::SetMode,
};

/// Verdicts that are kept. Who wants more of them reads the flow log.
pub const RECORDS: usize = 1000;

/// What the middle of the screen shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// Rules with live hits.
    #[default]
    Rules,
    /// Verdicts as they happen.
    Verdicts,
    /// What is remembered of connections.
    Connections,
    /// Requests that pass and whose replies do not.
    Broken,
}

impl Pane {
    /// All, in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Rules, Self::Verdicts, Self::Connections, Self::Broken];

    /// Its name on the screen.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Rules => "Rules",
            Self::Verdicts => "Verdicts",
            Self::Connections => "Connections",
            Self::Broken => "Broken returns",
        }
    }

    /// What it can be sorted by; the first is how it is shown at first.
    pub const fn orders(self) -> &'static [&'static str] {
        match self {
            Self::Rules => &["rule", "rate", "packets"],
            Self::Verdicts => &["newest", "oldest"],
            Self::Connections => &["expiry", "client", "state"],
            Self::Broken => &["newest", "replies"],
        }
    }

    /// Its place among all.
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).unwrap_or_default()
    }
}

/// Whether there is a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// It was not asked yet.
    #[default]
    Asking,
    /// It answers.
    Up,
    /// It does not. What is shown is what it said last.
    Lost(String),
}

/// What a person does in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Row under the cursor, counted among those that are shown.
    pub cursor: usize,
    /// Rows without this text are not shown.
    pub filter: String,
    /// Index into [`Pane::orders`].
    pub order: usize,
}

/// Something that stands over everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialog {
    /// The keys.
    Help,
    /// Shall this be done?
    Ask {
        /// The question.
        question: String,
        /// Interface.
        interface: String,
        /// What is to be set there.
        set: SetMode,
    },
    /// Which layers are to judge?
    Layers {
        /// Interface.
        interface: String,
        /// Those that do now.
        now: Layers,
        /// Whether it has security groups.
        groups: bool,
    },
    /// A text to read, with the escapes of a terminal.
    Text {
        /// What it is.
        title: String,
        /// The text.
        text: String,
        /// First line that is shown.
        from: u16,
    },
}

/// A line of the person's last wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What came of it.
    pub text: String,
    /// It was not done.
    pub failed: bool,
}

/// A reading, and when it was made on the clock of whoever made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// When.
    pub at: Duration,
    /// What the daemon told.
    pub reading: Reading,
    /// What is remembered of connections, where that was asked.
    pub connections: Option<Vec<Remembered>>,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Whether there is a daemon.
    pub link: Link,
    /// The last reading.
    pub now: Option<Read>,
    /// The one before it, for rates.
    pub before: Option<Read>,
    /// Verdicts, the newest first.
    pub records: VecDeque<Record>,
    /// Verdicts that came too fast to be told.
    pub missed: u64,
    /// Allowed packets are told of too.
    pub allowed_too: bool,
    /// Connections, as they were asked for last.
    pub connections: Vec<Remembered>,
    /// Index of the interface that is shown.
    pub interface: usize,
    /// The pane that is shown.
    pub pane: Pane,
    /// What the person does in each pane.
    pub lists: [List; 4],
    /// Nothing moves.
    pub paused: bool,
    /// A filter is being typed.
    pub typing: bool,
    /// What stands over everything else.
    pub dialog: Option<Dialog>,
    /// What came of the last wish.
    pub said: Option<Said>,
    /// Rows that the list has on the screen.
    pub page: usize,
}

impl Model {
    /// What is told of the interface that is shown.
    pub fn status(&self) -> Option<&InterfaceStatus> {
        self.now.as_ref()?.reading.status.interfaces.get(self.interface)
    }

    /// Its rules.
    pub fn rules(&self) -> Option<&InterfaceRules> {
        self.now.as_ref()?.reading.rules.get(self.interface)
    }

    /// The same interface at the reading before, and how long ago that was.
    fn earlier(&self) -> Option<(&InterfaceStatus, &InterfaceRules, Duration)> {
        let (now, before) = (self.now.as_ref()?, self.before.as_ref()?);
        let name = &self.status()?.interface;
        let at = before.reading.status.interfaces.iter().position(|one| one.interface == *name)?;
        let since = now.at.checked_sub(before.at).filter(|since| !since.is_zero())?;
        Some((&before.reading.status.interfaces[at], before.reading.rules.get(at)?, since))
    }

    /// What the person does in the pane that is shown.
    pub fn list(&self) -> &List {
        &self.lists[self.pane.index()]
    }

    /// The same, to be changed.
    pub fn list_mut(&mut self) -> &mut List {
        &mut self.lists[self.pane.index()]
    }

    /// Packets a second since the reading before: allowed, denied. Nothing where there is none.
    pub fn rates(&self) -> Option<(f64, f64)> {
        let (before, _, since) = self.earlier()?;
        let now = self.status()?.packets;
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / since.as_secs_f64();
        Some((rate(now.allowed, before.packets.allowed), rate(now.denied, before.packets.denied)))
    }

    /// The rules that are shown, sorted.
    pub fn rule_lines(&self) -> Vec<RuleLine> {
        let Some(rules) = self.rules() else { return Vec::new() };
        let earlier = self.earlier();
        let mut lines = lines(rules);
        if let Some((_, before, since)) = earlier {
            let before = self::lines(before);
            for line in &mut lines {
                // A rule that is new begins to count at zero, as the kernel's counters do.
                let was = before.iter().find(|was| was.is(line)).map(|was| was.hits).unwrap_or_default();
                line.rate = Some(minus(line.hits, was).packets as f64 / since.as_secs_f64());
            }
        }
        lines.retain(|line| self.list().admits(|| line.texts()));
        match self.list().order {
            1 => lines.sort_by(|one, other| {
                let rate = |line: &RuleLine| line.rate.unwrap_or_default();
                rate(other).total_cmp(&rate(one)).then(other.hits.packets.cmp(&one.hits.packets))
            }),
            2 => lines.sort_by_key(|line| Reverse(line.hits.packets)),
            _ => {}
        }
        lines
    }

    /// The verdicts that are shown, sorted.
    pub fn verdicts(&self) -> Vec<&Record> {
        let Some(status) = self.status() else { return Vec::new() };
        let here = self.records.iter().filter(|record| record.interface == status.interface);
        let mut shown: Vec<_> = here.filter(|record| self.list().admits(|| verdict_texts(record))).collect();
        if self.list().order == 1 {
            shown.reverse();
        }
        shown
    }

    /// Whether a verdict is among those that are shown in their pane.
    pub fn shows(&self, record: &Record) -> bool {
        let list = &self.lists[Pane::Verdicts.index()];
        self.status().is_some_and(|status| status.interface == record.interface)
            && list.admits(|| verdict_texts(record))
    }

    /// The connections that are shown, sorted.
    pub fn shown_connections(&self) -> Vec<&Remembered> {
        let Some(status) = self.status() else { return Vec::new() };
        let here = self.connections.iter().filter(|one| one.interface == status.interface);
        let mut shown: Vec<_> = here.filter(|one| self.list().admits(|| connection_texts(one))).collect();
        match self.list().order {
            1 => shown.sort_by_key(|one| ends(one)),
            2 => shown.sort_by(|one, other| one.state.cmp(&other.state).then(ends(one).cmp(&ends(other)))),
            _ => {}
        }
        shown
    }

    /// The broken returns that are shown, sorted: as they are told, what was met last comes first.
    pub fn broken(&self) -> Vec<&BrokenReturn> {
        let (Some(status), Some(now)) = (self.status(), &self.now) else { return Vec::new() };
        let here = now.reading.status.broken.iter().filter(|one| one.interface == status.interface);
        let mut shown: Vec<_> = here.filter(|one| self.list().admits(|| vec![one.says.clone()])).collect();
        if self.list().order == 1 {
            shown.sort_by_key(|one| Reverse(one.replies));
        }
        shown
    }

    /// How many rows the pane has.
    pub fn rows(&self) -> usize {
        match self.pane {
            Pane::Rules => self.rule_lines().len(),
            Pane::Verdicts => self.verdicts().len(),
            Pane::Connections => self.shown_connections().len(),
            Pane::Broken => self.broken().len(),
        }
    }

    /// The mode it has not.
    pub fn other_mode(&self) -> Option<Mode> {
        Some(match self.status()?.modes.in_force.mode {
            Mode::Stateless => Mode::Stateful,
            Mode::Stateful => Mode::Stateless,
        })
    }
}

impl List {
    /// Whether a row is shown: its words have the text that is filtered for, whatever the case.
    fn admits(&self, texts: impl FnOnce() -> Vec<String>) -> bool {
        self.filter.is_empty() || texts().join(" ").to_lowercase().contains(&self.filter.to_lowercase())
    }
}

/// A rule, or something else that counts, as a line of the screen.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleLine {
    /// Which way its packets go.
    pub direction: Direction,
    /// Its number, or its group and place there.
    pub rule: String,
    /// What it does.
    pub action: Action,
    /// The console's name for protocol and ports.
    pub kind: String,
    /// The console's column of that name.
    pub ports: String,
    /// Both in a few letters, for a narrow screen: what stands in the console's column does not tell TCP from UDP.
    pub brief: String,
    /// The other end.
    pub remote: String,
    /// Line in the policy file; 0 for what stands in none.
    pub line: usize,
    /// What it met since the interface was attached.
    pub hits: Hits,
    /// Packets a second, where there were two readings.
    pub rate: Option<f64>,
}

impl RuleLine {
    fn is(&self, other: &Self) -> bool {
        (self.direction, &self.rule, &self.remote) == (other.direction, &other.rule, &other.remote)
    }

    /// What it is found by.
    fn texts(&self) -> Vec<String> {
        vec![
            self.direction.name().to_owned(),
            self.rule.clone(),
            self.action.name().to_owned(),
            self.kind.clone(),
            self.ports.clone(),
            self.remote.clone(),
        ]
    }
}

/// Everything that counts on an interface, inbound first, in the order in which it is asked.
fn lines(rules: &InterfaceRules) -> Vec<RuleLine> {
    let mut lines = Vec::new();
    for direction in Direction::ALL {
        let nacl = rules.lists.iter().filter(|list| list.direction == direction);
        let nacl: Vec<_> = nacl.flat_map(|list| &list.rules).map(|row| of_nacl(direction, row)).collect();
        let rows = |group: &GroupRules| match direction {
            Direction::Inbound => group.inbound.clone(),
            Direction::Outbound => group.outbound.clone(),
        };
        let groups = rules.groups.iter().flatten();
        let mut groups: Vec<_> = groups
            .flat_map(|group| rows(group).into_iter().map(|row| of_group(direction, &group.name, &row)))
            .collect();
        groups.extend(of_way(direction, &rules.unmatched, "sg *", Action::Deny, "no rule of a group"));
        // Inbound the network ACL judges first, outbound the groups (N3).
        match direction {
            Direction::Inbound => lines.extend(nacl.into_iter().chain(groups)),
            Direction::Outbound => lines.extend(groups.into_iter().chain(nacl)),
        }
        lines.extend(of_way(direction, &rules.tracked, "tracked", Action::Allow, "remembered"));
    }
    lines
}

/// `tcp 443`, `udp`, `Echo Request`, `all`.
fn brief(protocol: Protocol, ports: &str) -> String {
    match protocol {
        Protocol::All => "all".to_owned(),
        Protocol::Number(number) if ports.eq_ignore_ascii_case("all") => protocol_name(number),
        Protocol::Number(1 | 58) => ports.to_owned(),
        Protocol::Number(number) => format!("{} {}", protocol_name(number), ports.replace(" - ", "-")),
    }
}

fn of_nacl(direction: Direction, row: &RuleRow) -> RuleLine {
    RuleLine {
        direction,
        rule: row.rule.to_string(),
        action: row.action,
        kind: console::kind(row.protocol, row.ports, row.icmp),
        ports: console::ports(row.family, row.ports, row.icmp),
        brief: brief(row.protocol, &console::ports(row.family, row.ports, row.icmp)),
        remote: row.reference.clone().unwrap_or_else(|| row.cidr.to_string()),
        line: row.line,
        hits: row.hits.unwrap_or_default(),
        rate: None,
    }
}

fn of_group(direction: Direction, group: &str, row: &GroupRow) -> RuleLine {
    let family = if row.cidrs.iter().all(|cidr| cidr.addr().is_ipv6()) { Family::V6 } else { Family::V4 };
    RuleLine {
        direction,
        rule: format!("{group} {}", row.position),
        action: Action::Allow,
        kind: console::kind(row.protocol, row.ports, row.icmp),
        ports: console::ports(family, row.ports, row.icmp),
        brief: brief(row.protocol, &console::ports(family, row.ports, row.icmp)),
        remote: row.peer.clone(),
        line: row.line,
        hits: row.hits.unwrap_or_default(),
        rate: None,
    }
}

/// What counts by direction and family, where it met anything.
fn of_way(direction: Direction, ways: &[WayHits], rule: &str, action: Action, kind: &str) -> Vec<RuleLine> {
    let here = ways.iter().filter(|way| way.direction == direction);
    let met = here.filter_map(|way| Some((way.family, way.hits.filter(|hits| hits.packets > 0)?)));
    let line = |(family, hits)| RuleLine {
        direction,
        rule: rule.to_owned(),
        action,
        kind: kind.to_owned(),
        ports: String::new(),
        brief: kind.to_owned(),
        remote: if family == Family::V4 { "IPv4" } else { "IPv6" }.to_owned(),
        line: 0,
        hits,
        rate: None,
    };
    met.map(line).collect()
}

/// What a verdict is found by.
fn verdict_texts(record: &Record) -> Vec<String> {
    let mut texts = vec![record.direction.clone(), record.action.clone(), record.source(), record.destination()];
    texts.push(record.protocol.map(protocol_name).unwrap_or_default());
    texts.extend([decided(record), record.reason.clone()]);
    texts.extend(record.tcp_flags.clone());
    texts
}

/// Who decided about a packet, with the line of the policy file.
pub fn decided(record: &Record) -> String {
    let mut text = match (&record.nacl, &record.exemption) {
        (Some(nacl), _) if record.rule.is_some() => format!("{nacl} {}", record.decided_by),
        (_, Some(exemption)) => exemption.clone(),
        _ => record.decided_by.to_string(),
    };
    if let Some(line) = record.line.filter(|line| *line > 0) {
        let _ = write!(text, ", line {line}");
    }
    text
}

/// Client and server of a connection.
pub fn ends(one: &Remembered) -> (String, String) {
    let end = |address: IpAddr, port: Option<u16>| match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    };
    let (remote, local) = (end(one.remote, one.remote_port), end(one.local, one.local_port));
    match one.began {
        Direction::Inbound => (remote, local),
        Direction::Outbound => (local, remote),
    }
}

/// What a connection is found by.
fn connection_texts(one: &Remembered) -> Vec<String> {
    let (client, server) = ends(one);
    vec![protocol_name(one.protocol), one.began.name().to_owned(), client, server, one.state.clone()]
}
