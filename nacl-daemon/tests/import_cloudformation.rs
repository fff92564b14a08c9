//! CloudFormation's templates → inventory: the corpus of `config/import/cloudformation`, round trips through YAML, and templates
//! that are broken or mean harm.

#[path = "support/inventory.rs"]
mod inventory;

use std::fmt::Write as _;

use inventory::{assert_expected, comparable, corpus, document, replace, size, strange, told};
use nacl_daemon::{
    export,
    import::{
        Document,
        cloudformation::{self, Parameters},
        tree::Findings,
    },
    inventory::{Because, Inventory},
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(documents: &[Document], parameters: &[(&str, &str)]) -> (Inventory, Findings) {
    let findings = Findings::default();
    let parameters: Parameters =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    (cloudformation::read(documents, &parameters, &findings), findings)
}

fn without_problems(documents: &[Document], parameters: &[(&str, &str)]) -> Inventory {
    let (inventory, findings) = read(documents, parameters);
    assert_eq!(*findings.problems.borrow(), []);
    inventory
}

fn problems(text: &str) -> Vec<String> {
    let (_, findings) = read(&[document("x", text)], &[]);
    let problems = findings.problems.borrow();
    problems.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect()
}

/// The properties of a resource, as JSON, in a template by themselves.
fn template(resources: &Value) -> Document {
    document("x.json", json!({"Resources": resources}).to_string())
}

#[test]
fn yaml_with_defaults() {
    let (inventory, findings) = read(&[corpus("cloudformation/network.yaml")], &[]);
    assert_expected(&told(&inventory, &findings), "cloudformation/network.yaml.expected");
}

#[test]
fn parameters_choose_conditions_and_mappings() {
    let given = [
        ("Stage", "prod"),
        ("AWS::Region", "eu-central-1"),
        ("Admins", "192.0.2.7/32"),
        ("PeerGroup", "sg-0a1b2c3d4e5f60718"),
    ];
    let (inventory, findings) = read(&[corpus("cloudformation/network.yaml")], &given);
    assert_expected(&told(&inventory, &findings), "cloudformation/network.yaml.prod.expected");
}

#[test]
fn json_with_long_forms() {
    let (inventory, findings) = read(&[corpus("cloudformation/network.json")], &[]);
    assert_expected(&told(&inventory, &findings), "cloudformation/network.json.expected");
}

/// A template as the Serverless Application Model has them: a transform, loops, lists given as one, values of other stacks.
#[test]
fn a_serverless_template() {
    let (inventory, findings) = read(&[corpus("cloudformation/serverless.yaml")], &[]);
    assert_expected(&told(&inventory, &findings), "cloudformation/serverless.yaml.expected");
    let given =
        [("Env", "prod"), ("AdminCidr", "192.0.2.0/24"), ("AWS::Region", "us-east-1"), ("AWS::StackName", "shop")];
    let (inventory, findings) = read(&[corpus("cloudformation/serverless.yaml")], &given);
    assert_expected(&told(&inventory, &findings), "cloudformation/serverless.yaml.prod.expected");
}

/// Who writes `SecurityGroupEgress: []` means that nothing gets out; CloudFormation lets everything out.
#[test]
fn an_empty_list_of_egress_lets_everything_out_and_says_so() {
    let group = |egress: Value| {
        let properties = json!({"GroupDescription": "a", "SecurityGroupEgress": egress});
        template(&json!({"A": {"Type": "AWS::EC2::SecurityGroup", "Properties": properties}}))
    };
    for empty in [json!([]), json!([{"Ref": "AWS::NoValue"}])] {
        let (inventory, findings) = read(&[group(empty)], &[]);
        assert_eq!(inventory.groups[0].rules.as_ref().map(Vec::len), Some(2));
        let notes = findings.notes.borrow();
        let told = |note: &&nacl_daemon::inventory::Note| note.place.path == "Resources.A.SecurityGroupEgress";
        assert!(notes.iter().find(told).is_some_and(|note| note.message.contains("lets everything out")), "{notes:?}");
    }
    // What is not written at all is what everybody expects.
    let (_, findings) = read(&[group(json!({"Ref": "AWS::NoValue"}))], &[]);
    assert_eq!(*findings.notes.borrow(), []);
}

/// The second of two that are alike has a description that gets lost, and nothing is lost without a word.
#[test]
fn a_rule_that_stands_twice_is_told() {
    let rule = |description: &str| json!({"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "10.0.0.0/8", "Description": description});
    let properties = json!({"GroupDescription": "a", "SecurityGroupIngress": [rule("one"), rule("two")]});
    let inventory = without_problems(
        &[template(&json!({"A": {"Type": "AWS::EC2::SecurityGroup", "Properties": properties}}))],
        &[],
    );
    let written = nacl_daemon::inventory::write::write(inventory, &[]).unwrap();
    assert!(written.policy.contains("description = \"one\"") && !written.policy.contains("two"), "{}", written.policy);
    let notes: Vec<_> = written.notes.iter().map(|note| format!("{}: {}", note.place, note.message)).collect();
    let place = "Resources.A.SecurityGroupIngress";
    let wanted = format!("x.json: {place}[1]: the rule stands in {place}[0] too, and AWS takes it once (S16)");
    assert_eq!(notes, [wanted]);
}

#[test]
fn notes_and_problems_have_their_line() {
    let (_, findings) = read(&[corpus("cloudformation/network.yaml")], &[]);
    for note in &*findings.notes.borrow() {
        assert!(note.place.line.is_some() || note.place.path == "Resources", "{note:?}");
    }
    let found = problems("Resources:\n  A:\n    Type: AWS::EC2::VPC\n    Properties:\n      CidrBlock: nowhere\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("x:5: Resources.A.CidrBlock: \"nowhere\" is not a CIDR"), "{found:?}");
}

/// The opposite of Terraform: a group without egress lets everything out.
#[test]
fn no_egress_is_all_egress() {
    let group = |egress: Value| {
        let mut properties = json!({"GroupDescription": "g"});
        if egress != Value::Null {
            properties["SecurityGroupEgress"] = egress;
        }
        let inventory = without_problems(
            &[template(&json!({"G": {"Type": "AWS::EC2::SecurityGroup", "Properties": properties}}))],
            &[],
        );
        inventory.groups[0].rules.as_ref().map(Vec::len)
    };
    assert_eq!(group(Value::Null), Some(2));
    assert_eq!(group(json!([])), Some(2));
    assert_eq!(group(json!([{"IpProtocol": "-1", "CidrIp": "127.0.0.1/32"}])), Some(0));
    assert_eq!(group(json!([{"IpProtocol": "-1", "CidrIp": "127.0.0.2/31"}])), Some(1));
    assert_eq!(group(json!([{"IpProtocol": -1, "CidrIp": "10.0.0.0/8"}])), Some(1));
}

#[test]
fn intrinsics_are_evaluated() {
    let value = |value: Value| {
        let template = json!({"Parameters": {"L": {"Type": "List<String>", "Default": "a, b,c"}, "P": {"Default": "p"}},
            "Mappings": {"M": {"x": {"y": "found", "z": ["one", "two"]}}},
            "Conditions": {"T": {"Fn::Equals": ["1", 1]}, "U": {"Fn::Or": [{"Fn::Equals": [{"Ref": "AWS::AccountId"}, "1"]}, {"Condition": "T"}]},
                "Loop": {"Fn::Not": [{"Condition": "Loop"}]}},
            "Resources": {"G": {"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": value}}}});
        let (inventory, _) = read(&[document("x.json", template.to_string())], &[]);
        inventory.groups[0].identity.description.clone()
    };
    for (given, wanted) in [
        (json!({"Ref": "P"}), Some("p")),
        (json!({"Ref": "L"}), None),
        (json!({"Fn::Select": ["1", {"Ref": "L"}]}), Some("b")),
        (json!({"Fn::Select": [7, {"Ref": "L"}]}), None),
        (json!({"Fn::Join": ["-", {"Ref": "L"}]}), Some("a-b-c")),
        (json!({"Fn::Sub": "${P}/${!P}/${AWS::Partition}"}), Some("p/${P}/aws")),
        (json!({"Fn::Sub": ["${own}${P}", {"own": {"Fn::Select": [0, ["o"]]}}]}), Some("op")),
        (json!({"Fn::Sub": "${AWS::StackName}-x"}), None),
        (json!({"Fn::Sub": "open ${"}), Some("open ${")),
        (json!({"Fn::FindInMap": ["M", "x", "y"]}), Some("found")),
        (json!({"Fn::Select": [1, {"Fn::FindInMap": ["M", "x", "z"]}]}), Some("two")),
        (json!({"Fn::FindInMap": ["M", "x", "w", {"DefaultValue": "else"}]}), Some("else")),
        (json!({"Fn::If": ["T", "yes", "no"]}), Some("yes")),
        // One that is true makes all of it true, whatever the account is.
        (json!({"Fn::If": ["U", "yes", "no"]}), Some("yes")),
        (json!({"Fn::If": ["Loop", "yes", "no"]}), None),
        (json!({"Fn::If": ["T", {"Ref": "AWS::NoValue"}, "no"]}), None),
        (json!({"Fn::Select": [2, {"Fn::Split": [".", "a.b.c"]}]}), Some("c")),
        (json!({"Fn::Select": [3, {"Fn::Cidr": ["10.0.0.0/16", 4, 6]}]}), Some("10.0.0.192/26")),
        (json!({"Fn::Select": [1, {"Fn::Cidr": ["2001:db8::/56", 2, 64]}]}), Some("2001:db8:0:1::/64")),
        (json!({"Fn::Select": [0, {"Fn::Cidr": ["10.0.0.0/30", 200, 8]}]}), None),
        (json!({"Fn::Length": {"Ref": "L"}}), Some("3")),
        (json!({"Fn::Nothing": 1}), None),
    ] {
        assert_eq!(value(given.clone()).as_deref(), wanted, "{given}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_all_at_once() {
    let entry = |change: Value| {
        let mut properties = json!({"NetworkAclId": {"Ref": "A"}, "RuleNumber": 100, "Protocol": 6, "RuleAction": "allow",
            "CidrBlock": "10.0.0.0/8", "PortRange": {"From": 1, "To": 2}});
        for (key, value) in change.as_object().unwrap() {
            properties[key] = value.clone();
        }
        json!({"Type": "AWS::EC2::NetworkAclEntry", "Properties": properties})
    };
    let resources = json!({
        "A": {"Type": "AWS::EC2::NetworkAcl", "Properties": {"VpcId": "vpc-1"}},
        "Good": entry(json!({})),
        "Same": entry(json!({"CidrBlock": "192.0.2.0/24"})),
        "Number": entry(json!({"RuleNumber": 0})),
        "Action": entry(json!({"RuleAction": "Allow"})),
        "Both": entry(json!({"Ipv6CidrBlock": "::/0"})),
        "Ports": entry(json!({"PortRange": {"From": 9, "To": 2}})),
        "NoPorts": entry(json!({"PortRange": null})),
        "Flag": entry(json!({"Egress": "maybe"})),
        "Type": {"Properties": {}},
        "Text": "text",
        "Properties": {"Type": "AWS::EC2::VPC", "Properties": "text"},
    });
    let all = problems(&json!({"Resources": resources}).to_string());
    for wanted in [
        "Resources.Same: rule 100 is there already, in Resources.Good",
        "Resources.Number.RuleNumber: \"0\" is not a whole number from 1 to 32766",
        "Resources.Action.RuleAction: \"Allow\" is not `allow` or `deny`",
        "Resources.Both: has to have one of `CidrBlock` and `Ipv6CidrBlock` (N21)",
        "Resources.Ports: ports 9 to 2 are none",
        "Resources.NoPorts: a rule of tcp or udp needs its ports",
        "Resources.Flag.Egress: \"maybe\" is not true or false",
        "Resources.Type: `Type` is missing",
        "Resources.Text: \"text\" is not an object",
        "Resources.Properties: \"text\" is not an object",
    ] {
        assert!(all.iter().any(|problem| problem.starts_with(&format!("x: {wanted}"))), "{wanted}\n{all:#?}");
    }
}

#[test]
fn what_is_no_template_is_refused() {
    for (text, wanted) in [
        ("", "there is nothing"),
        ("just text", "this is no template"),
        ("- a\n- b\n", "this is no template"),
        ("Parameters: {}\n", "`Resources` is missing"),
        ("{\"Resources\": [", "this is not JSON"),
        ("Resources:\n  A: [\n", "this is not YAML"),
        ("Resources:\n  A: {Type: b}\n  A: {Type: c}\n", "x:3: `A` stands twice"),
        ("Resources: &a\n  A: *a\n", "knows no YAML aliases"),
        ("Resources:\n  A:\n    <<: {Type: b}\n", "knows no YAML merges"),
        ("Resources: {}\n---\nResources: {}\n", "another"),
        ("Resources: !What-is-this {}\n", "is no function"),
        ("Resources:\n  ? [a]\n  : b\n", "a key has to be a text"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.contains(wanted)), "{text}: {found:?}");
    }
}

#[test]
fn nesting_and_aliases_are_bounded() {
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let mut steps = String::from("Resources:\n");
    for depth in 1..2_000 {
        let _ = writeln!(steps, "{}a:", " ".repeat(depth));
    }
    let mut bomb = String::from("a: &a [x, x]\n");
    for letter in 'b'..='z' {
        let before = char::from(letter as u8 - 1);
        let _ = writeln!(bomb, "{letter}: &{letter} [*{before}, *{before}]");
    }
    for text in [
        deep("{\"a\":", "}"),
        format!("Resources: {}", deep("[", "]")),
        format!("Resources: {}", deep("{a: ", "}")),
        format!("Resources: {}", "!Sub ".repeat(100_000)),
        deep("- ", ""),
        deep("? ", ""),
        steps,
        bomb,
    ] {
        assert!(!problems(&text).is_empty(), "{}", &text[..40]);
    }
}

/// A long parameter in every place of a long list, joined; and functions in functions.
#[test]
fn functions_cannot_grow_without_end() {
    let many: Vec<Value> = (0..20_000).map(|_| json!({"Ref": "P"})).collect();
    let mut nested = json!("x");
    for _ in 0..40 {
        nested = json!({"Fn::Join": ["", [nested.clone(), nested]]});
        if size(&nested) > 60_000 {
            break;
        }
    }
    for value in [json!({"Fn::Join": ["", many]}), json!({"Fn::Join": [{"Ref": "P"}, many]})] {
        let template = json!({"Parameters": {"P": {"Default": "x".repeat(100_000)}},
            "Resources": {"G": {"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": value}}}});
        let found = problems(&template.to_string());
        assert!(found[0].contains("comes to more than"), "{found:?}");
    }
    read(
        &[template(&json!({"G": {"Type": "AWS::EC2::SecurityGroup", "Properties": {"GroupDescription": nested}}}))],
        &[],
    );
}

#[test]
fn every_truncated_document_is_read_or_refused() {
    // The larger one at every seventh byte.
    for (name, step) in [("network.yaml", 7), ("network.json", 1)] {
        let text = corpus(&format!("cloudformation/{name}")).text;
        for end in (0..text.len()).step_by(step).filter(|end| text.is_char_boundary(*end)) {
            let (_, findings) = read(&[document(name, &text[..end])], &[]);
            assert!(name.ends_with("yaml") || !findings.problems.borrow().is_empty() || text[end..].trim().is_empty());
        }
    }
}

/// What is written is read as the same. A default network ACL becomes an ordinary one, and a group that stands elsewhere one of
/// this template, so that of the larger one that is true from the second time on.
#[test]
fn written_yaml_says_the_same() {
    let write = |inventory: &Inventory| document("out.yaml", export::cloudformation::write(inventory).text);
    let json = without_problems(&[corpus("cloudformation/network.json")], &[]);
    let again = without_problems(&[write(&json)], &[]);
    snapbox::assert_data_eq!(comparable(again), snapbox::Data::text(comparable(json)).raw());

    let parameters = [("Stage", "prod"), ("PeerGroup", "sg-0a1b2c3d4e5f60718")];
    let yaml = without_problems(&[corpus("cloudformation/network.yaml")], &parameters);
    let again = without_problems(&[write(&yaml)], &[]);
    assert_eq!((again.groups.len(), again.nacls.len()), (yaml.groups.len(), yaml.nacls.len()));
    let once_more = without_problems(&[write(&again)], &[]);
    snapbox::assert_data_eq!(comparable(once_more), snapbox::Data::text(comparable(again)).raw());
}

#[test]
fn logical_ids_of_two_templates_do_not_meet() {
    let one = corpus("cloudformation/network.json");
    let two = Document { file: "two.json".into(), text: one.text.replace("10.30.", "10.31.") };
    let inventory = without_problems(&[one, two], &[]);
    assert_eq!((inventory.vpcs.len(), inventory.subnets.len(), inventory.nacls.len()), (2, 2, 2));
    assert!(inventory.nacls.iter().all(|acl| acl.entries.len() == 1 && acl.subnets.len() == 1));
}

#[test]
fn a_value_for_no_parameter_is_told() {
    let (_, findings) = read(&[corpus("cloudformation/network.json")], &[("Prot", "1")]);
    assert!(
        findings.notes.borrow().iter().any(|note| note.message.contains("`Prot`") && note.because == Because::NoEffect)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any value in place of any other: told or taken, never a panic.
    #[test]
    fn strange_values_never_panic(at in any::<prop::sample::Index>(), by in prop::sample::select(strange())) {
        let mut value: Value = serde_json::from_str(&corpus("cloudformation/network.json").text).unwrap();
        let mut at = at.index(size(&value));
        replace(&mut value, &mut at, &by);
        let (inventory, _) = read(&[document("x.json", value.to_string())], &[]);
        export::cloudformation::write(&inventory);
    }

    #[test]
    fn strange_yaml_never_panics(at in any::<prop::sample::Index>(), by in "[ -~\\n]{0,8}|!Sub|!If \\[|&a |\\*a") {
        let mut text = corpus("cloudformation/network.yaml").text;
        let at = at.index(text.len());
        text.replace_range(at..(at + by.len()).min(text.len()), &by);
        read(&[document("x.yaml", text)], &[]);
    }

    /// No name and no description can leave its quotes.
    #[test]
    fn texts_come_back_from_yaml(text in "\\PC{0,24}|[$%{}\"\\\\:#&*!|>'\n\t~-]{0,12}") {
        let mut inventory = without_problems(&[corpus("cloudformation/network.json")], &[]);
        inventory.vpcs[0].identity.tags.insert(format!("k{text}"), text.clone());
        let exported = export::cloudformation::write(&inventory);
        let (again, findings) = read(&[document("x.yaml", exported.text)], &[]);
        prop_assert_eq!(&*findings.problems.borrow(), &[]);
        prop_assert_eq!(&again.vpcs[0].identity.tags, &inventory.vpcs[0].identity.tags);
    }
}
