//! `/v1/metrics`, the port of it, and the Grafana dashboard: what is told is OpenMetrics as another implementation reads it, is named
//! by the habits of those who read it, and is what the dashboard asks for.

#![expect(clippy::float_cmp, reason = "whole numbers, told and read back")]

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener as Port},
    process::{Command, Stdio},
};

use nacl_daemon::report::metrics::{FAMILIES, Family as Told, Kind};
use promql::{Node, ParserOptions};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{service::broken, *};

const DASHBOARD: &str = include_str!("../../../packaging/grafana/nacld.json");
const PAGE: &str = include_str!("../../../docs/understand.md");

/// The reference implementation's parser, which refuses what the format forbids.
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families
text = sys.stdin.buffer.read().decode()
told = [{'name': f.name, 'kind': f.type, 'help': f.documentation, 'unit': f.unit,
         'samples': [{'name': s.name, 'labels': s.labels, 'value': s.value} for s in f.samples]} for f in families(text)]
json.dump(told, sys.stdout)
";

#[derive(Debug, Deserialize)]
struct Family {
    name: String,
    kind: String,
    help: String,
    unit: String,
    samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What the reference implementation makes of a text.
fn parsed(text: &str) -> Result<Vec<Family>, String> {
    // The system's own first: that is the one whose packages `cargo xtask setup` installs.
    let has = |python: &&&str| {
        let import = ["-c", "import prometheus_client.openmetrics.parser"];
        Command::new(python).args(import).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let python = ["/usr/bin/python3", "python3"].iter().find(has);
    let python = python.expect("Python's prometheus_client is needed (`cargo xtask setup` installs it)");
    let mut parser = Command::new(python);
    parser.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parser = parser.spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

async fn scrape(daemon: &Daemon) -> String {
    let response = daemon.client.send(Method::GET, "/v1/metrics").await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8", "{text}");
    text
}

/// Values of a name whose labels are these, and perhaps more.
fn values(families: &[Family], name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
    let samples = families.iter().flat_map(|family| &family.samples).filter(|sample| sample.name == name);
    let these =
        |sample: &&Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|is| is == value));
    samples.filter(these).map(|sample| sample.value).collect()
}

/// Interfaces with something of everything, one of them under a name that must be escaped.
async fn busy() -> Daemon {
    let policy = GROUPS.replace("nacl = \"web\"", "nacl = \"web\"\nmode = \"stateful\"");
    let named = format!(
        "{policy}\n[interface.'a\"b\\c']\ndevice = \"fake1\"\nnetns = \"blue\"\nnacl = \"web\"\nenforce = false\n"
    );
    let shut = broken::SHUT.replace("version = 1\n", "").replace("fake0", "fake2");
    let daemon = Daemon::start(&(named + &shut)).await;
    let rule = daemon.fake.slot("fake0", Direction::Inbound, 100);
    daemon.fake.hit("fake0", rule, 7);
    daemon.fake.hit("fake0", implicit_slot(Direction::Outbound, false), 5);
    daemon.fake.hit("fake0", group_implicit_slot(Direction::Inbound, true), 2);
    daemon.fake.hit("fake0", tracked_slot(Direction::Outbound, false), 3);
    let full = ((Reason::ConntrackFull, Direction::Inbound), Counter { packets: 4, bytes: 240 });
    {
        let mut inner = daemon.fake.lock();
        let counters = &mut inner.attached.get_mut("fake0").unwrap().counters;
        counters.reasons.extend([full]);
        counters.events_suppressed = 6;
    }
    let (key, entry) = flow(443, Stands::Established, 300);
    daemon.fake.remember("fake0", key, Entry { nacl: 1, nacl_slot: rule, ..entry });
    daemon.client.reload(false, None).await.unwrap();
    broken::meet(&daemon, "fake2").await;
    daemon
}

#[tokio::test]
async fn another_implementation_reads_what_is_told() {
    let daemon = busy().await;
    let text = scrape(&daemon).await;
    assert!(text.ends_with("# EOF\n"));
    let families = parsed(&text).unwrap_or_else(|error| panic!("{error}{text}"));
    let one = |name, labels: &[(&str, &str)]| {
        let values = values(&families, name, labels);
        assert_eq!(values.len(), 1, "{name} {labels:?}:\n{text}");
        values[0]
    };
    let rule = |direction, rule, family| {
        [
            ("interface", "fake0"),
            ("direction", direction),
            ("layer", "nacl"),
            ("list", "web"),
            ("rule", rule),
            ("family", family),
        ]
    };
    assert_eq!(one("nacld_rule_packets_total", &rule("inbound", "100", "ipv4")), 7.0);
    assert_eq!(one("nacld_rule_bytes_total", &rule("inbound", "100", "ipv4")), 420.0);
    assert_eq!(one("nacld_rule_packets_total", &rule("outbound", "*", "ipv4")), 5.0);
    assert_eq!(one("nacld_rule_packets_total", &rule("outbound", "*", "ipv6")), 0.0);
    let unmatched = [
        ("interface", "fake0"),
        ("layer", "security-group"),
        ("rule", "*"),
        ("direction", "inbound"),
        ("family", "ipv6"),
    ];
    assert_eq!(one("nacld_rule_packets_total", &unmatched), 2.0);
    let group = [
        ("interface", "fake0"),
        ("layer", "security-group"),
        ("rule", "1"),
        ("direction", "inbound"),
        ("action", "allow"),
    ];
    assert_eq!(one("nacld_rule_packets_total", &group), 0.0);
    assert_eq!(
        one(
            "nacld_tracked_packets_total",
            &[("direction", "outbound"), ("family", "ipv4"), ("netns", ""), ("interface", "fake0")]
        ),
        3.0
    );
    assert_eq!(one("nacld_conntrack_entries", &[("interface", "fake0")]), 1.0);
    assert_eq!(one("nacld_conntrack_capacity", &[("interface", "fake0")]), f64::from(CAPACITY));
    assert_eq!(one("nacld_conntrack_allowance_exceeded_packets_total", &[("interface", "fake0")]), 4.0);
    assert_eq!(one("nacld_reason_packets_total", &[("interface", "fake0"), ("reason", "conntrack-full")]), 4.0);
    assert_eq!(one("nacld_events_suppressed_total", &[("interface", "fake0")]), 6.0);
    assert_eq!(one("nacld_interface_enforcing", &[("interface", "fake0")]), 1.0);
    let broken = [("interface", "fake2"), ("direction", "inbound")];
    assert_eq!(
        (one("nacld_broken_returns_total", &broken), one("nacld_broken_return_packets_total", &broken)),
        (1.0, 1.0)
    );
    // A name with all that must be escaped, in a namespace of its own.
    assert_eq!(one("nacld_interface_enforcing", &[("interface", "a\"b\\c"), ("netns", "blue")]), 0.0);
    let modes = [
        ("interface", "fake0"),
        ("mode", "stateful"),
        ("layers", "both"),
        ("acl", "web"),
        ("device", "fake0"),
        ("side", "host"),
    ];
    assert_eq!(one("nacld_interface_info", &modes), 1.0);
    let status = daemon.client.status().await.unwrap();
    assert_eq!(one("nacld_policy_info", &[("sha256", &status.policy.sha256)]), 1.0);
    assert_eq!(one("nacld_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(one("nacld_policy_last_reload_successful", &[]), 1.0);
    let loaded =
        humantime::parse_rfc3339(&status.policy.loaded).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(one("nacld_policy_loaded_timestamp_seconds", &[]), loaded.as_secs() as f64);
    let packets = |action| one("nacld_verdict_packets_total", &[("interface", "fake0"), ("action", action)]);
    let totals = status.interfaces.iter().find(|one| one.interface == "fake0").unwrap().packets;
    assert_eq!((packets("allow"), packets("deny")), (totals.allowed as f64, totals.denied as f64));
    // The parser is one that can say no.
    assert!(parsed(text.trim_end_matches("# EOF\n")).is_err() && parsed(&text.replace("_total{", "{")).is_err());
}

/// The rules of `promtool check metrics`, and of the format's page on naming.
#[tokio::test]
async fn names_are_as_those_who_read_them_expect() {
    let daemon = busy().await;
    let text = scrape(&daemon).await;
    let families = parsed(&text).unwrap();
    let told: Vec<_> = families.iter().map(|family| &family.name).collect();
    assert_eq!(told.len(), FAMILIES.len());
    for (family, ours) in families.iter().zip(FAMILIES) {
        let name = &family.name;
        assert!(
            name.starts_with("nacld_") && name.bytes().all(|sign| matches!(sign, b'a'..=b'z' | b'0'..=b'9' | b'_')),
            "{name}"
        );
        assert!(!name.contains("__") && !name.ends_with('_'), "{name}");
        assert!(family.help.ends_with('.') && family.help == ours.help, "{name}: {}", family.help);
        let kind = match ours.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
        };
        assert_eq!(family.kind, kind, "{name}");
        let words: Vec<_> = name.split('_').collect();
        // No type in a name, no unit but a base unit, and none that is abbreviated.
        for word in ["counter", "gauge", "histogram", "summary", "info", "total", "sum", "count", "bucket", "created"] {
            assert!(!words.contains(&word), "{name} has the word {word}");
        }
        for word in [
            "ms",
            "milliseconds",
            "minutes",
            "hours",
            "kb",
            "kilobytes",
            "kibibytes",
            "bits",
            "s",
            "sec",
            "b",
            "pkts",
            "percent",
        ] {
            assert!(!words.contains(&word), "{name} has the unit {word}");
        }
        for unit in ["seconds", "bytes", "packets"] {
            assert_eq!(words.contains(&unit), family.unit == unit, "{name} and its unit {:?}", family.unit);
            assert!(!words.contains(&unit) || words.last() == Some(&unit), "{name}");
        }
        assert_eq!(family.unit.is_empty(), !text.contains(&format!("# UNIT {name} ")), "{name}");
        assert!(!words.contains(&"timestamp") || name.ends_with("_timestamp_seconds"), "{name}");
        // Something of everything was there, so every family has something to tell.
        let excused = name == "nacld_same_subnet_packets";
        assert!(!family.samples.is_empty() || excused, "{name} tells nothing:\n{text}");
        let mut seen = BTreeSet::new();
        for sample in &family.samples {
            assert_eq!(sample.name, ours.sample_name());
            assert!(seen.insert(&sample.labels), "{name} {:?} is told twice", sample.labels);
            let labels: BTreeSet<_> = sample.labels.keys().map(String::as_str).collect();
            assert_eq!(labels, ours.labels.iter().copied().collect(), "{name}");
            assert!(sample.value >= 0.0 && sample.value.fract() == 0.0, "{name}");
        }
        for label in ours.labels {
            assert!(
                label.bytes().all(|sign| matches!(sign, b'a'..=b'z' | b'0'..=b'9' | b'_')) && *label != "le",
                "{name}: {label}"
            );
            assert!(!["job", "instance"].contains(label), "{name}: {label} is Prometheus's own");
        }
    }
}

#[tokio::test]
async fn counters_carry_over_a_reload_and_a_rule_that_is_gone_is_told_no_more() {
    let daemon = Daemon::start(WEB).await;
    for rule in [100, 110] {
        daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, rule), 3);
    }
    let told = async |rule: &str| {
        let families = parsed(&scrape(&daemon).await).unwrap();
        values(&families, "nacld_rule_packets_total", &[("direction", "inbound"), ("rule", rule)])
    };
    assert_eq!((told("100").await, told("110").await), (vec![3.0], vec![3.0]));
    let fewer = WEB.lines().filter(|line| !line.contains("rule = 110")).collect::<Vec<_>>().join("\n");
    daemon.write(&fewer);
    daemon.client.reload(false, None).await.unwrap();
    assert_eq!((told("100").await, told("110").await), (vec![3.0], vec![]));
    // A reload that fails, one that waits, and an interface that is gone.
    let gauge = async |name: &str| values(&parsed(&scrape(&daemon).await).unwrap(), name, &[]);
    daemon.write("version = 2\n");
    daemon.client.reload(false, None).await.unwrap_err();
    assert_eq!(gauge("nacld_policy_last_reload_successful").await, [0.0]);
    assert_eq!(gauge("nacld_confirmation_pending").await, [0.0]);
    daemon.write(&(fewer + "\n" + SECOND));
    daemon.fake.vanish("fake1");
    daemon.client.reload(false, Some(Duration::from_mins(10))).await.unwrap();
    assert_eq!(gauge("nacld_policy_last_reload_successful").await, [1.0]);
    assert_eq!(gauge("nacld_confirmation_pending").await, [1.0]);
    let left = gauge("nacld_confirmation_left_seconds").await[0];
    assert!((500.0..=600.0).contains(&left), "{left}");
    let families = parsed(&scrape(&daemon).await).unwrap();
    let attached = |interface| values(&families, "nacld_interface_attached", &[("interface", interface)]);
    assert_eq!((attached("fake0"), attached("fake1")), (vec![1.0], vec![0.0]));
}

