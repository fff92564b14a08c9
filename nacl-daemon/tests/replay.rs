//! `nacld replay`: every format says the same, time and direction are the capture's, what was cut is never malformed, and no
//! file is too broken to be told about.

mod support;

use std::{
    convert::Infallible,
    fs,
    io::{BufReader, Write as _},
    process::{Command, Output, Stdio},
};

use nacl_common::{Direction, Reason};
use nacl_daemon::{
    analyze::{
        Replay,
        records::Windows,
        replay::{Fate, Local, Seen, Summary, Unjudged},
    },
    capture::{CaptureError, Captured, Parsed, Reader},
    compile::{Compiled, compile},
    engine::Engine,
    policy, report,
    resolve::{Interface, Mode, NoHost},
};
use serde_json::Value;
use support::{
    capture::{BEGIN, ETHERNET, Interface as Port, PLAIN, POLICY, Packet, TICK, packet, pcap, pcapng, simple, traffic},
    case::{Case, Flaw},
    generate::Random,
};

const SECOND: u64 = 1_000_000_000;

fn interface() -> Interface {
    let loaded = policy::load("web.toml", POLICY, &NoHost);
    loaded.resolved.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics)).interfaces["eth0"].clone()
}

/// What became of every packet of a capture, in sum, and why it was read no further.
fn meet(interface: &Interface, file: &[u8]) -> (Vec<Seen>, Summary, Option<CaptureError>) {
    meet_with(interface, &compile(interface, None).expect("compiles"), file)
}

fn meet_with(interface: &Interface, compiled: &Compiled, file: &[u8]) -> (Vec<Seen>, Summary, Option<CaptureError>) {
    let mut engine = Engine::new(interface, compiled);
    let mut replay = Replay::new(interface, compiled, Local::new(interface, &[]));
    let mut all = Vec::new();
    let mut read = |reader: &mut Reader<_>| {
        while let Some(record) = reader.next()? {
            let judge = |now, direction, packet: &_, _: Captured<'_>| {
                engine.set_time(now);
                let judged = engine.judged(direction, packet);
                Ok::<_, Infallible>((judged.verdict, judged.met))
            };
            let Ok(seen) = replay.meet(&record, judge);
            all.push(seen);
        }
        Ok::<(), CaptureError>(())
    };
    // A small buffer, so that records lie across its ends.
    let error = Reader::new(BufReader::with_capacity(61, file)).and_then(|mut reader| read(&mut reader)).err();
    let summary = replay.finish(interface);
    (all, summary, error)
}

