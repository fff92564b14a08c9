//! A resolved interface → a ruleset for `nft -f` that judges its packets as the policy says. Written from the rules themselves and not
//! from what they are compiled to, so that it can stand against the engine as a second opinion. Nothing is loaded here.
//!
//! Where nothing is remembered, rules stand on the netdev hooks of the interface, which see what XDP and TC see: every frame by itself,
//! fragments as they come. What remembers connections needs conntrack, which puts fragments together and stands further inside: then
//! rules stand behind it, at prerouting and postrouting, where addresses are those of the wire. What a layer has admitted is a bit of the
//! connection's mark, as nacld has it, and not the state `established`: that says only that packets went both ways.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use ipnet::IpNet;
use nacl_common::{
    Action, Direction,
    border::Service,
    packet::{EXTENSION_HEADERS, Family},
};

use super::Exported;
use crate::{
    inventory::{Because, Note, Place},
    resolve::{Exemption, Group, GroupRule, Icmp, Interface, Layers, Mode, Peer, Protocol, Side},
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;

/// Bit of a connection's mark: the security groups have admitted it.
const OF_GROUPS: u32 = 1;
/// Bit of a connection's mark: the network ACL has.
const OF_NACL: u32 = 2;

/// Longest comment that nft takes, in bytes.
const COMMENT: usize = 128;

/// A way in which the ruleset and nacld can come to different verdicts. Each is told as a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Later fragments share the first one's verdict with nacld.
    Fragments,
    /// Frames with two VLAN tags.
    Tags,
    /// Packets that say they are longer or shorter than they are, or have headers cut short.
    Cut,
    /// More IPv6 extension headers than nacld looks behind, or two of a kind before an authentication header.
    Extensions,
    /// Conntrack puts fragments together.
    Reassembled,
    /// Conntrack judges TCP itself.
    Tcp,
    /// Protocols of which conntrack knows more than their addresses.
    Keys,
    /// Time-outs are the whole namespace's.
    Timeouts,
    /// How many connections there can be.
    Entries,
    /// The bits of the mark may have another meaning to somebody else.
    Marks,
    /// Only what is routed or for this host passes the hooks.
    Routed,
    /// The policy judges only.
    Unenforced,
}

impl Difference {
    /// What the ruleset of an interface cannot say, or says otherwise.
    pub fn of(interface: &Interface) -> Vec<Self> {
        let mut found = if remembers(interface) {
            vec![Self::Reassembled, Self::Tcp, Self::Keys, Self::Timeouts, Self::Entries, Self::Marks, Self::Routed]
        } else {
            vec![Self::Fragments, Self::Tags, Self::Cut]
        };
        found.push(Self::Extensions);
        if !interface.enforce {
            found.push(Self::Unenforced);
        }
        found.sort_unstable();
        found
    }

