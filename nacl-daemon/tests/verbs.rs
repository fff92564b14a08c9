//! The command line as a person meets it where there is neither a daemon nor root: help, tables of a file, errors.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

const POLICY: &str = r#"version = 1
[nacl.web]
id = "acl-0a1"
inbound = [
  { rule = 110, action = "deny", protocol = "icmp", icmp = { type = 3, code = 4 }, source = "192.0.2.0/24" },
  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "::/0" },
]
outbound = [{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "::/0" }]
[interface.eth0]
nacl = "web"
"#;

fn nacld(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("policy.toml"), POLICY).unwrap();
    Command::new(env!("CARGO_BIN_EXE_nacld"))
        .args(arguments)
        .env("NACLD_SOCKET", directory.path().join("nacld.sock"))
        .env_remove("NO_COLOR")
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn rules_of_a_file_look_like_the_console() {
    let output = nacld(&["rules", "--config", "policy.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    snapbox::assert_data_eq!(
        text(&output.stdout),
        snapbox::str![[r#"
eth0 · network ACL web (acl-0a1)

Inbound rules
┌───────────────────────────────────────────────────────────────────────────────────────────────────────────┐
│ Rule number   Type                 Protocol   Port range                        Source         Allow/Deny │
╞═══════════════════════════════════════════════════════════════════════════════════════════════════════════╡
│ 100           HTTPS (443)          TCP (6)    443                               ::/0           Allow      │
│ 110           Custom ICMP - IPv4   ICMP (1)   Destination Unreachable, code 4   192.0.2.0/24   Deny       │
│ *             All traffic          All        All                               0.0.0.0/0      Deny       │
│ *             All traffic          All        All                               ::/0           Deny       │
└───────────────────────────────────────────────────────────────────────────────────────────────────────────┘

Outbound rules
┌────────────────────────────────────────────────────────────────────────────────┐
│ Rule number   Type          Protocol   Port range     Destination   Allow/Deny │
╞════════════════════════════════════════════════════════════════════════════════╡
│ 100           Custom TCP    TCP (6)    1024 - 65535   ::/0          Allow      │
│ *             All traffic   All        All            0.0.0.0/0     Deny       │
│ *             All traffic   All        All            ::/0          Deny       │
└────────────────────────────────────────────────────────────────────────────────┘

AWS filters none of these (exemptions = "aws"): Amazon DNS, Amazon Time Sync, ECS task metadata, Windows licence activation, instance metadata


"#]]
    );
}

#[test]
fn data_and_diagnostics_go_their_own_ways() {
    let output = nacld(&["status"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: no nacld is running on ") && error.contains("\nhint: start one with"), "{error}");
    assert!(!error.contains('\x1b'), "no colour where there is no terminal");
    let output = nacld(&["status", "--color", "always"]);
    assert!(text(&output.stderr).contains('\x1b'));
    assert_eq!(nacld(&["nonsense"]).status.code(), Some(2));
    assert_eq!(nacld(&["detach"]).status.code(), Some(2));
}

/// Whoever finds it: 2 is wrong usage, and nothing else is.
#[test]
fn wrong_arguments_are_wrong_usage_also_where_only_the_files_show_it() {
    let explain = ["explain", "--config", "policy.toml"];
    for wrong in [
        &["rules", "eth1", "--config", "policy.toml"][..],
        &[&explain[..], &["--interface", "eth1", "tcp", "198.51.100.7:50000", "10.0.1.10:443"]].concat(),
        &[&explain[..], &["tcp", "198.51.100.7", "10.0.1.10"]].concat(),
        &[&explain[..], &["tcp", "198.51.100.7:1", "[2001:db8::1]:443"]].concat(),
        &[&explain[..], &["--layers", "sg", "tcp", "198.51.100.7:1", "10.0.1.10:443"]].concat(),
        &["replay", "--config", "policy.toml", "--interface", "eth1", "nothing.pcap"],
        &["search", "policy.toml", "--port", "443", "--icmp", "8"],
        &["search", "policy.toml", "--interface", "eth1"],
        &["diff", "policy.toml", "policy.toml", "--interface", "eth1"],
        &["diff", "policy.toml"],
        &["diff", "-", "-"],
        &["check", "--fix", "-"],
        &["lab", "run", "L99"],
        &["lab", "hint", "L99"],
    ] {
        let output = nacld(wrong);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{wrong:?}: {error}");
        assert!(error.starts_with("error: "), "{wrong:?}: {error}");
    }
    for failed in [
        &["explain", "--config", "no-such.toml", "tcp", "198.51.100.7:1", "10.0.1.10:443"][..],
        &["replay", "--config", "policy.toml", "no-such.pcap"],
        &["check", "no-such.toml"],
        &["status"],
    ] {
        assert_eq!(nacld(failed).status.code(), Some(1), "{failed:?}");
    }
}

#[test]
fn usage_says_what_is_needed() {
    for (verb, forms) in [
        (
            &["explain"][..],
            &[
                "Usage: nacld explain [OPTIONS] --config <FILE> <PROTOCOL> <SOURCE> <DESTINATION>\n",
                "       nacld explain [OPTIONS] --config <FILE> --jsonl [--sequence]\n",
            ][..],
        ),
        (&["lab", "run"], &["Usage: nacld lab run [OPTIONS] <LAB>...\n", "       nacld lab run [OPTIONS] --all\n"]),
        (&["lab", "down"], &["Usage: nacld lab down [OPTIONS] <LAB>\n", "       nacld lab down [OPTIONS] --all\n"]),
        (&["detach"], &["Usage: nacld detach [OPTIONS] <INTERFACE|--all>\n"]),
    ] {
        let help = text(&nacld(&[verb, &["--help"]].concat()).stdout);
        for form in forms {
            assert!(help.contains(form), "{help}");
        }
    }
    // Each form is one that is taken, and nothing between them is.
    let explain = ["explain", "--config", "policy.toml"];
    assert_eq!(nacld(&[&explain[..], &["--jsonl"]].concat()).status.code(), Some(0));
    for wrong in [&[][..], &["tcp", "198.51.100.7:1"], &["--jsonl", "tcp", "198.51.100.7:1", "10.0.1.10:443"]] {
        assert_eq!(nacld(&[&explain[..], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}

/// Where nobody looks, lines are as long as they are.
#[test]
fn nothing_is_broken_over_lines_in_a_pipe() {
    let output = nacld(&["explain", "--config", "policy.toml", "tcp", "[2001:db8::7]:80", "[fd00::a]:22"]);
    let text = text(&output.stdout);
    assert!(text.lines().any(|line| line.chars().count() > 80), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("policy.toml"), POLICY).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_nacld"))
        .args(["rules", "--config", "policy.toml"])
        .current_dir(directory.path())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn help_version_manual_and_completions() {
    let help = text(&nacld(&["--help"]).stdout);
    for line in ["Exit codes:", "130  interrupted", "NACLD_SOCKET"] {
        assert!(help.contains(line), "{help}");
    }
    assert!(!help.contains("completions"), "hidden verbs stay hidden");
    assert_eq!(text(&nacld(&["--version"]).stdout), concat!("nacld ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(text(&nacld(&["man"]).stdout).contains(".TH nacld 1"));
    assert!(text(&nacld(&["completions", "bash"]).stdout).contains("_nacld()"));
}

#[test]
fn verbs_about_modes_and_connections_say_what_they_need() {
    for verb in [
        &["mode"][..],
        &["watch"],
        &["conntrack"],
        &["conntrack", "list"],
        &["conntrack", "flush"],
        &["conntrack", "stats"],
        &["flows"],
    ] {
        let help = text(&nacld(&[verb, &["--help"]].concat()).stdout);
        assert!(
            help.contains("Needs a running daemon and the right to open its socket; no kernel of its own"),
            "{help}"
        );
    }
    // Without a daemon one clear error, as from every verb that asks one.
    for verb in [
        &["mode"][..],
        &["mode", "eth0", "stateful"],
        &["watch", "--filter", "denied and tcp and dport 443", "--limit", "1"],
        &["conntrack", "list", "eth0", "--port", "443"],
        &["conntrack", "list", "--protocol", "tcp", "--state", "closed", "--address", "192.0.2.0/24", "--port", "1"],
        &["conntrack", "flush", "--all"],
        &["conntrack", "flush", "eth0", "--protocol", "tcp", "--state", "closed"],
        &["conntrack", "stats", "--json"],
        &["flows", "eth0", "--format", "${srcaddr} ${tcp-flags}"],
        &["flows", "--json"],
        &["top", "--once"],
        &["top"],
    ] {
        let output = nacld(verb);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{verb:?}");
        assert!(text(&output.stderr).starts_with("error: no nacld is running on "), "{}", text(&output.stderr));
    }
}

#[test]
fn nothing_is_forgotten_by_accident() {
    for (verb, expected) in [
        (&["conntrack", "flush"][..], "required"),
        (&["conntrack", "flush", "--all", "--port", "443"], "cannot be used with"),
        (&["conntrack", "flush", "--force"], "required"),
        (&["conntrack", "flush", "--state", "asleep"], "there are opening, answered, established, closing, closed"),
        (&["conntrack", "list", "--address", "nobody"], "neither an address nor a CIDR"),
        (&["conntrack", "list", "--protocol", "nonsense"], "neither the name nor the number of a protocol"),
        (&["flows", "--format", "${srcadr}"], "flow logs have no field `srcadr`"),
        (&["flows", "--format", "${resource-id}"], "came with version 9"),
        (&["mode", "eth0", "sideways"], "possible values: stateless, stateful"),
        (&["mode", "--layers", "sg"], "required"),
        (&["watch", "--filter", "denied and tpc"], "did you mean `tcp`?"),
        (&["watch", "--limit", "0"], "0 is not in 1.."),
    ] {
        let output = nacld(verb);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{verb:?}: {error}");
        assert!(error.contains(expected), "{verb:?}: {error}");
    }
}