fn nacld(arguments: &[&str], files: &[(&str, &[u8])], input: &[u8]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files.iter().chain(&[("policy.toml", POLICY.as_bytes())]) {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_nacld"))
        .args(["replay", "--config", "policy.toml"])
        .args(arguments)
        .env_remove("NO_COLOR")
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Verdicts as `ALLOWED inbound 100`, a line each.
fn verdicts(interface: &Interface, seen: &[Seen]) -> Vec<String> {
    let slots = compile(interface, None).expect("compiles").slots;
    let line = |seen: &Seen| match seen.fate {
        Fate::Judged { verdict, .. } => {
            format!("{} {}", verdict.action.name(), slots.decider(verdict.slot, verdict.reason))
        }
        Fate::Unjudged(why) => format!("{why:?}"),
    };
    seen.iter().map(line).collect()
}

#[test]
fn every_packet_is_judged_as_it_would_have_been() {
    let interface = interface();
    let (seen, summary, error) = meet(&interface, &pcap(ETHERNET, false, false, &traffic()));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        verdicts(&interface, &seen),
        [
            "allow inbound 100",
            "allow outbound 100",
            "allow inbound 100",
            "allow inbound 100",
            "deny outbound *",
            "deny outbound *",
            "deny inbound *",
            "allow inbound 110",
            "deny outbound *",
            "allow inbound 120",
            "deny outbound *",
            "allow inbound 100",
            "allow inbound 130",
            "deny outbound *",
            "allow inbound 110",
            "allow inbound 110",
            "NoDirection",
            "deny ip-malformed",
            "allow inbound 130",
            "allow arp",
        ]
    );
    assert_eq!((summary.packets, summary.allowed.packets, summary.denied.packets), (20, 12, 7));
    assert_eq!(summary.unjudged.into_iter().collect::<Vec<_>>(), [(Unjudged::NoDirection, 1)]);
    // Bytes are those of the IP headers: a packet of 20, 20 and 8 bytes.
    assert_eq!(seen[0].bytes, 48);
    assert_eq!(seen[11].bytes, 48, "behind two tags too");
    assert_eq!((seen[0].at, seen[4].at), (0, 4 * TICK));
}

#[test]
fn every_format_says_the_same() {
    let packets = traffic();
    let port = |resolution, offset| [Port { resolution, offset, ..PLAIN }];
    let mut files = Vec::new();
    for big in [false, true] {
        for nanoseconds in [false, true] {
            files.push((format!("pcap {big} {nanoseconds}"), pcap(ETHERNET, big, nanoseconds, &packets)));
        }
        for (resolution, offset) in
            [(None, 0), (Some(6), 0), (Some(9), 3600), (Some(0x80 | 0x14), -7200), (Some(12), 1_799_999_000)]
        {
            files.push((format!("pcapng {big} {resolution:?}"), pcapng(big, &port(resolution, offset), &packets)));
        }
    }
    let expected = nacld(&["--json", "it"], &[("it", &files[0].1)], b"");
    assert_eq!(expected.status.code(), Some(0), "{}", text(&expected.stderr));
    let lines: Vec<Value> = text(&expected.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), packets.len() + 1);
    assert_eq!(lines[0]["time"], "2027-01-15T08:00:00.015625000Z");
    for (name, file) in &files[1..] {
        // Another way in each time.
        let got = nacld(&["--json", "-"], &[], file);
        assert_eq!(text(&got.stdout), text(&expected.stdout), "{name}: {}", text(&got.stderr));
    }
    // Two sections, each with its own order and interfaces.
    let both = [pcapng(true, &port(Some(9), 0), &packets[..5]), pcapng(false, &port(None, 0), &packets[5..])].concat();
    assert_eq!(text(&nacld(&["--json", "-"], &[], &both).stdout), text(&expected.stdout));
}

/// Of packets without a time only the order is known.
#[test]
fn packets_without_a_time_are_judged_all_the_same() {
    let interface = interface();
    let (timed, ..) = meet(&interface, &pcap(ETHERNET, false, false, &traffic()));
    let (untimed, summary, error) = meet(&interface, &simple(&traffic()));
    assert!(error.is_none() && summary.first.is_none(), "{error:?}");
    assert_eq!(verdicts(&interface, &untimed), verdicts(&interface, &timed));
}

