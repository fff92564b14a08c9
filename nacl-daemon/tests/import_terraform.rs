//! Terraform's documents → inventory: the corpus of `config/import/terraform`, round trips through HCL, and documents that are
//! broken or mean harm.

#[path = "support/inventory.rs"]
mod inventory;

use std::fmt::Write as _;

use inventory::{assert_expected, comparable, corpus, document, replace, size, strange, told};
use nacl_daemon::{
    export,
    import::{
        Document,
        terraform::{self, Half},
        tree::Findings,
    },
    inventory::{Because, Inventory, write},
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(documents: &[Document], half: Half) -> (Inventory, Findings) {
    let findings = Findings::default();
    (terraform::read(documents, half, &findings), findings)
}

fn without_problems(documents: &[Document], half: Half) -> Inventory {
    let (inventory, findings) = read(documents, half);
    assert_eq!(*findings.problems.borrow(), []);
    inventory
}

fn problems(text: &str) -> Vec<String> {
    let (_, findings) = read(&[document("x", text)], Half::Planned);
    let problems = findings.problems.borrow();
    problems.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect()
}

#[test]
fn a_plan_that_makes_everything() {
    let (inventory, findings) = read(&[corpus("terraform/plan-new.json")], Half::Planned);
    assert_expected(&told(&inventory, &findings), "terraform/plan-new.expected");
}

/// Modules with `for_each`, whose resources are all called `this`, and rules with keys of their own.
#[test]
fn a_plan_of_modules() {
    let (inventory, findings) = read(&[corpus("terraform/plan-modules.json")], Half::Planned);
    assert_expected(&told(&inventory, &findings), "terraform/plan-modules.expected");
    // What has no tag is called by its modules too.
    let names: Vec<_> = inventory.subnets.iter().map(|subnet| subnet.identity.names[0].as_str()).collect();
    assert_eq!(names, ["tier-a-this", "tier-b-this"]);
    // Both modules give one group the same rule, which AWS takes once.
    let notes = write::write(inventory, &[]).unwrap().notes;
    let twice = notes.iter().filter(|note| note.message.contains("AWS takes it once")).collect::<Vec<_>>();
    assert_eq!(twice.len(), 1, "{notes:?}");
    assert_eq!(twice[0].place.path, "module.tier[\"b\"].aws_vpc_security_group_ingress_rule.vpn");
}

#[test]
fn what_a_new_plan_found_is_its_data_sources() {
    let inventory = without_problems(&[corpus("terraform/plan-new.json")], Half::Prior);
    assert_eq!((inventory.vpcs.len(), inventory.groups.len(), inventory.prefix_lists.len()), (0, 0, 1));
}

/// A network ACL and a group keep copies of their separate rules: what is removed is in none of them any more, what nobody wrote
/// is still there.
#[test]
fn a_plan_that_changes_separate_rules() {
    let (inventory, findings) = read(&[corpus("terraform/plan-change.json")], Half::Planned);
    assert_expected(&told(&inventory, &findings), "terraform/plan-change.expected");
}

#[test]
fn a_state_and_what_a_plan_found_and_a_raw_state_are_one() {
    let (inventory, findings) = read(&[corpus("terraform/state.json")], Half::State);
    assert_expected(&told(&inventory, &findings), "terraform/state.expected");
    let bare = |mut inventory: Inventory| {
        inventory.notes.clear();
        // Places are the files' own.
        let (text, found) = (told(&inventory, &Findings::default()), inventory.nacls.len());
        assert_eq!(found, 1);
        text
    };
    let state = bare(inventory);
    assert_eq!(bare(without_problems(&[corpus("terraform/plan-change.json")], Half::Prior)), state);
    assert_eq!(bare(without_problems(&[corpus("terraform/terraform.tfstate")], Half::State)), state);
}

#[test]
fn hcl_as_far_as_literals_go() {
    let (inventory, findings) = read(&[corpus("terraform/main.tf")], Half::State);
    assert_expected(&told(&inventory, &findings), "terraform/main.expected");
    // What is left out says its line.
    let notes = findings.notes.borrow();
    let unknown = notes.iter().filter(|note| note.because == Because::Unknown);
    let lines: Vec<Option<u32>> = unknown.map(|note| note.place.line).collect();
    assert!(lines.len() >= 4 && lines.iter().all(Option::is_some), "{lines:?}");
}

#[test]
fn both_halves_of_two_documents_are_told_apart() {
    let plan = corpus("terraform/plan-new.json");
    let again = Document { file: "again.json".into(), text: plan.text.clone() };
    let inventory = without_problems(&[plan, again], Half::Planned);
    // Ids are not known, and addresses are the same: two VPCs all the same.
    assert_eq!(inventory.vpcs.len(), 2);
    assert_ne!(inventory.vpcs[0].identity.key, inventory.vpcs[1].identity.key);
}

#[test]
fn a_plan_is_no_state() {
    let (_, findings) = read(&[corpus("terraform/plan-new.json")], Half::State);
    assert!(findings.problems.borrow()[0].message.contains("this is a plan"));
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_all_at_once() {
    let acl = |entries: Value| {
        let values = json!({"vpc_id": "vpc-1", "ingress": entries});
        let resource = json!({"address": "aws_network_acl.a", "mode": "managed", "type": "aws_network_acl", "name": "a", "values": values});
        json!({"format_version": "1.0", "values": {"root_module": {"resources": [resource]}}}).to_string()
    };
    let entry = |change: &dyn Fn(&mut Value)| {
        let mut entry = json!({"rule_no": 100, "action": "allow", "protocol": "6", "from_port": 1, "to_port": 2,
            "cidr_block": "10.0.0.0/8", "ipv6_cidr_block": ""});
        change(&mut entry);
        entry
    };
    let good = entry(&|_| {});
    assert_eq!(problems(&acl(json!([good]))), Vec::<String>::new());
    let all = problems(&acl(json!([
        entry(&|entry| entry["rule_no"] = json!(32767)),
        entry(&|entry| entry["action"] = json!("maybe")),
        entry(&|entry| entry["protocol"] = json!("warp")),
        entry(&|entry| entry["cidr_block"] = json!("")),
        entry(&|entry| entry["from_port"] = json!(70000)),
        entry(&|entry| entry["from_port"] = json!(5)),
        entry(&|entry| entry["rule_no"] = json!([1])),
        json!("entry"),
    ])));
    let wanted = [
        "ingress[0].rule_no: \"32767\" is not a whole number from 1 to 32766",
        "ingress[1].action: \"maybe\" is not `allow` or `deny`",
        "ingress[2].protocol: \"warp\" is not a protocol",
        "ingress[3]: has to have one of `cidr_block` and `ipv6_cidr_block` (N21)",
        "ingress[4].from_port: \"70000\" is not a whole number from 0 to 65535",
        "ingress[5]: ports 5 to 2 are none",
        "ingress[6].rule_no: a list is not a whole number",
        "ingress[7]: \"entry\" is not an object",
    ];
    for wanted in wanted {
        let wanted = format!("x: aws_network_acl.a.{wanted}");
        assert!(all.iter().any(|problem| problem.starts_with(&wanted)), "{wanted}\n{all:#?}");
    }
    let twice = problems(&acl(json!([good, good])));
    assert!(twice[0].contains("rule 100 stands twice"), "{twice:?}");
}

#[test]
fn documents_of_other_kinds_are_refused() {
    for (text, wanted) in [
        ("{}", "neither a plan nor a state"),
        (r#"{"NetworkAcls":[]}"#, "neither a plan nor a state"),
        (r#"{"format_version":"2.0","values":{}}"#, "version 2.0 of the format of a state"),
        (r#"{"format_version":"7.1","planned_values":{}}"#, "version 7.1 of the format of a plan"),
        (r#"{"format_version":1}"#, "is not a text"),
        (r#"{"version":3,"modules":[]}"#, "version 3 of a state"),
        (r#"{"version":4,"resources":{}}"#, "is not a list"),
        ("{\"format_version\":", "this is not JSON"),
        ("resource \"a\" {", "this is not HCL"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{text}: {found:?}");
    }
}

/// An account's resource that nobody needs is no problem, and nothing is left out without a word.
#[test]
fn what_has_nothing_to_do_with_packets_is_counted() {
    let (_, findings) = read(&[corpus("terraform/plan-new.json")], Half::Planned);
    let notes = findings.notes.borrow();
    assert!(notes.iter().any(|note| note.message.contains("aws_s3_bucket (1)")));
    assert!(notes.iter().any(|note| note.place.path == "aws_lb.front" && note.because == Because::NotExpressible));
}

#[test]
fn every_truncated_document_is_refused() {
    let text = json!({"format_version": "1.0", "values": {"root_module": {"resources": [
        {"address": "aws_vpc.a", "mode": "managed", "type": "aws_vpc", "name": "a", "values": {"cidr_block": "10.0.0.0/8"}}]}}})
    .to_string();
    assert_eq!(problems(&text), Vec::<String>::new());
    for end in 1..text.len() {
        assert!(!problems(&text[..end]).is_empty(), "{}", &text[..end]);
    }
}

#[test]
fn every_truncated_hcl_is_read_or_refused() {
    let text = corpus("terraform/main.tf").text;
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        read(&[document("x.tf", &text[..end])], Half::State);
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    for text in [
        deep("{\"a\":", "}"),
        format!("a = {}", deep("[", "]")),
        format!("a = {}", deep("(", ")")),
        format!("a = {}1", "!".repeat(100_000)),
        format!("a = {}1", "-".repeat(100_000)),
        format!("a = {}1", "1 + ".repeat(100_000)),
        format!("a = {}1", "1 ? 1 : ".repeat(100_000)),
        format!("a = {}", "\"${".repeat(100_000)),
        deep("a {\n", "}\n"),
    ] {
        assert!(!problems(&text).is_empty(), "{}", &text[..40]);
    }
}

/// Locals that double each other, forty times over.
#[test]
fn locals_cannot_grow_without_end() {
    let mut text = String::from("locals {\n a0 = \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"\n");
    for at in 1..40 {
        let _ = writeln!(text, " a{at} = \"${{local.a{}}}${{local.a{}}}\"", at - 1, at - 1);
    }
    text.push_str("}\nresource \"aws_vpc\" \"a\" {\n cidr_block = local.a39\n}\n");
    let (_, findings) = read(&[document("x.tf", text)], Half::State);
    assert!(findings.notes.borrow().iter().any(|note| note.message.contains("lead too far")));
    let (_, findings) = read(
        &[document("x.tf", "locals {\n a = local.a\n}\nresource \"aws_vpc\" \"a\" {\n cidr_block = local.a\n}\n")],
        Half::State,
    );
    assert!(findings.notes.borrow().iter().any(|note| note.message.contains("lead too far")));
}

/// Outputs that name two of the next module each.
#[test]
fn references_cannot_fan_out_without_end() {
    let mut module = json!({"outputs": {"o": {"expression": {"references": ["var.v"]}}}});
    for _ in 0..30 {
        module = json!({"outputs": {"o": {"expression": {"references": ["module.m.o", "module.n.o"]}}},
            "module_calls": {"m": {"module": module.clone()}, "n": {"module": module.clone()}}});
        if size(&module) > 20_000 {
            break;
        }
    }
    let resource =
        json!({"address": "aws_subnet.s", "mode": "managed", "type": "aws_subnet", "name": "s", "values": {}});
    let plan = json!({"format_version": "1.0", "planned_values": {"root_module": {"resources": [resource]}},
        "resource_changes": [{"address": "aws_subnet.s", "change": {"after_unknown": {"vpc_id": true}}}],
        "configuration": {"root_module": {"module_calls": {"m": {"module": module}},
            "resources": [{"address": "aws_subnet.s", "mode": "managed", "type": "aws_subnet", "name": "s",
                "expressions": {"vpc_id": {"references": ["module.m.o"]}}}]}}});
    let (inventory, _) = read(&[document("plan.json", plan.to_string())], Half::Planned);
    assert_eq!(inventory.subnets[0].vpc, None);
}

/// A plan of one interface and two security groups that it makes; what it knows of the interface's groups, and what is written.
fn plan_of_an_interface(values: Value, unknown: &Value, references: &[&str]) -> Document {
    let group = |name: &str| json!({"address": format!("aws_security_group.{name}"), "mode": "managed", "type": "aws_security_group", "name": name, "values": {"name": name}});
    let change = |address: &str, unknown: &Value| json!({"address": address, "change": {"after_unknown": unknown}});
    let mut interface = json!({"private_ips": ["10.0.0.4"]});
    if !values.is_null() {
        interface["security_groups"] = values;
    }
    let plan = json!({"format_version": "1.2", "planned_values": {"root_module": {"resources": [
            group("one"), group("two"),
            {"address": "aws_network_interface.e", "mode": "managed", "type": "aws_network_interface", "name": "e", "values": interface}]}},
        "resource_changes": [
            change("aws_security_group.one", &json!({"id": true})),
            change("aws_security_group.two", &json!({"id": true})),
            change("aws_network_interface.e", &json!({"id": true, "security_groups": unknown}))],
        "configuration": {"root_module": {"resources": [
            {"address": "aws_security_group.one", "mode": "managed", "type": "aws_security_group", "name": "one", "expressions": {}},
            {"address": "aws_security_group.two", "mode": "managed", "type": "aws_security_group", "name": "two", "expressions": {}},
            {"address": "aws_network_interface.e", "mode": "managed", "type": "aws_network_interface", "name": "e",
                "expressions": {"private_ips": {"constant_value": ["10.0.0.4"]}, "security_groups": {"references": references}}}]}}});
    document("plan.json", plan.to_string())
}

/// The groups of the interface, and what is told of them.
fn groups_of_the_interface(plan: Document) -> (Vec<String>, Vec<String>) {
    let (inventory, findings) = read(&[plan], Half::Planned);
    assert_eq!(*findings.problems.borrow(), []);
    let mut groups = inventory.interfaces[0].groups.clone();
    groups.sort();
    let notes = findings.notes.borrow();
    (groups, notes.iter().map(|note| format!("{}: {}", note.place, note.message)).collect())
}

const ONE: [&str; 2] = ["aws_security_group.one.id", "aws_security_group.one"];
const BOTH: [&str; 4] =
    ["aws_security_group.one.id", "aws_security_group.one", "aws_security_group.two.id", "aws_security_group.two"];

/// `security_groups = ["sg-0a1", aws_security_group.one.id]`: the plan knows the one, the configuration the other.
#[test]
fn a_list_of_an_id_and_of_one_that_is_made_has_both() {
    for (values, unknown) in [
        (json!(["sg-0a1", null]), json!([false, true])),
        (json!([null, "sg-0a1"]), json!([true, false])),
        // Without a place for what is not known.
        (json!(["sg-0a1"]), json!([true, false])),
        (json!(["sg-0a1"]), json!([false, true])),
    ] {
        let (groups, notes) = groups_of_the_interface(plan_of_an_interface(values.clone(), &unknown, &ONE));
        assert_eq!(groups, ["aws_security_group.one", "sg-0a1"], "{values} {unknown}");
        assert_eq!(notes, Vec::<String>::new(), "{values} {unknown}");
    }
}

#[test]
fn what_a_list_has_besides_is_told_where_the_plan_knows_no_element() {
    for references in [&ONE[..], &BOTH] {
        let (groups, notes) = groups_of_the_interface(plan_of_an_interface(Value::Null, &json!(true), references));
        assert_eq!(groups.len(), references.len() / 2);
        let wanted =
            "an id that is written beside them as text would be missing: aws_network_interface.e.security_groups";
        assert!(notes.iter().any(|note| note.ends_with(wanted)), "{notes:?}");
    }
}

/// One element is not known, and the configuration has a condition between two: neither is taken, and what is known stays.
#[test]
fn a_list_with_an_element_that_is_one_of_several_says_so() {
    let (groups, notes) =
        groups_of_the_interface(plan_of_an_interface(json!(["sg-0a1", null]), &json!([false, true]), &BOTH));
    assert_eq!(groups, ["sg-0a1"]);
    let wanted = "security_groups[1]: is not known: it is among aws_security_group.one, aws_security_group.two";
    assert!(notes.iter().any(|note| note.contains(wanted)), "{notes:?}");
    // More are not known than the references name: those are there, and the others are told.
    let (groups, notes) =
        groups_of_the_interface(plan_of_an_interface(json!(["sg-0a1", null, null]), &json!([false, true, true]), &ONE));
    assert_eq!(groups, ["aws_security_group.one", "sg-0a1"]);
    assert!(notes.iter().any(|note| note.contains("security_groups[2]: is not known")), "{notes:?}");
}

/// What is written is read as the same, ids, tags and descriptions included.
#[test]
fn written_hcl_says_the_same() {
    for (file, half) in
        [("state.json", Half::State), ("plan-new.json", Half::Planned), ("plan-change.json", Half::Planned)]
    {
        let inventory = without_problems(&[corpus(&format!("terraform/{file}"))], half);
        let exported = export::terraform::write(&inventory);
        let again = without_problems(&[document("main.tf", &*exported.text)], Half::State);
        let (first, second) = (comparable(inventory), comparable(again));
        snapbox::assert_data_eq!(second, snapbox::Data::text(first).raw());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any value in place of any other: told or taken, never a panic.
    #[test]
    fn strange_values_never_panic(at in any::<prop::sample::Index>(), by in prop::sample::select(strange()), file in 0..4_usize) {
        let name = ["plan-new.json", "plan-change.json", "state.json", "terraform.tfstate"][file];
        let mut value: Value = serde_json::from_str(&corpus(&format!("terraform/{name}")).text).unwrap();
        let mut at = at.index(size(&value));
        replace(&mut value, &mut at, &by);
        let (inventory, _) = read(&[document(name, value.to_string())], Half::Planned);
        export::terraform::write(&inventory);
    }

    #[test]
    fn strange_hcl_never_panics(at in any::<prop::sample::Index>(), by in "[ -~\\n]{0,8}") {
        let mut text = corpus("terraform/main.tf").text;
        let at = at.index(text.len());
        text.replace_range(at..(at + by.len()).min(text.len()), &by);
        read(&[document("x.tf", text)], Half::State);
    }

    /// No name and no description can leave its quotes.
    #[test]
    fn texts_come_back_from_hcl(text in "\\PC{0,24}|[$%{}\"\\\\\n\t~]{0,12}") {
        let mut inventory = without_problems(&[corpus("terraform/state.json")], Half::State);
        inventory.groups[0].identity.description = Some(format!("d{text}"));
        inventory.groups[0].identity.tags.insert(format!("k{text}"), text.clone());
        let exported = export::terraform::write(&inventory);
        let (again, findings) = read(&[document("main.tf", exported.text)], Half::State);
        prop_assert_eq!(&*findings.problems.borrow(), &[]);
        prop_assert_eq!(&again.groups[0].identity.description, &inventory.groups[0].identity.description);
        prop_assert_eq!(&again.groups[0].identity.tags, &inventory.groups[0].identity.tags);
    }
}
