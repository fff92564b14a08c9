//! Diagnostics → workflow commands of GitHub Actions, which shows them beside the lines of a pull request. Decides nothing.

use super::diagnostics::{Places, sentence};
use crate::policy::{Diagnostic, Severity};

/// One command a diagnostic, a line each. `text`: of the file, where the places are in it.
pub fn commands(file: &str, text: Option<&str>, diagnostics: &[Diagnostic]) -> String {
    let places = text.map(Places::of);
    diagnostics
        .iter()
        .map(|diagnostic| {
            let mut properties = vec![("file", property(file))];
            if let Some(places) = &places {
                let place = places.place(&diagnostic.span);
                properties.push(("line", place.line.to_string()));
                properties.push(("endLine", place.end_line.to_string()));
                // GitHub takes columns only where all is on one line, and its end is the last one marked.
                if place.line == place.end_line && place.end_column > place.column {
                    properties.push(("col", place.column.to_string()));
                    properties.push(("endColumn", (place.end_column - 1).to_string()));
                }
            }
            properties.push(("title", property(&format!("nacld {}", diagnostic.code))));
            command(diagnostic.severity, &properties, &message(diagnostic))
        })
        .collect()
}

/// A command about a file as a whole.
pub fn failure(file: &str, what: &str) -> String {
    command(Severity::Error, &[("file", property(file)), ("title", property("nacld"))], what)
}

fn command(severity: Severity, properties: &[(&str, String)], message: &str) -> String {
    let command = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    let properties: Vec<_> = properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("::{command} {}::{}\n", properties.join(","), data(message))
}

/// What is wrong, and what stands under it in the text.
fn message(diagnostic: &Diagnostic) -> String {
    let mut lines = vec![diagnostic.message.clone()];
    lines.extend(diagnostic.note.iter().map(|note| format!("note: {note}")));
    lines.extend(diagnostic.examples.iter().map(|example| format!("example: {}", sentence(example))));
    lines.extend(diagnostic.help.iter().map(|help| format!("help: {help}")));
    lines.join("\n")
}

/// Text behind the command: a line end would end the command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property's value: a comma or a colon would end it.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_command_is_escaped() {
        assert_eq!(
            failure("a,b:c%d.toml", "100 % of\r\nit: x, y"),
            "::error file=a%2Cb%3Ac%25d.toml,title=nacld::100 %25 of%0D%0Ait: x, y\n"
        );
    }
}
