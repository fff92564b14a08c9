//! Results of policy tests: text for people, JSON, TAP 14 and JUnit XML for pipelines. Never asks anything.

use std::{fmt::Write as _, time::Duration};

use anstream::adapter::strip_str;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

use super::{
    explain::{self, Asked, BOLD, DIM, GREEN, RED},
    path,
};
use crate::{
    resolve::Resolved,
    testing::{Done, Example, Failure, Result as Outcome_, Run, Seen, Suite, Tally, Test, in_ranges, name},
};

/// A suite, the policy it was held against, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The tests.
    pub suite: &'a Suite,
    /// The policy.
    pub policy: &'a Resolved,
    /// What became of them.
    pub run: &'a Run,
}

impl Told<'_> {
    fn test(&self, done: &Done) -> &Test {
        &self.suite.tests[done.index]
    }
}

fn tally(all: &[Told<'_>]) -> Tally {
    all.iter().fold(Tally::default(), |tally, told| tally.and(told.run.tally()))
}

/// What was seen, a line for each way in which flows end.
fn seen_lines(seen: &[Seen]) -> String {
    seen.iter().fold(String::new(), |mut lines, one| {
        let by = if one.by.is_empty() { String::new() } else { format!(" by {}", one.by.join(", ")) };
        let ports = |title: &str, ranges: &[(u16, u16)]| {
            if ranges.is_empty() { String::new() } else { format!(", {title} {}", in_ranges(ranges)) }
        };
        let (client, service) = (ports("client ports", &one.client_ports), ports("port", &one.ports));
        let good = if one.expected { "as expected" } else { "not expected" };
        let _ = writeln!(lines, "{}{by}{client}{service} ({good}); such as {}", name(one.outcome), one.example);
        lines
    })
}

/// The flow that shows what is wrong, as `explain` tells it; styled.
fn explained(policy: &Resolved, example: &Example) -> String {
    match example {
        Example::At(name, interface, explanation) => explain::text(&Asked { policy, name, interface }, explanation),
        Example::Way(way) => path::text(policy, way),
    }
}

fn indented(text: &str, by: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{by}{line}\n") }).collect()
}

/// As styled text. `all`: also the tests that held.
pub fn text(all: &[Told<'_>], time: Duration, held: bool) -> String {
    let mut out = String::new();
    for told in all {
        for done in &told.run.done {
            let test = told.test(done);
            let place = format!("{DIM}{}:{}{DIM:#}", told.suite.file, test.line);
            match &done.result {
                Outcome_::Held if held => {
                    let _ = writeln!(out, "{GREEN}held{GREEN:#}     {}  {place}", test.name);
                }
                Outcome_::Held => {}
                Outcome_::Skipped(why) => {
                    let _ = writeln!(out, "{BOLD}skipped{BOLD:#}  {}  {place}\n         {why}", test.name);
                }
                Outcome_::Failed(failure) => {
                    let _ =
                        writeln!(out, "{RED}FAILED{RED:#}   {}  {place}\n         {}\n", test.name, failure.message);
                    if failure.seen.len() > 1 {
                        out.push_str(&indented(&seen_lines(&failure.seen), "         "));
                        out.push('\n');
                    }
                    if let Some(example) = &failure.example {
                        out.push_str(&indented(&explained(told.policy, example), "    "));
                        out.push('\n');
                    }
                }
            }
        }
    }
    let tally = tally(all);
    let style = if tally.ok() { GREEN } else { RED };
    let _ = writeln!(out, "{style}{tally}{style:#} {DIM}({:.2} s){DIM:#}", time.as_secs_f64());
    out
}

/// As JSON; `schema` counts up when a field changes its meaning.
pub fn json(all: &[Told<'_>]) -> Value {
    let tally = tally(all);
    let suites = all.iter().map(|told| {
        let tests = told.run.done.iter().map(|done| {
            let test = told.test(done);
            let mut value = json!({
                "name": test.name,
                "line": test.line,
                "expected": test.expect.name(),
                "by": test.by.iter().map(|by| by.text.as_str()).collect::<Vec<_>>(),
                "result": word(&done.result),
                "seconds": done.time.as_secs_f64(),
            });
            match &done.result {
                Outcome_::Held => {}
                Outcome_::Skipped(why) => value["message"] = why.as_str().into(),
                Outcome_::Failed(failure) => {
                    value["message"] = failure.message.as_str().into();
                    value["seen"] = json!(failure.seen);
                    value["explained"] =
                        failure.example.as_ref().map(|example| example_json(told.policy, example)).into();
                }
            }
            value
        });
        json!({
            "file": told.suite.file,
            "policy": told.policy.file,
            "level": told.run.level,
            "tests": tests.collect::<Vec<_>>(),
        })
    });
    json!({ "schema": 1, "ok": tally.ok(), "tally": tally, "suites": suites.collect::<Vec<_>>() })
}

fn example_json(policy: &Resolved, example: &Example) -> Value {
    match example {
        Example::At(name, interface, explanation) => explain::json(&Asked { policy, name, interface }, explanation),
        Example::Way(way) => path::json(policy, way),
    }
}

const fn word(result: &Outcome_) -> &'static str {
    match result {
        Outcome_::Held => "held",
        Outcome_::Failed(_) => "failed",
        Outcome_::Skipped(_) => "skipped",
    }
}

/// All that is told of a failure, without styles.
fn detail(told: &Told<'_>, failure: &Failure) -> String {
    let mut text = seen_lines(&failure.seen);
    if let Some(example) = &failure.example {
        let _ = write!(text, "\n{}", strip_str(&explained(told.policy, example)));
    }
    text
}

/// As TAP 14 (testanything.org): a line for each test, and what is wrong as YAML below it.
pub fn tap(all: &[Told<'_>]) -> String {
    let count: usize = all.iter().map(|told| told.run.done.len()).sum();
    let mut out = format!("TAP version 14\n1..{count}\n");
    let mut number = 0;
    for told in all {
        for done in &told.run.done {
            number += 1;
            let test = told.test(done);
            let description = tap_text(&test.name);
            match &done.result {
                Outcome_::Held => {
                    let _ = writeln!(out, "ok {number} - {description}");
                }
                Outcome_::Skipped(why) => {
                    let _ = writeln!(out, "ok {number} - {description} # SKIP {}", tap_text(why));
                }
                Outcome_::Failed(failure) => {
                    let _ = writeln!(out, "not ok {number} - {description}\n  ---");
                    // A string of JSON is one of YAML.
                    let _ = writeln!(out, "  message: {}", Value::from(failure.message.as_str()));
                    let _ = writeln!(out, "  severity: fail");
                    let _ = writeln!(out, "  expected: {}", Value::from(test.expect.name()));
                    let _ = writeln!(out, "  file: {}", Value::from(told.suite.file.as_str()));
                    let _ = writeln!(out, "  line: {}", test.line);
                    let _ = writeln!(out, "  detail: {}\n  ...", Value::from(detail(told, failure)));
                }
            }
        }
    }
    out
}

/// A description of one line, in which nothing begins a directive.
fn tap_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '#' | '\\' => out.extend(['\\', sign]),
            sign if sign.is_control() => out.push(' '),
            sign => out.push(sign),
        }
    }
    out
}

