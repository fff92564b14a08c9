//! Flow logs: the kernel's aggregation against a naive one, AWS's documented lines out of the traffic they tell of, and that
//! neither the end of a daemon nor a switch loses a record. In namespaces of our own, which have no route out.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    thread::{self, sleep},
    time::{Duration, Instant, UNIX_EPOCH},
};

use flate2::read::GzDecoder;
use nacl_common::{
    Action, Counter, Direction,
    border::{LogKey, Logged},
    packet::{Extent, Packet, parse_into},
};
use nacl_daemon::{
    dataplane::{LogOptions, Options, Program, TestBed, Window, Wire},
    netns,
    resolve::Xdp,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{
    place::{PATIENCE, Place},
    policies::{open, options, two_closed},
    veth::{Cable, FAR, HERE, NEAR, THERE, frame, ip},
};

/// Internet checksum.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!sum as u16).to_be_bytes()
}

/// An IPv4 packet of so many bytes in a frame; `head`: what stands behind the IP header.
fn v4(to: [u8; 6], protocol: u8, (src, dst): (Ipv4Addr, Ipv4Addr), head: &[u8], length: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, (length >> 8) as u8, length as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(head);
    packet.resize(length, 0);
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    frame.extend(packet);
    frame
}

fn tcp(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut head = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    head.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    head
}

fn udp(sport: u16, dport: u16) -> Vec<u8> {
    [sport.to_be_bytes(), dport.to_be_bytes(), [0, 8], [0, 0]].concat()
}