    /// In one sentence without a full stop.
    pub fn message(self, interface: &Interface) -> String {
        let tracking = &interface.tracking;
        match self {
            Self::Fragments => {
                "later fragments are judged each by itself: a rule that needs a port or a type lets none \
                                pass, where nacld gives them the verdict of the first one"
                    .to_owned()
            }
            Self::Tags => {
                "frames with a second VLAN tag, and tagged ones that programs of this host send, are dropped: \
                           nftables cannot look behind the tag, nacld does"
                    .to_owned()
            }
            Self::Cut => "packets whose length is not what they say, or whose TCP, UDP or ICMP header is cut short, \
                          are judged by what nftables can read of them, and dropped where it reads none; nacld drops \
                          what has no whole header, and nothing else"
                .to_owned(),
            Self::Extensions => "nacld drops IPv6 packets with more than eight extension headers or two of fragments; \
                                 nftables looks behind them all, and takes an authentication header for one that it \
                                 looks behind too where another of its kind stands before the one that names it"
                .to_owned(),
            Self::Reassembled => "conntrack puts fragments together before any rule sees them: they are judged as one \
                                  packet, and what lacks a part is not judged at all"
                .to_owned(),
            Self::Tcp => {
                "conntrack follows sequence numbers: a packet of a connection that is outside their window is \
                          judged by the rules, where nacld lets it pass; net.netfilter.nf_conntrack_tcp_be_liberal=1 \
                          switches that off. A connection met in its middle is never taken up"
                    .to_owned()
            }
            Self::Keys => {
                "connections of SCTP, DCCP, UDP-Lite and GRE are told apart by their ports or keys, with nacld \
                           by their addresses alone (S29)"
                    .to_owned()
            }
            Self::Timeouts => format!(
                "time-outs are settings of the namespace: net.netfilter.nf_conntrack_tcp_timeout_established={}, \
                 nf_conntrack_udp_timeout={}, nf_conntrack_udp_timeout_stream={}, nf_conntrack_icmp_timeout={}, \
                 nf_conntrack_icmpv6_timeout={}, nf_conntrack_generic_timeout={}",
                tracking.tcp_established,
                tracking.udp,
                tracking.udp_stream,
                tracking.icmp,
                tracking.icmp,
                tracking.other
            ),
            Self::Entries => format!(
                "how many connections there can be is a setting of the namespace, for all interfaces together: \
                 net.netfilter.nf_conntrack_max, with nacld {} on this one",
                tracking.entries
            ),
            Self::Marks => format!(
                "the ruleset keeps what it remembers in the bits {:#x} of the connection mark: nothing else may use \
                 them, nor a second such ruleset for connections that pass both interfaces",
                OF_GROUPS | OF_NACL
            ),
            Self::Routed => "the rules stand behind conntrack, so only IP packets are judged that are for this host, \
                             from it or routed by it; what is bridged, and what is not IP, passes"
                .to_owned(),
            Self::Unenforced => "`enforce = false`: rules count and drop nothing".to_owned(),
        }
    }
}

/// Whether anything is remembered of connections.
pub fn remembers(interface: &Interface) -> bool {
    groups(interface).is_some() || judges(interface) && interface.mode == Mode::Stateful
}

/// The ruleset of an interface. `file`: the policy, as it is named in messages; `name`: the interface's there.
pub fn write(file: &str, name: &str, interface: &Interface) -> Exported {
    let place = Place { file: Arc::from(file), path: format!("interface.{name}"), line: None };
    let note = |difference: Difference| Note {
        because: Because::NotExpressible,
        place: place.clone(),
        message: difference.message(interface),
    };
    let notes = Difference::of(interface).into_iter().map(note).collect();
    let mut ruleset = Ruleset { interface, chains: Vec::new() };
    for direction in Direction::ALL {
        ruleset.hook(direction);
        for family in [Family::V4, Family::V6] {
            if remembers(interface) {
                ruleset.remembering(direction, family);
            } else {
                ruleset.stateless(direction, family);
            }
        }
    }
    if remembers(interface) {
        ruleset.marks();
    }
    Exported { text: ruleset.text(name), notes }
}

fn judges(interface: &Interface) -> bool {
    interface.layers != Layers::Groups
}

fn groups(interface: &Interface) -> Option<&[Arc<Group>]> {
    interface.groups.as_deref().filter(|_| interface.layers != Layers::Nacl)
}

/// What can be seen of a packet's protocol, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// All of it: a packet in one piece, or a first fragment.
    Whole,
    /// The protocol, of a later fragment.
    Later,
    /// Nothing: a later IPv6 fragment whose protocol lies behind another header.
    Hidden,
    /// IPv6: that it is an authentication header, which is a protocol to AWS's rules. nftables looks behind it.
    Authentication,
}

