//! Packets that are too big for a link, and the message that says so denied: from the bytes of that message to the two rules and the fix.
//! Whatever else such a message may hold accuses nobody.

use nacl_common::{
    Verdict,
    packet::{Extent, parse, parse_into, quote},
};
use nacl_daemon::{
    engine::Engine,
    frame,
    observe::{
        BrokenReturn,
        broken::{Kind, Pair, TooBig},
    },
    policy,
    resolve::{Mode, NoHost},
};
use toml_edit::DocumentMut;

use super::super::{support::lab_broken::mend, support::quotes, *};

/// As lab L18: what may be asked for and answered, and no ICMP.
const WEB: &str = r#"version = 1

[nacl.web]
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" },
  { rule = 110, action = "allow", protocol = "udp", ports = 443, source = "0.0.0.0/0" },
  { rule = 120, action = "allow", protocol = "tcp", ports = 443, source = "::/0" },
  { rule = 130, action = "allow", protocol = "tcp", ports = "32768-65535", source = "198.51.100.0/24" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" },
  { rule = 110, action = "allow", protocol = "udp", ports = "1024-65535", destination = "0.0.0.0/0" },
  { rule = 120, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "::/0" },
  { rule = 130, action = "allow", protocol = "tcp", ports = 443, destination = "198.51.100.0/24" },
]

[interface.near]
nacl = "web"
"#;

/// The network ACL lets everything pass, and the group what may be asked for.
const GROUP: &str = r#"version = 1

[nacl.open]
inbound = [{ rule = 100, action = "allow", protocol = "all", source = "0.0.0.0/0" }]
outbound = [{ rule = 100, action = "allow", protocol = "all", destination = "0.0.0.0/0" }]

[security_group.web]
inbound = [{ protocol = "tcp", ports = 443, source = "198.51.100.0/24" }]
outbound = []

[interface.near]
nacl = "open"
security_groups = ["web"]
"#;

/// One interface whose daemon pairs what the programs report: of what passes, only what is looked for.
struct Watched {
    scene: Scene,
    engine: Engine,
    pairing: Pairing,
    time: u64,
}

impl Watched {
    fn new(text: &str, mode: Mode) -> Self {
        let loaded = policy::load("near.toml", text, &NoHost);
        let resolved = loaded.resolved.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
        let interface = Interface { mode, ..resolved.interfaces["near"].clone() };
        let compiled = compile(&interface, None).expect("a small policy");
        let place = Place { interface: "near".into(), device: "near".into(), netns: None };
        let engine = Engine::new(&interface, &compiled);
        let scene = Scene { place, interface, compiled, epoch: 1 };
        Self { scene, engine, pairing: Pairing::default(), time: 1000 * SECOND }
    }

    /// A frame comes, and some time passes.
    fn meets(&mut self, direction: Direction, bytes: &[u8]) -> (Verdict, Option<Pair>) {
        let (mut packet, mut extent) = (Packet::NOT_PARSED, Extent::default());
        parse_into(bytes, 0, &mut packet, &mut extent).expect("a packet");
        let verdict = self.engine.judge(direction, &packet);
        let denied = verdict.action == Action::Deny;
        let sought = self.pairing.sought(self.time).iter().any(|sought| sought.fits(direction, &packet));
        let event = Event {
            time: self.time,
            src: packet.src,
            dst: packet.dst,
            sport: packet.sport,
            dport: packet.dport,
            slot: verdict.slot,
            reason: verdict.reason as u8,
            action: verdict.action as u8,
            layer: verdict.layer as u8,
            direction: direction as u8,
            family: packet.family as u8,
            protocol: packet.protocol,
            tcp_flags: packet.tcp_flags,
            fragment: packet.fragment as u8,
            enforced: 1,
            quote: quote(bytes, &extent, &packet).filter(|_| denied).unwrap_or_default(),
            ..Event::default()
        };
        self.time += SECOND / 5;
        let compiled = &self.scene.compiled;
        let admits = |direction, packet: &Packet| compiled.judge(direction, packet).action == Action::Allow;
        (verdict, if denied || sought { self.pairing.met(&event, admits) } else { None })
    }

    fn passes(&mut self, direction: Direction, packet: &Packet) {
        let (verdict, pair) = self.meets(direction, &frame::bytes(packet));
        assert_eq!((verdict.action, pair), (Action::Allow, None), "{direction:?} {packet:?}");
    }

    fn denied(&mut self, direction: Direction, bytes: &[u8]) -> Option<Pair> {
        let (verdict, pair) = self.meets(direction, bytes);
        assert_eq!(verdict.action, Action::Deny);
        pair
    }
}