/// The same packets without Ethernet, and cooked by Linux.
#[test]
fn other_link_layers_are_read() {
    let interface = interface();
    let frames = traffic();
    // Without tags, and with an IP header: what a link layer without ethertypes can carry.
    let plain: Vec<_> = frames
        .iter()
        .filter(|packet| matches!(packet.bytes[12..14], [0x08, 0x00] | [0x86, 0xdd]))
        .filter(|packet| packet.bytes[14] >> 4 != 5)
        .cloned()
        .collect();
    let (seen, ..) = meet(&interface, &pcap(ETHERNET, false, false, &plain));
    let expected = verdicts(&interface, &seen);
    let with = |header: &dyn Fn(&[u8]) -> Vec<u8>| -> Vec<_> {
        let linked =
            |packet: &Packet| Packet::whole(packet.time, [header(&packet.bytes), packet.bytes[14..].to_vec()].concat());
        plain.iter().map(linked).collect()
    };
    let v6 = |frame: &[u8]| frame[12] == 0x86;
    let family = |frame: &[u8], six: u32| if v6(frame) { six } else { 2 };
    let cooked = |kind: u8, frame: &[u8]| [&[0, kind, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0][..], &frame[12..14]].concat();
    let cooked2 = |kind: u8, frame: &[u8]| {
        [&frame[12..14], &[0, 0, 0, 0, 0, 1, 0, 1, kind, 6, 2, 0, 0, 0, 0, 2, 0, 0][..]].concat()
    };
    for (link, packets) in [
        (101, with(&|_| Vec::new())),
        (12, with(&|_| Vec::new())),
        (0, with(&|frame| family(frame, 10).to_le_bytes().to_vec())),
        (0, with(&|frame| family(frame, 30).to_be_bytes().to_vec())),
        (108, with(&|frame| family(frame, 24).to_be_bytes().to_vec())),
        (113, with(&|frame| cooked(0, frame))),
        (276, with(&|frame| cooked2(0, frame))),
    ] {
        let (seen, _, error) = meet(&interface, &pcap(link, false, false, &packets));
        let got = verdicts(&interface, &seen);
        // What says that it was received is judged as that where no address tells.
        let cooked = matches!(link, 113 | 276);
        for ((got, expected), seen) in got.iter().zip(&expected).zip(&seen) {
            match expected.as_str() {
                "NoDirection" if cooked => assert_eq!(got, "allow inbound 100", "link {link}, packet {}", seen.number),
                expected => assert_eq!(got, expected, "link {link}, packet {}", seen.number),
            }
        }
        assert!(error.is_none() && got.len() == expected.len(), "link {link}: {error:?}");
    }
    for (link, family) in [(228, false), (229, true)] {
        let one: Vec<_> = plain.iter().zip(&expected).filter(|(packet, _)| v6(&packet.bytes) == family).collect();
        let raw: Vec<_> =
            one.iter().map(|(packet, _)| Packet::whole(packet.time, packet.bytes[14..].to_vec())).collect();
        let (seen, ..) = meet(&interface, &pcap(link, false, false, &raw));
        assert_eq!(
            verdicts(&interface, &seen),
            one.iter().map(|(_, expected)| (*expected).clone()).collect::<Vec<_>>()
        );
    }
    let (seen, summary, error) = meet(&interface, &pcap(105, false, false, &plain));
    assert!(error.is_none() && seen.len() == plain.len());
    assert_eq!(summary.unjudged.into_iter().collect::<Vec<_>>(), [(Unjudged::LinkLayer(105), plain.len() as u64)]);
}

/// A header that the capture did not keep is no malformed packet; one that was never there is.
#[test]
fn what_the_capture_cut_is_never_malformed() {
    let (mut cut, mut short) = (0, 0);
    for packet in traffic() {
        let whole = Captured { bytes: &packet.bytes, length: packet.length.into() }.parse();
        for kept in 0..packet.bytes.len() {
            let bytes = &packet.bytes[..kept];
            let parsed = Captured { bytes, length: packet.length.into() }.parse();
            assert!(
                parsed == Parsed::Cut || parsed == whole,
                "{kept} bytes of {:?}: {parsed:?}, not {whole:?}",
                packet.bytes
            );
            cut += u32::from(parsed == Parsed::Cut);
            // The control: the same bytes, and there were no more.
            let all = Captured { bytes, length: kept as u64 }.parse();
            assert_ne!(all, Parsed::Cut);
            assert_eq!(parsed == Parsed::Cut, all != parsed, "{kept} bytes of {:?}: {all:?}", packet.bytes);
            short += u32::from(matches!(
                all,
                Parsed::Other(
                    Reason::EthernetShort | Reason::IpShort | Reason::TransportShort | Reason::FirstFragmentShort
                )
            ));
        }
    }
    assert!(cut > 500 && cut == short, "{cut} cut, {short} short");
    let interface = interface();
    let mut kept =
        Packet::whole(BEGIN, packet(Direction::Inbound, 6, "198.51.100.7:50000", "10.0.1.10:443", 2).bytes().0);
    let payload = Packet { bytes: kept.bytes[..54].to_vec(), ..kept.clone() };
    kept.bytes.truncate(40);
    let (seen, summary, _) = meet(&interface, &pcap(ETHERNET, false, false, &[kept, payload]));
    assert_eq!(verdicts(&interface, &seen), ["Cut", "allow inbound 100"], "what rules see is there");
    assert_eq!((summary.cut, summary.denied.packets), (2, 0));
}