/// An echo request of 64 bytes, as ping sends it.
fn echo(identifier: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.resize(64, 0x55);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    message
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

/// The records that a window should have: a map, added to packet by packet.
#[derive(Default)]
struct Naive {
    records: BTreeMap<LogKey, Logged>,
    room: usize,
    lost: Counter,
}

impl Naive {
    fn add(&mut self, key: LogKey, one: Logged) {
        if let Some(record) = self.records.get_mut(&key) {
            record.packets += one.packets;
            record.bytes += one.bytes;
            record.last = one.last;
            record.decided = one.decided;
            record.tcp_flags |= one.tcp_flags;
        } else if self.records.len() < self.room {
            self.records.insert(key, one);
        } else {
            self.lost.packets += one.packets;
            self.lost.bytes += one.bytes;
        }
    }

    fn is(&self, window: &Window, what: &str) {
        let found: BTreeMap<_, _> = window.records.iter().copied().collect();
        assert_eq!(found.len(), window.records.len(), "{what}: a key twice");
        assert_eq!(found, self.records, "{what}");
        assert_eq!(window.lost, self.lost, "{what}");
    }
}

/// Flags as AWS tells them (F9), by its sentences: FIN, SYN and RST; of ACK only that of a SYN-ACK.
fn told(flags: u8) -> u64 {
    let mut told = 0;
    for (bit, value) in [(1, 1), (2, 2), (4, 4)] {
        if flags & bit != 0 {
            told += value;
        }
    }
    if flags & 2 != 0 && flags & 16 != 0 {
        told += 16;
    }
    told
}

#[test]
fn the_kernel_adds_up_what_the_oracle_adds_up() {
    const CLOSED: u16 = 4001;
    let compiled = two_closed(CLOSED, CLOSED + 1);
    for (room, accepted, rejected) in [(1000, true, true), (1000, false, true), (1000, true, false), (7, true, true)] {
        let log = LogOptions { accepted, rejected, entries: room };
        let with = Options { flow_log: Some(log), ..options(Xdp::Auto) };
        let mut bed = TestBed::load(&with, &compiled).expect("the programs load");
        let mut naive = Naive { room: room as usize, ..Naive::default() };
        let mut random = 88_172_645_463_325_252_u64 + u64::from(room);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut time = 0;
        for step in 0..3000 {
            time += next(1_000_000_000);
            bed.set_time(time);
            let ends = (Ipv4Addr::new(192, 0, 2, next(3) as u8), Ipv4Addr::new(198, 51, 100, next(2) as u8));
            let (sport, dport) = (1000 + next(3) as u16, CLOSED + next(3) as u16);
            let flags = [2, 18, 16, 24, 17, 4, 20, 66][next(8) as usize];
            let (protocol, head) = match next(4) {
                0 => (6, tcp(sport, dport, flags)),
                1 | 2 => (17, udp(sport, dport)),
                _ => (1, echo(0x1234, step)),
            };
            let length = 20 + head.len() + next(400) as usize;
            let mut bytes = v4([2; 6], protocol, ends, &head, length);
            // Padding of a short frame is no byte of the packet.
            bytes.resize(bytes.len().max(60), 0);
            if next(10) == 0 {
                // An ARP, which AWS does not tell of.
                bytes[12..14].copy_from_slice(&[8, 6]);
            }
            let program = [Program::Xdp, Program::TcIngress, Program::TcEgress][next(3) as usize];
            let direction = if program == Program::TcEgress { Direction::Outbound } else { Direction::Inbound };
            let (_, event) = bed.run_program(program, &bytes, None).expect("it runs");
            let (mut packet, mut extent) = (Packet::NOT_PARSED, Extent::default());
            if parse_into(bytes.as_slice(), 0, &mut packet, &mut extent).is_err() {
                continue;
            }
            let verdict = compiled.judge(direction, &packet);
            let allows = verdict.action == Action::Allow;
            if !(if allows { accepted } else { rejected }) {
                continue;
            }
            let ports = if protocol == 1 { (0, 0) } else { (sport, dport) };
            let key = LogKey {
                src: packet.src,
                dst: packet.dst,
                sport: ports.0,
                dport: ports.1,
                protocol,
                family: 4,
                direction: direction as u8,
                action: u8::from(allows),
            };
            let decided = u64::from(event.epoch) << 32
                | (verdict.layer as u64) << 24
                | (verdict.reason as u64) << 16
                | u64::from(verdict.slot);
            let tcp_flags = if protocol == 6 { told(flags) } else { 0 };
            naive.add(key, Logged { packets: 1, bytes: length as u64, first: time, last: time, decided, tcp_flags });
        }
        let what = format!("room {room}, accepted {accepted}, rejected {rejected}");
        assert_eq!(naive.lost == Counter::default(), room > 7, "{what}: the table was to be full, or not");
        let (running, over) = bed.windows().expect("it is read");
        naive.is(&running.expect("a window runs"), &what);
        assert_eq!(over, [], "{what}");
        // The window ends: nothing is counted twice, and the next begins with nothing.
        bed.turn().expect("another begins");
        let (running, over) = bed.windows().expect("it is read");
        let (running, [ended]) = (running.expect("a window runs"), &over[..]) else { panic!("{over:?}") };
        naive.is(ended, &what);
        assert_eq!((running.records.len(), running.lost, running.began), (0, Counter::default(), time), "{what}");
        assert_eq!((ended.began, ended.ended), (0, time), "{what}");
        bed.written(&[ended.id]);
        assert_eq!(bed.windows().expect("it is read").1, [], "{what}");
        // Switched off it is not made, and what was met is still to be read.
        let bytes = v4([2; 6], 17, (address("192.0.2.9"), address("198.51.100.9")), &udp(1, 2), 28);
        bed.run_program(Program::Xdp, &bytes, None).expect("it runs");
        bed.install(&options(Xdp::Auto), &compiled).expect("it switches");
        bed.run_program(Program::Xdp, &bytes, None).expect("it runs");
        let (running, over) = bed.windows().expect("it is read");
        assert_eq!((running, over.len()), (None, 1), "{what}");
        let packets: u64 = over[0].records.iter().map(|(_, record)| record.packets).sum();
        assert_eq!(packets, u64::from(accepted), "{what}");
    }
}

/// A segmentation-offload packet is as many packets as go over the wire, each with its IP and TCP headers.
#[test]
fn bytes_of_segments_are_those_of_ip_packets() {
    let log = LogOptions { accepted: true, rejected: true, entries: 10 };
    let with = Options { flow_log: Some(log), ..options(Xdp::Auto) };
    let mut bed = TestBed::load(&with, &open()).expect("the programs load");
    let bytes = v4([2; 6], 6, (address("192.0.2.1"), address("198.51.100.1")), &tcp(1, 2, 16), 40 + 3000);
    for program in [Program::TcIngress, Program::TcEgress] {
        // On ingress the kernel does not say what the segments have on the wire.
        for wire_len in [0, 3000 + 3 * 54] {
            let wire = Wire { gso_segs: 3, gso_size: 1000, wire_len };
            bed.run_program(program, &bytes, Some(wire)).expect("it runs");
        }
    }
    let window = bed.windows().expect("it is read").0.expect("a window runs");
    let counts: Vec<_> = window.records.iter().map(|(_, record)| (record.packets, record.bytes)).collect();
    assert_eq!(counts, [(6, 2 * (3000 + 3 * 40)); 2]);
}

const ACCOUNT: &str = "123456789010";
const ENI: &str = "eni-1235b8ca123456789";

/// A policy with a flow log on the near end; `more`: further keys of the interface and of the flow log.
fn policy(cable: &Cable, interface: &str, log: &str) -> String {
    format!(
        r#"version = 1
[nacl.lab]
inbound = [
  {{ rule = 100, action = "allow", protocol = "tcp", ports = 22, source = "0.0.0.0/0" }},
  {{ rule = 110, action = "allow", protocol = "icmp", icmp = {{ type = -1 }}, source = "0.0.0.0/0" }},
  {{ rule = 120, action = "allow", protocol = "udp", ports = "4000-4999", source = "0.0.0.0/0" }},
  {{ rule = 130, action = "allow", protocol = "tcp", ports = "4000-4999", source = "0.0.0.0/0" }},
]
outbound = [
  {{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "0.0.0.0/0" }},
]
[interface.{NEAR}]
netns = "{}"
nacl = "lab"
id = "{ENI}"
{interface}
{log}"#,
        cable.here
    )
}

fn flow_log(place: &Path, more: &str) -> String {
    let file = place.join("flows.log");
    format!("[flow_log.flows]\ndestination = \"{}\"\naccount_id = \"{ACCOUNT}\"\n{more}", file.display())
}

/// What was written, with `S` and `E` for times.
fn written(place: &Place) -> Vec<String> {
    let text = fs::read_to_string(place.directory.path().join("flows.log")).expect("a flow log");
    assert!(text.ends_with('\n'), "half a line: {text:?}");
    let head = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status\n";
    let records = text.strip_prefix(head).expect("the names of the fields");
    records.lines().map(normal).collect()
}

/// A line of AWS's default format without its times, which are as they should be.
fn normal(line: &str) -> String {
    let mut fields: Vec<&str> = line.split(' ').collect();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time").as_secs();
    let times = [fields[10], fields[11]].map(|time| time.parse::<u64>().expect("seconds"));
    assert!(times[0] <= times[1], "{line}");
    // Those that AWS documents are years old.
    assert!(times[1] <= now + 1, "{line}");
    (fields[10], fields[11]) = ("S", "E");
    fields.join(" ")
}

/// Waits until the running windows hold so many packets.
fn holds(place: &Place, packets: u64) -> Value {
    let start = Instant::now();
    loop {
        let flows: Value = serde_json::from_str(&place.ask(&["flows", "--json"])).expect("JSON");
        let records = flows["interfaces"][0]["records"].as_array().expect("records");
        let there: u64 = records.iter().filter_map(|record| record["packets"].as_u64()).sum();
        if there == packets {
            return flows;
        }
        assert!(start.elapsed() < PATIENCE, "{there} packets, and {packets} were sent: {flows:#}");
        sleep(Duration::from_millis(20));
    }
}

/// An address nobody has, so that nobody answers: the near end is no router.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// Lets a window end first that is about to, so that what follows stands in one.
fn calm() {
    const MARGIN: u64 = 20;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time").as_secs();
    let left = 600 - now % 600;
    if left < MARGIN {
        sleep(Duration::from_secs(left + 1));
    }
}

fn mac(netns: &str, interface: &str) -> [u8; 6] {
    let text = ip(&["-n", netns, "-br", "link", "show", "dev", interface]);
    let text = text.split_whitespace().nth(2).expect("an address");
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
    bytes.try_into().expect("six bytes")
}

/// Twenty packets with 4249 bytes of IP between them, as AWS's examples have them.
fn twenty(cable: &Cable, src: &str, dst: &str, (sport, dport): (u16, u16)) {
    let to = mac(&cable.here, NEAR);
    for number in 0..20 {
        let length = if number == 0 { 221 } else { 212 };
        let bytes =
            v4(to, 6, (address(src), address(dst)), &tcp(sport, dport, if number == 0 { 2 } else { 16 }), length);
        frame(&cable.there, FAR, &bytes);
    }
}

/// Section "Flow log record examples" of AWS's documentation: the lines, and the traffic that makes them.
#[test]
fn documented_lines_come_out_of_documented_traffic() {
    calm();
    let cable = Cable::new();
    let place = Place::new("");
    let addressed = |address: &str, groups: &str| {
        let interface = format!("addresses = [\"{address}\"]\nflow_log = \"flows\"\n{groups}");
        let log = flow_log(
            place.directory.path(),
            "[security_group.ping]\ninbound = [{ protocol = \"icmp\", source = \"0.0.0.0/0\" }]\noutbound = []\n[security_group.closed]\ninbound = []\noutbound = []\n",
        );
        policy(&cable, &interface, &log)
    };
    let reload = |address: &str, groups: &str| {
        place.write(&addressed(address, groups));
        place.ask(&["reload"]);
        // What was met before is written under the names it was met with.
        holds(&place, 0);
    };
    place.write(&addressed("172.31.16.21", ""));
    let daemon = place.start(&[]);

    twenty(&cable, "172.31.16.139", "172.31.16.21", (20641, 22));
    holds(&place, 20);
    reload("172.31.9.12", "");
    twenty(&cable, "172.31.9.69", "172.31.9.12", (49761, 3389));
    holds(&place, 20);

    // Real replies of a real host: its security group lets them pass, its network ACL does not.
    ip(&["-n", &cable.here, "address", "add", "172.31.16.139/32", "dev", NEAR]);
    ip(&["-n", &cable.here, "route", "add", "203.0.113.12/32", "dev", NEAR]);
    let far = ip(&["-n", &cable.there, "-br", "link", "show", "dev", FAR]);
    let far = far.split_whitespace().nth(2).expect("an address");
    ip(&["-n", &cable.here, "neigh", "replace", "203.0.113.12", "lladdr", far, "dev", NEAR]);
    let ping = |identifier| {
        for sequence in 0..4 {
            let ends = (address("203.0.113.12"), address("172.31.16.139"));
            frame(&cable.there, FAR, &v4(mac(&cable.here, NEAR), 1, ends, &echo(identifier, sequence), 84));
        }
    };
    reload("172.31.16.139", "security_groups = [\"ping\"]\n");
    ping(1);
    let flows = holds(&place, 8);
    let layers: Vec<_> = flows["interfaces"][0]["records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|record| (record["nacld_layer"].clone(), record["nacld_rule"].clone()))
        .collect();
    assert!(layers.contains(&("nacl".into(), "inbound 110".into())), "{layers:?}");
    assert!(layers.contains(&("nacl".into(), "outbound *".into())), "{layers:?}");
    // Its security group does not let them in: one record, because there is nothing to reply to. Under the same names the window
    // goes on.
    place.write(&addressed("172.31.16.139", "security_groups = [\"closed\"]\n"));
    place.ask(&["reload"]);
    // Another ping: what is remembered of the first one lives on (S32).
    ping(2);
    holds(&place, 12);
    daemon.ends_well(Signal::SIGTERM);

    let documented = [
        "2 123456789010 eni-1235b8ca123456789 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK",
        "2 123456789010 eni-1235b8ca123456789 172.31.9.69 172.31.9.12 49761 3389 6 20 4249 1418530010 1418530070 REJECT OK",
        "2 123456789010 eni-1235b8ca123456789 203.0.113.12 172.31.16.139 0 0 1 4 336 1432917027 1432917142 ACCEPT OK",
        "2 123456789010 eni-1235b8ca123456789 172.31.16.139 203.0.113.12 0 0 1 4 336 1432917094 1432917142 REJECT OK",
        "2 123456789010 eni-1235b8ca123456789 203.0.113.12 172.31.16.139 0 0 1 4 336 1432917027 1432917142 REJECT OK",
    ];
    let mut lines = written(&place);
    // Of one second the order is that of addresses.
    lines[2..4].sort_by_key(|line| line.contains("REJECT"));
    assert_eq!(lines, documented.map(normal));
}

/// Windows without traffic, windows with more than there was room for, and switching it on and off while it runs.
#[test]
fn a_window_says_what_it_lacks_and_it_is_switched_live() {
    calm();
    let cable = Cable::new();
    let place = Place::new("");
    let on = |more: &str| policy(&cable, "flow_log = \"flows\"", &flow_log(place.directory.path(), more));
    place.write(&policy(&cable, "", ""));
    let daemon = place.start(&[]);
    let output = place.nacld(&["flows"]);
    let said = support::place::text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("flow_log = \"flows\""), "{said}");

    place.write(&on(""));
    place.ask(&["reload"]);
    // It is told by the second that there was nothing.
    sleep(Duration::from_millis(1600));
    place.write(&on("entries = 1\n"));
    place.ask(&["reload"]);
    let to = mac(&cable.here, NEAR);
    for port in [4000, 4000, 4001] {
        frame(&cable.there, FAR, &v4(to, 17, (THERE, NOBODY), &udp(5000, port), 28 + 10));
    }
    let start = Instant::now();
    let flows = loop {
        let flows: Value = serde_json::from_str(&place.ask(&["flows", "--json"])).expect("JSON");
        let records = flows["interfaces"][0]["records"].as_array().expect("records").clone();
        if records.len() == 2 && records[0]["packets"] == 2 {
            break records;
        }
        assert!(start.elapsed() < PATIENCE, "{flows:#}");
        sleep(Duration::from_millis(20));
    };
    assert_eq!((&flows[1]["log_status"], &flows[1]["nacld_lost"]), (&"SKIPDATA".into(), &1.into()));
    place.write(&policy(&cable, "", ""));
    place.ask(&["reload"]);
    frame(&cable.there, FAR, &v4(to, 17, (THERE, NOBODY), &udp(5000, 4000), 28));
    assert_eq!(place.nacld(&["flows"]).status.code(), Some(1));
    daemon.ends_well(Signal::SIGTERM);

    let lines = written(&place);
    let [nodata, rest @ ..] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(*nodata, format!("2 {ACCOUNT} {ENI} - - - - - - - S E - NODATA"));
    assert_eq!(rest[0], format!("2 {ACCOUNT} {ENI} {THERE} {HERE} 5000 4000 17 2 76 S E ACCEPT OK"));
    assert_eq!(rest[1], format!("2 {ACCOUNT} {ENI} - - - - - - - S E - SKIPDATA"));
    assert_eq!(rest.len(), 2, "{rest:?}");
}

/// A daemon that is killed takes nothing with it, and what comes while nobody is there is told by the next.
#[test]
fn a_killed_daemon_loses_no_record() {
    calm();
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new("");
    place.write(&policy(&cable, "flow_log = \"flows\"", &flow_log(place.directory.path(), "style = \"json\"\n")));
    let to = mac(&cable.here, NEAR);
    let send = |count: usize, port: u16| {
        for _ in 0..count {
            frame(&cable.there, FAR, &v4(to, 17, (THERE, NOBODY), &udp(5000, port), 100));
        }
    };
    let daemon = place.start(&[]);
    send(5, 4000);
    daemon.killed();
    send(7, 4000);
    send(3, 3999);
    let daemon = place.start(&[]);
    send(2, 4000);
    let start = Instant::now();
    while (place.hits(0, &120.into()), place.hits(0, &"*".into())) != (14, 3) {
        assert!(start.elapsed() < PATIENCE, "{} and {}", place.hits(0, &120.into()), place.hits(0, &"*".into()));
        sleep(Duration::from_millis(20));
    }
    daemon.ends(Signal::SIGTERM);

    let text = fs::read_to_string(place.directory.path().join("flows.log")).expect("a flow log");
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sum = |port: u16, action: &str, field: &str| -> u64 {
        let of = |record: &&Value| record["dstport"] == port && record["action"] == action && record["srcport"] == 5000;
        records.iter().filter(of).map(|record| record[field].as_u64().expect("a number")).sum()
    };
    // As many as the rules have counted: none lost and none twice.
    assert_eq!((sum(4000, "ACCEPT", "packets"), sum(4000, "ACCEPT", "bytes")), (14, 1400), "{text}");
    assert_eq!((sum(3999, "REJECT", "packets"), sum(3999, "REJECT", "bytes")), (3, 300), "{text}");
    let one = records.iter().find(|record| record["dstport"] == 4000).expect("a record");
    assert_eq!((&one["nacld_rule"], &one["nacld_line"]), (&"inbound 120".into(), &6.into()), "{text}");
    assert_eq!((&one["nacld_layer"], &one["nacld_policy"]), (&"nacl".into(), &"lab".into()), "{text}");
    assert_eq!((&one["version"], &one["account_id"], &one["log_status"]), (&2.into(), &ACCOUNT.into(), &"OK".into()));
}

/// A short connection within one window: 3 from who asks, 19 from who answers (F9).
#[test]
fn flags_of_a_short_connection_are_or_ed() {
    calm();
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new("");
    let format = "format = \"${version} ${srcport} ${dstport} ${tcp-flags} ${flow-direction} ${type} ${pkt-srcaddr} ${action}\"\n";
    place.write(&policy(&cable, "flow_log = \"flows\"", &flow_log(place.directory.path(), format)));
    let daemon = place.start(&[]);
    let listener =
        netns::within(Some(&cable.here), || TcpListener::bind((HERE, 4003)).expect("a port")).expect("entered");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("what was sent");
        text
    });
    let port = netns::within(Some(&cable.there), || {
        let mut stream = TcpStream::connect((HERE, 4003)).expect("a connection");
        stream.write_all(b"nacld").expect("it is sent");
        let port = stream.local_addr().expect("an address").port();
        stream.shutdown(std::net::Shutdown::Write).expect("it is closed");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("the other end closes too");
        port
    })
    .expect("entered");
    assert_eq!(server.join().expect("a server"), "nacld");
    // The last ACK is on its way when both have closed.
    let start = Instant::now();
    let (asks, answers) =
        (format!("5 {port} 4003 3 ingress IPv4 {THERE} ACCEPT"), format!("5 4003 {port} 19 egress IPv4 {HERE} ACCEPT"));
    let shown = [
        "flows",
        "--format",
        "${version} ${srcport} ${dstport} ${tcp-flags} ${flow-direction} ${type} ${pkt-srcaddr} ${action}",
    ];
    loop {
        let text = place.ask(&shown);
        if text.contains(&asks) && text.contains(&answers) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{text}");
        sleep(Duration::from_millis(20));
    }
    daemon.ends_well(Signal::SIGTERM);
    let text = fs::read_to_string(place.directory.path().join("flows.log")).expect("a flow log");
    let mut lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.remove(0), "version srcport dstport tcp-flags flow-direction type pkt-srcaddr action");
    lines.sort_unstable();
    let mut wanted = [asks.as_str(), &answers];
    wanted.sort_unstable();
    assert_eq!(lines, wanted);
}

