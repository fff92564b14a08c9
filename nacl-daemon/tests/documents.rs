//! Other people's documents at the command line: `nacld import`, `nacld export`, documents in a policy's place, and the files of
//! `nacld test`. What documents mean is tested without the command line (`import_*.rs`, `export_*.rs`, `testing.rs`).

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nacl_daemon::{
    resolve::NoHost,
    service::prepare::{self, PrepareError},
};
use serde_json::Value;
use tempfile::TempDir;

fn corpus(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/import").join(path)
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nacld"));
    command.args(arguments).current_dir(directory).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn nacld(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().expect("nacld")
}

/// With something on standard input.
fn fed(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = command(directory, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("nacld");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    child.wait_with_output().expect("nacld")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What went well; its standard output and standard error.
#[track_caller]
fn done(output: &Output) -> (&str, &str) {
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{error}");
    (out, error)
}

/// What failed, with nothing on standard output; what was said.
#[track_caller]
fn failed(output: &Output) -> &str {
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), out), (Some(1), ""), "{error}");
    assert!(error.contains("error"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn files(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).expect("a file");
    }
    directory
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// A folder of AWS's answers, by name.
fn answers(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(corpus("aws").join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path()).filter(|path| is_json(path));
    let name = |path: PathBuf| path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    let mut names: Vec<String> = paths.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_policy_goes_to_standard_output_and_what_is_told_of_it_to_standard_error() {
    for folder in ["old", "peered", "pieces", "two-tier"] {
        let (directory, names) = (corpus("aws").join(folder), answers(folder));
        let arguments: Vec<&str> = ["import", "aws"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let output = nacld(&directory, &arguments);
        let (policy, notes) = done(&output);
        assert_eq!(policy, read(&directory.join("policy.toml")), "{folder}");
        assert_eq!(notes, read(&directory.join("notes.txt")), "{folder}");
        // Into a file, the same, and over what stood there.
        let place = files(&[("policy.toml", b"before")]);
        let file = place.path().join("policy.toml");
        let arguments = [&arguments[..], &["--output", file.to_str().expect("UTF-8")]].concat();
        let output = nacld(&directory, &arguments);
        let (out, again) = done(&output);
        assert_eq!((out, again), ("", notes), "{folder}");
        assert_eq!(read(&file), policy, "{folder}");
    }
}

#[test]
fn a_document_can_come_from_standard_input() {
    let place = files(&[]);
    let whole = read(&corpus("aws/peered/answers.json"));
    let output = fed(place.path(), &["import", "aws", "-"], whole.as_bytes());
    let (policy, notes) = done(&output);
    assert_eq!(policy, read(&corpus("aws/peered/policy.toml")).replace("answers.json", "<stdin>"));
    assert_eq!(notes, read(&corpus("aws/peered/notes.txt")).replace("answers.json", "<stdin>"));
    // As Windows' shells write it.
    let output = fed(place.path(), &["import", "aws", "-"], format!("\u{feff}{whole}").as_bytes());
    assert_eq!(done(&output).0, policy);
    let output = fed(place.path(), &["rules", "--config", "/dev/stdin"], format!("\u{feff}{whole}").as_bytes());
    assert!(done(&output).0.contains("Inbound rules"));
    for (format, path) in [
        ("terraform", "terraform/state.json"),
        ("terraform", "terraform/main.tf"),
        ("cloudformation", "cloudformation/network.yaml"),
    ] {
        let file = corpus(path);
        let output = fed(place.path(), &["import", format, "-"], read(&file).as_bytes());
        let (policy, notes) = done(&output);
        let output =
            nacld(file.parent().expect("a folder"), &["import", format, file.file_name().unwrap().to_str().unwrap()]);
        let (named, _) = done(&output);
        assert_eq!(policy.lines().skip(1).collect::<Vec<_>>(), named.lines().skip(1).collect::<Vec<_>>(), "{path}");
        assert!(!notes.is_empty() && notes.lines().all(|line| line.starts_with("note[import]: <stdin>")), "{notes}");
    }
}

#[test]
fn what_is_imported_is_a_policy_that_can_be_used() {
    let directory = corpus("");
    for arguments in [
        &["terraform", "terraform/plan-new.json", "--interface", "eth7=app-0"][..],
        &["terraform", "terraform/plan-change.json", "--prior", "--interface", "eth7=eni-0a1b2c3d4e5f60718"],
        &["terraform", "terraform/state.json", "--interface", "eth7=eni-0a1b2c3d4e5f60718"],
        &["terraform", "terraform/terraform.tfstate"],
        &["terraform", "terraform/main.tf"],
        &["cloudformation", "cloudformation/network.yaml", "--interface", "eth7=Interface"],
        &[
            "cloudformation",
            "cloudformation/network.yaml",
            "--parameter",
            "Stage=prod",
            "--parameter",
            "AWS::Region=eu-central-1",
        ],
        &["cloudformation", "cloudformation/network.json"],
    ] {
        let output = nacld(&directory, &[&["import"], arguments].concat());
        let (policy, _) = done(&output);
        let output = fed(&directory, &["check", "-"], policy.as_bytes());
        let (verdict, _) = done(&output);
        let interfaces = if arguments.contains(&"--interface") { "1 interface" } else { "0 interfaces" };
        assert!(verdict.starts_with(&format!("<stdin>: ok, {interfaces}, ")), "{arguments:?}: {verdict}");
    }
}

/// An empty file is HCL with nothing in it, and there is nothing wrong with a state of other things.
#[test]
fn documents_without_a_network_are_told_so() {
    let place = files(&[
        ("empty.tf", b""),
        ("answer.json", b"{\"Vpcs\": []}"),
        ("state.json", b"{\"version\": 4, \"terraform_version\": \"1.9.5\", \"resources\": []}"),
        ("stack.json", b"{\"Resources\": {}}"),
    ]);
    for (format, file) in [
        ("terraform", "empty.tf"),
        ("aws", "answer.json"),
        ("terraform", "state.json"),
        ("cloudformation", "stack.json"),
    ] {
        let output = nacld(place.path(), &["import", format, file]);
        let (_, notes) = done(&output);
        assert_eq!(notes, "note[import]: there is no network in these documents: the policy says nothing\n", "{file}");
    }
}

/// Each format's own words in another's mouth, and whatever else is no such document: where, and what to do.
#[test]
fn what_is_no_such_document_is_told_with_its_place() {
    let place = files(&[
        ("empty.json", b""),
        ("cut.json", b"{\n  \"NetworkAcls\": [\n    {\"NetworkAclId\": \"acl-0a1\", "),
        ("cut-plan.json", b"{\"format_version\": \"1.2\",\n \"planned_values\": {"),
        ("cut.yaml", b"Resources:\n  Vpc:\n    Type: [\n"),
        ("policy.toml", b"version = 1\n[vpc]\ncidrs = [\"10.0.0.0/16\"]\n"),
        ("binary.json", b"{\n\"NetworkAcls\": \"\xff\"}"),
        ("utf16.json", b"\xff\xfe{\0}\0"),
        ("stack.yaml", b"Resources:\n  Vpc:\n    Type: AWS::EC2::VPC\n    Properties: { CidrBlock: 10.0.0.0/16 }\n"),
        ("answer.json", b"{\"Vpcs\": []}"),
    ]);
    fs::create_dir(place.path().join("folder")).expect("a folder");
    let plan = corpus("terraform/plan-new.json");
    let plan = plan.to_str().expect("UTF-8");
    for (format, file, wanted) in [
        ("aws", "missing.json", "cannot read missing.json"),
        ("terraform", "missing.tf", "cannot read missing.tf"),
        ("cloudformation", "missing.yaml", "cannot read missing.yaml"),
        ("aws", "folder", "cannot read folder"),
        ("terraform", "folder", "cannot read folder"),
        ("cloudformation", "folder", "cannot read folder"),
        ("aws", "empty.json", "error[import]: empty.json:1: column 0: this is not JSON"),
        ("cloudformation", "empty.json", "error[import]: empty.json: there is nothing in this template"),
        ("aws", "cut.json", "error[import]: cut.json:3: column 32: this is not JSON"),
        ("terraform", "cut-plan.json", "error[import]: cut-plan.json:2: column 20: this is not JSON"),
        ("cloudformation", "cut.yaml", "error[import]: cut.yaml:4: column 1: this is not YAML"),
        ("aws", "policy.toml", "error[import]: policy.toml:1: column 1: this is not JSON"),
        ("terraform", "policy.toml", "policy.toml"),
        ("cloudformation", "policy.toml", "error[import]: policy.toml"),
        ("aws", "binary.json", "binary.json:2: this is not UTF-8 text"),
        ("terraform", "binary.json", "binary.json:2: this is not UTF-8 text"),
        ("cloudformation", "utf16.json", "this looks like UTF-16"),
        ("aws", "stack.yaml", "error[import]: stack.yaml:1: column 1: this is not JSON"),
        ("aws", plan, "this is no answer of AWS's that tells of networks"),
        ("terraform", "answer.json", "this is neither a plan nor a state of Terraform's"),
        ("cloudformation", "answer.json", "this is no template: `Resources` is missing"),
        ("cloudformation", plan, "this is no template: `Resources` is missing"),
    ] {
        let output = nacld(place.path(), &["import", format, file, "-o", "policy.toml"]);
        let said = failed(&output);
        assert!(said.contains(wanted), "import {format} {file}: {said}");
        assert!(
            read(&place.path().join("policy.toml")).starts_with("version = 1"),
            "import {format} {file}: it was written"
        );
    }
    // All at once.
    let output = nacld(place.path(), &["import", "aws", "missing.json", "folder", "cut.json"]);
    let said = failed(&output);
    assert!(said.contains("missing.json") && said.contains("folder"), "{said}");
    let output = nacld(place.path(), &["import", "aws", "cut.json", "empty.json"]);
    let said = failed(&output);
    assert!(said.contains("cut.json:3") && said.contains("empty.json:1") && said.contains("2 problems"), "{said}");
    // Where it cannot be written to.
    for file in ["folder", "nowhere/policy.toml"] {
        let output = nacld(place.path(), &["import", "cloudformation", "stack.yaml", "-o", file]);
        assert!(failed(&output).contains(&format!("cannot write {file}")), "{}", text(&output.stderr));
    }
}

#[test]
fn slips_of_the_pen_are_wrong_usage_or_told() {
    let directory = corpus("");
    for arguments in [
        &["import"][..],
        &["import", "aws"],
        &["import", "azure", "x.json"],
        &["import", "cloudformation", "cloudformation/network.yaml", "--parameter", "Stage"],
        &["import", "cloudformation", "cloudformation/network.yaml", "--parameter", "=prod"],
        &["import", "terraform", "terraform/state.json", "--interface", "eth0"],
        &["export", "terraform"],
        &["export", "iptables", "policy.toml"],
    ] {
        let output = nacld(&directory, arguments);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{arguments:?}");
    }
    let output = nacld(
        &directory,
        &["import", "terraform", "terraform/state.json", "--interface", "eth0=nobody", "--vpc", "vpc-nowhere"],
    );
    let said = failed(&output);
    assert!(said.contains("error[import]: --interface: ") && said.contains("error[import]: --vpc: "), "{said}");
    let output =
        nacld(&directory, &["import", "cloudformation", "cloudformation/network.json", "--parameter", "Stagge=prod"]);
    let (_, notes) = done(&output);
    assert!(notes.contains("a value was given for `Stagge`, which this template does not have"), "{notes}");
}

const EXPORTS: [&str; 4] = ["aws", "terraform", "cloudformation", "nftables"];

#[test]
fn what_is_exported_goes_to_standard_output_or_into_a_file() {
    let place = files(&[]);
    let import = ["import", "terraform", "state.json", "--interface", "eth7=eni-0a1b2c3d4e5f60718"];
    let output = nacld(&corpus("terraform"), &import);
    fs::write(place.path().join("policy.toml"), done(&output).0).expect("a file");
    for to in EXPORTS {
        let output = nacld(place.path(), &["export", to, "policy.toml"]);
        let (exported, notes) = done(&output);
        assert!(!exported.is_empty(), "{to}");
        assert!(notes.lines().all(|line| line.starts_with("note[export]: ")), "{to}: {notes}");
        // What is told of all together has no place.
        assert!(!notes.contains("]: : "), "{to}: {notes}");
        let output = nacld(place.path(), &["export", to, "policy.toml", "-o", "out"]);
        assert_eq!(done(&output), ("", notes), "{to}");
        assert_eq!(read(&place.path().join("out")), exported, "{to}");
        let output = fed(place.path(), &["export", to, "-"], read(&place.path().join("policy.toml")).as_bytes());
        let (piped, _) = done(&output);
        assert_eq!(piped.replace("<stdin>", "policy.toml"), exported, "{to}");
        if to != "nftables" {
            // And back: no packet is judged otherwise. CloudFormation knows no id, so objects have their names in common.
            let output = nacld(place.path(), &["diff", "policy.toml", "out", "--json"]);
            let difference: Value = serde_json::from_str(done(&output).0).expect("JSON");
            let changes = difference["interfaces"].as_array().expect("a list").iter();
            let changes: Vec<_> = changes.flat_map(|place| place["changes"].as_array().expect("a list")).collect();
            assert!(changes.is_empty(), "{to}: {changes:#?}");
        }
    }
    let json: Value =
        serde_json::from_slice(&nacld(place.path(), &["export", "aws", "policy.toml"]).stdout).expect("JSON");
    assert!(json["NetworkAcls"].is_array(), "{json:#}");
}

#[test]
fn what_cannot_be_exported_is_told_with_its_place_and_nothing_is_written() {
    let place = files(&[
        ("broken.toml", b"version = 1\n[nacl.web]\ninbound = 7\n"),
        ("cut.toml", b"version = 1\n[nacl.web"),
        ("empty.toml", b""),
        ("out", b"before"),
    ]);
    fs::create_dir(place.path().join("folder")).expect("a folder");
    for to in EXPORTS {
        for (file, wanted) in [
            ("missing.toml", "cannot read missing.toml"),
            ("folder", "cannot read folder"),
            ("broken.toml", "broken.toml:3:11"),
            ("cut.toml", "cut.toml:2"),
            ("empty.toml", "empty.toml cannot be used"),
        ] {
            let output = nacld(place.path(), &["export", to, file, "-o", "out"]);
            assert!(failed(&output).contains(wanted), "export {to} {file}: {}", text(&output.stderr));
            assert_eq!(read(&place.path().join("out")), "before", "export {to} {file}");
        }
    }
}

/// `nacld import … | head -1`.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let config = corpus("..");
    for arguments in [
        &["import", "terraform", "import/terraform/state.json"][..],
        &["export", "aws", "nacld.toml"],
        &["export", "terraform", "nacld.toml"],
        &["export", "cloudformation", "nacld.toml"],
        &["export", "nftables", "nacld.toml"],
        &["test", "tests/nacld.toml"],
        &["test", "tests/nacld.toml", "--json"],
        &["test", "tests/nacld.toml", "--format", "tap"],
        &["test", "tests/nacld.toml", "--format", "junit"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command(&config, arguments).stdout(writer).output().expect("nacld");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        assert!(!said.contains("error") && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}

/// What every verb does with a document in a policy's place: it is imported, and what that leaves out is told as `import` does.
#[test]
fn documents_stand_in_a_policys_place_and_are_told_of_as_by_import() {
    let directory = corpus("");
    let flow = ["tcp", "198.51.100.7:52345", "10.0.1.10:443"];
    for (import, file) in [
        (&["import", "aws"][..], "aws/peered/answers.json"),
        (&["import", "terraform"], "terraform/plan-new.json"),
        (&["import", "terraform"], "terraform/main.tf"),
        (&["import", "cloudformation"], "cloudformation/network.yaml"),
    ] {
        let output = nacld(&directory, &[import, &[file]].concat());
        let (policy, notes) = done(&output);
        assert!(!notes.is_empty(), "{file}");
        let list = policy
            .lines()
            .find_map(|line| line.strip_prefix("[nacl.")?.strip_suffix(']'))
            .map(|name| format!("nacl:{name}"));
        let list = list.unwrap_or_else(|| panic!("{file} has no network ACL"));
        for verb in [
            &["check", file][..],
            &["check", "--json", file],
            &["check", "--format", "sarif", file],
            &["check", "--format", "github", file],
            &["explain", "-c", file, "-i", &list, flow[0], flow[1], flow[2]],
            &["diff", file, file],
            &["search", file, "inbound", "-i", &list],
            &["rules", "--config", file],
            &["export", "aws", file],
        ] {
            let output = nacld(&directory, verb);
            let said = text(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 9)), "{verb:?}: {said}");
            for note in notes.lines() {
                assert!(said.contains(note), "{verb:?} does not tell: {note}\n{said}");
            }
        }
        let tests = files(&[(
            "tests.toml",
            format!("at = \"{list}\"\nlines = [\"tcp 198.51.100.7 to here:9: denied\"]\n").as_bytes(),
        )]);
        let tests = tests.path().join("tests.toml");
        let output = nacld(&directory, &["test", tests.to_str().expect("UTF-8"), "--policy", file]);
        let said = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 7)), "{said}");
        assert!(notes.lines().all(|note| said.contains(note)), "{said}");
        // And its colours are those of import.
        let output = nacld(&directory, &["check", "--color", "always", file]);
        assert!(text(&output.stderr).contains("note[import]\u{1b}[0m: "), "{}", text(&output.stderr));
    }
}

/// What is wrong with a document is told likewise, with what to do.
#[test]
fn what_is_wrong_with_a_document_is_told_as_by_import() {
    for entry in fs::read_dir(corpus("aws/broken")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let file = path.file_name().unwrap().to_str().unwrap();
        // Of nothing it cannot be told what it is: it is a policy with nothing in it.
        if !is_json(&path) || file == "nothing.json" {
            continue;
        }
        let expected = read(&path.with_extension("expected"));
        for verb in [&["check", file][..], &["search", file], &["diff", file, file], &["export", "nftables", file]] {
            let output = nacld(&corpus("aws/broken"), verb);
            let said = failed(&output);
            assert!(said.starts_with(&expected), "{verb:?}: {said}\nexpected: {expected}");
        }
    }
}

/// A policy that was made of a document stands in no file, so no place of it is one of the document's.
#[test]
fn findings_about_a_document_name_no_line_of_it() {
    let directory = corpus("cloudformation");
    let output = nacld(&directory, &["check", "--format", "github", "network.yaml"]);
    let (commands, _) = done(&output);
    assert!(
        !commands.is_empty() && commands.lines().all(|line| line.contains("file=network.yaml,title=")),
        "{commands}"
    );
    let output = nacld(&directory, &["check", "--format", "sarif", "network.yaml"]);
    let sarif: Value = serde_json::from_str(done(&output).0).expect("JSON");
    let results = sarif["runs"][0]["results"].as_array().expect("a list");
    assert!(!results.is_empty());
    for result in results {
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "network.yaml");
        assert!(place["region"].is_null() && result["fixes"].is_null(), "{result:#}");
    }
    let output = nacld(&directory, &["check", "--json", "network.yaml"]);
    let json: Value = serde_json::from_str(done(&output).0).expect("JSON");
    let file = &json["files"][0];
    assert_eq!(file["imported"], true);
    let notes = file["left_out"].as_array().expect("a list");
    assert!(notes.iter().any(|note| note["because"] == "unknown" && note["place"]["line"].is_u64()), "{file:#}");
}

