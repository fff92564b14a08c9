//! Which format a document is in, as far as a look at it tells. Reads no document.

use serde_json::{Deserializer, Map, Value};

/// A format that policies are imported from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// AWS's own JSON: `aws ec2 describe-…`.
    Aws,
    /// A plan of Terraform's, `terraform show -json`: it has two halves, what was found and what will be.
    TerraformPlan,
    /// A state of Terraform's, or HCL.
    Terraform,
    /// A template of CloudFormation's.
    CloudFormation,
}

impl Format {
    /// What `nacld import` is told.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::TerraformPlan | Self::Terraform => "terraform",
            Self::CloudFormation => "cloudformation",
        }
    }

    /// What a person calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Aws => "AWS's JSON",
            Self::TerraformPlan => "a Terraform plan",
            Self::Terraform => "Terraform",
            Self::CloudFormation => "a CloudFormation template",
        }
    }
}

/// Keys of what `aws ec2 describe-…` and its kin print.
const AWS: [&str; 9] = [
    "NetworkAcls",
    "SecurityGroups",
    "SecurityGroupRules",
    "Subnets",
    "NetworkInterfaces",
    "PrefixLists",
    "Entries",
    "Vpcs",
    "ManagedPrefixLists",
];

/// Keys of one object of them, where a list was taken out of its wrapping.
const AWS_OBJECTS: [&str; 8] = [
    "NetworkAclId",
    "GroupId",
    "SecurityGroupRuleId",
    "SubnetId",
    "NetworkInterfaceId",
    "PrefixListId",
    "Cidr",
    "VpcId",
];

/// The format of a file by its name and text; `None`: it is none of them, and so a policy if anything.
pub fn sniff(file: &str, text: &str) -> Option<Format> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let ends = |ends: &[&str]| ends.iter().any(|end| file.to_ascii_lowercase().ends_with(end));
    if text.starts_with(['{', '[']) {
        // Several values may stand one after the other; the first tells.
        if let Some(Ok(value)) = Deserializer::from_str(text).into_iter::<Value>().next() {
            return of_json(&value);
        }
        // A table of a policy begins with a bracket too, with a brace only what is no TOML.
        return (text.starts_with('{') || ends(&[".json"])).then(|| {
            if text.contains("\"planned_values\"") || text.contains("\"prior_state\"") {
                Format::TerraformPlan
            } else if text.contains("\"AWS::") {
                Format::CloudFormation
            } else if text.contains("\"terraform_version\"") {
                Format::Terraform
            } else {
                Format::Aws
            }
        });
    }
    if ends(&[".tf"]) {
        return Some(Format::Terraform);
    }
    let begins = |word: &str| text.lines().any(|line| line.starts_with(word));
    let yaml = begins("AWSTemplateFormatVersion:") || begins("Resources:");
    if yaml || ends(&[".yaml", ".yml", ".template"]) {
        return Some(Format::CloudFormation);
    }
    (begins("resource \"aws_") || begins("module \"") || begins("provider \"aws\"")).then_some(Format::Terraform)
}

fn of_json(value: &Value) -> Option<Format> {
    let object = match value {
        Value::Object(object) => object,
        Value::Array(list) => {
            // Of an empty list nothing can be told, and nothing be wrong.
            let known = |one: &Value| one.as_object().is_some_and(|one| has(one, &AWS_OBJECTS) || has(one, &AWS));
            return list.first().is_none_or(known).then_some(Format::Aws);
        }
        _ => return None,
    };
    if has(object, &["planned_values", "prior_state", "resource_changes"]) {
        return Some(Format::TerraformPlan);
    }
    if object.contains_key("terraform_version") || object.contains_key("format_version") {
        return Some(Format::Terraform);
    }
    if has(object, &["AWSTemplateFormatVersion", "Resources", "Transform"]) {
        return Some(Format::CloudFormation);
    }
    // Whatever else is an object is told what is wrong with it by the reader of AWS's.
    Some(Format::Aws)
}

fn has(object: &Map<String, Value>, keys: &[&str]) -> bool {
    keys.iter().any(|key| object.contains_key(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_a_look() {
        for (file, text, format) in [
            ("a.json", r#"{"NetworkAcls": []}"#, Some(Format::Aws)),
            ("a.json", r#"[{"GroupId": "sg-1"}]"#, Some(Format::Aws)),
            ("a.json", "[]", Some(Format::Aws)),
            ("a", "\u{feff}{\"Subnets\": []}\n{\"Vpcs\": []}", Some(Format::Aws)),
            (
                "plan.json",
                r#"{"format_version": "1.2", "planned_values": {}, "terraform_version": "1.9"}"#,
                Some(Format::TerraformPlan),
            ),
            (
                "state.json",
                r#"{"format_version": "1.0", "terraform_version": "1.9", "values": {}}"#,
                Some(Format::Terraform),
            ),
            (
                "terraform.tfstate",
                r#"{"version": 4, "terraform_version": "1.9", "resources": []}"#,
                Some(Format::Terraform),
            ),
            ("main.tf", "resource \"aws_network_acl\" \"web\" {}\n", Some(Format::Terraform)),
            ("stack.json", r#"{"Resources": {}}"#, Some(Format::CloudFormation)),
            ("stack", "AWSTemplateFormatVersion: '2010-09-09'\nResources:\n", Some(Format::CloudFormation)),
            ("broken.json", r#"{"NetworkAcls": ["#, Some(Format::Aws)),
            ("broken.json", r#"{"planned_values": ["#, Some(Format::TerraformPlan)),
            ("policy.toml", "version = 1\n[vpc]\ncidrs = [\"10.0.0.0/16\"]\n", None),
            ("policy.toml", "[interface.eth0]\nnacl = \"web\"\n", None),
            ("-", "", None),
        ] {
            assert_eq!(sniff(file, text), format, "{file}: {text}");
        }
        // Nested deeper than a reader goes, it is still no policy.
        assert_eq!(sniff("deep.json", &"{\"a\":".repeat(10_000)), Some(Format::Aws));
    }
}
