//! Every policy in `config/` can be used as it is, and the one from AWS's documentation does what its page says.

use std::{fs, path::Path};

use nacl_common::{Action, Direction, Family, Fragment, Packet};
use nacl_daemon::{
    analyze,
    compile::compile,
    policy::{self, Severity},
    report::diagnostics,
    resolve::{NoHost, Resolved},
};

fn load(path: &Path) -> Resolved {
    let text = fs::read_to_string(path).unwrap();
    let file = path.file_name().unwrap().to_str().unwrap();
    let outcome = policy::load(file, &text, &NoHost);
    assert_eq!(
        outcome.count(Severity::Error) + outcome.count(Severity::Warning),
        0,
        "\n{}",
        diagnostics::render(file, &text, &outcome.diagnostics, false)
    );
    outcome.resolved.unwrap()
}

fn config() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

#[test]
fn every_example_loads_without_errors_or_warnings_and_compiles() {
    let mut found = Vec::new();
    for entry in fs::read_dir(config()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let resolved = load(&path);
            assert!(!resolved.interfaces.is_empty(), "{} enforces nothing", path.display());
            for interface in resolved.interfaces.values() {
                compile(interface, None).unwrap();
            }
            found.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    for name in ["nacld", "reference", "two-subnets", "diagram-b", "security-groups", "aws-example", "ipv6"] {
        assert!(found.iter().any(|file| file == name), "config/{name}.toml is gone");
    }
}

/// A person who takes an example for good must not be told that it is not; what is told of them is wanted.
#[test]
fn what_is_found_in_the_examples_is_what_is_meant_to_be() {
    for (name, expected) in [
        ("nacld", &[][..]),
        ("reference", &[]),
        ("security-groups", &[]),
        ("ipv6", &[]),
        // AWS's own example serves no low port of a NAT gateway, and says nothing of ICMP.
        ("aws-example", &["N007", "N014"]),
        // Lessons about ports, without ICMP.
        ("diagram-b", &["N014", "N014"]),
        ("two-subnets", &["N014"]),
    ] {
        let resolved = load(&config().join(format!("{name}.toml")));
        let mut found = analyze::findings(&resolved);
        found.sort_by_key(|found| found.code);
        let codes: Vec<_> = found.iter().map(|found| found.code).collect();
        assert_eq!(codes, expected, "{name}\n{}", diagnostics::render(name, &resolved.text, &found, false));
    }
}

fn tcp(family: Family, src: [u64; 2], sport: u16, dport: u16) -> Packet {
    let dst = match family {
        Family::V4 => [0, 0x0a00_0001],
        Family::V6 => [0x2001_0db8_1234_1a00, 1],
    };
    Packet {
        family,
        protocol: 6,
        fragment: Fragment::None,
        hop_limit: 64,
        tcp_flags: 2,
        src,
        dst,
        sport,
        dport,
        ident: 0,
    }
}

/// The walk-through of N7: which rule decides, `None` for `*`.
#[test]
fn the_documented_walk_through_holds() {
    let resolved = load(&config().join("aws-example.toml"));
    let compiled = compile(&resolved.interfaces["eth0"], None).unwrap();
    let internet = [0, 0xc633_6407]; // 198.51.100.7
    let home = [0, 0xc000_0263]; // 192.0.2.99
    let six = [0x2001_0db8_ffff_0000, 7];
    let expected = [
        (tcp(Family::V4, internet, 50000, 443), Some(110)),
        (tcp(Family::V4, internet, 50000, 139), None),
        (tcp(Family::V4, internet, 50000, 80), Some(100)),
        (tcp(Family::V4, internet, 50000, 22), None),
        (tcp(Family::V4, home, 50000, 22), Some(120)),
        (tcp(Family::V4, home, 50000, 3389), Some(130)),
        (tcp(Family::V4, internet, 443, 32768), Some(140)),
        (tcp(Family::V4, internet, 443, 32767), None),
        (tcp(Family::V6, six, 50000, 80), Some(105)),
        (tcp(Family::V6, six, 50000, 443), Some(115)),
        (tcp(Family::V6, six, 443, 65535), Some(145)),
        (tcp(Family::V6, six, 50000, 22), None),
    ];
    for (packet, rule) in expected {
        let verdict = compiled.judge(Direction::Inbound, &packet);
        assert_eq!(verdict.action, if rule.is_some() { Action::Allow } else { Action::Deny }, "{packet:?}");
        assert_eq!(compiled.slots.slots[&verdict.slot].rule, rule, "{packet:?}");
    }
}