/// A template's parameters, wherever a template is read.
#[test]
fn parameters_are_given_to_every_verb() {
    const TEMPLATE: &str = "Parameters:\n  Office: { Type: String }\nResources:\n  Group:\n    Type: AWS::EC2::SecurityGroup\n    Properties:\n      \
        GroupDescription: web\n      SecurityGroupIngress:\n        - { IpProtocol: tcp, FromPort: 443, ToPort: 443, CidrIp: !Ref Office }\n";
    let tests = "policy = \"stack.yaml\"\nat = \"sg:Group\"\nlines = [\"tcp 192.0.2.7 to here:443: allowed\"]\n";
    let place = files(&[("stack.yaml", TEMPLATE.as_bytes()), ("tests.toml", tests.as_bytes())]);
    let flow =
        ["explain", "-c", "stack.yaml", "-i", "sg:Group", "tcp", "192.0.2.7:52345", "10.0.1.10:443", "--exit-code"];
    let search = ["search", "stack.yaml", "inbound", "--port", "443", "-i", "sg:Group"];
    let difference = ["diff", "stack.yaml", "stack.yaml", "--exit-code"];
    for (verb, without, with) in [
        (&flow[..], 5, 0),
        (&search, 9, 0),
        (&["test", "tests.toml"], 7, 0),
        (&difference, 0, 0),
        (&["check", "stack.yaml"], 0, 0),
        (&["export", "cloudformation", "stack.yaml"], 0, 0),
        (&["rules", "--config", "stack.yaml"], 0, 0),
    ] {
        let unknown = "parameter `Office` has no default (`--parameter Office=VALUE`)";
        let output = nacld(place.path(), verb);
        assert_eq!(output.status.code(), Some(without), "{verb:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stderr).contains(unknown), "{verb:?}: {}", text(&output.stderr));
        let output = nacld(place.path(), &[verb, &["--parameter", "Office=192.0.2.0/24"]].concat());
        assert_eq!(output.status.code(), Some(with), "{verb:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(!text(&output.stderr).contains(unknown), "{verb:?}: {}", text(&output.stderr));
    }
}

/// `nacld run` is told what the file is, not that it is bad TOML. (It is asked here what the daemon asks; nothing is attached.)
#[test]
fn a_daemon_says_how_a_document_becomes_its_policy() {
    for (file, verb) in [
        ("aws/peered/answers.json", "nacld import aws "),
        ("terraform/plan-new.json", "nacld import terraform "),
        ("cloudformation/network.yaml", "nacld import cloudformation "),
    ] {
        let Err(error) = prepare::read(&corpus(file), &NoHost) else { panic!("{file} is no policy") };
        assert!(matches!(error, PrepareError::Document { .. }), "{file}: {error}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains(verb) && hint.contains("--interface DEVICE=ENI")),
            "{file}"
        );
    }
}

/// The file of `nacld test` itself, and the policy that it names.
#[test]
fn a_test_file_that_cannot_be_used_is_told_with_its_place() {
    let place = files(&[
        ("empty.toml", b""),
        ("cut.toml", b"policy = \"policy.toml\"\nlines = ["),
        ("binary.toml", b"policy = \"\xff\"\n"),
        ("nowhere.toml", b"policy = \"missing.toml\"\nlines = [\"tcp 192.0.2.7 to here:443: allowed\"]\n"),
        ("nobody.toml", b"lines = [\"tcp 192.0.2.7 to here:443: allowed\"]\n"),
        ("plan.json", b"{\"planned_values\": {"),
        ("good.toml", b"policy = \"policy.toml\"\nlines = [\"tcp 192.0.2.7 to here:443: denied\"]\n"),
        ("bad.toml", b"policy = \"policy.toml\"\nlines = [\"tcp 192.0.2.7 to here:443: allowed\"]\n"),
        ("policy.toml", b"version = 1\n[nacl.web]\ninbound = []\noutbound = []\n[interface.eth7]\nnacl = \"web\"\n"),
    ]);
    fs::create_dir(place.path().join("folder")).expect("a folder");
    for (arguments, wanted) in [
        (&["missing.toml"][..], "cannot read missing.toml"),
        (&["folder"], "cannot read folder"),
        (&["cut.toml"], "cut.toml:2"),
        (&["binary.toml"], "binary.toml"),
        (&["nowhere.toml"], "cannot read missing.toml"),
        (&["nobody.toml"], "nobody.toml names no policy"),
        (&["good.toml", "--policy", "plan.json"], "error[import]: plan.json:1: column 20: this is not JSON"),
        (&["good.toml", "--policy", "folder"], "cannot read folder"),
        (&["empty.toml", "--policy", "policy.toml"], "empty.toml"),
    ] {
        for form in ["text", "json", "tap", "junit"] {
            let output = nacld(place.path(), &[&["test", "--format", form], arguments].concat());
            assert!(failed(&output).contains(wanted), "{arguments:?}: {}", text(&output.stderr));
        }
    }
    // All files at once, and none is run.
    let output = nacld(place.path(), &["test", "good.toml", "missing.toml", "cut.toml"]);
    let said = failed(&output);
    assert!(said.contains("missing.toml") && said.contains("cut.toml:2"), "{said}");
    for (arguments, code) in [(&["good.toml"][..], 0), (&["bad.toml"], 7), (&["good.toml", "bad.toml"], 7)] {
        for form in ["text", "json", "tap", "junit"] {
            let output = nacld(place.path(), &[&["test", "--format", form], arguments].concat());
            assert_eq!(output.status.code(), Some(code), "{arguments:?} {form}: {}", text(&output.stderr));
            assert!(!output.stdout.is_empty());
        }
    }
    let output = fed(place.path(), &["test", "-"], &fs::read(place.path().join("good.toml")).expect("a file"));
    assert!(done(&output).0.contains("1 held"), "{}", text(&output.stdout));
}
