//! `explain --jsonl` answers every line, in order, with the documented keys; what is no packet is refused by line.

mod support;

use std::convert::Infallible;

use nacl_daemon::{analyze::answer, compile::compile};
use serde_json::{Value, json};
use support::generate::{self, Random};

fn ask(lines: &str) -> (u64, Vec<Value>) {
    let mut interface = generate::interface(&mut Random(0), 0, 0);
    interface.subnet_cidrs = vec!["10.0.1.0/24".parse().expect("a CIDR")];
    let compiled = compile(&interface, None).expect("compiles");
    let mut output = Vec::new();
    let judge = |direction, packet: &_| Ok::<_, Infallible>(compiled.judge(direction, packet));
    let refused = answer("web", &compiled, judge, lines.as_bytes(), &mut output).expect("no I/O fails");
    let output = String::from_utf8(output).expect("UTF-8");
    (refused, output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

#[test]
fn every_line_has_its_answer() {
    let (refused, answers) = ask(concat!(
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"sport":52345,"dport":443}"#,
        "\n\n",
        r#"{"direction":"inbound","src":"10.0.1.11","dst":"10.0.1.10","protocol":17,"dport":53}"#,
        "\r\n",
        r#"{"direction":"outbound","src":"fe80::1","dst":"ff02::1","protocol":58,"icmp_type":134,"icmp_code":0,"hop_limit":255}"#,
        "\n",
        r#"{"direction":"outbound","src":"10.0.1.10","dst":"198.51.100.7","protocol":6,"fragment":true}"#,
    ));
    assert_eq!(refused, 0);
    assert_eq!(
        answers,
        [
            json!({"action": "deny", "layer": "nacl", "nacl": "web", "rule": "*", "reason": "nacl-implicit-deny"}),
            json!({"action": "allow", "layer": "nacl", "nacl": "web", "rule": null, "reason": "same-subnet"}),
            json!({"action": "allow", "layer": "none", "nacl": null, "rule": null, "reason": "neighbour-discovery"}),
            json!({"action": "deny", "layer": "nacl", "nacl": "web", "rule": "*", "reason": "nacl-implicit-deny"}),
        ]
    );
}

#[test]
fn what_is_no_packet_is_refused_by_line_and_the_rest_is_answered() {
    let lines = [
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"sport":1}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dprot":443}"#,
        r#"{"direction":"sideways","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dport":443}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"2001:db8::1","protocol":6,"dport":443}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dport":443,"fragment":true}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":1}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dport":443,"icmp_type":1}"#,
        r#"{"direction":"inbound","src":"2001:db8::2","dst":"2001:db8::1","protocol":43}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":256}"#,
        "not JSON",
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":47}"#,
    ];
    let (refused, answers) = ask(&lines.join("\n"));
    assert_eq!(refused, 10);
    for (number, answer) in (1..).zip(&answers[..10]) {
        assert_eq!(answer["line"], number);
        assert!(answer["error"].as_str().is_some_and(|error| !error.is_empty()), "{answer}");
    }
    assert_eq!(answers[10]["rule"], "*");
}

/// Packets of these protocols have ports or a type, so a line may say them; no rule sees them (N27, N28, N34).
#[test]
fn what_a_packet_has_and_no_rule_sees_is_accepted() {
    let (refused, answers) = ask(concat!(
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":58,"icmp_type":8,"icmp_code":0}"#,
        "\n",
        r#"{"direction":"inbound","src":"2001:db8::7","dst":"2001:db8::1","protocol":1,"icmp_type":8,"icmp_code":0}"#,
        "\n",
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":132,"sport":5000,"dport":443}"#,
    ));
    assert_eq!(refused, 0, "{answers:?}");
    assert!(answers.iter().all(|answer| answer["rule"] == "*"), "{answers:?}");
}
