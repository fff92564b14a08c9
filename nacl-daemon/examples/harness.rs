//! A policy held against real sockets: two hosts in network namespaces of their own, and a policy before one of them. The same stands
//! in a `#[test]`. As root, with the kernel programs built in: `cargo run --example harness --features kernel`.

use nacl_daemon::harness::{HarnessError, Network, Transport};

const POLICY: &str = r#"version = 1

[nacl.web]
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "https", source = "0.0.0.0/0" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "ephemeral:linux", destination = "0.0.0.0/0" },
]

[interface.server]
nacl = "web"
"#;

/// Every line that is printed was asserted before.
pub fn main() -> Result<(), HarnessError> {
    let mut network = Network::with()
        .host("client", &["198.51.100.7/24"])
        .host("server", &["10.0.1.10/24"])
        .serve("server", Transport::Tcp, 443)
        .serve("server", Transport::Tcp, 8080)
        .up()?;
    // With nothing in force both ports answer: what is dropped below is dropped by the policy.
    network.tcp("client", "server", 8080)?.assert_allowed();
    network.enforce("server", POLICY)?;
    let allowed = network.tcp("client", "server", 443)?;
    allowed.assert_allowed();
    println!("{allowed}\n");
    let denied = network.tcp("client", "server", 8080)?;
    denied.assert_denied_by("inbound *");
    println!("{denied}");
    Ok(())
}