/// What is matched, and what becomes of it.
#[derive(Clone)]
struct Line {
    /// Addresses of the other end; `None`: all.
    remote: Option<Vec<IpNet>>,
    protocol: Protocol,
    source: Option<(u16, u16)>,
    destination: Option<(u16, u16)>,
    icmp: Option<Icmp>,
    /// Whether a packet of which a port or type cannot be seen is one: it does not satisfy an allow, and does not escape a deny.
    unseen: bool,
    /// Another condition on the packet.
    also: &'static str,
    verdict: String,
    comment: String,
}

impl Line {
    fn new(verdict: &str, comment: &str) -> Self {
        Self {
            remote: None,
            protocol: Protocol::All,
            source: None,
            destination: None,
            icmp: None,
            unseen: false,
            also: "",
            verdict: verdict.to_owned(),
            comment: comment.to_owned(),
        }
    }

    /// The rule, where a packet of which this much can be seen can match it.
    fn rule(&self, direction: Direction, family: Family, seen: Seen) -> Option<String> {
        let mut rule = self.remote(direction, family)?;
        match (self.protocol, seen) {
            (Protocol::All, _) | (Protocol::Number(AUTHENTICATION), Seen::Authentication) => {}
            (Protocol::Number(number), Seen::Whole) => self.transport(family, number, &mut rule),
            (Protocol::Number(number), Seen::Later) => {
                let all = |ports: Option<(u16, u16)>| ports.is_none_or(|ports| ports == ALL_PORTS);
                let needs = matches!(number, TCP | UDP) && !(all(self.source) && all(self.destination))
                    || number == icmp(family) && self.icmp.is_some();
                if needs && !self.unseen {
                    return None;
                }
                let field = if family == Family::V4 { "ip protocol" } else { "frag nexthdr" };
                let _ = write!(rule, "{field} {number} ");
            }
            (Protocol::Number(_), Seen::Hidden) if self.unseen => {}
            (Protocol::Number(_), Seen::Hidden | Seen::Authentication) => return None,
        }
        if !self.also.is_empty() {
            let _ = write!(rule, "{} ", self.also);
        }
        let _ = write!(rule, "counter {}", self.verdict);
        if !self.comment.is_empty() {
            let _ = write!(rule, " comment \"{}\"", plain(&self.comment));
        }
        Some(rule)
    }

    fn remote(&self, direction: Direction, family: Family) -> Option<String> {
        let Some(all) = &self.remote else { return Some(String::new()) };
        let of_family = |cidr: &&IpNet| cidr.addr().is_ipv6() == (family == Family::V6);
        // Entries of a list may overlap, those of a set may not.
        let cidrs = IpNet::aggregate(&all.iter().filter(of_family).copied().collect());
        if cidrs.iter().any(|cidr| cidr.prefix_len() == 0) {
            return Some(String::new());
        }
        let cidrs: Vec<_> = cidrs.iter().map(ToString::to_string).collect();
        let addresses = match cidrs.as_slice() {
            [] => return None,
            [one] => one.clone(),
            _ => format!("{{ {} }}", cidrs.join(", ")),
        };
        // N22: the source of inbound and the destination of outbound packets.
        let end = if direction == Direction::Inbound { "saddr" } else { "daddr" };
        Some(format!("{} {end} {addresses} ", if family == Family::V4 { "ip" } else { "ip6" }))
    }

    fn transport(&self, family: Family, number: u8, rule: &mut String) {
        let mut ports = String::new();
        for (end, range) in [("sport", self.source), ("dport", self.destination)] {
            if let Some((first, last)) = range.filter(|range| *range != ALL_PORTS) {
                let _ = write!(ports, "{} {end} ", if number == TCP { "tcp" } else { "udp" });
                let _ = if first == last { write!(ports, "{first} ") } else { write!(ports, "{first}-{last} ") };
            }
        }
        match (number, self.icmp) {
            (TCP | UDP, _) if !ports.is_empty() => rule.push_str(&ports),
            (_, Some(Icmp { kind, code })) if number == icmp(family) => {
                let name = if family == Family::V4 { "icmp" } else { "icmpv6" };
                let _ = write!(rule, "{name} type {kind} ");
                if let Some(code) = code {
                    let _ = write!(rule, "{name} code {code} ");
                }
            }
            _ => _ = write!(rule, "meta l4proto {number} "),
        }
    }
}