/// A large connection table takes a while to read. Whoever changes something meanwhile does not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_keeps_nobody_from_changing_something() {
    let daemon = Daemon::start(WEB).await;
    let gate = Arc::clone(&daemon.fake.lock().gate);
    let (hold, let_go) = std::sync::mpsc::channel::<()>();
    let (holds, is_held) = tokio::sync::oneshot::channel();
    let closed = Arc::clone(&gate);
    let holder = tokio::task::spawn_blocking(move || {
        let _closed = closed.write().unwrap();
        holds.send(()).unwrap();
        let_go.recv().unwrap();
    });
    is_held.await.unwrap();
    for path in ["/v1/metrics", "/v1/status"] {
        let before = daemon.fake.lock().tables_read;
        let client = daemon.client.clone();
        let scrape = tokio::spawn(async move { client.send(Method::GET, path).await.unwrap().status().as_u16() });
        // It stands at the gate.
        while daemon.fake.lock().tables_read == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let reload = tokio::time::timeout(Duration::from_secs(20), daemon.client.reload(false, None));
        reload.await.expect("a reload waits for nobody who looks").unwrap();
        assert!(!scrape.is_finished(), "{path}");
        if path == "/v1/status" {
            hold.send(()).unwrap();
            assert_eq!(scrape.await.unwrap(), 200);
        }
    }
    holder.await.unwrap();
}

