//! Policy tests (`nacld test`) at host level: the examples, exactness against brute force, what is wrong with a file, and the forms in
//! which results are told. And the places that every verb takes beside interfaces.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use nacl_common::{Action, Direction, Packet};
use nacl_daemon::{
    analyze::{Flow, Outcome},
    compile::compile,
    engine::Engine,
    lab::Level,
    policy,
    resolve::{Interface, Layers, Nacl, NoHost, Resolved},
    testing::{self, Result as Became, Suite},
};
use serde_json::Value;
use support::{
    generate::{self, Random},
    policies,
};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn nacld(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nacld"))
        .args(arguments)
        .current_dir(root())
        .env("NO_COLOR", "1")
        .output()
        .expect("nacld")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn resolved(text: &str) -> Resolved {
    let outcome = policy::load("policy.toml", text, &NoHost);
    outcome.resolved.unwrap_or_else(|| panic!("{:?}", outcome.diagnostics))
}

fn suite(text: &str) -> Suite {
    testing::file::read("tests.toml", text).unwrap_or_else(|wrong| panic!("{wrong:?}"))
}

fn run(policy: &Resolved, suite: &Suite) -> Vec<Became> {
    let plans = testing::plan(policy, suite).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    let run = testing::run(policy, suite, &plans, Level::Host, |_, _| ()).expect("it runs");
    run.done.into_iter().map(|done| done.result).collect()
}

#[test]
fn the_examples_hold() {
    let mut files: Vec<String> = fs::read_dir(root().join("config/tests"))
        .expect("config/tests")
        .map(|entry| format!("config/tests/{}", entry.expect("an entry").file_name().to_string_lossy()))
        .collect();
    files.sort();
    assert!(files.len() > 1, "{files:?}");
    let arguments: Vec<&str> = ["test", "--show-held"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let output = nacld(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("0 failed, 0 skipped"), "{}", text(&output.stdout));
}

/// What becomes of every single flow of a test, asked one by one.
fn one_by_one(
    interface: &Interface,
    protocol: u8,
    addresses: &[std::net::IpAddr],
    ports: (u16, u16),
    clients: (u16, u16),
) -> BTreeMap<&'static str, BTreeSet<u16>> {
    let compiled = compile(interface, None).expect("it compiles");
    let mut engine = Engine::new(interface, &compiled);
    let mut found: BTreeMap<&'static str, BTreeSet<u16>> = BTreeMap::new();
    for source in addresses {
        let here = if source.is_ipv4() { [10, 0, 0, 10].into() } else { [0xfd00, 0, 0, 0, 0, 0, 0, 10].into() };
        for dport in ports.0..=ports.1 {
            for sport in clients.0..=clients.1 {
                let flow = Flow { protocol, source: *source, destination: here, sport, dport };
                engine.forget();
                let mut pass = |way, packet: &Packet| engine.judge(way, packet).action == Action::Allow;
                let request = pass(Direction::Inbound, &flow.request().expect("a packet"));
                let reply = flow.reply().expect("a packet").is_none_or(|packet| pass(Direction::Outbound, &packet));
                let outcome = match (request, reply) {
                    (false, _) => Outcome::RequestDenied,
                    (true, false) => Outcome::ReplyDenied,
                    (true, true) => Outcome::Works,
                };
                found.entry(testing::name(outcome)).or_default().insert(sport);
            }
        }
    }
    found
}

/// The whole range is judged and not a sample: what is said of a range is what every flow of it says for itself.
#[test]
fn a_range_is_judged_as_each_of_its_flows_is() {
    let mut met: BTreeMap<usize, u32> = BTreeMap::new();
    for seed in 0..400 {
        let mut random = Random(seed);
        let nacl = generate::interface(&mut random, 6, 6);
        let mut interface = generate::layered(&mut random, nacl);
        // Mostly something passes, so that there are replies and edges to be found.
        let mut own = Nacl::clone(&interface.nacl);
        for (list, times) in [(&mut own.inbound, 2), (&mut own.outbound, 3)] {
            if !random.once_in(times) {
                list.push(policies::rule(32000, Action::Allow, None, "0.0.0.0/0"));
                list.push(policies::rule(32001, Action::Allow, None, "::/0"));
            }
        }
        interface.nacl = Arc::new(own);
        if !random.once_in(3) {
            (interface.groups, interface.layers) = (None, Layers::Both);
        }
        // Which end is here, is told by `here`.
        interface.addresses.clear();
        interface.subnet_cidrs.clear();
        let rules: Vec<_> = interface.nacl.inbound.iter().chain(&interface.nacl.outbound).cloned().collect();
        let Some(rule) = rules.get(random.below(rules.len().max(1) as u64) as usize) else { continue };
        // Around an edge of a rule, where neighbours may be told apart.
        let net = ipnet::IpNet::new(rule.cidr.network(), rule.cidr.max_prefix_len() - 2).expect("a network").trunc();
        let addresses: Vec<_> = match net {
            ipnet::IpNet::V4(net) => {
                (0..4).map(|at| std::net::Ipv4Addr::from(u32::from(net.network()) + at).into()).collect()
            }
            ipnet::IpNet::V6(net) => {
                (0..4).map(|at| std::net::Ipv6Addr::from(u128::from(net.network()) + at).into()).collect()
            }
        };
        let protocol = if random.once_in(3) { 17 } else { 6 };
        let edge = |random: &mut Random, wide: u16| {
            let all: Vec<u16> =
                rules.iter().filter_map(|rule| rule.ports).flat_map(|(first, last)| [first, last]).collect();
            let at = if all.is_empty() { 443 } else { *random.pick(&all) };
            let first = at.saturating_sub(wide / 2);
            (first, first.saturating_add(wide))
        };
        let (ports, clients) = (edge(&mut random, 2), edge(&mut random, 60));
        let expected = one_by_one(&interface, protocol, &addresses, ports, clients);
        *met.entry(expected.len()).or_default() += 1;
        let mut policy = resolved("version = 1\n[interface.eth0]\nnacl = \"default\"\n");
        policy.interfaces.insert("eth0".into(), interface);
        for wanted in ["allowed", "denied", "reply-denied"] {
            let name = if protocol == 6 { "tcp" } else { "udp" };
            let file = format!(
                "[[test]]\nfrom = \"{net}\"\nprotocol = \"{name}\"\nport = \"{}-{}\"\nclient_port = \"{}-{}\"\nexpect = \"{wanted}\"\n",
                ports.0, ports.1, clients.0, clients.1
            );
            let became = run(&policy, &suite(&file)).remove(0);
            let holds = expected.len() == 1 && expected.contains_key(wanted);
            match became {
                Became::Held => assert!(holds, "seed {seed}: {wanted} holds, and one by one {expected:?}"),
                Became::Skipped(why) => panic!("seed {seed}: {why}"),
                Became::Failed(failure) => {
                    assert!(!holds, "seed {seed}: {}", failure.message);
                    let mut told: BTreeMap<&str, BTreeSet<u16>> = BTreeMap::new();
                    for seen in &failure.seen {
                        let own = told.entry(testing::name(seen.outcome)).or_default();
                        own.extend(seen.client_ports.iter().flat_map(|(first, last)| *first..=*last));
                    }
                    assert_eq!(told, expected, "seed {seed}");
                }
            }
        }
    }
    // Something has to be told apart for this to say anything.
    assert!(met.iter().filter(|(kinds, _)| **kinds > 1).map(|(_, count)| count).sum::<u32>() > 10, "{met:?}");
}

const NO_INTERFACE: &str = r#"version = 1
[vpc]
cidrs = ["10.0.0.0/16"]
[subnet.private]
cidrs = ["10.0.2.0/24"]
nacl = "web"
[nacl.web]
id = "acl-0a1b2c3d4e5f60718"
inbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" }]
outbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "32768-65535", destination = "0.0.0.0/0" }]
[security_group.app]
inbound = [{ protocol = "tcp", ports = 443, source = "192.0.2.0/24" }]
outbound = []
[eni.server]
addresses = ["10.0.2.10"]
subnet = "private"
security_groups = ["app"]
[eni.bare]
addresses = ["10.0.9.9"]
"#;