/// Records of a file of JSON lines.
fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Sends a datagram from each of some ports to each of others, all at once from one socket each.
fn datagrams(cable: &Cable, from: std::ops::Range<u16>, to: std::ops::Range<u16>) {
    netns::within(Some(&cable.there), || {
        for port in from {
            let socket = UdpSocket::bind((THERE, port)).expect("a port");
            for port in to.clone() {
                // That nobody listens there may be told of what was sent before.
                while socket.send_to(b"nacld", (HERE, port)).is_err() {}
            }
        }
    })
    .expect("entered");
}

/// Waits until so many packets have met the list on their way in.
fn met(place: &Place, packets: u64) {
    let start = Instant::now();
    loop {
        let there = place.hits(0, &120.into()) + place.hits(0, &"*".into());
        if there == packets {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{there} packets, and {packets} were sent");
        sleep(Duration::from_millis(20));
    }
}

/// What flows in, of records: source and destination port, and packets.
fn inward<'r>(records: impl IntoIterator<Item = &'r Value>) -> BTreeMap<(u64, u64), u64> {
    let mut found = BTreeMap::new();
    for record in records {
        if record["flow_direction"] == "ingress" && record["protocol"] == 17 {
            let number = |field: &str| record[field].as_u64().expect("a number");
            *found.entry((number("srcport"), number("dstport"))).or_default() += number("packets");
        }
    }
    found
}