/// The message about a packet: what comes back, from the router nearest to its sender.
fn message(packet: &Packet, mtu: u16) -> Vec<u8> {
    let bytes = frame::bytes(packet);
    let about = &bytes[14..bytes.len().min(14 + 48)];
    match packet.family {
        Family::V4 => quotes::error4(3, 4, mtu.into(), about),
        Family::V6 => quotes::error6(2, 0, mtu.into(), about),
    }
}

/// A flow, from who asks, and which of its packets are too big.
struct Transfer {
    began: Direction,
    flow: Flow,
    /// What is answered.
    answers: bool,
}

impl Transfer {
    /// From another host to this one and back: what it sends is too big.
    fn download(protocol: u8, client: &str, server: &str) -> Self {
        let (source, destination) = (client.parse().expect("one"), server.parse().expect("one"));
        let flow = Flow { protocol, source, destination, sport: 52344, dport: 443 };
        Self { began: Direction::Inbound, flow, answers: true }
    }

    /// Its packets: what is asked, what is answered, and what is too big, which goes on.
    fn packets(&self) -> [(Direction, Packet); 3] {
        let there = self.flow.request().expect("a packet");
        let back = self.flow.reply().expect("a packet").expect("it is answered");
        let (there, back) = ((self.began, there), (self.began.reverse(), back));
        let (way, big) = if self.answers { back } else { there };
        let flags = if big.protocol == 6 { tcp::ACK } else { 0 };
        [there, back, (way, Packet { tcp_flags: flags, ..big })]
    }

    /// What is told of it, where it is told as soon as it can be: the message is denied, the packet is sent again, and the message too.
    fn is_lost(&self, watched: &mut Watched) -> BrokenReturn {
        let [there, back, (way, big)] = self.packets();
        watched.passes(there.0, &there.1);
        watched.passes(back.0, &back.1);
        watched.passes(way, &big);
        let message = message(&big, 1400);
        assert_eq!(watched.denied(way.reverse(), &message), None, "what passed was not seen");
        assert!(watched.pairing.doubts());
        watched.passes(way, &big);
        let pair = watched.denied(way.reverse(), &message).expect("a pair");
        let router = parse(message.as_slice(), 0).map(|packet| address(packet.family, packet.src)).expect("a packet");
        let kind = Kind::TooBig(TooBig { sent: way, router, mtu: Some(1400) });
        assert_eq!((pair.began, pair.flow, pair.kind), (self.began, self.flow, kind));
        let found = watched.scene.explain(&pair, String::new()).expect("it is broken");
        watched.scene.complete(found)
    }

    /// With its fix in the policy, the message passes and nothing is broken any more.
    fn is_mended(&self, text: &str, mode: Mode, found: &BrokenReturn) {
        let mut document: DocumentMut = text.parse().expect("the policy");
        mend(&mut document, found);
        let mut watched = Watched::new(&document.to_string(), mode);
        let [there, back, (way, big)] = self.packets();
        watched.passes(there.0, &there.1);
        watched.passes(back.0, &back.1);
        let (verdict, pair) = watched.meets(way.reverse(), &message(&big, 1400));
        assert_eq!((verdict.action, pair), (Action::Allow, None), "{}", found.says);
        let pair = Pair { began: self.began, flow: self.flow, time: 0, enforced: true, kind: found.kind };
        assert_eq!(watched.scene.explain(&pair, String::new()), None);
    }
}

fn address(family: Family, number: [u64; 2]) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from((number[1] as u32).to_be_bytes()),
        Family::V6 => IpAddr::from((u128::from(number[0]) << 64 | u128::from(number[1])).to_be_bytes()),
    }
}

/// What decides about requests, replies and the message.
fn rules(found: &BrokenReturn) -> [String; 3] {
    let message = found.message.as_ref().expect("a message is denied");
    [&found.request, &found.reply, message].map(|ruling| ruling.decided_by.to_string())
}

