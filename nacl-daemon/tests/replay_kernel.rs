//! `nacld replay` and `nacld explain` along a way at kernel level: the loaded programs say of every packet what the engine says, of
//! captured ones by their own bytes.

mod support;

use std::{fs, path::Path, process::Command};

use support::{
    capture::{BEGIN, ETHERNET, PLAIN, POLICY, Packet, TICK, packet, pcap, pcapng, traffic},
    generate::{self, Random},
};

/// What a verb prints at both levels, which must be the same.
fn both(directory: &Path, verb: &[&str], arguments: &[&str]) -> String {
    let [host, kernel] = ["host", "kernel"].map(|level| {
        let output = Command::new(env!("CARGO_BIN_EXE_nacld"))
            .args([verb, &["--level", level], arguments].concat())
            .current_dir(directory)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{level}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    assert_eq!(kernel, host, "{verb:?} {arguments:?}");
    host
}

/// A frame longer than a page, and one as short as a frame can be.
fn odd() -> Vec<Packet> {
    let mut long = packet(nacl_common::Direction::Inbound, 6, "198.51.100.7:50009", "10.0.1.10:443", 2).bytes().0;
    long.resize(9000, 0xaa);
    vec![Packet::whole(BEGIN + 90 * TICK, long), Packet::whole(BEGIN + 91 * TICK, vec![0; 14])]
}

#[test]
fn the_loaded_programs_say_what_the_engine_says_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    // Packets of every kind, aimed at the policy's edges.
    let loaded = nacl_daemon::policy::load("web.toml", POLICY, &nacl_daemon::resolve::NoHost);
    let interface = &loaded.resolved.expect("a policy").interfaces["eth0"];
    let mut random = Random(7);
    let cases =
        (0..600).map(|number| Packet::whole(BEGIN + number * TICK, generate::case(&mut random, interface).bytes().0));
    let random = pcapng(
        false,
        &[PLAIN],
        &cases
            .map(|packet| Packet { sent: Some((packet.time / TICK).is_multiple_of(2)), ..packet })
            .collect::<Vec<_>>(),
    );
    for (name, bytes) in [
        ("policy.toml", POLICY.as_bytes()),
        ("all.pcap", &pcap(ETHERNET, false, true, &[traffic(), odd()].concat())),
        ("random.pcapng", &random),
    ] {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    for arguments in [
        &["--json", "all.pcap"][..],
        &["--json", "--mode", "stateful", "all.pcap"],
        &["--flows", "all.pcap"],
        &["random.pcapng"],
        &["--json", "--mode", "stateful", "random.pcapng"],
    ] {
        let said = both(directory.path(), &["replay", "--config", "policy.toml"], arguments);
        assert!(said.len() > 300, "{arguments:?}: {said}");
    }
}

#[test]
fn a_way_is_judged_by_the_loaded_programs_as_by_the_engine() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    for (port, outcome) in [("80", "works"), ("22", "request-denied")] {
        let flow = ["--json", "--mode", "stateless", "tcp", "10.0.1.20:50000", &format!("10.0.2.10:{port}")];
        let said = both(&config, &["explain", "--config", "diagram-b.toml"], &flow);
        assert!(said.contains(&format!("\"outcome\": \"{outcome}\"")), "{said}");
    }
}