const JSON: &str = "style = \"json\"\nformat = \"${srcaddr} ${srcport} ${dstport} ${protocol} ${packets} ${flow-direction} ${log-status}\"\n";

/// Windows of more than a MiB: what gave way is compressed, and every record stands in one file, once.
#[test]
fn a_full_file_gives_way_and_no_record_is_lost_or_doubled() {
    const FROM: std::ops::Range<u16> = 6000..6004;
    const TO: std::ops::Range<u16> = 4000..5000;
    calm();
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new("");
    // Another account is another flow log: the window ends.
    let under = |account: u32| {
        let log =
            flow_log(place.directory.path(), &format!("{JSON}rotate_mib = 1\n")).replace(ACCOUNT, &account.to_string());
        place.write(&policy(&cable, "flow_log = \"flows\"", &log));
    };
    under(1);
    let daemon = place.start(&[]);
    let each = FROM.len() as u64 * TO.len() as u64;
    for window in 1..=3_u32 {
        datagrams(&cable, FROM, TO);
        met(&place, each * u64::from(window));
        if window < 3 {
            under(window + 1);
            place.ask(&["reload"]);
        }
    }
    daemon.ends_well(Signal::SIGTERM);
    let mut files: Vec<String> = Vec::new();
    for entry in fs::read_dir(place.directory.path()).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("text").to_owned();
        if name.contains("flows.log-") {
            let is_packed = path.extension().is_some_and(|extension| extension == "gz");
            assert!(name.starts_with("flows.log-") && is_packed, "{name} is left");
            let mut text = String::new();
            GzDecoder::new(fs::File::open(&path).expect("a file")).read_to_string(&mut text).expect("it is whole");
            files.push(text);
        }
    }
    files.push(fs::read_to_string(place.directory.path().join("flows.log")).expect("a flow log"));
    assert_eq!(files.len(), 3, "each window is larger than a file may be");
    let all: Vec<Value> = files.iter().flat_map(|text| records(text)).collect();
    let found = inward(&all);
    assert_eq!(found.len() as u64, each);
    assert!(found.values().all(|packets| *packets == 3), "a record is lost, or there twice");
    for text in &files {
        let one = inward(&records(text));
        assert!(
            one.len() as u64 == each && one.values().all(|packets| *packets == 1),
            "windows stand in one file each"
        );
    }
}