#[test]
fn a_lost_message_is_told_with_the_rules_and_a_fix() {
    let (v4, v6) = (("198.51.100.7", LOCAL), ("2001:db8:c::7", "2001:db8:a::10"));
    let upload = Flow {
        protocol: 6,
        source: LOCAL.parse().expect("one"),
        destination: "198.51.100.7".parse().expect("one"),
        sport: 52344,
        dport: 443,
    };
    let transfers = [
        (Transfer::download(6, v4.0, v4.1), ["inbound 100", "outbound 100", "inbound *"], "icmp", "0.0.0.0/0"),
        (Transfer::download(17, v4.0, v4.1), ["inbound 110", "outbound 110", "inbound *"], "icmp", "0.0.0.0/0"),
        (Transfer::download(6, v6.0, v6.1), ["inbound 120", "outbound 120", "inbound *"], "icmpv6", "::/0"),
        // The rule that lets it out does not have the router in it.
        (
            Transfer { began: Direction::Outbound, flow: upload, answers: false },
            ["outbound 130", "inbound 130", "inbound *"],
            "icmp",
            "10.0.1.1/32",
        ),
    ];
    for (transfer, by, protocol, cidr) in transfers {
        let mut watched = Watched::new(WEB, Mode::Stateless);
        let found = transfer.is_lost(&mut watched);
        assert_eq!(rules(&found), by);
        let inbound = transfer.began == Direction::Inbound;
        assert_eq!((found.service, found.port), (inbound.then_some(transfer.flow.destination), Some(443)));
        assert!(found.clients.is_empty(), "{:?}", found.clients);
        let icmp = if protocol == "icmp" { "type = 3, code = 4" } else { "type = 2, code = 0" };
        let [fix] = &found.fix.as_ref().expect("a fix")[..] else { panic!("{:?}", found.fix) };
        let rule = format!(
            "{{ rule = 140, action = \"allow\", protocol = \"{protocol}\", icmp = {{ {icmp} }}, source = \"{cidr}\" }}"
        );
        assert_eq!((fix.nacl.as_deref(), fix.direction, &fix.rule), (Some("web"), Direction::Inbound, &rule));
        let (passes, denies) = found.rulings();
        assert_eq!((passes.decided_by.to_string(), denies.decided_by.to_string()), {
            let passes = if inbound { by[1] } else { by[0] };
            (passes.to_owned(), by[2].to_owned())
        });
        for said in
            ["too big for a link", "the next link takes 1400 bytes", "lets them out", "inbound rule * of \"web\""]
        {
            assert!(found.says.contains(said), "{said}: {}", found.says);
        }
        transfer.is_mended(WEB, Mode::Stateless, &found);
        // In JSON it has what it had, and one field more.
        let json = serde_json::to_value(&found).expect("JSON");
        assert_eq!((&json["cut"], &json["too_big"]["mtu"]), (&false.into(), &1400.into()));
        assert_eq!(serde_json::from_value::<BrokenReturn>(json).expect("as it was"), found);
    }
}

/// What a link inside the subnet does not take, its router says to the other end.
#[test]
fn a_lost_message_on_its_way_out_is_told_too() {
    let mut watched = Watched::new(WEB, Mode::Stateless);
    let flow = Flow {
        protocol: 6,
        source: IpAddr::from(quotes::SENDER),
        destination: IpAddr::from(quotes::RECEIVER),
        sport: 52344,
        dport: 443,
    };
    let transfer = Transfer { began: Direction::Inbound, flow, answers: false };
    let found = transfer.is_lost(&mut watched);
    assert_eq!(rules(&found), ["inbound 100", "outbound 100", "outbound *"]);
    let rule = &found.fix.as_ref().expect("a fix")[0];
    assert!(rule.direction == Direction::Outbound && rule.rule.contains("destination = \"0.0.0.0/0\""), "{rule:?}");
    assert!(found.says.contains("lets them in"), "{}", found.says);
    transfer.is_mended(WEB, Mode::Stateless, &found);
}

/// Nothing lets it in as related (S40), whoever remembers the connection; and what is let in is not told of.
#[test]
fn what_is_remembered_does_not_let_it_in() {
    let shut = WEB.replace("ports = \"1024-65535\"", "ports = 9");
    let cases = [
        (shut.as_str(), Mode::Stateful, ["inbound 100", "outbound tracked", "inbound *"]),
        (GROUP, Mode::Stateless, ["inbound 100", "outbound 100", "inbound sg *"]),
        (GROUP, Mode::Stateful, ["inbound 100", "outbound tracked", "inbound sg *"]),
    ];
    for (text, mode, by) in cases {
        let transfer = Transfer::download(6, "198.51.100.7", LOCAL);
        let found = transfer.is_lost(&mut Watched::new(text, mode));
        assert_eq!(rules(&found), by, "{}", found.says);
        let [fix] = &found.fix.as_ref().expect("a fix")[..] else { panic!("{:?}", found.fix) };
        assert_eq!(fix.group.is_some(), text == GROUP);
        transfer.is_mended(text, mode, &found);
    }
}

/// Whether what a frame of the table says is that a packet of the connection from port 443 was too big.
fn says_so(frame: &[u8], quoted: Option<nacl_common::packet::Quote>) -> bool {
    let packet = parse(frame, 0).expect("a packet");
    let too_big = matches!((packet.protocol, packet.dport), (1, 0x0304) | (58, 0x0200));
    too_big && quoted.is_some_and(|quote| (quote.protocol, quote.sport, quote.dport) == (6, 443, 52344))
}