#[test]
fn places_stand_for_interfaces() {
    let policy = resolved(NO_INTERFACE);
    let tests = suite(
        r#"lines = [
  "tcp 192.0.2.7:windows to eni:server:443: allowed",
  "tcp 192.0.2.7:windows to here:443 at eni:server: allowed by nacl web inbound 100, app inbound 1",
  "tcp 198.51.100.7:windows to here:443 at eni:server: denied by inbound sg *",
  "tcp 198.51.100.7:windows to here:443 at subnet:private: allowed",
  "tcp 198.51.100.7:windows to here:443 at nacl:web: allowed by nacl web inbound 100",
  "tcp 198.51.100.7:windows-xp to here:443 at nacl:web: reply-denied by nacl web outbound *",
  "tcp 192.0.2.7 to here:443 at sg:app: allowed by sg app inbound 1",
  "tcp here to 192.0.2.7:443 at sg:app: denied by *",
  "tcp 10.0.2.9 to here:443 at subnet:private: allowed by same-subnet",
]"#,
    );
    for (test, became) in tests.tests.iter().zip(run(&policy, &tests)) {
        assert!(matches!(became, Became::Held), "{}: {became:?}", test.name);
    }
    let error = |name: Option<&str>| policy.named_interface(name).expect_err("there is none").to_string();
    assert_eq!(
        error(None),
        "which interface? the policy policy.toml has none, but these can be named in its place: \
         eni:bare, eni:server, subnet:private, nacl:web, sg:app"
    );
    assert_eq!(error(Some("nacl:wbe")), "the policy policy.toml has no network ACL \"wbe\"; it has web");
    assert!(error(Some("eth0")).contains("has no interface \"eth0\"; it has none, but"), "{}", error(Some("eth0")));
    assert!(
        error(Some("eni:bare")).starts_with("nothing judges at eni:bare of the policy"),
        "{}",
        error(Some("eni:bare"))
    );
}