/// A disk of 64 KiB, full, and then not full any more.
#[test]
fn a_full_disk_changes_nothing_that_is_enforced_and_is_told() {
    calm();
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new("");
    let disk = place.directory.path().join("disk");
    fs::create_dir(&disk).expect("a directory");
    let under = |account: u32| {
        let log = flow_log(&disk, JSON).replace(ACCOUNT, &account.to_string());
        place.write(&policy(&cable, "flow_log = \"flows\"", &log));
    };
    under(1);
    let mut command = place.run_among(&format!("mount -t tmpfs -o size=64k tmpfs {}", disk.display()));
    command.env("NACLD_LOG", "info");
    let daemon = place.start_by(command);
    // As the daemon sees it.
    let seen = Path::new("/proc")
        .join(daemon.child.id().to_string())
        .join("root")
        .join(disk.strip_prefix("/").expect("absolute"));
    let log = || fs::read_to_string(seen.join("flows.log")).expect("a flow log");
    let next = |account: u32| {
        under(account);
        place.ask(&["reload"]);
    };
    let until = |what: &dyn Fn() -> bool, why: &str| {
        let start = Instant::now();
        while !what() {
            assert!(start.elapsed() < PATIENCE, "{why}: {}{:#}", daemon.err(), place.status());
            sleep(Duration::from_millis(20));
        }
    };
    let problems = || place.status()["problems"].to_string();
    datagrams(&cable, 6000..6001, 4000..4001);
    met(&place, 1);
    next(2);
    until(&|| seen.join("flows.log").exists() && log().contains("4000"), "it is written");
    let before = log();

    let mut ballast = fs::File::create(seen.join("ballast")).expect("a file");
    while ballast.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    drop(ballast);
    // More than what is left of a page that the file has already.
    for (window, account) in [(1, 3), (2, 4)] {
        datagrams(&cable, 6000..6001, 4000..4100);
        met(&place, 1 + 100 * window);
        next(account);
        let lost = |count: u64| format!("{count} records are lost");
        until(&|| problems().contains("cannot be written") && !problems().contains(&lost(0)), "the status says it");
        // Replies that nobody listens there are records too.
        until(&|| (100 * window..=220 * window).any(|count| problems().contains(&lost(count))), "and how many");
        assert_eq!(log(), before, "nothing of it is written");
    }
    // What is denied is denied, and what is allowed is allowed.
    datagrams(&cable, 6000..6001, 3000..3010);
    let start = Instant::now();
    while place.hits(0, &"*".into()) != 10 {
        assert!(start.elapsed() < PATIENCE, "{}", place.hits(0, &"*".into()));
        sleep(Duration::from_millis(20));
    }
    assert_eq!(daemon.err().matches("the flow log cannot be written").count(), 1, "once: {}", daemon.err());

    fs::remove_file(seen.join("ballast")).expect("it is removed");
    next(5);
    until(&|| !problems().contains("cannot be written"), "there is room again");
    until(&|| daemon.err().contains("the flow log is written again"), "and the log says so");
    let text = log();
    let after = records(text.strip_prefix(&before).expect("what stood there still does"));
    assert_eq!(after[0]["log_status"], "SKIPDATA", "{text}");
    assert_eq!(after.iter().filter(|record| record["log_status"] == "SKIPDATA").count(), 1, "{text}");
    assert_eq!(inward(&after), (3000..3010).map(|port| ((6000, port), 1)).collect(), "{text}");
    daemon.ends(Signal::SIGTERM);
}

