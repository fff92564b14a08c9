//! A real peer: moto's server, filled through its API and read with the AWS CLI, imported, and judged by the engine and by the
//! programs in the kernel. Both tools come from PyPI; `cargo xtask setup` puts them below `target/tools`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use nacl_common::{Action, Direction, Family, Fragment, Packet};
use nacl_daemon::{
    analyze,
    compile::compile,
    dataplane::{Options, TestBed},
    export,
    import::{self, Document, Wanted, aws, tree::Findings},
    inventory::{read, write::Here},
    policy::{self, Severity},
    report,
    resolve::{NoHost, Resolved},
};

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/python/bin/python");
    assert!(python.exists(), "moto and the AWS CLI are not there: `cargo xtask setup` installs them");
    python
}

/// What the AWS CLI read from moto.
fn answers() -> Vec<Document> {
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/ask_moto.py");
    let output = Command::new(python()).arg(script).arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = Vec::new();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        found.push(Document { file: Arc::from(file), text: fs::read_to_string(&path).unwrap() });
    }
    assert_eq!(found.len(), 8, "{found:?}");
    found
}

fn import(documents: &[Document]) -> Resolved {
    let findings = Findings::default();
    let inventory = aws::read(documents, &[], &findings);
    let here = vec![Here { device: "eth0".to_owned(), of: "web-1".to_owned() }];
    let wanted = Wanted { vpcs: vec!["shop".to_owned()], here };
    let written = import::policy(inventory, findings, &wanted).unwrap_or_else(|problems| {
        panic!("{}", report::import::problems(&problems));
    });
    let outcome = policy::load("moto.toml", &written.policy, &NoHost);
    assert_eq!(outcome.count(Severity::Error), 0, "{}", written.policy);
    outcome.resolved.unwrap()
}

fn address(text: &str) -> [u64; 2] {
    [0, u64::from(u32::from(text.parse::<std::net::Ipv4Addr>().unwrap()))]
}

fn packet(direction: Direction, protocol: u8, remote: &str, sport: u16, dport: u16) -> Packet {
    let (src, dst) = match direction {
        Direction::Inbound => (address(remote), address("10.0.2.10")),
        Direction::Outbound => (address("10.0.2.10"), address(remote)),
    };
    let tcp_flags = if protocol == 6 { 2 } else { 0 };
    Packet {
        family: Family::V4,
        protocol,
        fragment: Fragment::None,
        hop_limit: 64,
        tcp_flags,
        src,
        dst,
        sport,
        dport,
        ident: 0,
    }
}

#[test]
fn what_moto_holds_is_imported_and_enforced() {
    use Direction::{Inbound, Outbound};
    let documents = answers();
    let policy = import(&documents);
    let interface = &policy.interfaces["eth0"];
    assert_eq!(interface.nacl.name, "private");
    assert_eq!(interface.groups.as_ref().unwrap()[0].name, "web");
    assert_eq!(policy.prefix_lists["office"].entries[0].to_string(), "203.0.113.0/24");
    let compiled = compile(interface, None).unwrap();
    let options = Options { forgetful: true, ..Options::from(interface) };
    let mut bed = TestBed::load(&options, &compiled).expect("the programs load");
    // An echo request's type and code stand where TCP has its destination port.
    let echo = u16::from(8_u8) << 8;
    for (what, direction, protocol, remote, port, passes) in [
        ("a balancer, member of a group", Inbound, 6, "10.0.1.20", 8080, true),
        ("a member that the network ACL denies", Inbound, 6, "10.0.1.66", 8080, false),
        ("a neighbour of the balancer's", Inbound, 6, "10.0.1.21", 8080, false),
        ("another port", Inbound, 6, "10.0.1.20", 8081, false),
        ("the office, by a prefix list", Inbound, 6, "203.0.113.7", 22, true),
        ("somebody else", Inbound, 6, "198.51.100.7", 22, false),
        ("a ping from the VPC", Inbound, 1, "10.0.3.9", echo, true),
        ("a ping from elsewhere", Inbound, 1, "198.51.100.7", echo, false),
        ("what no outbound rule of the network ACL allows", Outbound, 6, "198.51.100.7", 443, false),
    ] {
        let packet = packet(direction, protocol, remote, 40000, port);
        let host = compiled.judge(direction, &packet);
        assert_eq!(host.action == Action::Allow, passes, "{what}: {host:?}");
        let (kernel, _) = bed.judged(direction, &packet).expect("the programs run");
        assert_eq!(kernel, host, "{what}: the kernel");
    }
    // And back out: what moto holds is what comes of it.
    let exported = export::aws::write(&read::read(&policy)).text;
    let again = import(&[Document { file: Arc::from("again.json"), text: exported }]);
    let difference = analyze::diff(&policy, &again, None, true).unwrap();
    assert!(difference.is_empty(), "{difference:#?}");
}