/// A directory with files in it.
fn files(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("a file");
    }
    directory
}

fn within(directory: &TempDir, name: &str) -> String {
    directory.path().join(name).display().to_string()
}

#[test]
fn verbs_take_places() {
    let directory = files(&[("policy.toml", NO_INTERFACE)]);
    let policy = within(&directory, "policy.toml");
    let explain = nacld(&["explain", "-c", &policy, "-i", "nacl:web", "tcp", "198.51.100.7:52345", "10.0.2.10:443"]);
    assert!(text(&explain.stdout).contains("Both legs pass"), "{}{}", text(&explain.stdout), text(&explain.stderr));
    // Without a name the way is followed.
    let way = nacld(&["explain", "-c", &policy, "tcp", "198.51.100.7:52345", "10.0.2.10:443", "--exit-code"]);
    assert_eq!(way.status.code(), Some(5), "{}", text(&way.stdout));
    assert!(text(&way.stdout).contains("security group app"), "{}", text(&way.stdout));
    let search = nacld(&["search", &policy, "inbound", "--port", "443", "--json"]);
    let found: Value = serde_json::from_slice(&search.stdout).expect("JSON");
    let places: Vec<_> =
        found["interfaces"].as_array().expect("a list").iter().map(|one| one["interface"].clone()).collect();
    assert_eq!(places, ["nacl:web", "sg:app"]);
}