/// The journal's own protocol, to a socket that listens where the journal's does.
#[test]
fn the_journal_is_told_each_record_in_fields() {
    calm();
    let cable = Cable::new();
    let place = Place::new("");
    let journal = place.directory.path().join("journal");
    let run = place.directory.path().join("machine");
    fs::create_dir(&journal).and_then(|()| fs::create_dir(&run)).expect("directories");
    let socket = UnixDatagram::bind(journal.join("socket")).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a patience");
    let log = format!("[flow_log.flows]\ndestination = \"journal\"\naccount_id = \"{ACCOUNT}\"\n");
    place.write(&policy(&cable, "flow_log = \"flows\"", &log));
    // Its /run has the namespaces of this one and our journal, whatever this machine has there.
    let mounts = format!(
        "mount --rbind /run {run}\nmount -t tmpfs tmpfs /run\nmkdir -p /run/netns /run/systemd/journal\n\
         mount --rbind {run}/netns /run/netns\nmount --bind {journal} /run/systemd/journal",
        run = run.display(),
        journal = journal.display()
    );
    let daemon = place.start_by(place.run_among(&mounts));
    let to = mac(&cable.here, NEAR);
    for port in [4000, 4000, 3999] {
        frame(&cable.there, FAR, &v4(to, 17, (THERE, NOBODY), &udp(5000, port), 100));
    }
    holds(&place, 3);
    daemon.ends(Signal::SIGTERM);
    let mut entries: Vec<BTreeMap<String, String>> = Vec::new();
    for _ in 0..2 {
        let mut bytes = vec![0; 1 << 16];
        let length = socket.recv(&mut bytes).expect("an entry");
        let text = std::str::from_utf8(&bytes[..length]).expect("text");
        let field = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        entries.push(text.lines().map(|line| field(line).expect("NAME=value")).collect());
    }
    entries.sort_by_key(|entry| entry["NACLD_FLOW_DSTPORT"].clone());
    socket.set_nonblocking(true).expect("it is set");
    assert!(socket.recv(&mut [0; 16]).is_err(), "one entry a record");
    for (entry, port, packets, action, rule) in
        [(&entries[0], "3999", "1", "REJECT", "inbound *"), (&entries[1], "4000", "2", "ACCEPT", "inbound 120")]
    {
        let has = |name: &str| entry.get(name).map_or("nothing", String::as_str);
        let line = normal(has("MESSAGE"));
        let bytes = packets.parse::<u64>().expect("a number") * 100;
        assert_eq!(line, format!("2 {ACCOUNT} {ENI} {THERE} {HERE} 5000 {port} 17 {packets} {bytes} S E {action} OK"));
        let expected = [
            ("SYSLOG_IDENTIFIER", "nacld"),
            ("PRIORITY", "6"),
            ("NACLD_FLOW_ACCOUNT_ID", ACCOUNT),
            ("NACLD_FLOW_DSTPORT", port),
            ("NACLD_FLOW_LOG_STATUS", "OK"),
            ("NACLD_RULE", rule),
            ("NACLD_INTERFACE", NEAR),
        ];
        for (name, value) in expected {
            assert_eq!(has(name), value, "{name}: {entry:?}");
        }
    }
}