/// By addresses that are named, the interface's, the capture's, the subnet, then what the capture says; on either side.
#[test]
fn direction_is_told_by_what_is_known() {
    let (one, other) = ("198.51.100.7:50000", "10.0.1.10:443");
    let asks = |remote, local| Packet::whole(BEGIN, packet(Direction::Inbound, 6, remote, local, 2).bytes().0);
    let bare = Interface { addresses: Vec::new(), ..interface() };
    let way = |interface: &Interface, file: &[u8], local: &[&str]| {
        let compiled = compile(interface, None).expect("compiles");
        let named: Vec<_> = local.iter().map(|cidr| cidr.parse().expect("a CIDR")).collect();
        let mut replay = Replay::new(interface, &compiled, Local::new(interface, &named));
        let mut reader = Reader::new(file).expect("a capture");
        let record = reader.next().expect("a packet").expect("a packet");
        let judge = |_, direction, packet: &_, _: Captured<'_>| {
            Ok::<_, Infallible>((compiled.judge(direction, packet), nacl_common::flow::Met::Nothing))
        };
        let Ok(seen) = replay.meet(&record, judge);
        seen.direction
    };
    let file = |sent, addresses: &[[u8; 4]]| {
        let port = Port { addresses: addresses.to_vec(), ..PLAIN };
        pcapng(true, &[port], &[Packet { sent, ..asks(one, other) }])
    };
    let (inbound, outbound) = (Some(Direction::Inbound), Some(Direction::Outbound));
    assert_eq!(way(&interface(), &file(Some(true), &[]), &[]), inbound, "addresses come before what the capture says");
    assert_eq!(way(&interface(), &file(None, &[]), &["198.51.100.0/24"]), outbound, "what is named replaces them");
    assert_eq!(way(&interface(), &file(None, &[]), &["192.0.2.1/32"]), None);
    assert_eq!(way(&bare, &file(None, &[[10, 0, 1, 10]]), &[]), inbound);
    assert_eq!(way(&bare, &file(None, &[[198, 51, 100, 7]]), &[]), outbound);
    assert_eq!(way(&bare, &file(None, &[]), &[]), None);
    assert_eq!(way(&bare, &file(Some(false), &[]), &[]), inbound);
    assert_eq!(way(&bare, &file(Some(true), &[]), &[]), outbound);
    let router = Interface { side: nacl_daemon::resolve::Side::Router, ..bare.clone() };
    assert_eq!(way(&router, &file(Some(true), &[]), &[]), inbound, "a router sends into the subnet");
    let subnet = Interface { subnet_cidrs: vec!["10.0.1.0/24".parse().unwrap()], ..bare };
    assert_eq!(way(&subnet, &file(None, &[]), &[]), inbound);
    let many = pcap(ETHERNET, false, false, &[asks("198.51.100.7:5353", "224.0.0.251:5353")]);
    assert_eq!(way(&interface(), &many, &[]), inbound, "what goes to everybody comes from somebody else");
}

