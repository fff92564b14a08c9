//! What AWS's tools answer, into a policy and out again. The documents stand in `config/import/aws`; `SNAPSHOTS=overwrite` writes
//! what is expected of them anew.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use nacl_daemon::{
    analyze, export,
    import::{self, Document, Problem, Wanted, aws, tree::Findings},
    inventory::{
        Because, Inventory, read,
        write::{Here, Written},
    },
    policy::{self, Severity},
    report::{self, import::Work},
    resolve::{NoHost, Resolved},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use snapbox::{Assert, Data, IntoData};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/import/aws")
}

fn document(file: &str, text: impl Into<String>) -> Document {
    Document { file: Arc::from(file), text: text.into() }
}

/// The documents of a folder, by name.
fn folder(name: &str) -> Vec<Document> {
    let mut found = Vec::new();
    for entry in fs::read_dir(corpus().join(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            found.push(document(&file, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort_by(|one, other| one.file.cmp(&other.file));
    assert!(!found.is_empty(), "{name} is empty");
    found
}

const FOLDERS: [&str; 4] = ["old", "peered", "pieces", "two-tier"];

fn inventory(documents: &[Document]) -> Result<Inventory, Vec<Problem>> {
    let findings = Findings::default();
    let mut inventory = aws::read(documents, &[], &findings);
    inventory.notes.extend(findings.notes.into_inner());
    let problems = findings.problems.into_inner();
    if problems.is_empty() { Ok(inventory) } else { Err(problems) }
}

fn import(documents: &[Document], wanted: &Wanted) -> Result<Written, Vec<Problem>> {
    let findings = Findings::default();
    let inventory = aws::read(documents, &[], &findings);
    import::policy(inventory, findings, wanted)
}

fn load(text: &str) -> Resolved {
    let outcome = policy::load("policy.toml", text, &NoHost);
    let shown = || report::diagnostics::render("policy.toml", text, &outcome.diagnostics, false);
    assert_eq!(outcome.count(Severity::Error), 0, "\n{text}\n{}", shown());
    outcome.resolved.unwrap()
}

fn on(device: &str, of: &str) -> Wanted {
    Wanted { here: vec![Here { device: device.to_owned(), of: of.to_owned() }], ..Wanted::default() }
}

/// Without colour.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn expect(path: &Path, found: String) -> Result<(), String> {
    let expected = Data::read_from(path, None).raw();
    let assert = Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV);
    assert.try_eq(Some(&path.display()), found.into_data().raw(), expected).map_err(|error| error.to_string())
}

#[test]
fn every_folder_becomes_the_policy_beside_it() {
    let mut failed = Vec::new();
    for name in FOLDERS {
        let written = import(&folder(name), &Wanted::default()).unwrap();
        load(&written.policy);
        failed.extend(expect(&corpus().join(name).join("policy.toml"), written.policy).err());
        let notes = plain(&report::import::notes(Work::Import, &written.notes));
        failed.extend(expect(&corpus().join(name).join("notes.txt"), notes).err());
    }
    let folders = fs::read_dir(corpus()).unwrap().count();
    assert_eq!(folders, FOLDERS.len() + 1, "a folder is not tested");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_broken_document_is_told_so_in_these_words() {
    let mut failed = Vec::new();
    for document in folder("broken") {
        let problems = import(std::slice::from_ref(&document), &Wanted::default()).unwrap_err();
        assert!(!problems.is_empty(), "{}", document.file);
        let path = corpus().join("broken").join(document.file.replace(".json", ".expected"));
        failed.extend(expect(&path, plain(&report::import::problems(&problems))).err());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_order_of_documents_and_of_what_is_in_them_says_nothing() {
    for name in FOLDERS {
        let mut documents = folder(name);
        let first = import(&documents, &Wanted::default()).unwrap().policy;
        documents.reverse();
        for document in &mut documents {
            fn reverse(value: &mut Value) {
                match value {
                    Value::Array(list) => {
                        list.reverse();
                        list.iter_mut().for_each(reverse);
                    }
                    Value::Object(map) => map.values_mut().for_each(reverse),
                    _ => {}
                }
            }
            let values = serde_json::Deserializer::from_str(&document.text).into_iter::<Value>();
            let mut values: Vec<_> = values.map(Result::unwrap).collect();
            // A page that says that another follows is not the last one.
            if !document.text.contains("NextToken") {
                values.reverse();
            }
            values.iter_mut().for_each(reverse);
            document.text = values.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        }
        assert_eq!(import(&documents, &Wanted::default()).unwrap().policy, first, "{name}");
    }
}

/// AWS always tells ports; who cut a recording down is told what is taken for them. One of two is no recording.
#[test]
fn rules_without_ports_are_told() {
    let answer = |permission: Value| {
        let group = json!({"GroupId": "sg-0a1", "IpPermissions": [permission], "IpPermissionsEgress": []});
        let entry = json!({"RuleNumber": 100, "Egress": false, "RuleAction": "ALLOW", "Protocol": 6, "CidrBlock": "10.0.0.0/8"});
        let acl = json!({"NetworkAclId": "acl-0a1", "Entries": [entry]});
        [document("x.json", json!({"SecurityGroups": [group], "NetworkAcls": [acl]}).to_string())]
    };
    let cut = json!({"IpProtocol": "udp", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]});
    let found = inventory(&answer(cut)).unwrap();
    let told: Vec<_> = found.notes.iter().filter(|note| note.message.contains("all are meant")).collect();
    assert_eq!(told.len(), 2, "{:?}", found.notes);
    let traffic = found.groups[0].rules.as_ref().unwrap()[0].traffic;
    assert_eq!((traffic.ports, found.nacls[0].entries[0].traffic.ports), (None, None));
    let half = json!({"IpProtocol": "udp", "FromPort": 53, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]});
    assert_eq!(inventory(&answer(half)).unwrap_err().len(), 1);
}

#[test]
fn what_is_exported_is_what_was_imported() {
    for name in FOLDERS {
        let inventory = inventory(&folder(name)).unwrap();
        let policy = load(&import(&folder(name), &Wanted::default()).unwrap().policy);
        assert_eq!(read::read(&policy).canonical(), inventory.clone().canonical(), "{name}: the policy");
        let exported = export::aws::write(&read::read(&policy));
        let made_up = exported.notes.iter().map(|note| note.message.as_str()).collect::<Vec<_>>();
        let expected = if name == "pieces" { &["it has no id of AWS's, and stands there as default"][..] } else { &[] };
        assert_eq!(made_up, expected, "{name}");
        let again = self::inventory(&[document("again.json", exported.text.clone())]).unwrap();
        assert_eq!(again.canonical(), inventory.clone().canonical(), "{name}: {}", exported.text);
    }
}

/// The two tiers on a device of this machine: the same packets pass before and after a round trip, and what passes is what AWS
/// would let pass.
#[test]
fn two_tiers_judge_as_they_do_at_aws() {
    let wanted = on("eth0", "web-1");
    let policy = load(&import(&folder("two-tier"), &wanted).unwrap().policy);
    let exported = export::aws::write(&read::read(&policy)).text;
    let again =
        load(&import(&[document("again.json", exported)], &on("eth0", "eni-0a1b2c3d4e5f60751")).unwrap().policy);
    let difference = analyze::diff(&policy, &again, None, true).unwrap();
    assert!(difference.is_empty(), "{difference:#?}");
    let interface = &policy.interfaces["eth0"];
    assert_eq!(interface.id.as_deref(), Some("eni-0a1b2c3d4e5f60751"));
    assert_eq!(interface.nacl.id.as_deref(), Some("acl-0a1b2c3d4e5f60702"));
    let admitted = |direction: &str, remote: &str, port: u16| {
        let search = analyze::Search {
            direction: Some(if direction == "in" {
                nacl_common::Direction::Inbound
            } else {
                nacl_common::Direction::Outbound
            }),
            remotes: vec![remote.parse().unwrap()],
            protocols: vec![6],
            ports: vec![format!("{port}").parse().unwrap()],
            ..analyze::Search::default()
        };
        !analyze::search(interface, &search).unwrap().found.is_empty()
    };
    assert!(admitted("in", "10.0.1.20/32", 8080), "the balancer is a member of its group");
    assert!(!admitted("in", "10.0.1.21/32", 8080), "a neighbour of the balancer's is not");
    assert!(!admitted("in", "192.0.2.7/32", 22), "the group lets the office in, and the network ACL does not");
    assert!(!admitted("out", "203.0.113.80/32", 443), "nothing is known to be in the list of S3");
}

#[test]
fn one_vpc_of_several_can_be_taken() {
    let only = |vpc: &str| Wanted { vpcs: vec![vpc.to_owned()], ..Wanted::default() };
    for name in ["data", "vpc-0b1b2c3d4e5f60718"] {
        let policy = load(&import(&folder("peered"), &only(name)).unwrap().policy);
        assert_eq!(policy.subnets.len(), 1);
        assert_eq!(policy.groups.keys().collect::<Vec<_>>(), ["database"]);
        // Who has the group of the other VPC is still let in.
        let rule = &policy.groups["database"].inbound;
        let members: Vec<_> = rule.iter().flat_map(|rule| &rule.cidrs).map(ToString::to_string).collect();
        assert_eq!(members, ["10.0.1.7/32"]);
    }
    let problems = import(&folder("peered"), &only("dta")).unwrap_err();
    assert_eq!(problems[0].message, "the documents tell of no VPC \"dta\"");
    assert!(problems[0].help.as_ref().unwrap().contains("vpc-0a1b2c3d4e5f60718"));
}

#[test]
fn entries_find_their_list_by_argument_too() {
    let findings = Findings::default();
    let documents: Vec<_> =
        folder("two-tier").into_iter().filter(|document| !document.file.starts_with("pl-")).collect();
    let entries = r#"{"Entries": [{"Cidr": "198.51.100.0/24"}]}"#;
    let named = [("pl-0a1b2c3d4e5f60718".to_owned(), document("whatever.json", entries))];
    let inventory = aws::read(&documents, &named, &findings);
    let list = inventory.prefix_lists.iter().find(|list| list.identity.key == named[0].0).unwrap();
    assert_eq!(list.entries.as_ref().unwrap()[0].cidr.to_string(), "198.51.100.0/24");
    // Without it the list is only named, and so it is told.
    let unnamed = import(&documents, &Wanted::default()).unwrap();
    let told = |note: &&nacl_daemon::inventory::Note| {
        note.because == Because::NotHere && note.message.contains("pl-0a1b2c3d4e5f60718")
    };
    assert_eq!(unnamed.notes.iter().filter(told).count(), 1);
}

#[test]
fn rules_that_two_answers_tell_of_are_one_and_those_of_one_are_told() {
    let group = json!({"SecurityGroups": [{"GroupId": "sg-0a1", "IpPermissions": [
        {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "192.0.2.0/24"}]}
    ], "IpPermissionsEgress": []}]});
    let rule = |id: &str, cidr: &str| {
        json!({"SecurityGroupRuleId": id, "GroupId": "sg-0a1", "IsEgress": false, "IpProtocol": "6", "FromPort": 80,
               "ToPort": 80, "CidrIpv4": cidr})
    };
    // Host bits are no difference (S16).
    let rules = json!({"SecurityGroupRules": [rule("sgr-1", "10.1.2.3/8"), rule("sgr-2", "203.0.113.0/24")]});
    let documents = [document("g.json", group.to_string()), document("r.json", rules.to_string())];
    let inventory = inventory(&documents).unwrap();
    let rules = inventory.groups[0].rules.as_ref().unwrap();
    let ids: Vec<_> = rules.iter().map(|rule| rule.id.as_deref()).collect();
    assert_eq!(ids, [Some("sgr-1"), None, Some("sgr-2")]);
    let notes: Vec<_> = inventory.notes.iter().map(|note| note.place.to_string()).collect();
    assert_eq!(notes, ["r.json: SecurityGroupRules[1]", "g.json: SecurityGroups[0].IpPermissions[0].IpRanges[1]"]);
}

/// Cut anywhere, a document is refused with its place, or is whole.
#[test]
fn a_document_that_ends_early_is_refused() {
    for text in [&folder("old")[0].text, &folder("pieces")[2].text] {
        let mut refused = 0;
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            match import(&[document("cut.json", &text[..end])], &Wanted::default()) {
                Ok(written) => drop(load(&written.policy)),
                Err(problems) => {
                    assert!(problems.iter().all(|problem| &*problem.place.file == "cut.json"), "{problems:?}");
                    refused += 1;
                }
            }
        }
        assert!(refused > text.len() / 2, "only {refused} of {}", text.len());
    }
}