/// Programs that are loaded in another way have other maps: what stands in the old ones is written before they go.
#[test]
fn programs_that_are_loaded_anew_take_no_record_with_them() {
    calm();
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new("");
    let with = |xdp: &str, more: &str| {
        let log = flow_log(place.directory.path(), &format!("{JSON}{more}"));
        place.write(&policy(&cable, &format!("xdp = \"{xdp}\"\nflow_log = \"flows\""), &log));
    };
    with("auto", "");
    let to = mac(&cable.here, NEAR);
    let send = |count: usize| {
        for _ in 0..count {
            frame(&cable.there, FAR, &v4(to, 17, (THERE, NOBODY), &udp(5000, 4000), 100));
        }
    };
    let daemon = place.start(&[]);
    send(3);
    daemon.killed();
    send(4);
    with("tc", "");
    let daemon = place.start(&[]);
    daemon.says("its programs are loaded anew");
    send(5);
    holds(&place, 5);
    daemon.killed();
    with("tc", "[tracking]\nentries = 1024\n");
    let daemon = place.start(&[]);
    daemon.says("its programs are loaded anew");
    daemon.ends(Signal::SIGTERM);
    let text = fs::read_to_string(place.directory.path().join("flows.log")).expect("a flow log");
    assert_eq!(inward(&records(&text)), [((5000, 4000), 12)].into(), "{text}");
}

