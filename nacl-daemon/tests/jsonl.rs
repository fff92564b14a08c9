//! `explain --jsonl` answers every line, in order, with the documented keys; what is no packet is refused by line.

mod support;

use std::convert::Infallible;

use nacl_common::flow::Met;
use nacl_daemon::{
    analyze::{Lines, answer},
    compile::compile,
    engine::Engine,
    policy,
    resolve::NoHost,
};
use serde_json::{Value, json};
use support::{
    generate::{self, Random},
    lines,
};

fn ask(lines: &str) -> (u64, Vec<Value>) {
    let mut interface = generate::interface(&mut Random(0), 0, 0);
    interface.subnet_cidrs = vec!["10.0.1.0/24".parse().expect("a CIDR")];
    let compiled = compile(&interface, None).expect("compiles");
    let mut output = Vec::new();
    let judge = |_, direction, packet: &_| Ok::<_, Infallible>((compiled.judge(direction, packet), Met::Nothing));
    let refused = answer("web", &compiled, Lines::Apart, judge, lines.as_bytes(), &mut output).expect("no I/O fails");
    let output = String::from_utf8(output).expect("UTF-8");
    (refused, output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

fn of_nacl(action: &str, rule: impl serde::Serialize, reason: &str, by: &str) -> Value {
    json!({"action": action, "layer": "nacl", "nacl": "web", "rule": rule, "security_group": null, "position": null,
        "reason": reason, "by": by, "also": null, "flow": "none"})
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
            of_nacl("deny", "*", "nacl-implicit-deny", "inbound *"),
            of_nacl("allow", None::<&str>, "same-subnet", "same-subnet"),
            json!({"action": "allow", "layer": "none", "nacl": null, "rule": null, "security_group": null, "position": null,
                "reason": "neighbour-discovery", "by": "neighbour-discovery", "also": null, "flow": "none"}),
            of_nacl("deny", "*", "nacl-implicit-deny", "outbound *"),
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
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dport":443,"time":1}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dport":443,"tcp_flags":"SX"}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":6,"dport":443,"tcp_flags":"SS"}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":17,"dport":443,"tcp_flags":"S"}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":17,"dport":443,"ident":4}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":17,"fragment":"last"}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":17,"fragment":"later","ident":65536}"#,
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":1,"icmp_type":3,"icmp_id":4}"#,
        "not JSON",
        r#"{"direction":"inbound","src":"198.51.100.7","dst":"10.0.1.10","protocol":47}"#,
    ];
    let (refused, answers) = ask(&lines.join("\n"));
    assert_eq!(refused, 18);
    for (number, answer) in (1..).zip(&answers[..18]) {
        assert_eq!(answer["line"], number);
        assert!(answer["error"].as_str().is_some_and(|error| !error.is_empty()), "{answer}");
    }
    assert_eq!(answers[18]["rule"], "*");
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

/// What is remembered of a line decides about later ones, until its time is over.
#[test]
fn the_lines_of_a_sequence_are_met_one_after_the_other() {
    let policy = policy::load("web.toml", lines::POLICY, &NoHost).resolved.expect("a policy");
    let interface = &policy.interfaces["eth0"];
    let compiled = compile(interface, None).expect("compiles");
    let mut engine = Engine::new(interface, &compiled);
    let judge = |time, direction, packet: &_| {
        engine.set_time(time);
        let judged = engine.judged(direction, packet);
        Ok::<_, Infallible>((judged.verdict, judged.met))
    };
    let input = lines::sequence().join("\n");
    let mut output = Vec::new();
    let refused =
        answer("nacl", &compiled, Lines::Sequence, judge, input.as_bytes(), &mut output).expect("no I/O fails");
    let answers: Vec<Value> = String::from_utf8(output)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let expected = [
        ("allow", "web inbound 1", "new"),
        ("allow", "outbound tracked", "reply"),
        ("allow", "inbound tracked", "forward"),
        ("allow", "outbound tracked", "reply"),
        ("deny", "outbound sg *", "unknown"),
        ("allow", "web outbound 1", "new"),
        ("allow", "web outbound 1", "none"),
        ("deny", "outbound sg *", "none"),
    ];
    for ((action, by, flow), answer) in expected.iter().zip(&answers) {
        // AWS's default network ACL stands before or behind the group; the group is what this is about.
        let group = if answer["layer"] == "nacl" { &answer["also"] } else { &answer["by"] };
        assert_eq!((&answer["action"], group, &answer["flow"]), (&json!(action), &json!(by), &json!(flow)), "{answer}");
    }
    assert_eq!(refused, 2, "time that goes back, and TCP without flags: {answers:?}");
    assert!(answers[8]["error"].as_str().is_some_and(|error| error.starts_with("time goes back")), "{}", answers[8]);
    assert!(answers[9]["error"].as_str().is_some_and(|error| error.contains("tcp_flags")), "{}", answers[9]);
}