/// As JUnit XML, which most pipelines show.
///
/// # Errors
/// It cannot be serialised.
pub fn junit(all: &[Told<'_>], time: Duration) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("nacld test");
    report.set_time(time);
    for told in all {
        let mut suite = TestSuite::new(told.suite.file.clone());
        suite.add_property(("policy", told.policy.file.as_str()));
        suite.set_time(told.run.done.iter().map(|done| done.time).sum());
        for done in &told.run.done {
            let test = told.test(done);
            let status = match &done.result {
                Outcome_::Held => TestCaseStatus::success(),
                Outcome_::Skipped(why) => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(why.as_str());
                    status
                }
                Outcome_::Failed(failure) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_type(format!("expected {}", test.expect.name()));
                    status.set_message(failure.message.as_str());
                    status.set_description(detail(told, failure));
                    status
                }
            };
            let mut case = TestCase::new(test.name.clone(), status);
            case.set_classname(told.suite.file.clone());
            case.set_time(done.time);
            case.extra.insert("file".into(), told.suite.file.as_str().into());
            case.extra.insert("line".into(), test.line.to_string().into());
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    report.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_no_directive() {
        assert_eq!(tap_text("a # SKIP b\\c\nok 2"), "a \\# SKIP b\\\\c ok 2");
    }
}