/// S35: a UDP exchange is forgotten after 30 seconds, of the capture's time.
#[test]
fn time_is_the_captures() {
    use Direction::{Inbound, Outbound};
    let mut open = interface();
    open.layers = nacl_daemon::resolve::Layers::Groups;
    let at = |seconds: u64, direction| {
        let case = packet(direction, 17, "198.51.100.7:4000", "10.0.1.10:53", 0);
        Packet::whole(BEGIN + seconds * SECOND, case.bytes().0)
    };
    let ask = |times: &[(u64, Direction)]| {
        let packets: Vec<_> = times.iter().map(|(seconds, direction)| at(*seconds, *direction)).collect();
        let (seen, summary, _) = meet(&open, &pcap(ETHERNET, false, true, &packets));
        (verdicts(&open, &seen), summary.went_back)
    };
    let allowed = "allow sg-3 inbound 2";
    assert_eq!(ask(&[(5, Inbound), (34, Outbound)]), (vec![allowed.into(), "allow outbound tracked".into()], 0));
    assert_eq!(ask(&[(5, Inbound), (36, Outbound)]), (vec![allowed.into(), "deny outbound sg *".into()], 0));
    // A clock that is set back holds nothing up, and brings nothing back.
    let back = ask(&[(5, Inbound), (36, Inbound), (10, Outbound), (67, Outbound)]);
    assert_eq!(back.1, 1);
    assert_eq!(back.0[2..], ["allow outbound tracked", "deny outbound sg *"]);
}

#[test]
fn a_request_that_passed_and_its_reply_that_did_not_are_told_together() {
    let output = nacld(&["--summary", "it"], &[("it", &pcap(ETHERNET, false, false, &traffic()))], b"");
    let got = text(&output.stdout);
    for part in [
        "eth0 · network ACL web · security group sg-3 · stateless\n\n20 packets, from 2027-01-15T08:00:00.015625Z on, in 0.296875 s\n",
        "  allowed            12\n  denied              7\n  not judged          1\n",
        "policy.toml:4  { rule = 100, action = \"allow\", protocol = \"tcp\", ports = 443, source = \"0.0.0.0/0\" },",
        "Broken: 1 flow whose request was let in; 2 replies dropped on their way out\n  first     tcp 198.51.100.8:2000 → 10.0.1.10:443  (packet 4, its reply is packet 5)\n",
        "{ rule = 200, action = \"allow\", protocol = \"tcp\", ports = \"1024-65535\", destination = \"0.0.0.0/0\" },",
        "Say which addresses are on this side: --local",
    ] {
        assert!(got.contains(part), "{part:?} in:\n{got}");
    }
    let json = text(&nacld(&["--json", "--summary", "-"], &[], &pcap(ETHERNET, false, false, &traffic())).stdout);
    let summary: Value = serde_json::from_str(&json).expect("one line");
    let broken = summary["summary"]["broken"].as_array().expect("a list");
    assert_eq!(broken.len(), 4, "TCP from XP, DNS, ping, IPv6: {broken:?}");
    assert!(broken.iter().all(|pair| !pair["fix"].is_null()), "{broken:?}");
    // With a memory nothing breaks.
    let stateful =
        nacld(&["--json", "--summary", "--mode", "stateful", "-"], &[], &pcap(ETHERNET, false, false, &traffic()));
    let summary: Value = serde_json::from_str(&text(&stateful.stdout)).expect("one line");
    assert_eq!(summary["summary"]["broken"], serde_json::json!([]));
}