#[test]
fn objects_are_compared_where_there_are_no_interfaces() {
    // Renamed with the same id, a rule narrowed, a group opened, and the subnet moved to another network ACL.
    let new = NO_INTERFACE
        .replace("[nacl.web]", "[nacl.frontend]")
        .replace("nacl = \"web\"", "nacl = \"other\"")
        .replace("32768-65535", "49152-65535")
        .replace("source = \"192.0.2.0/24\"", "source = \"0.0.0.0/0\"")
        + "[nacl.other]\nid = \"acl-0b1b2c3d4e5f60718\"\ninbound = []\noutbound = []\n";
    let directory = files(&[("old.toml", NO_INTERFACE), ("new.toml", &new)]);
    let (old, new) = (within(&directory, "old.toml"), within(&directory, "new.toml"));
    let output = nacld(&["diff", &old, &new, "--json", "--exit-code"]);
    assert_eq!(output.status.code(), Some(8), "{}", text(&output.stderr));
    let diff: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(diff["standing_alone"], true);
    assert_eq!(diff["only_in_new"], serde_json::json!(["nacl:other"]));
    assert_eq!(diff["only_in_old"], serde_json::json!([]));
    let place = |name: &str| -> &Value {
        let all = diff["interfaces"].as_array().expect("a list");
        all.iter().find(|one| one["interface"] == name).unwrap_or_else(|| panic!("{name}: {diff:#}"))
    };
    let changes = |name: &str| -> Vec<(String, String)> {
        let changes = place(name)["changes"].as_array().expect("a list").iter();
        changes
            .map(|one| (one["direction"].as_str().unwrap().to_owned(), one["change"].as_str().unwrap().to_owned()))
            .collect()
    };
    assert_eq!(changes("nacl:frontend"), [("outbound".to_owned(), "denied".to_owned())]);
    assert_eq!(place("nacl:frontend")["settings"][0]["name"], "name");
    assert_eq!(changes("sg:app"), [("inbound".to_owned(), "admitted".to_owned())]);
    assert_eq!(
        place("subnet:private")["settings"],
        serde_json::json!([{ "name": "network ACL", "before": "frontend", "after": "other" }])
    );
    assert!(changes("subnet:private").contains(&("inbound".to_owned(), "denied".to_owned())));
    // Linux clients were answered on all their ports, and are no more.
    let replies = diff["replies"].as_array().expect("a list");
    assert!(replies.iter().any(|one| one["nacl"] == "frontend" && one["code"] == "N006"), "{:#}", diff["replies"]);
    let same = nacld(&["diff", &old, &old, "--exit-code"]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));

    let markdown = nacld(&["diff", &old, &new, "--format", "markdown"]);
    let markdown = text(&markdown.stdout);
    for part in
        ["### Newly admitted", "### Newly cut", "### Replies that break", "`nacl:frontend`", "<details>", "</details>"]
    {
        assert!(markdown.contains(part), "{part}: {markdown}");
    }
    let head = markdown.split("<details>").next().expect("a head");
    assert!(head.lines().count() < 40, "{head}");
}

#[test]
fn all_that_is_wrong_with_a_file_is_told_at_once() {
    let tests = r#"policy = "policy.toml"
clinet = "linux"
lines = [
  "tcp 198.51.100.7 here:443: allowed",
  "tcp 198.51.100.7 to here:443 allowed",
  "tcp 198.51.100.7 to here:443: perhaps",
  "tcp 198.51.100.7:toaster to here:443: allowed",
  "tcp 198.51.100.7 to here: allowed",
  "udp 198.51.100.7 to here:53: denied by rule seven",
]
[[test]]
from = "198.51.100.300/24"
protocol = "tpc"
port = 70000
expect = "alowed"
[[test]]
protocol = "tcp"
port = 443
client = "linux"
client_port = 50000
expect = "allowed"
"#;
    let directory = files(&[("policy.toml", NO_INTERFACE), ("tests.toml", tests)]);
    let output = nacld(&["test", &within(&directory, "tests.toml")]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""), "{said}");
    for (line, part) in [
        (2, "did you mean `client`?"),
        (4, "stands the word \"to\""),
        (5, "nothing is expected"),
        (6, "\"perhaps\" is neither"),
        (7, "neither a kind of client"),
        (8, "needs the port of the service"),
        (9, "names nothing that decides"),
        (12, "neither an address nor a network"),
        (13, "\"tpc\" is no protocol"),
        (14, "70000 is no port"),
        (15, "did you mean \"allowed\"?"),
        (16, "neither `from` nor `to`"),
        (20, "both `client` and `client_port`"),
    ] {
        assert!(said.contains(part) && said.contains(&format!("tests.toml:{line}:")), "line {line}, {part}: {said}");
    }
    // What only the policy tells.
    let tests = "policy = \"policy.toml\"\nlines = [\n\"tcp 1.2.3.4 to eni:sever:443: allowed\",\n\"tcp 1.2.3.4 to 5.6.7.8:443: allowed\",\n\
        \"tcp 1.2.3.4 to nacl:web:443: allowed\",\n\"tcp 1.2.3.4 to here:443 at eth7: allowed\",\n]\n";
    let directory = files(&[("policy.toml", NO_INTERFACE), ("tests.toml", tests)]);
    let output = nacld(&["test", &within(&directory, "tests.toml")]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (line, part) in [
        (3, "has no interface elsewhere ([eni]) \"sever\"; it has bare, server"),
        (4, "which interface?"),
        (5, "is a list and no end of a flow"),
        (6, "has no interface \"eth7\""),
    ] {
        assert!(said.contains(part) && said.contains(&format!("tests.toml:{line}:")), "line {line}, {part}: {said}");
    }
}

