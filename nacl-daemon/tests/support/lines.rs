//! Packets that are met one after the other, as lines of JSON for `explain --jsonl --sequence`.

/// A group that lets HTTPS in and DNS out, and forgets a TCP connection after a minute.
pub const POLICY: &str = r#"
version = 1
[security_group.web]
inbound  = [{ protocol = "tcp", ports = 443, source = "198.51.100.0/24" }]
outbound = [{ protocol = "udp", ports = 53, destination = "192.0.2.0/24" }]
[interface.eth0]
security_groups = ["web"]
[tracking]
tcp_established = 60
"#;

/// A connection that is remembered for a minute after its last packet, fragments of two packets, and two lines that belong
/// into no sequence: one whose time goes back, one without TCP flags.
pub fn sequence() -> Vec<String> {
    let tcp = |way: &str, flags: &str, rest: &str| {
        let (src, sport, dst, dport) = match way {
            "inbound" => ("198.51.100.7", 50000, "10.0.1.10", 443),
            _ => ("10.0.1.10", 443, "198.51.100.7", 50000),
        };
        let ends = format!(r#""src":"{src}","dst":"{dst}","sport":{sport},"dport":{dport}"#);
        format!(r#"{{"direction":"{way}",{ends},"protocol":6,"tcp_flags":"{flags}"{rest}}}"#)
    };
    let part = |kind: &str, ident: u32, dport: &str| {
        let ends = r#""src":"10.0.1.10","dst":"192.0.2.1""#;
        format!(r#"{{"direction":"outbound",{ends},"protocol":17{dport},"fragment":{kind},"ident":{ident}}}"#)
    };
    vec![
        tcp("inbound", "S", r#","time":0.5"#),
        tcp("outbound", "SA", ""),
        tcp("inbound", "A", r#","time":0.75"#),
        tcp("outbound", "A", r#","time":60.7"#),
        tcp("outbound", "A", r#","time":120.75"#),
        part(r#""first""#, 7, r#","dport":53"#),
        part(r#""later""#, 7, ""),
        part("true", 8, ""),
        tcp("inbound", "S", r#","time":3"#),
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dport":443}"#.to_owned(),
    ]
}
