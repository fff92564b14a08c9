//! `nacld check` as a person and a pipeline meet it: exit codes, and what goes to which stream.

use std::{
    fmt::Write as _,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn nacld() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE");
    command
}

fn check(arguments: &[&str]) -> Output {
    nacld().arg("check").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn exit_codes_are_the_documented_ones() {
    for (arguments, code) in [
        (&["config/nacld.toml"][..], 0),
        (&["config/aws-example.toml", "--deny", "warnings"], 0),
        (&["config/invalid/W001-host-bits.toml"], 0),
        (&["config/invalid/W001-host-bits.toml", "--deny", "warnings"], 4),
        (&["config/invalid/several.toml"], 3),
        (&["config/invalid/several.toml", "--deny", "warnings"], 3),
        (&["config/nacld.toml", "config/invalid/several.toml"], 3),
        (&["config/invalid/N005-replies-denied.toml"], 0),
        (&["config/invalid/N005-replies-denied.toml", "--deny", "warnings"], 4),
        (&["config/invalid/N007-replies-rare.toml", "--deny", "warnings"], 0),
        (&["config/none.toml"], 1),
        (&["config"], 1),
        (&[], 2),
    ] {
        assert_eq!(check(arguments).status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn findings_go_to_standard_error_and_one_line_a_file_to_standard_output() {
    let output = check(&["config/aws-example.toml", "config/invalid/E006-version-unknown.toml", "config/none.toml"]);
    assert_eq!(
        text(&output.stdout),
        "config/aws-example.toml: ok, 1 interface, 1 network ACL, 15 rules (2 notes)\n\
         config/invalid/E006-version-unknown.toml: 1 error\n"
    );
    let shown = text(&output.stderr);
    let expected = include_str!("../../../config/invalid/E006-version-unknown.expected").trim_end_matches("1 error\n");
    assert!(shown.contains(expected), "{shown}");
    assert!(shown.contains("error: cannot read config/none.toml") && shown.contains("No such file"), "{shown}");
}

#[test]
fn a_warning_does_not_keep_a_policy_from_use() {
    let output = check(&["config/invalid/W001-host-bits.toml"]);
    assert_eq!(
        text(&output.stdout),
        "config/invalid/W001-host-bits.toml: ok, 2 interfaces, 2 network ACLs, 6 rules (4 warnings, 1 note)\n"
    );
}

#[test]
fn security_groups_are_counted_where_there_are_any() {
    let output = check(&["config/security-groups.toml"]);
    assert_eq!(
        text(&output.stdout),
        "config/security-groups.toml: ok, 1 interface, 0 network ACLs, 1 security group, 10 rules\n"
    );
}

#[test]
fn colour_comes_only_where_it_is_wanted() {
    let file = "config/invalid/several.toml";
    let plain = check(&[file]);
    let always = check(&[file, "--color", "always"]);
    assert!(!text(&plain.stderr).contains('\u{1b}'));
    assert!(text(&always.stderr).contains('\u{1b}'));
    let no_color = nacld().args(["check", file]).env("NO_COLOR", "1").env("CLICOLOR_FORCE", "0").output().unwrap();
    assert_eq!(no_color.stderr, plain.stderr);
}

/// What it says of connections that are there is shown by `kernel_service.rs`.
#[test]
fn whom_a_policy_locks_out_is_asked_of_this_machine_and_never_guessed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let interface = |more: &str| {
        format!(
            "version = 1\n[nacl.closed]\ninbound = []\noutbound = []\n[interface.nacld-none0]\nnacl = \"closed\"\n{more}"
        )
    };
    let path = file.to_str().unwrap();
    for (more, why) in [
        ("", "there is no such interface on this machine"),
        ("netns = \"nacld-none\"\n", "there is no network namespace \"nacld-none\""),
    ] {
        std::fs::write(&file, interface(more)).unwrap();
        let output = check(&[path, "--here", "--deny", "warnings"]);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{shown}");
        assert!(shown.contains("who is connected by SSH is not known") && shown.contains(why), "{shown}");
        let report: Value = serde_json::from_slice(&check(&[path, "--here", "--json"]).stdout).unwrap();
        let here = &report["files"][0]["here"][0];
        assert!(
            here["unknown"].as_str().unwrap().contains(why) && here["connections"] == serde_json::json!([]),
            "{here}"
        );
    }
    // Nobody asked.
    let output = check(&[path]);
    assert!(!text(&output.stderr).contains("SSH"), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&check(&[path, "--json"]).stdout).unwrap();
    assert_eq!(report["files"][0]["here"], Value::Null);
}

#[test]
fn json_says_the_same_for_machines() {
    let output =
        check(&["--json", "config/nacld.toml", "config/invalid/E011-duplicate-numbers.toml", "config/none.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    let files = report["files"].as_array().unwrap();
    assert_eq!((&files[0]["ok"], &files[1]["ok"], &files[2]["ok"]), (&true.into(), &false.into(), &false.into()));
    assert!(files[2]["error"].as_str().unwrap().contains("No such file"));
    let first = &files[1]["diagnostics"][0];
    assert_eq!((&first["code"], &first["severity"]), (&"E011".into(), &"error".into()));
    assert_eq!((&first["line"], &first["column"], &first["end_column"]), (&7.into(), &12.into(), &15.into()));
    assert_eq!((&first["labels"][0]["line"], &first["fix"]["text"]), (&5.into(), &"102".into()));
}

#[test]
fn findings_have_their_packets_in_json_too() {
    let output = check(&["--format", "json", "config/invalid/N005-replies-denied.toml"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &report["files"][0]["diagnostics"][0];
    assert_eq!((&first["code"], &first["severity"]), (&"N005".into(), &"warning".into()));
    let examples = first["examples"].as_array().unwrap();
    assert_eq!((&examples[0]["action"], &examples[0]["by"]), (&"allow".into(), &"inbound 100".into()));
    assert_eq!((&examples[1]["action"], &examples[1]["layer"]), (&"deny".into(), &"nacl".into()));
    assert_eq!(examples[1]["interface"], "eth0");
    // The packet is a line for `explain --jsonl`, which says the same.
    let mut child = nacld()
        .args(["explain", "--config", "config/invalid/N005-replies-denied.toml", "--jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\n", examples[1]["packet"]).as_bytes()).unwrap();
    let answer: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(answer["action"], "deny", "{answer}");
}

/// What the published schema of SARIF 2.1.0 requires of the objects that are there, and the values it knows.
#[test]
fn sarif_is_a_log_of_its_version() {
    let files =
        ["config/invalid/N001-never-matches.toml", "config/invalid/E011-duplicate-numbers.toml", "config/none.toml"];
    let output = check(&[&["--format", "sarif"][..], &files].concat());
    assert_eq!(output.status.code(), Some(1));
    let log: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((log["version"].as_str(), log["$schema"].is_string()), (Some("2.1.0"), true));
    let run = &log["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    assert!(run["tool"]["driver"]["name"].is_string());
    for rule in rules {
        assert!(rule["id"].is_string() && rule["shortDescription"]["text"].is_string(), "{rule}");
        assert!(rule["help"]["text"].is_string() && rule["help"]["markdown"].is_string(), "{rule}");
    }
    let region = |location: &Value| {
        assert!(location["physicalLocation"]["artifactLocation"]["uri"].is_string(), "{location}");
        let region = &location["physicalLocation"]["region"];
        for key in ["startLine", "startColumn", "endLine", "endColumn"] {
            assert!(region[key].as_u64().is_some_and(|number| number >= 1), "{location}");
        }
    };
    let results = run["results"].as_array().unwrap();
    for result in results {
        assert!(
            result["message"]["text"].is_string() && result["locations"].as_array().unwrap().len() == 1,
            "{result}"
        );
        assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap()), "{result}");
        let index = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(result["ruleId"], rules[index]["id"]);
        result["locations"].as_array().unwrap().iter().for_each(region);
        result["relatedLocations"].as_array().into_iter().flatten().for_each(region);
        for fix in result["fixes"].as_array().into_iter().flatten() {
            let change = &fix["artifactChanges"][0];
            assert!(change["artifactLocation"]["uri"].is_string(), "{fix}");
            assert!(change["replacements"][0]["deletedRegion"]["startLine"].is_u64(), "{fix}");
        }
    }
    assert!(results.iter().any(|result| result["ruleId"] == "N001" && result["fixes"].is_array()));
    assert!(results.iter().any(|result| result["ruleId"] == "E011"));
    let invocation = &run["invocations"][0];
    assert_eq!(invocation["executionSuccessful"], false);
    let notified = invocation["toolExecutionNotifications"][0]["message"]["text"].as_str().unwrap();
    assert!(notified.contains("cannot read config/none.toml"), "{notified}");
}

#[test]
fn github_gets_a_command_for_each_finding_and_each_file_that_cannot_be_read() {
    let output = check(&["--format", "github", "config/invalid/W001-host-bits.toml", "config/none.toml"]);
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert!(
        lines[0].starts_with(
            "::warning file=config/invalid/W001-host-bits.toml,line=4,endLine=4,col=10,endColumn=22,title=nacld W001::10.0.1.7/24 has host bits set%0Anote: "
        ),
        "{}",
        lines[0]
    );
    assert!(lines.iter().any(|line| line.starts_with("::notice file=")), "{lines:?}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("::error file=config/none.toml,title=nacld::cannot read config/none.toml"), "{last}");
}

#[test]
fn a_fix_is_shown_before_it_is_written_and_keeps_what_it_need_not_change() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.toml");
    let before = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/invalid/N001-never-matches.toml"),
    )
    .unwrap();
    std::fs::write(&file, &before).unwrap();
    let path = file.to_str().unwrap();
    let shown = check(&["--fix", "--dry-run", path]);
    let diff = text(&shown.stdout);
    assert!(diff.contains("--- a/") && diff.contains("+++ b/") && diff.contains("\n-  { rule = 110,"), "{diff}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let written = check(&["--fix", path]);
    assert!(
        text(&written.stdout).contains("1 fix written (N001), and no verdict is another"),
        "{}",
        text(&written.stdout)
    );
    let after = std::fs::read_to_string(&file).unwrap();
    let line = before.lines().find(|line| line.contains("rule = 110")).unwrap();
    assert_eq!(after, before.replace(&format!("{line}\n"), ""));
    assert!(after.contains("# Denied networks come first."));
    // Nothing is written where there is nothing, or nobody to write to.
    assert!(text(&check(&["--fix", path]).stdout).contains("nothing to fix"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), after);
    let refused = check(&["--fix", "-"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("standard input cannot be written to"), "{}", text(&refused.stderr));
    for flags in [&["--dry-run", path][..], &["--fix", "--json", path], &["--fix", "--format", "sarif", path]] {
        assert_eq!(check(flags).status.code(), Some(2), "{flags:?}");
    }
    let broken = "config/invalid/several.toml";
    let output = check(&["--fix", broken]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("nothing is written: the policy has errors"));
}

#[test]
fn codes_are_explained() {
    let explain = |arguments: &[&str]| nacld().arg("explain-code").args(arguments).output().unwrap();
    let story = explain(&["n005"]);
    let shown = text(&story.stdout);
    assert!(shown.starts_with("warning[N005]: ") && shown.contains("\nWhat to do\n"), "{shown}");
    let list = explain(&[]);
    let all = explain(&["--all", "--json"]);
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    let codes = all["codes"].as_array().unwrap();
    assert_eq!(text(&list.stdout).lines().count(), codes.len());
    assert!(codes.iter().all(|code| code["why"].as_str().is_some_and(|why| !why.is_empty())));
    let unknown = explain(&["N999"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("there is no such code"), "{}", text(&unknown.stderr));
}

#[test]
fn a_policy_can_come_from_standard_input() {
    let mut child = nacld()
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"version = 1\n[interface.eth0]\nnacl = \"default\"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "<stdin>: ok, 1 interface, 1 network ACL, 4 rules\n");
    assert_eq!(output.status.code(), Some(0));
}

/// Said by `run` only, it would be said too late.
#[test]
fn a_policy_that_no_table_holds_is_refused() {
    let mut policy =
        "version = 1\n[interface.eth0]\nnacl = \"big\"\n[nacl.big]\noutbound = []\ninbound = [\n".to_owned();
    for number in 1..=9000_u32 {
        let (block, port) = (number.wrapping_mul(2_654_435_761), number * 6);
        let [a, b, c, _] = block.to_be_bytes();
        let _ = writeln!(
            policy,
            "{{ rule = {number}, action = \"deny\", protocol = \"tcp\", ports = \"{port}-{}\", source = \"{a}.{b}.{c}.0/24\" }},",
            port + 30
        );
    }
    policy += "]\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), policy).unwrap();
    let path = file.path().to_str().unwrap();
    let output = check(&[path]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("cannot be enforced"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("\"big\": 9000 rules"), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&check(&[path, "--json"]).stdout).unwrap();
    assert_eq!(
        (&report["files"][0]["ok"], report["files"][0]["refused"].as_array().unwrap().len()),
        (&false.into(), 1)
    );
}

/// `nacld explain --jsonl | head -1`
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = nacld()
        .args(["explain", "--config", "config/nacld.toml", "--jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let line =
        "{\"direction\":\"inbound\",\"src\":\"198.51.100.7\",\"dst\":\"10.0.1.10\",\"protocol\":6,\"dport\":443}\n";
    // More than a buffer; it may end before it has read them all.
    let _ = child.stdin.take().unwrap().write_all(line.repeat(2000).as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}