#[test]
fn what_else_a_message_may_hold_accuses_nobody() {
    let (mut told, mut silent) = (0, 0);
    for (name, frame, expected) in quotes::frames() {
        let (mut packet, mut extent) = (Packet::NOT_PARSED, Extent::default());
        parse_into(frame.as_slice(), 0, &mut packet, &mut extent).expect("a packet");
        assert_eq!(quote(frame.as_slice(), &extent, &packet), expected, "{name}");
        // Connections of both families run, and have just sent something: whoever watches has it reported.
        let mut watched = Watched::new(WEB, Mode::Stateless);
        let clients = [
            (IpAddr::from(quotes::RECEIVER), IpAddr::from(quotes::SENDER)),
            (IpAddr::from(quotes::RECEIVER6), IpAddr::from(quotes::SENDER6)),
        ];
        for (source, destination) in clients {
            let flow = Flow { protocol: 6, source, destination, sport: 52344, dport: 443 };
            let [_, _, (way, packet)] = Transfer { began: Direction::Inbound, flow, answers: true }.packets();
            let passed = Event {
                time: watched.time,
                src: packet.src,
                dst: packet.dst,
                sport: packet.sport,
                dport: packet.dport,
                action: 1,
                direction: way as u8,
                family: packet.family as u8,
                protocol: 6,
                tcp_flags: tcp::ACK,
                ..Event::default()
            };
            assert_eq!(watched.pairing.met(&passed, |_, _| panic!("nothing is in doubt")), None);
        }
        let pair = watched.denied(Direction::Inbound, &frame);
        assert_eq!(pair.is_some(), says_so(&frame, expected), "{name}: {pair:?}");
        // What it says of another flow, of which no packet was seen, is a doubt at most.
        let big = matches!((packet.protocol, packet.dport), (1, 0x0304) | (58, 0x0200));
        assert!(pair.is_none() || !watched.pairing.doubts());
        assert!(big && expected.is_some() || !watched.pairing.doubts(), "{name}");
        (told, silent) = (told + usize::from(pair.is_some()), silent + usize::from(pair.is_none()));
    }
    assert!(told >= 10 && silent >= 20, "{told} {silent}");
}

/// The packet that it is about must have passed, before it, the other way, and the policy must let it pass.
#[test]
fn without_the_packet_nothing_is_told() {
    let transfer = Transfer::download(6, "198.51.100.7", LOCAL);
    let [.., (way, big)] = transfer.packets();
    let mut watched = Watched::new(WEB, Mode::Stateless);
    // Forged, of a connection that never was; and of one that is, about a packet that comes later.
    for _ in 0..50 {
        assert_eq!(watched.denied(way.reverse(), &message(&big, 576)), None);
        watched.passes(way, &Packet { dport: 52346, ..big });
    }
    // The same way as the packet: who says it is not on the packet's way.
    watched.passes(way, &big);
    let back = quotes::error4(3, 4, 1400, &frame::bytes(&big)[14..]);
    assert_eq!(watched.denied(way, &back), None);
    // Long after.
    watched.time += 120 * SECOND;
    assert_eq!(watched.denied(way.reverse(), &message(&big, 576)), None);
    // No packet like it can have passed: that is not even looked for.
    let mut watched = Watched::new(WEB, Mode::Stateless);
    assert_eq!(watched.denied(way.reverse(), &message(&Packet { sport: 22, ..big }, 576)), None);
    assert!(!watched.pairing.doubts());
}

/// Whoever forges messages names another flow in each. They leave room for what is asked.
#[test]
fn forged_messages_leave_room_for_what_is_asked() {
    for protocol in [6, 17] {
        let mut watched = Watched::new(WEB, Mode::Stateless);
        let transfer = Transfer::download(protocol, "198.51.100.7", LOCAL);
        let [.., (way, big)] = transfer.packets();
        for port in 0..5000 {
            let forged = message(&Packet { dport: 50000 + port, ..big }, 576);
            assert_eq!(watched.denied(way.reverse(), &forged), None);
            assert!(watched.pairing.sought(watched.time).len() <= Control::SOUGHT_AT_ONCE / 2);
        }
        // An answer that does not get out, and its request, which is asked again.
        let flow = Flow { sport: 500, ..Transfer::download(6, "198.51.100.7", LOCAL).flow };
        let (request, reply) = (flow.request().expect("one"), flow.reply().expect("one").expect("it is answered"));
        assert_eq!(watched.denied(Direction::Outbound, &frame::bytes(&reply)), None);
        watched.passes(Direction::Inbound, &request);
        let pair = watched.denied(Direction::Outbound, &frame::bytes(&reply)).expect("it is found");
        assert_eq!((pair.flow, pair.kind), (flow, Kind::Reply));
    }
}
