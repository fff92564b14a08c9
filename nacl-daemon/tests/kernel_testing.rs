//! Policy tests through the loaded programs and with real sockets, and the library that Rust tests bring up hosts with. Namespaces are
//! this file's own, and are gone when it is done, however it ends.

#[path = "../examples/harness.rs"]
mod example;

use std::{fs, panic, path::Path, process, process::Command};

use nacl_daemon::{
    analyze::Outcome,
    clients::Client,
    harness::{self, HarnessError, Network, Transport},
};

const POLICY: &str = r#"version = 1
[nacl.web]
inbound  = [
  { rule = 90, action = "deny", protocol = "tcp", ports = 8080, source = "0.0.0.0/0" },
  { rule = 100, action = "allow", protocol = "tcp", ports = "443-9000", source = "0.0.0.0/0" },
  { rule = 110, action = "allow", protocol = "udp", ports = 53, source = "0.0.0.0/0" },
  { rule = 120, action = "allow", protocol = "icmp", icmp = { type = 8 }, source = "0.0.0.0/0" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "32768-65535", destination = "0.0.0.0/0" },
  { rule = 120, action = "allow", protocol = "icmp", icmp = { type = 0 }, destination = "0.0.0.0/0" },
]
[security_group.app]
inbound = [{ protocol = "tcp", ports = 443, source = "198.51.100.0/24" }]
outbound = []
[interface.server]
nacl = "web"
"#;

fn network() -> Result<Network, HarnessError> {
    Network::with()
        .host("client", &["198.51.100.7/24"])
        .host_of("old", &["203.0.113.7/24"], Client::WindowsXp)
        .host("server", &["10.0.1.10/24"])
        .serve("server", Transport::Tcp, 443)
        .serve("server", Transport::Tcp, 8080)
        .serve("server", Transport::Udp, 53)
        .up()
}

/// Namespaces of this process.
fn namespaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("nacld-t") && name.contains(&format!("-{}.", process::id()))).collect()
}

/// One test, so that what is left at the end is nobody else's.
#[test]
fn hosts_are_brought_up_asked_and_taken_down() {
    let mut network = network().expect("a network");
    // With nothing in force everything is answered.
    for port in [443, 8080] {
        network.tcp("client", "server", port).expect("asked").assert_allowed();
    }
    network.udp("client", "server", 53).expect("asked").assert_allowed();
    network.enforce("server", POLICY).expect("enforced");
    network.tcp("client", "server", 443).expect("asked").assert_allowed();
    network.ping("client", "server").expect("asked").assert_allowed();
    network.tcp("client", "server", 8080).expect("asked").assert_denied_by("inbound 90");
    // Windows XP picks ports that no outbound rule has.
    let old = network.tcp("old", "server", 443).expect("asked");
    old.assert_reply_denied();
    old.assert_denied_by("outbound *");
    network.udp("client", "server", 53).expect("asked").assert_denied_by("outbound *");
    // Another policy, live; a place of it, and a group that remembers.
    let policy = harness::parse(POLICY).expect("a policy");
    let group = policy.named_interface(Some("sg:app")).expect("a place").interface.into_owned();
    network.attach("server", &group).expect("enforced");
    network.tcp("client", "server", 443).expect("asked").assert_allowed();
    let denied = network.tcp("old", "server", 443).expect("asked");
    assert_eq!(denied.outcome(), Some(Outcome::RequestDenied));
    denied.assert_denied_by("inbound sg *");
    // What does not hold says so.
    let wrong = panic::catch_unwind(|| denied.assert_allowed()).expect_err("it was denied");
    let said = wrong.downcast_ref::<String>().expect("a message");
    assert!(said.contains("tcp 203.0.113.7") && said.contains("inbound sg *"), "{said}");

    let errors = network.enforce("server", "version = 1\n[interface.server]\nnacl = \"nowhere\"\n");
    assert!(matches!(&errors, Err(HarnessError::Policy(text)) if text.contains("nowhere")), "{errors:?}");
    network.tcp("client", "server", 443).expect("asked").assert_allowed();
    assert!(!namespaces().is_empty());
    drop(network);
    assert_eq!(namespaces(), Vec::<String>::new());

    // A test that panics leaves nothing behind either.
    let failing = panic::catch_unwind(|| {
        let mut network = self::network().expect("a network");
        network.enforce("server", POLICY).expect("enforced");
        assert!(!namespaces().is_empty());
        network.tcp("client", "server", 8080).expect("asked").assert_allowed();
    });
    assert!(failing.is_err());
    assert_eq!(namespaces(), Vec::<String>::new());
    the_example_holds();

    for (builder, what) in [
        (Network::with().host("a", &["10.0.0.1"]), "no address with a prefix length"),
        (Network::with().host("a", &["10.0.0.9/24"]).host("a", &["10.0.1.9/24"]), "two hosts"),
        (Network::with().serve("b", Transport::Tcp, 1), "no host \"b\""),
        (Network::with().host("a", &["10.0.0.1/24"]), "leaves the router no address"),
    ] {
        let Err(error) = builder.up() else { panic!("{what}") };
        assert!(error.to_string().contains(what), "{error}");
    }
    assert_eq!(namespaces(), Vec::<String>::new());
}

/// The example of the documentation, run as it stands.
fn the_example_holds() {
    example::main().expect("every assertion of it holds");
}

#[test]
fn levels_say_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for level in ["kernel", "wire"] {
        for (file, skipped) in
            [("config/tests/nacld.toml", level == "wire"), ("config/tests/diagram-b.toml", level == "wire")]
        {
            let output = Command::new(env!("CARGO_BIN_EXE_nacld"))
                .args(["test", "--level", level, "--json", file])
                .current_dir(&root)
                .output()
                .expect("nacld");
            let said = String::from_utf8_lossy(&output.stdout);
            let json: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| panic!("{level} {file}: {said}{}", String::from_utf8_lossy(&output.stderr)));
            assert_eq!(output.status.code(), Some(0), "{level} {file}: {json:#}");
            assert_eq!(json["tally"]["failed"], 0, "{level} {file}: {json:#}");
            assert!(json["tally"]["held"].as_u64() > Some(3), "{level} {file}: {json:#}");
            // The wire cannot have all of it, and says of each why.
            assert_eq!(json["tally"]["skipped"].as_u64() > Some(0), skipped, "{level} {file}: {json:#}");
        }
    }
}