/// The documented example (4.3): four pings of 84 bytes, whose replies a network ACL denies.
#[test]
fn flow_records_are_those_of_the_documentation() {
    let ping = |number: u64, direction, kind| {
        let case = Case { icmp: (kind, 0), echo: 1, ..packet(direction, 1, "203.0.113.12:0", "10.0.1.10:0", 0) };
        let mut frame = case.bytes().0;
        // A ping carries 56 bytes.
        frame.resize(14 + 84, 0);
        frame[16..18].copy_from_slice(&84_u16.to_be_bytes());
        Packet::whole(BEGIN + number * SECOND, frame)
    };
    let mut packets: Vec<_> =
        (0..4).flat_map(|number| [ping(number, Direction::Inbound, 8), ping(number, Direction::Outbound, 0)]).collect();
    packets.push(ping(700, Direction::Inbound, 8));
    let file = pcap(ETHERNET, false, false, &packets);
    let output = nacld(&["--flows", "-"], &[], &file);
    let lines = "\
2 - eni-1235b8ca123456789 10.0.1.10 203.0.113.12 0 0 1 4 336 1800000000 1800000003 REJECT OK
2 - eni-1235b8ca123456789 203.0.113.12 10.0.1.10 0 0 1 4 336 1800000000 1800000003 ACCEPT OK
2 - eni-1235b8ca123456789 203.0.113.12 10.0.1.10 0 0 1 1 84 1800000700 1800000700 ACCEPT OK
";
    assert_eq!(text(&output.stdout), lines, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("9 packets"), "the summary is no flow record");
    // Shorter windows, more records.
    assert_eq!(text(&nacld(&["--flows", "--window", "2", "-"], &[], &file).stdout).lines().count(), 5);
    // What AWS leaves out (F16), and what is no flow.
    let dhcp = packet(Direction::Inbound, 17, "10.0.1.1:67", "10.0.1.10:68", 0).bytes().0;
    let (seen, ..) =
        meet(&interface(), &pcap(ETHERNET, false, false, &[Packet::whole(BEGIN, dhcp), traffic()[19].clone()]));
    let mut windows = Windows::new(600);
    assert!(seen.iter().all(|seen| windows.meet(seen, Some(BEGIN)).is_none()) && windows.finish().is_none());
    assert!(report::replay::line(&compile(&interface(), None).unwrap().slots, &seen[0]).contains("dhcp"));
}

#[test]
fn an_error_names_packet_and_byte_and_what_was_read_stays_told() {
    let file = pcap(ETHERNET, false, false, &traffic());
    // In the middle of the third packet.
    let first: usize = traffic()[..2].iter().map(|packet| packet.bytes.len() + 16).sum();
    let output = nacld(&["-"], &[], &file[..24 + first + 20]);
    assert_eq!(output.status.code(), Some(1));
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(out.lines().filter(|line| line.contains("ALLOWED  ")).count(), 2, "{out}");
    assert!(out.contains("\n2 packets, from"), "{out}");
    assert!(error.contains(&format!("at packet 3, byte {}: the file ends inside a packet", 24 + first)), "{error}");
    for (bytes, part) in [
        (&b""[..], "the file ends inside its first four bytes"),
        (b"\x0a\x0d\x0d\x0a", "at its beginning: the file ends inside"),
        (b"hello, world", "neither pcap nor pcapng"),
        (b"\x1f\x8b\x08\x00", "a file packed by gzip"),
        (b"\x1f\x8b\x08\x00", "hint: unpack it on the way: `gzip -dc"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "the file ends inside the file header"),
    ] {
        let output = nacld(&["-"], &[], bytes);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(part), "{part:?} in {}", text(&output.stderr));
    }
    // A length that nothing has is believed by nobody.
    let mut long = file.clone();
    long[24 + 8..24 + 12].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    assert!(text(&nacld(&["-"], &[], &long).stderr).contains("a packet of 2147483647 bytes: at most 16777216"));
    let stray = pcapng(false, &[PLAIN, PLAIN], &[Packet { interface: 1, ..traffic()[0].clone() }]);
    let at = stray.windows(8).position(|bytes| bytes == b"\x06\0\0\0\x60\0\0\0").expect("the packet's block");
    let stray = [&stray[..at + 8], &[2], &stray[at + 9..]].concat();
    assert!(text(&nacld(&["-"], &[], &stray).stderr).contains("of interface 2, which the file has not described"));
    assert_eq!(nacld(&["nothing"], &[], b"").status.code(), Some(1));
    assert_eq!(nacld(&["--window", "5", "-"], &[], b"").status.code(), Some(2));
    let limited = nacld(&["--limit", "3", "-"], &[], &file);
    assert_eq!(limited.status.code(), Some(0));
    assert!(text(&limited.stdout).contains("\n3 packets, "), "{}", text(&limited.stdout));
}

