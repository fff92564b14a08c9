//! Every `config/invalid/*.toml` beside the exact text its author gets to see. `SNAPSHOTS=overwrite` writes the
//! expectations anew; read them before they are committed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nacl_daemon::{
    analyze,
    policy::{self, Diagnostic, Outcome, codes},
    report::diagnostics,
    resolve::NoHost,
};
use snapbox::{Assert, Data, IntoData};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/invalid")
}

/// What is said of a policy: of what is written, and of what its rules come to where the file is about that.
fn load(name: &str, file: &str, text: &str) -> Outcome {
    let mut outcome = policy::load(file, text, &NoHost);
    if name.starts_with('N') {
        let found = outcome.resolved.as_ref().map(analyze::findings).unwrap_or_default();
        outcome.add(found);
    }
    outcome
}

/// Name, text and findings of each file.
fn cases() -> Vec<(String, String, Outcome)> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let file = format!("config/invalid/{name}.toml");
        let (text, outcome) = match policy::decode(fs::read(&path).unwrap()) {
            Ok(text) => {
                let outcome = load(&name, &file, &text);
                (text, outcome)
            }
            Err(broken) => (broken.0, Outcome { resolved: None, diagnostics: vec![broken.1] }),
        };
        cases.push((name, text, outcome));
    }
    cases.sort_by(|one, other| one.0.cmp(&other.0));
    cases
}

#[test]
fn every_broken_policy_is_told_so_in_these_words() {
    let mut failed = Vec::new();
    for (name, text, outcome) in cases() {
        let file = format!("config/invalid/{name}.toml");
        let shown = diagnostics::render(&file, &text, &outcome.diagnostics, false);
        let tally = diagnostics::tally(&outcome.diagnostics);
        let path = directory().join(format!("{name}.expected"));
        // Raw: `...` is how a rendering leaves out lines, not a wildcard.
        let expected = Data::read_from(&path, None).raw();
        let assert = Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV);
        if let Err(error) =
            assert.try_eq(Some(&path.display()), format!("{shown}{tally}\n").into_data().raw(), expected)
        {
            failed.push(error.to_string());
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn no_expectation_is_left_without_its_policy() {
    let names: BTreeSet<_> = cases().into_iter().map(|(name, ..)| name).collect();
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.contains(name), "{} belongs to nothing", path.display());
    }
}

#[test]
fn every_file_shows_the_code_it_is_named_after_and_every_code_has_a_file() {
    let mut named = BTreeSet::new();
    for (name, _, outcome) in cases() {
        if let Some(code) = name.split('-').next().filter(|code| codes::ALL.iter().any(|known| known.id == *code)) {
            assert!(
                outcome.diagnostics.iter().any(|diagnostic| diagnostic.code == code),
                "{name} does not show {code}"
            );
            named.insert(code.to_owned());
        }
    }
    for code in codes::ALL {
        assert!(named.contains(code.id), "config/invalid has no {}-*.toml: {}", code.id, code.summary);
    }
}

/// Applies an edit and says whether the finding is gone.
fn cured(name: &str, text: &str, diagnostic: &Diagnostic) -> bool {
    let fix = diagnostic.fix.as_ref().unwrap();
    let mut fixed = text.to_owned();
    fixed.replace_range(fix.span.clone(), &fix.replacement);
    load(name, "fixed", &fixed)
        .diagnostics
        .iter()
        .all(|other| (other.code, &other.message) != (diagnostic.code, &diagnostic.message))
}

#[test]
fn every_proposed_edit_cures_what_it_is_proposed_for() {
    let mut tried = 0;
    for (name, text, outcome) in cases() {
        for diagnostic in outcome.diagnostics.iter().filter(|diagnostic| diagnostic.fix.is_some()) {
            // Where the same thing is said of two places, one edit cures one of them.
            let same = |other: &&Diagnostic| (other.code, &other.message) == (diagnostic.code, &diagnostic.message);
            if outcome.diagnostics.iter().filter(same).count() == 1 {
                tried += 1;
                assert!(cured(&name, &text, diagnostic), "{name}: the edit does not cure {diagnostic:#?}");
            }
        }
    }
    assert!(tried >= 40, "only {tried} edits tried");
}

/// Beyond 64 bits a number is only known as it was written.
#[test]
fn huge_numbers_are_shown_as_written() {
    let huge = "99999999999999999999";
    for value in [
        format!("rule = {huge}, protocol = 6, ports = 1"),
        format!("rule = 1, protocol = {huge}, ports = 1"),
        format!("rule = 1, protocol = 6, ports = {huge}"),
        format!("rule = 1, protocol = 1, icmp = {{ type = {huge} }}"),
    ] {
        let text = format!(
            "version = 1\n[interface.e]\nnacl = \"n\"\n[nacl.n]\noutbound = []\ninbound = [{{ action = \"deny\", source = \"::/0\", {value} }}]\n"
        );
        let outcome = policy::load("huge", &text, &NoHost);
        assert!(outcome.diagnostics[0].message.contains(huge), "{:?}", outcome.diagnostics[0]);
    }
}