/// Whatever a file holds, it is read or refused with a place inside it.
#[test]
fn broken_files_are_refused_with_a_place() {
    let policy = resolved(&fs::read_to_string(root().join("config/nacld.toml")).expect("a policy"));
    let whole = fs::read_to_string(root().join("config/tests/nacld.toml")).expect("a test file");
    let mut refused = 0;
    let mut look = |text: &str| match testing::file::read("tests.toml", text) {
        Ok(suite) => drop(testing::plan(&policy, &suite)),
        Err(wrong) => {
            refused += 1;
            assert!(!wrong.is_empty());
            assert!(
                wrong.iter().all(|one| one.span.end <= text.len() && text.is_char_boundary(one.span.start)),
                "{wrong:?}"
            );
        }
    };
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        look(&whole[..end]);
    }
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let mut bytes = whole.clone().into_bytes();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = *random.pick(b"\"'[]{}=:,/*-. \n\0x9");
        }
        look(&String::from_utf8_lossy(&bytes));
    }
    for value in
        ["1e999", "[[[[[[[[]]]]]]]]", "-1", "99999999999999999999", "{ a = { b = {} } }", "\"\"", "2026-11-22", "nan"]
    {
        for key in ["policy", "at", "client", "mode", "layers", "lines", "test"] {
            look(&format!("{key} = {value}\n"));
        }
        for key in [
            "name",
            "at",
            "from",
            "to",
            "protocol",
            "port",
            "icmp",
            "client",
            "client_port",
            "expect",
            "by",
            "mode",
            "layers",
        ] {
            look(&format!("[[test]]\n{key} = {value}\n"));
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn results_come_in_the_forms_of_pipelines() {
    let tests = "policy = \"policy.toml\"\nat = \"nacl:web\"\nlines = [\n\"tcp 198.51.100.7:linux to here:443: allowed\",\n\
        \"tcp 198.51.100.7:any to here:443: allowed\",\n]\n\
        [[test]]\nname = \"a <b> & # \\\"c\\\"\"\nfrom = \"198.51.100.7\"\nprotocol = \"tcp\"\nport = 22\nexpect = \"allowed\"\n\
        [[test]]\nname = \"cannot be known\"\nat = \"eni:odd\"\nfrom = \"198.51.100.7\"\nprotocol = \"tcp\"\nport = 22\nexpect = \"allowed\"\n";
    let odd = "[eni.odd]\naddresses = [\"10.0.2.77\"]\nsubnet = \"private\"\nsecurity_groups = [\"sg-nowhere\"]\n";
    let directory = files(&[("policy.toml", &format!("{NO_INTERFACE}{odd}")), ("tests.toml", tests)]);
    let file = within(&directory, "tests.toml");
    let of = |format: &str| {
        let output = nacld(&["test", "--format", format, &file]);
        assert_eq!(output.status.code(), Some(7), "{format}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let plain = of("text");
    assert!(plain.contains("1 held, 2 failed, 1 skipped"), "{plain}");
    // Which clients are not answered, both legs, the line of the rule and the fix.
    for part in
        ["reply-denied by outbound *", "1024-32767", "Smallest fix", "policy.toml:9", "(as expected)", "(not expected)"]
    {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    let json: Value = serde_json::from_str(&of("json")).expect("JSON");
    assert_eq!(json["tally"], serde_json::json!({ "held": 1, "failed": 2, "skipped": 1 }));
    let results: Vec<_> = json["suites"][0]["tests"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["held", "failed", "failed", "skipped"]);
    assert_eq!(json["suites"][0]["tests"][1]["explained"]["outcome"], "reply-denied");
    assert_eq!(json["suites"][0]["tests"][1]["line"], 5);

    let tap = of("tap");
    let lines: Vec<&str> = tap.lines().collect();
    assert_eq!(lines[..2], ["TAP version 14", "1..4"]);
    assert!(lines.contains(&"ok 1 - tcp 198.51.100.7:linux to here:443: allowed"), "{tap}");
    assert!(lines.contains(&"not ok 3 - a <b> & \\# \"c\""), "{tap}");
    assert!(
        lines.iter().any(|line| line.starts_with("ok 4 - cannot be known # SKIP eni:odd has security group")),
        "{tap}"
    );

    let junit = of("junit");
    let report = quick_junit::Report::deserialize_from_str(&junit).expect("JUnit XML");
    assert_eq!((report.tests, report.failures), (4, 2), "{junit}");
    assert_eq!(report.test_suites[0].test_cases[2].name.as_str(), "a <b> & # \"c\"");

    let filtered = nacld(&["test", "--filter", ":linux", &file]);
    assert_eq!(filtered.status.code(), Some(0), "{}", text(&filtered.stdout));
    let none = nacld(&["test", "--filter", "nobody", &file]);
    assert_eq!(none.status.code(), Some(2), "{}", text(&none.stderr));
}

#[test]
fn documents_stand_for_policies() {
    let plan = "config/import/terraform/plan-change.json";
    let output = nacld(&["diff", plan, "--json", "--exit-code"]);
    assert_eq!(output.status.code(), Some(8), "{}{}", text(&output.stdout), text(&output.stderr));
    let halves: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(halves["standing_alone"], true);
    let changed = |diff: &Value| -> Vec<(String, String)> {
        let places = diff["interfaces"].as_array().expect("a list").iter();
        let changes = places.flat_map(|place| {
            place["changes"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|change| (place["interface"].clone(), change["change"].clone()))
        });
        let text = |value: Value| value.as_str().expect("a text").to_owned();
        changes.map(|(place, change)| (text(place), text(change))).collect()
    };
    assert!(!changed(&halves).is_empty(), "{halves:#}");
    // The state that the plan found says the same as its first half, and a policy that is written of it too.
    let across = nacld(&["diff", "config/import/terraform/state.json", plan, "--json"]);
    let across: Value = serde_json::from_slice(&across.stdout).expect("JSON");
    assert_eq!(changed(&across), changed(&halves));
    let new = "config/import/terraform/plan-new.json";
    let made = nacld(&["diff", new, "--format", "markdown"]);
    let made = text(&made.stdout);
    assert!(made.contains("comes") && made.contains("### Not known before it is applied"), "{made}");
    // Every verb takes one: a policy's whole life without a policy file.
    let check = nacld(&["check", plan]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    let fix = nacld(&["check", "--fix", plan]);
    assert_eq!(fix.status.code(), Some(2), "{}", text(&fix.stderr));
    for arguments in [&["diff", "config/nacld.toml"][..], &["diff", "config/import/terraform/state.json"]] {
        let output = nacld(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("name two files, or one Terraform plan"), "{}", text(&output.stderr));
    }
    let directory =
        files(&[("broken.json", "{\"planned_values\": [1, \"format_version\""), ("odd.json", "{\"Resources\": 7}")]);
    for name in ["broken.json", "odd.json"] {
        let output = nacld(&["check", &within(&directory, name)]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error[import]: ") && said.contains(name), "{said}");
    }
}

/// Ten thousand expectations are an ordinary number for one run.
#[test]
fn many_expectations_are_one_run() {
    let lines: Vec<String> = (0..10_000_u32)
        .map(|at| {
            let address = std::net::Ipv4Addr::from(0xc633_6400 + at);
            format!("\"tcp {address}:linux to here:443: allowed\"")
        })
        .collect();
    let suite = suite(&format!("at = \"nacl:web\"\nlines = [\n{}\n]\n", lines.join(",\n")));
    let start = std::time::Instant::now();
    let all = run(&resolved(NO_INTERFACE), &suite);
    println!("10,000 expectations in {:.2} s", start.elapsed().as_secs_f64());
    assert_eq!(all.iter().filter(|became| matches!(became, Became::Held)).count(), 10_000);
}
