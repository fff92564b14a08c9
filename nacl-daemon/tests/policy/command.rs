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
        (&["config/invalid/I001-ports-unwritten.toml", "--deny", "warnings"], 0),
        (&["config/invalid/W001-host-bits.toml"], 0),
        (&["config/invalid/W001-host-bits.toml", "--deny", "warnings"], 4),
        (&["config/invalid/several.toml"], 3),
        (&["config/invalid/several.toml", "--deny", "warnings"], 3),
        (&["config/nacld.toml", "config/invalid/several.toml"], 3),
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
        "config/aws-example.toml: ok, 1 interface, 1 network ACL, 15 rules\n\
         config/invalid/E006-version-unknown.toml: 1 error\n"
    );
    let shown = text(&output.stderr);
    let expected = include_str!("../../../config/invalid/E006-version-unknown.expected").trim_end_matches("1 error\n");
    assert!(shown.starts_with(expected), "{shown}");
    assert!(shown.contains("error: cannot read config/none.toml") && shown.contains("No such file"), "{shown}");
}

#[test]
fn a_warning_does_not_keep_a_policy_from_use() {
    let output = check(&["config/invalid/W001-host-bits.toml"]);
    assert_eq!(
        text(&output.stdout),
        "config/invalid/W001-host-bits.toml: ok, 2 interfaces, 2 network ACLs, 6 rules (3 warnings, 1 note)\n"
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