#[test]
fn hostile_documents_are_refused_and_cost_nothing() {
    let deep = "[".repeat(200_000);
    let nested = format!("{}1{}", r#"{"Tags":"#.repeat(100_000), "}".repeat(100_000));
    for text in [
        deep.as_str(),
        nested.as_str(),
        "",
        "null",
        "7",
        r#""acl""#,
        "{}",
        r#"{"NetworkAcls": 1e999}"#,
        r#"{"NetworkAcls": [{"NetworkAclId": "acl-1", "Entries": [{"RuleNumber": 99999999999999999999999, "Protocol": "6",
            "RuleAction": "allow", "Egress": false, "CidrBlock": "10.0.0.0/8", "PortRange": {"From": -1e308, "To": 1e308}}]}]}"#,
        r#"{"Subnets": [{"SubnetId": "subnet-1", "CidrBlock": "10.0.0.0/4294967296"}]}"#,
        r#"{"Subnets": [{"SubnetId": ""}]}"#,
        "{\"Subnets\": [{\"SubnetId\": \"\\u0000\\u001b[31m\", \"CidrBlock\": 7}]}",
    ] {
        let problems = import(&[document("hostile.json", text)], &Wanted::default()).unwrap_err();
        let shown = report::import::problems(&problems);
        assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()), "{text:.80}");
        assert!(!plain(&shown).contains('\u{1b}'), "a document must not steer the terminal: {shown:?}");
    }
    // Many things of one name, many links to nowhere: no more than what they are.
    let many: Vec<_> = (0..5000)
        .map(|at| {
            json!({"GroupId": format!("sg-{at:017x}"), "GroupName": "web", "VpcId": "vpc-1", "IpPermissions": [
                {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": format!("sg-f{at:016x}")}]}]})
        })
        .collect();
    let text = json!({ "SecurityGroups": many }).to_string();
    let written = import(&[document("many.json", text)], &Wanted::default()).unwrap();
    assert_eq!(written.policy.matches("\nname = \"web\"").count(), 5000);
}

/// Replaces the value at one place of a tree by another.
fn replace(value: &mut Value, at: &mut usize, with: &Value) -> bool {
    if *at == 0 {
        *value = with.clone();
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|item| replace(item, at, with)),
        Value::Object(map) => map.values_mut().any(|item| replace(item, at, with)),
        _ => false,
    }
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2..70_000_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "-1",
            "tcp",
            "::/0",
            "0.0.0.0/0",
            "10.0.1.0/24",
            "sg-0a1b2c3d4e5f60732",
            "vpc-1",
            "true"
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[], {}, null, 1, "x"])),
        Just(json!({"GroupId": "sg-1", "VpcId": "vpc-1", "Cidr": "10.0.0.0/8"})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_anywhere_is_read_or_refused(at in any::<prop::sample::Index>(), which in 0..8_usize, with in anything()) {
        let mut documents = folder("two-tier");
        let which = which % documents.len();
        let mut value: Value = serde_json::from_str(&documents[which].text).unwrap();
        let count = documents[which].text.matches([':', ',', '[', '{']).count();
        replace(&mut value, &mut at.index(count), &with);
        documents[which].text = value.to_string();
        match import(&documents, &Wanted::default()) {
            // What is written can be used, whatever it was made of.
            Ok(written) => drop(load(&written.policy)),
            Err(problems) => prop_assert!(!problems.is_empty()),
        }
    }
}
