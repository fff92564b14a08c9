//! Diagnostics → SARIF 2.1.0, the form in which code scanners and their viewers exchange findings. Only what nacld has to say of
//! the format's many properties. Decides nothing.

use std::path::{Component, Path};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::diagnostics::{Place, Places, examples, sentence};
use crate::policy::{Diagnostic, Severity, codes};

/// The schema of this version of the format.
const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// What may stand in a path of a URI as it is (RFC 3986).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A policy file with what was found in it.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// As it was named.
    pub name: &'a str,
    /// Its text, where the places of what was found are in it.
    pub text: Option<&'a str>,
    /// What was found.
    pub diagnostics: &'a [Diagnostic],
    /// Why it cannot be read or enforced, beside that.
    pub failures: &'a [String],
}

/// One run over these files, as a log.
pub fn log(files: &[File<'_>]) -> Value {
    let rules: Vec<_> = codes::ALL.iter().map(|code| rule(code)).collect();
    let results: Vec<_> = files.iter().flat_map(results).collect();
    let notifications: Vec<_> = files.iter().flat_map(notifications).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "nacld",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": notifications.is_empty(),
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    })
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

fn rule(code: &codes::Code) -> Value {
    let story = code.story();
    let markdown = format!(
        "{}\n\n**Why.** {}\n\n```toml\n{}\n```\n\n**What to do.** {}",
        story.meaning, story.why, story.example, story.advice
    );
    let text = format!("{}\n\nWhy: {}\n\n{}\n\nWhat to do: {}", story.meaning, story.why, story.example, story.advice);
    json!({
        "id": code.id,
        "shortDescription": { "text": code.summary },
        "fullDescription": { "text": story.meaning.replace('\n', " ") },
        "help": { "text": text, "markdown": markdown },
        "defaultConfiguration": { "level": level(code.severity) },
    })
}

fn results<'a>(file: &File<'a>) -> impl Iterator<Item = Value> + use<'a> {
    let File { name, text, diagnostics, .. } = *file;
    let places = text.map(Places::of);
    diagnostics.iter().map(move |diagnostic| {
        let index = codes::ALL.iter().position(|code| code.id == diagnostic.code);
        let location = |span: &std::ops::Range<usize>, said: Option<&str>| {
            let mut location = json!({ "physicalLocation": { "artifactLocation": { "uri": uri(name) } } });
            if let Some(places) = &places {
                location["physicalLocation"]["region"] = region(places.place(span));
            }
            if let Some(said) = said {
                location["message"] = json!({ "text": said });
            }
            location
        };
        let mut lines = vec![diagnostic.message.clone()];
        lines.extend(diagnostic.note.clone());
        lines.extend(diagnostic.examples.iter().map(|example| format!("Example: {}", sentence(example))));
        lines.extend(diagnostic.help.clone());
        let mut result = json!({
            "ruleId": diagnostic.code,
            "ruleIndex": index,
            "level": level(diagnostic.severity),
            "message": { "text": lines.join("\n") },
            "locations": [location(&diagnostic.span, diagnostic.label.as_deref())],
        });
        if !diagnostic.labels.is_empty() {
            let related = diagnostic.labels.iter().zip(1..).map(|(label, id)| {
                let mut related = location(&label.span, Some(&label.text));
                related["id"] = json!(id);
                related
            });
            result["relatedLocations"] = related.collect();
        }
        if let (Some(fix), Some(places)) = (&diagnostic.fix, &places) {
            result["fixes"] = json!([{
                "description": { "text": diagnostic.help.as_deref().unwrap_or(&diagnostic.message) },
                "artifactChanges": [{
                    "artifactLocation": { "uri": uri(name) },
                    "replacements": [{
                        "deletedRegion": region(places.place(&fix.span)),
                        "insertedContent": { "text": fix.replacement },
                    }],
                }],
            }]);
        }
        if !diagnostic.examples.is_empty() {
            result["properties"] = json!({ "examples": examples(&diagnostic.examples) });
        }
        result
    })
}

/// What keeps a file from being judged at all.
fn notifications<'a>(file: &File<'a>) -> impl Iterator<Item = Value> + use<'a> {
    let File { name, failures, .. } = *file;
    failures.iter().map(move |failure| {
        json!({
            "level": "error",
            "message": { "text": failure },
            "locations": [{ "physicalLocation": { "artifactLocation": { "uri": uri(name) } } }],
        })
    })
}

/// Lines and columns from 1, the end exclusive, as the format has them.
fn region(place: Place) -> Value {
    json!({
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.end_line,
        "endColumn": place.end_column,
    })
}

/// A path as a relative reference, or as a file URI where it is absolute.
fn uri(name: &str) -> String {
    let path = Path::new(name);
    let plain: Vec<_> = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| utf8_percent_encode(&part.as_os_str().to_string_lossy(), PATH).to_string())
        .collect();
    if path.is_absolute() { format!("file:///{}", plain[1..].join("/")) } else { plain.join("/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris() {
        assert_eq!(uri("./config/my policy.toml"), "config/my%20policy.toml");
        assert_eq!(uri("/etc/nacld/policy.toml"), "file:///etc/nacld/policy.toml");
        assert_eq!(uri("<stdin>"), "%3Cstdin%3E");
    }
}
