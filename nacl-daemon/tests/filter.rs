//! The filter of `nacld watch` and of `?filter=`: what each test is true of, and that a mistake is told with its place.

use nacl_common::{Event, Reason, border::NO_SLOT};
use nacl_daemon::observe::{Clock, History, Place, Record, filter::Expression};

/// A TCP packet in, from 198.51.100.7:52345 to 10.0.1.10:443, that no rule of the list lets pass.
fn record() -> Record {
    let event = Event {
        src: [0, 0xc633_6407],
        dst: [0, 0x0a00_010a],
        sport: 52345,
        dport: 443,
        reason: Reason::NaclImplicit as u8,
        layer: 1,
        family: 4,
        protocol: 6,
        tcp_flags: 0x12,
        also: NO_SLOT,
        ..Event::default()
    };
    let place = Place { interface: "web".into(), device: "eth0".into(), netns: None };
    Record::new(&event, &place, &["the servers".to_owned()], &History::default(), Clock::now())
}

#[test]
fn tests_are_true_of_what_they_say() {
    let record = record();
    for yes in [
        "denied",
        "inbound",
        "tcp",
        "ip",
        "proto 6",
        "proto tcp",
        "src 198.51.100.7",
        "remote 198.51.100.0/24",
        "local 10.0.1.10",
        "dst host 10.0.1.10",
        "net 10.0.0.0/8",
        "host 198.51.100.7",
        "dport 443",
        "dport https",
        "port 443",
        "port 52345",
        "sport 1024-65535",
        "remote port 52345",
        "local port 443",
        "dst port 443",
        "interface web",
        "interface eth0",
        "reason nacl-implicit-deny",
        "rule *",
        "layer nacl",
        "flag syn",
        "flag ACK",
        "not tracked",
        "!fragment",
        "not not denied",
        "DENIED AND TCP",
        "denied and tcp and dport 443 and remote 198.51.100.0/24",
        "udp or tcp",
        "allowed || denied",
        "(udp or tcp)&&!allowed",
        // `and` binds closer.
        "tcp or udp and allowed",
        "not (allowed or udp)",
    ] {
        assert!(yes.parse::<Expression>().unwrap_or_else(|error| panic!("{error}")).admits(&record), "{yes}");
    }
    for no in [
        "allowed",
        "out",
        "udp",
        "ip6",
        "proto 17",
        "src 10.0.1.10",
        "remote 10.0.1.10",
        "host 10.0.1.11",
        "host 2001:db8::1",
        "dport 52345",
        "local port 52345",
        "port 80-442",
        "interface lan",
        "reason nacl-rule",
        "rule 100",
        "line 7",
        "layer sg",
        "nacl web",
        "group \"the servers\"",
        "flag rst",
        "tracked",
        "(tcp or udp) and allowed",
        "not denied",
    ] {
        assert!(!no.parse::<Expression>().unwrap_or_else(|error| panic!("{error}")).admits(&record), "{no}");
    }
    let mut other = record;
    other.direction = "outbound".into();
    other.groups = vec!["the servers".into()];
    let admits = |text: &str| text.parse::<Expression>().expect("an expression").admits(&other);
    assert!(admits("remote 10.0.1.10") && admits("local port 52345") && admits("sg \"the servers\""));
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    for (text, place, what) in [
        ("", 0, "a test such as"),
        ("denied and", 10, "a test such as"),
        ("denied tcp", 7, "`and`, `or` or the end"),
        ("nacl \"the web", 5, "a closing quote"),
        ("denied and tpc", 11, "did you mean `tcp`?"),
        ("tcp and dport", 13, "a port"),
        ("tcp and dport 70000", 14, "a port"),
        ("port 9-8", 5, "a port"),
        ("remote 300.1.1.1", 7, "an address"),
        ("src net 10.0.0.0/33", 8, "an address"),
        ("(tcp or udp", 11, "`)`"),
        ("tcp)", 3, "the end"),
        ("proto nonsense", 6, "a protocol"),
        ("reason because", 7, "the name of a reason"),
        ("layer 2", 6, "nacl, sg or none"),
        ("flag FOO", 5, "a TCP flag"),
        ("rule x", 5, "the number of a rule"),
        ("é and tcp", 0, "a test such as"),
    ] {
        let error = text.parse::<Expression>().expect_err(text);
        let said = error.to_string();
        assert!(said.contains(what), "{text}: {said}");
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[lines.len() - 1], format!("  {}^", " ".repeat(place)), "{said}");
    }
    let deep = format!("{}tcp{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(deep.parse::<Expression>().expect_err("deep").to_string().contains("not nested so deeply"));
    assert!("not ".repeat(100_000).parse::<Expression>().is_err());
}

#[test]
fn places_are_counted_in_what_is_shown() {
    let error = "  tcp and dport x".parse::<Expression>().expect_err("no port").to_string();
    assert!(error.ends_with("\n  tcp and dport x\n                ^"), "{error}");
}

#[test]
fn whether_what_passes_can_be_meant_follows_from_the_expression() {
    let may = |text: &str| text.parse::<Expression>().expect("an expression").may_admit("allow");
    for text in ["tcp", "allowed", "denied or udp", "not denied", "not (denied and tcp)", "not (allowed and tcp)"] {
        assert!(may(text), "{text}");
    }
    for text in ["denied", "denied and tcp", "not allowed", "not (allowed or tcp)", "(denied or not allowed) and udp"] {
        assert!(!may(text), "{text}");
    }
}

#[test]
fn an_expression_is_one_in_json_too() {
    let read: Expression = serde_json::from_str("\" tcp and dport 443 \"").expect("an expression");
    assert_eq!(serde_json::to_string(&read).expect("JSON"), "\"tcp and dport 443\"");
}