const ALL_PORTS: (u16, u16) = (0, u16::MAX);

const fn icmp(family: Family) -> u8 {
    match family {
        Family::V4 => ICMP,
        Family::V6 => ICMPV6,
    }
}

/// A comment as nft takes it: it has no way to write a quote.
fn plain(comment: &str) -> String {
    let mut text = String::new();
    for letter in comment.chars() {
        let letter = if letter.is_control() || matches!(letter, '"' | '\\') { ' ' } else { letter };
        if text.len() + letter.len_utf8() > COMMENT {
            break;
        }
        text.push(letter);
    }
    text
}

/// Names a chain: of a direction and family, by what it does.
#[derive(Clone, Copy)]
struct Chain(Direction, Family, &'static str);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0.name(), self.1 as u8)?;
        if self.2.is_empty() { Ok(()) } else { write!(f, "_{}", self.2) }
    }
}

struct Ruleset<'i> {
    interface: &'i Interface,
    chains: Vec<(String, Vec<String>)>,
}

impl Ruleset<'_> {
    fn chain(&mut self, name: impl fmt::Display, rules: Vec<String>) {
        self.chains.push((name.to_string(), rules));
    }

    /// What a rule that denies does.
    const fn deny(&self) -> &'static str {
        if self.interface.enforce { "drop" } else { "accept" }
    }

    fn denied(&self, comment: &str) -> String {
        format!("counter {} comment \"{comment}\"", self.deny())
    }

    /// The hook where packets of a direction are met.
    fn hook(&mut self, direction: Direction) {
        let interface = self.interface;
        let received = (direction == Direction::Inbound) == (interface.side == Side::Host);
        let [four, six] = [Family::V4, Family::V6].map(|family| Chain(direction, family, ""));
        let device = &interface.name;
        let rules = if remembers(interface) {
            // Behind conntrack (-200) and ahead of what rewrites destinations (-100); behind what rewrites sources (100).
            let (hook, end, priority) =
                if received { ("prerouting", "iifname", -150) } else { ("postrouting", "oifname", 200) };
            vec![
                format!("type filter hook {hook} priority {priority}; policy accept;"),
                format!("{end} != \"{device}\" accept"),
                format!("meta nfproto ipv4 goto {four}"),
                format!("meta nfproto ipv6 goto {six}"),
            ]
        } else {
            let hook = if received { "ingress" } else { "egress" };
            let other = if interface.drop_non_ip { self.deny() } else { "accept" };
            vec![
                format!("type filter hook {hook} device \"{device}\" priority 0; policy accept;"),
                format!("meta protocol ip goto {four}"),
                format!("meta protocol ip6 goto {six}"),
                "meta protocol arp counter accept comment \"ARP\"".to_owned(),
                format!(
                    "meta protocol {{ 8021q, 8021ad }} counter {} comment \"behind a VLAN tag that nftables cannot take off\"",
                    self.deny()
                ),
                format!("counter {other} comment \"neither IP nor ARP\""),
            ]
        };
        self.chain(if received { "received" } else { "sent" }, rules);
    }

    /// Every packet by itself.
    fn stateless(&mut self, direction: Direction, family: Family) {
        let of = |part| Chain(direction, family, part);
        let [rules, later, hidden, behind] = ["rules", "later", "hidden", "authentication"].map(of);
        let tiny = self.denied("a fragment at offset 1");
        let unread = self.denied("cannot be parsed");
        let whole = self.in_one_piece(direction, family, &rules);
        match family {
            Family::V4 => {
                let pieces = of("packet");
                // Of a packet that nftables cannot parse it knows no protocol.
                self.chain(of(""), vec![format!("meta l4proto >= 0 goto {pieces}"), unread]);
                let mut all = vec![
                    format!("ip frag-off & 0x1fff == 1 {tiny}"),
                    format!("ip frag-off & 0x1fff != 0 goto {later}"),
                    format!("ip frag-off & 0x2000 != 0 goto {rules}"),
                ];
                all.extend(whole);
                self.chain(pieces, all);
            }
            Family::V6 => {
                let headers = EXTENSION_HEADERS.map(|header| header.to_string()).join(", ");
                let mut all = vec![
                    format!("ip6 version != 6 {unread}"),
                    format!("frag frag-off 1 {tiny}"),
                    format!("frag frag-off != 0 frag nexthdr {{ {headers} }} goto {hidden}"),
                    format!("frag frag-off != 0 goto {later}"),
                ];
                all.extend(authenticated(&behind));
                let pieces = of("packet");
                all.push(format!("frag more-fragments 1 meta l4proto >= 0 goto {rules}"));
                all.push(format!("meta l4proto >= 0 goto {pieces}"));
                all.push(unread);
                self.chain(of(""), all);
                self.chain(pieces, whole);
            }
        }
        let mut lines = self.exempt(direction, "accept");
        lines.extend(self.nacl(direction, family, "accept"));
        self.list(&rules, &lines, Seen::Whole);
        self.list(&later, &lines, Seen::Later);
        if family == Family::V6 {
            self.list(&hidden, &lines, Seen::Hidden);
            self.list(&behind, &lines, Seen::Authentication);
        }
    }

    /// With conntrack. Inbound the network ACL comes first, outbound the groups (O1).
    fn remembering(&mut self, direction: Direction, family: Family) {
        let of = |part| Chain(direction, family, part);
        let [rules, behind, nacl, asked] = ["rules", "authentication", "nacl", "groups"].map(of);
        let [untracked, tracked] = ["untracked", "tracked"].map(of);
        let interface = self.interface;
        let inbound = direction == Direction::Inbound;
        let with_groups = groups(interface).is_some();
        let mut first = if family == Family::V6 { authenticated(&behind) } else { Vec::new() };
        first.extend(self.in_one_piece(direction, family, &rules));
        self.chain(of(""), first);
        let seen: &[(Chain, Seen)] = match family {
            Family::V4 => &[(rules, Seen::Whole)],
            Family::V6 => &[(rules, Seen::Whole), (behind, Seen::Authentication)],
        };
        for &(chain, seen) in seen {
            // A chain for each way a protocol is seen; `then` is what follows the exemptions.
            let suffix = |whole: Chain, other: &'static str| if seen == Seen::Whole { whole } else { of(other) };
            let nacl = suffix(nacl, "authentication_nacl");
            let asked = suffix(asked, "authentication_groups");
            let untracked = suffix(untracked, "authentication_untracked");
            let tracked = suffix(tracked, "authentication_tracked");
            let exempt = self.exempt(direction, "accept");
            let mut entry: Vec<String> = exempt.iter().filter_map(|line| line.rule(direction, family, seen)).collect();
            if judges(interface) && inbound {
                entry.push(format!("jump {nacl}"));
            }
            entry.push(format!("goto {}", if with_groups { asked } else { untracked }));
            self.chain(chain, entry);
            if judges(interface) {
                let mut lines = Vec::new();
                if interface.mode == Mode::Stateful {
                    lines.push(remembered(OF_NACL, "return", "remembered by the network ACL"));
                }
                let list = self.nacl(direction, family, "return");
                lines.extend(list.iter().filter_map(|line| line.rule(direction, family, seen)));
                self.chain(nacl, lines);
            }
            if with_groups {
                let mut lines =
                    vec![remembered(OF_GROUPS, &format!("goto {tracked}"), "remembered by the security groups")];
                let list = self.groups(direction, family, &untracked.to_string(), &tracked.to_string());
                lines.extend(list.iter().filter_map(|line| line.rule(direction, family, seen)));
                self.chain(asked, lines);
                self.end(tracked, &nacl, OF_GROUPS);
            }
            self.end(untracked, &nacl, 0);
        }
    }

    /// What is left once the groups have let a packet pass: outbound the network ACL, and to remember it. `bits`: who remembers it
    /// beside the network ACL.
    fn end(&mut self, chain: Chain, nacl: &Chain, bits: u32) {
        let Chain(direction, family, _) = chain;
        let interface = self.interface;
        let mut rules = Vec::new();
        if judges(interface) && direction == Direction::Outbound {
            rules.push(format!("jump {nacl}"));
        }
        let remember = |bits: u32| match bits {
            0 => "accept".to_owned(),
            bits => format!("goto remember_{bits}"),
        };
        if judges(interface) && interface.mode == Mode::Stateful {
            // Inside a subnet there is no network ACL that could remember (N42).
            let inside = Line { remote: Some(interface.subnet_cidrs.clone()), ..Line::new("", "") };
            let addresses = inside.remote(direction, family).filter(|_| !interface.subnet_cidrs.is_empty());
            rules.extend(addresses.map(|addresses| format!("{addresses}{}", remember(bits))));
            rules.push(remember(bits | OF_NACL));
        } else {
            rules.push(remember(bits));
        }
        self.chain(chain, rules);
    }

    /// Setting the bits of a connection's mark: once, by a packet that goes the way of the first, and never taken back.
    fn marks(&mut self) {
        let any = OF_GROUPS | OF_NACL;
        for bits in 1..=any {
            let set = format!("ct mark set ct mark | {bits:#x} accept");
            let rules = vec![
                // ICMP errors are no part of the connection that they are about (S40).
                "ct state != { new, established } accept".to_owned(),
                "ct direction reply accept".to_owned(),
                format!("ct mark & {any:#x} != 0 {set}"),
                // What can begin a connection: of TCP a SYN, of ICMP an echo request.
                format!("tcp flags & (fin | syn | rst | ack) == syn {set}"),
                "meta l4proto tcp accept".to_owned(),
                format!("icmp type echo-request {set}"),
                "meta nfproto ipv4 meta l4proto icmp accept".to_owned(),
                format!("icmpv6 type echo-request {set}"),
                "meta nfproto ipv6 meta l4proto ipv6-icmp accept".to_owned(),
                set.clone(),
            ];
            self.chain(format!("remember_{bits}"), rules);
        }
    }

    /// What only a packet in one piece is exempt as, and then the rules.
    fn in_one_piece(&self, direction: Direction, family: Family, rules: &Chain) -> Vec<String> {
        let mut all = Vec::new();
        if family == Family::V6 {
            // Without these IPv6 cannot find its neighbours (N51).
            all.push("ip6 hoplimit 255 icmpv6 type 133-137 counter accept comment \"neighbour discovery\"".to_owned());
            all.push("ip6 hoplimit 1 icmpv6 type { 130-132, 143 } counter accept comment \"MLD\"".to_owned());
        }
        if self.interface.aws {
            let (client, server) = if family == Family::V4 { (68, 67) } else { (546, 547) };
            let (source, destination) =
                if direction == Direction::Outbound { (client, server) } else { (server, client) };
            all.push(format!("udp sport {source} udp dport {destination} counter accept comment \"DHCP (N43)\""));
        }
        all.push(format!("goto {rules}"));
        all
    }

    /// What passes unjudged, requests and replies.
    fn exempt(&self, direction: Direction, verdict: &str) -> Vec<Line> {
        let line = |exemption: &Exemption| {
            // The service's port is where requests go and where replies come from.
            let source = (direction == Direction::Inbound) == (exemption.service == Service::Remote);
            let comment = match exemption.line {
                0 => exemption.name.clone(),
                line => format!("{}, line {line}", exemption.name),
            };
            Line {
                remote: Some(vec![exemption.cidr]),
                protocol: exemption.protocol,
                source: exemption.ports.filter(|_| source),
                destination: exemption.ports.filter(|_| !source),
                ..Line::new(verdict, &comment)
            }
        };
        self.interface.exemptions.iter().map(line).collect()
    }

    /// The network ACL: the first rule that matches decides (N6).
    fn nacl(&self, direction: Direction, family: Family, pass: &str) -> Vec<Line> {
        let interface = self.interface;
        if !judges(interface) {
            return vec![Line::new(pass, "no layer judges")];
        }
        let mut lines = Vec::new();
        if !interface.subnet_cidrs.is_empty() {
            let inside = Line::new(pass, "inside the subnet, where no network ACL is asked (N42)");
            lines.push(Line { remote: Some(interface.subnet_cidrs.clone()), ..inside });
        }
        let name = &interface.nacl.name;
        // IPv4 rules never match IPv6 packets, nor the other way round (N24).
        let of_family = interface.nacl.rules(direction).iter();
        for rule in of_family.filter(|rule| rule.cidr.addr().is_ipv6() == (family == Family::V6)) {
            let deny = rule.action == Action::Deny;
            let verdict = if deny { self.deny() } else { pass };
            lines.push(Line {
                remote: Some(vec![rule.cidr]),
                protocol: rule.protocol,
                destination: rule.ports,
                icmp: rule.icmp,
                unseen: deny,
                ..Line::new(verdict, &format!("network ACL {name}, rule {}", rule.number))
            });
        }
        lines.push(Line::new(self.deny(), &format!("network ACL {name}, rule *")));
        lines
    }

    /// The rules of all groups, those first whose flows are not tracked, then the most permissive first: the order in which AWS
    /// lets them decide about tracking (S30).
    fn groups(&self, direction: Direction, family: Family, untracked: &str, tracked: &str) -> Vec<Line> {
        let all = groups(self.interface).unwrap_or_default();
        let mut lines = Vec::new();
        for number in [TCP, UDP] {
            let of_number = |rule: &GroupRule| {
                open(rule, family) && (rule.protocol == Protocol::All || rule.protocol == Protocol::Number(number))
            };
            let protocol = Protocol::Number(number);
            if self.opens(direction, family, number) {
                // Nothing is remembered of an untracked flow, so what may be its answer is not either.
                for (group, place, rule) in rules(all, direction.reverse()).filter(|(.., rule)| of_number(rule)) {
                    let comment = format!("may be an answer to {}", called(group, direction.reverse(), place, rule));
                    let also = if number == TCP { "tcp flags & (fin | syn | rst | ack) != syn" } else { "" };
                    let line = Line::new(&format!("goto {untracked}"), &comment);
                    lines.push(Line { protocol, source: rule.ports, also, ..line });
                }
            }
            if self.opens(direction.reverse(), family, number) {
                for (group, place, rule) in rules(all, direction).filter(|(.., rule)| of_number(rule)) {
                    let comment = format!("{}, untracked", called(group, direction, place, rule));
                    let line = Line::new(&format!("goto {untracked}"), &comment);
                    lines.push(Line { protocol, destination: rule.ports, ..line });
                }
            }
        }
        let mut others: Vec<_> = rules(all, direction).collect();
        others.sort_by_key(|(_, _, rule)| permissive(rule, family));
        for (group, place, rule) in others {
            lines.push(Line {
                remote: Some(rule.cidrs.clone()),
                protocol: rule.protocol,
                destination: rule.ports,
                icmp: rule.icmp,
                ..Line::new(&format!("goto {tracked}"), &called(group, direction, place, rule))
            });
        }
        lines.push(Line::new(self.deny(), "no rule of any security group"));
        lines
    }

    /// Whether a rule of this direction is open to everybody on all ports of a protocol (S30).
    fn opens(&self, direction: Direction, family: Family, number: u8) -> bool {
        rules(groups(self.interface).unwrap_or_default(), direction).any(|(_, _, rule)| {
            let everything = match rule.protocol {
                Protocol::All => true,
                Protocol::Number(of) => of == number && rule.ports.is_none_or(|ports| ports == ALL_PORTS),
            };
            open(rule, family) && everything
        })
    }

    fn text(&self, name: &str) -> String {
        let interface = self.interface;
        let family = if remembers(interface) { "inet" } else { "netdev" };
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        let table = format!("nacld_{}", name.chars().map(letter).collect::<String>());
        let mut text = format!("#!/usr/sbin/nft -f\n# [interface.{name}] of a policy of nacld");
        if let Some(netns) = &interface.netns {
            let _ = write!(text, ", for the network namespace {netns}");
        }
        // Declared so that it can be deleted, whether it is there or not: it is replaced in one step.
        let _ = write!(text, "\ntable {family} {table}\ndelete table {family} {table}\ntable {family} {table} {{");
        // A chain that is jumped to has to be there.
        for (name, rules) in self.chains.iter().rev() {
            let _ = write!(text, "\n\tchain {name} {{\n");
            for rule in rules {
                let _ = writeln!(text, "\t\t{rule}");
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        text
    }

    /// The chain of a list.
    fn list(&mut self, chain: &Chain, lines: &[Line], seen: Seen) {
        let Chain(direction, family, _) = *chain;
        let rules = lines.iter().filter_map(|line| line.rule(direction, family, seen)).collect();
        self.chain(chain, rules);
    }
}

/// Sends IPv6 packets with an authentication header to their chain, wherever in the headers it stands.
fn authenticated(chain: &Chain) -> Vec<String> {
    ["ip6", "hbh", "rt", "dst", "frag"].map(|header| format!("{header} nexthdr {AUTHENTICATION} goto {chain}")).to_vec()
}

/// A packet of a connection that a layer has admitted. ICMP errors are no part of the connection that they are about (S40).
fn remembered(bit: u32, verdict: &str, comment: &str) -> String {
    format!("ct state {{ new, established }} ct mark & {bit:#x} == {bit:#x} counter {verdict} comment \"{comment}\"")
}

/// The rules of groups, with their place in their group's list, from 1.
fn rules(groups: &[Arc<Group>], direction: Direction) -> impl Iterator<Item = (&Group, usize, &GroupRule)> {
    groups
        .iter()
        .flat_map(move |group| (1..).zip(group.rules(direction)).map(move |(place, rule)| (&**group, place, rule)))
}

fn called(group: &Group, direction: Direction, place: usize, rule: &GroupRule) -> String {
    let mut text = format!("security group {}, {} rule {place}", group.name, direction.name());
    if rule.line > 0 {
        let _ = write!(text, ", line {}", rule.line);
    }
    text
}

/// The rule says 0.0.0.0/0 or ::/0 in so many words.
fn open(rule: &GroupRule, family: Family) -> bool {
    matches!(rule.peer, Peer::Cidr(cidr) if cidr.prefix_len() == 0 && cidr.addr().is_ipv6() == (family == Family::V6))
}

/// Less is more permissive: open to everybody, short prefix, all protocols, many ports.
fn permissive(rule: &GroupRule, family: Family) -> (bool, u8, bool, u32) {
    let of_family = rule.cidrs.iter().filter(|cidr| cidr.addr().is_ipv6() == (family == Family::V6));
    let prefix = of_family.map(IpNet::prefix_len).min().unwrap_or(u8::MAX);
    let width = rule.ports.map_or(u32::from(u16::MAX) + 1, |(first, last)| u32::from(last) - u32::from(first) + 1);
    (!open(rule, family), prefix, rule.protocol != Protocol::All, u32::MAX - width)
}