/// A port that nobody has now.
fn free(address: &str) -> SocketAddr {
    Port::bind((address, 0)).unwrap().local_addr().unwrap()
}

/// What a port answers to a request.
async fn asked(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_port_tells_the_same_and_nothing_else() {
    tells_on(free("127.0.0.1")).await;
}

#[tokio::test]
async fn a_port_of_ipv6_likewise() {
    tells_on(free("::1")).await;
}

async fn tells_on(address: SocketAddr) {
    let port = Some(address.to_string().parse().unwrap());
    let daemon =
        Daemon::start_in(tempfile::tempdir().unwrap(), WEB, Fake::default(), |config| config.metrics = port).await;
    daemon.fake.hit("fake0", daemon.fake.slot("fake0", Direction::Inbound, 100), 3);
    let answer = asked(address, "GET /metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert_eq!(body, scrape(&daemon).await);
    for (request, code) in [
        ("GET /", "404"),
        ("GET /v1/status", "404"),
        ("GET /v1/metrics", "404"),
        ("POST /metrics", "405"),
        ("POST /v1/stop", "405"),
    ] {
        let answer = asked(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{request}: {answer}");
    }
    let page = asked(address, "GET /metrics HTTP/1.1\r\nhost: evil.example").await;
    assert!(page.starts_with("HTTP/1.1 4"), "{page}");
    // Whoever comes second is told, and has changed nothing.
    let (directory, fake) = (tempfile::tempdir().unwrap(), Fake::default());
    let config = Config { metrics: port, ..Daemon::config(&directory) };
    fs::write(&config.file, WEB).unwrap();
    let error = serve::run(config, Box::new(fake.clone()), Box::new(|_| {})).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot serve metrics on {address}"));
    assert!(error.hint().unwrap().contains("name another port"));
    assert_eq!((fake.names(), fake.lock().tries), (Vec::new(), 0));
    daemon.client.stop().await.unwrap();
    assert_eq!(daemon.ended().await, Ended::Asked);
    Port::bind(address).expect("the port is free again");
}

/// Metrics that a query asks for, each with the labels it names.
fn names(node: &Node, found: &mut Vec<(String, BTreeSet<String>)>) {
    match node {
        Node::Vector(vector) => {
            let name = vector.labels.iter().find(|label| label.name == "__name__").expect("a metric's name");
            let labels = vector.labels.iter().filter(|label| label.name != "__name__").map(|label| label.name.clone());
            found.push((String::from_utf8(name.value.clone()).unwrap(), labels.collect()));
        }
        Node::Function { args, aggregation, .. } => {
            let first = found.len();
            for node in args {
                names(node, found);
            }
            for (_, labels) in &mut found[first..] {
                labels.extend(aggregation.iter().flat_map(|by| by.labels.clone()));
            }
        }
        Node::Operator { op, args } => {
            assert!(!format!("{op:?}").contains("OpMod"), "labels to match by are not looked at here: {op:?}");
            for node in args {
                names(node, found);
            }
        }
        Node::Negation(node) => names(node, found),
        Node::Scalar(_) | Node::String(_) => {}
    }
}

/// What a person need not see all day.
const NOT_SHOWN: [&str; 1] = ["nacld_start_timestamp_seconds"];
/// Labels and a metric that Prometheus makes by itself.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

#[test]
fn the_dashboard_asks_for_what_there_is_and_shows_all_of_it() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for key in ["title", "uid", "schemaVersion", "panels", "templating"] {
        assert!(!dashboard[key].is_null(), "{key}");
    }
    assert_eq!(dashboard["id"], Value::Null, "whoever imports it gives it a number");
    let variables: BTreeSet<_> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let mut asked = Vec::new();
    let mut ids = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: two panels of one number");
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} says nothing of itself");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}: whoever imports it chooses where from");
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            asked.push((title.to_owned(), query.to_owned(), target["legendFormat"].as_str().unwrap_or("").to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let inside = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (metric, label) = inside.rsplit_once(", ").unwrap();
            // As a query, so that it is looked at as one.
            asked.push((query.to_owned(), format!("sum by ({label}) ({metric})"), String::new()));
        }
    }
    let mut shown = BTreeSet::new();
    for (title, query, legend) in &asked {
        let plain = query.replace("$__rate_interval", "5m");
        for (at, _) in plain.match_indices('$') {
            let name: String = plain[at + 1..].chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(variables.contains(&*name), "{title}: there is no variable {name}: {query}");
        }
        let node = promql::parse(plain.as_bytes(), &ParserOptions::new().build());
        let node = node.unwrap_or_else(|error| panic!("{title}: {query}: {error:?}"));
        let mut found = Vec::new();
        names(&node, &mut found);
        assert!(!found.is_empty(), "{title}: {query}");
        for (name, mut labels) in found {
            if name == "up" {
                continue;
            }
            let family = FAMILIES.iter().find(|family| family.sample_name() == name);
            let family = family.unwrap_or_else(|| panic!("{title}: nothing is called {name}: {query}"));
            // What stands beside a curve must be a label too.
            labels.extend(legend.split("{{").skip(1).map(|part| part.split_once("}}").unwrap().0.to_owned()));
            for label in labels {
                let known = family.labels.contains(&&*label) || OF_PROMETHEUS.contains(&&*label);
                assert!(known, "{title}: {name} has no label {label}: {query}, {legend}");
            }
            if family.kind == Kind::Counter {
                let over_time =
                    ["rate", "increase"].iter().any(|function| query.contains(&format!("{function}({name}")));
                assert!(over_time, "{title}: a counter is asked for as it is: {query}");
            }
            shown.insert(name);
        }
    }
    let mut missing: Vec<_> = FAMILIES.iter().map(Told::sample_name).filter(|name| !shown.contains(name)).collect();
    missing.retain(|name| !NOT_SHOWN.contains(&&**name));
    assert!(missing.is_empty(), "not on the dashboard, nor said to be: {missing:?}");
    assert!(NOT_SHOWN.iter().all(|name| !shown.contains(*name)), "it is shown after all");
}

#[test]
fn the_page_has_every_metric_with_its_labels() {
    for family in FAMILIES {
        let name = family.sample_name();
        let line = PAGE.lines().find(|line| line.starts_with(&format!("| `{name}`")));
        let line = line.unwrap_or_else(|| panic!("docs/understand.md does not name {name}"));
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let labels: Vec<_> =
            cells[2].split(", ").filter(|label| !label.is_empty()).map(|label| label.trim_matches('`')).collect();
        assert_eq!(labels, family.labels, "{line}");
    }
    let named = PAGE.lines().filter_map(|line| line.strip_prefix("| `nacld_")?.split('`').next());
    for name in named {
        assert!(
            FAMILIES.iter().any(|family| family.sample_name() == format!("nacld_{name}")),
            "nothing is called nacld_{name}"
        );
    }
}
