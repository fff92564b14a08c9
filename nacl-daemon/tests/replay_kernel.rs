//! `nacld replay` at kernel level: the loaded programs, given the captured bytes, say of every packet what the engine says.

mod support;

use std::{
    fs,
    process::{Command, Output},
};

use support::{
    capture::{BEGIN, ETHERNET, PLAIN, POLICY, Packet, TICK, packet, pcap, pcapng, traffic},
    generate::{self, Random},
};

fn nacld(directory: &std::path::Path, level: &str, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_nacld"))
        .args(["replay", "--config", "policy.toml", "--level", level])
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{level}: {}", String::from_utf8_lossy(&output.stderr));
    output
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
        &cases.map(|packet| Packet { sent: Some(packet.time / TICK % 2 == 0), ..packet }).collect::<Vec<_>>(),
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
        let [host, kernel] = ["host", "kernel"].map(|level| nacld(directory.path(), level, arguments));
        assert_eq!(String::from_utf8_lossy(&kernel.stdout), String::from_utf8_lossy(&host.stdout), "{arguments:?}");
        assert!(host.stdout.len() > 300, "{arguments:?}");
    }
}