/// Captures that were changed at random places are read to an end: their own or an error's. None is taken for more than it is.
#[test]
fn no_file_is_too_broken() {
    let packets = traffic();
    let cooked: Vec<_> = packets.iter().map(|packet| Packet::whole(packet.time, packet.bytes[2..].to_vec())).collect();
    let port = |link| Port { link, resolution: Some(9), offset: -5, addresses: vec![[10, 0, 1, 10]] };
    let corpus = [
        pcap(ETHERNET, false, false, &packets),
        pcap(113, true, true, &cooked),
        pcap(276, false, true, &cooked),
        pcap(0, false, true, &cooked),
        pcapng(false, &[port(1)], &packets),
        pcapng(true, &[port(1), port(101)], &packets),
        simple(&packets),
    ];
    // With a memory, so that no time goes into what would mend broken flows.
    let interface = Interface { mode: Mode::Stateful, ..interface() };
    let compiled = compile(&interface, None).expect("compiles");
    let mut random = Random(2027);
    let (mut whole, mut failed, mut met) = (0, 0, 0);
    for round in 0..3000_u32 {
        let mut file = random.pick(&corpus).clone();
        for _ in 0..=random.below(4) {
            let at = random.below(file.len() as u64) as usize;
            match random.below(6) {
                0 => file.truncate(at.max(1)),
                1 => file[at] = random.next() as u8,
                2 => file[at] ^= 1 << random.below(8),
                // Numbers are where files are most easily broken.
                3 => {
                    let number = *random.pick(&[0_u32, 1, 3, 12, 31, 0x7fff_ffff, 0xffff_ffff, 0x0100_0000]);
                    let at = at & !3;
                    if let Some(four) = file.get_mut(at..at + 4) {
                        four.copy_from_slice(&number.to_le_bytes());
                    }
                }
                4 => drop(file.drain(at..(at + 4).min(file.len()))),
                _ => {
                    let piece = file[at..(at + 40).min(file.len())].to_vec();
                    file.splice(at..at, piece);
                }
            }
        }
        let (seen, summary, error) = meet_with(&interface, &compiled, &file);
        assert_eq!(seen.len() as u64, summary.packets, "round {round}");
        let told = summary.allowed.packets + summary.denied.packets + summary.unjudged.values().sum::<u64>();
        assert_eq!(told, summary.packets, "round {round}: every packet is accounted for");
        if let Some(error) = &error {
            assert_eq!(error.packet, summary.packets + 1, "round {round}");
            assert!(error.offset <= file.len() as u64 && !error.to_string().is_empty(), "round {round}: {error}");
        }
        met += seen.len();
        *if error.is_some() { &mut failed } else { &mut whole } += 1;
    }
    assert!(whole > 300 && failed > 300 && met > 10_000, "{whole} read, {failed} not, {met} packets");
    // Nothing that is a flaw of the packet makes the file unreadable.
    let flawed: Vec<_> = [Flaw::Version, Flaw::OffsetOne, Flaw::Tags, Flaw::Payload(3)]
        .map(|flaw| Case { flaw, ..packet(Direction::Inbound, 6, "198.51.100.7:1", "10.0.1.10:443", 2) })
        .map(|case| Packet::whole(BEGIN, case.bytes().0))
        .to_vec();
    let (seen, _, error) = meet(&interface, &pcap(ETHERNET, false, false, &flawed));
    assert!(error.is_none());
    assert_eq!(
        verdicts(&interface, &seen),
        ["deny ip-malformed", "deny tiny-fragment-offset", "deny vlan-depth", "deny transport-short"]
    );
}