/// Files of windows as in AWS's buckets, of two regions as of two machines, read by an engine that has nothing to do with nacld.
#[test]
fn another_engine_reads_what_was_written() {
    const FIELDS: [&str; 13] = [
        "version",
        "account-id",
        "interface-id",
        "srcaddr",
        "dstport",
        "protocol",
        "packets",
        "bytes",
        "action",
        "log-status",
        "tcp-flags",
        "flow-direction",
        "vpc-id",
    ];
    calm();
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new("");
    let format = FIELDS.map(|field| format!("${{{field}}}")).join(" ");
    let root = place.directory.path().join("flows");
    let log = |region: &str, file_format: &str| {
        format!(
            "[flow_log.flows]\ndestination = \"{}/{file_format}/\"\nfile_format = \"{file_format}\"\n\
             hive_compatible_partitions = true\nper_hour_partition = true\naccount_id = \"{ACCOUNT}\"\n\
             region = \"{region}\"\nformat = \"{format} ${{start}} ${{end}}\"\n",
            root.display()
        )
    };
    let set = |region: &str, file_format: &str| {
        place.write(&policy(&cable, "flow_log = \"flows\"", &log(region, file_format)));
    };
    let to = mac(&cable.here, NEAR);
    let traffic = || {
        for port in [4000, 4000, 3999] {
            frame(&cable.there, FAR, &v4(to, 17, (THERE, NOBODY), &udp(5000, port), 100));
        }
        frame(&cable.there, FAR, &v4(to, 6, (THERE, NOBODY), &tcp(5000, 4003, 2), 40));
        let flows = holds(&place, 4);
        assert_eq!(flows["interfaces"][0]["records"].as_array().map(Vec::len), Some(3));
        let text = place.ask(&["flows", "--format", &format]);
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    set("eu-central-1", "parquet");
    let daemon = place.start(&[]);
    let mut shown: Vec<_> = traffic().into_iter().map(|line| format!("eu-central-1 {line}")).collect();
    set("us-east-1", "parquet");
    place.ask(&["reload"]);
    holds(&place, 0);
    shown.extend(traffic().into_iter().map(|line| format!("us-east-1 {line}")));
    set("us-east-1", "plain-text");
    place.ask(&["reload"]);
    holds(&place, 0);
    let lines = traffic();
    daemon.ends_well(Signal::SIGTERM);
    shown.sort();

    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flowlog.md");
    let manual = fs::read_to_string(manual).expect("the documentation");
    let blocks = manual.split("```sql\n-- DuckDB\n").skip(1).map(|rest| rest.split("```").next().expect("a block"));
    let parquet = root.join("parquet");
    let statements: Vec<_> =
        blocks.map(|block| block.replace("/srv/flows", parquet.to_str().expect("text")).replace(';', "")).collect();
    assert_eq!(statements.len(), 2, "those of the documentation");
    let told = engine(
        r#"
import duckdb, json, sys
files = sys.argv[1] + "/parquet/AWSLogs/**/*.parquet"
flows = f"read_parquet('{files}', hive_partitioning = true, hive_types_autocast = false, filename = true)"
rows = duckdb.sql(f"SELECT * FROM {flows}")
texts = f"read_csv('{sys.argv[1]}/plain-text/AWSLogs/**/*.log.gz', delim = ' ', nullstr = '-', hive_partitioning = true)"
print(json.dumps({
    "types": dict(zip(rows.columns, map(str, rows.types))),
    "rows": [dict(zip(rows.columns, row)) for row in rows.fetchall()],
    "documented": [duckdb.sql(statement).fetchall() for statement in sys.argv[2:]],
    "lines": duckdb.sql(f"SELECT count(*), sum(packets) FROM {texts}").fetchall()[0],
}, default = str))
"#,
        &[root.to_str().expect("text")].into_iter().chain(statements.iter().map(String::as_str)).collect::<Vec<_>>(),
    );
    for (column, kind) in [
        ("version", "INTEGER"),
        ("account_id", "VARCHAR"),
        ("dstport", "INTEGER"),
        ("protocol", "INTEGER"),
        ("packets", "BIGINT"),
        ("bytes", "BIGINT"),
        ("tcp_flags", "INTEGER"),
        ("start", "BIGINT"),
        ("log_status", "VARCHAR"),
    ] {
        assert_eq!(told["types"][column], kind, "{column}");
    }
    let rows = told["rows"].as_array().expect("rows");
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut read: Vec<String> = rows
        .iter()
        .map(|row| {
            let fields = FIELDS.map(|field| text(&row[field.replace('-', "_")])).join(" ");
            format!("{} {fields}", text(&row["aws-region"]))
        })
        .collect();
    read.sort();
    assert_eq!(read, shown);
    for row in rows {
        assert_eq!((&row["aws-account-id"], &row["aws-service"]), (&ACCOUNT.into(), &"vpcflowlogs".into()));
        let time = UNIX_EPOCH + Duration::from_secs(row["start"].as_u64().expect("seconds"));
        let time = humantime::format_rfc3339_seconds(time).to_string();
        let parts = ["year", "month", "day", "hour"].map(|part| text(&row[part])).join(" ");
        assert_eq!(parts, time[..13].replace(['-', 'T'], " "));
        let name = text(&row["filename"]);
        let name = name.rsplit('/').next().expect("a name");
        let start = format!("{ACCOUNT}_vpcflowlogs_{}_fl-", text(&row["aws-region"]));
        assert!(name.starts_with(&start) && name.ends_with(".log.parquet"), "{name}");
    }
    let [refused, whole] = [0, 1].map(|at| told["documented"][at].as_array().expect("rows"));
    assert_eq!(refused.len(), 2, "one refused packet in each region: {refused:?}");
    assert!(!whole.is_empty());
    assert_eq!(told["lines"], serde_json::json!([lines.len(), 4]));
}

/// What an engine of another making says, asked in Python.
fn engine(program: &str, arguments: &[&str]) -> Value {
    let tools = std::env::current_exe().expect("a path");
    let python = tools.ancestors().nth(3).expect("the target directory").join("tools/python/bin/python");
    assert!(python.exists(), "DuckDB is not there: `cargo xtask setup` installs it");
    let mut command = Command::new(python);
    let output = command.args(["-c", program]).args(arguments).stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.success(), "{}", support::place::text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
