//! What a change of a policy does, as Markdown for a pull request: first what a reviewer has to know, in few lines; the rest
//! folded away. Reads on GitHub and GitLab.

use std::fmt::Write as _;

use nacl_common::Direction;

use super::{
    count_of,
    diff::Files,
    regions::{Place, cells, command, family_name, said},
};
use crate::analyze::{BrokenReply, Change, Difference, InterfaceDifference, What};

/// Lines of a list that stand before the folded part.
const SHORT: usize = 10;

/// Lines of all tables of the folded part: a comment of a pull request holds 65536 characters.
const LONG: usize = 150;

/// The comment.
pub fn diff(files: Files<'_>, difference: &Difference) -> String {
    let mut out = String::from("## What this change does to packets\n\n");
    let lines = |what: What| -> Vec<String> {
        let changes = difference.interfaces.iter().flat_map(|one| one.changes.iter().map(move |change| (one, change)));
        changes.filter(|(_, change)| change.what == what).flat_map(|(one, change)| regions(one, change)).collect()
    };
    let (admitted, denied) = (lines(What::Admitted), lines(What::Denied));
    let replies: Vec<String> = difference.replies.iter().map(reply).collect();
    let unknown: Vec<String> = files
        .unknown
        .iter()
        .map(|note| format!("{}: {}", code(&note.place.to_string()), plain(&note.message)))
        .collect();
    let (old, new) = (code(files.old), code(files.new));
    if difference.is_empty() {
        let _ = writeln!(out, "**Nothing.** What {old} admits and denies, {new} does.");
    } else {
        let parts = [
            (admitted.len(), count_of(admitted.len(), "region") + " newly admitted"),
            (denied.len(), count_of(denied.len(), "region") + " newly cut"),
            (replies.len(), count_of(replies.len(), "finding") + " about replies that break"),
            (unknown.len(), count_of(unknown.len(), "value") + " not known"),
        ];
        let parts: Vec<String> = parts.into_iter().filter(|(count, _)| *count > 0).map(|(_, part)| part).collect();
        let says = if parts.is_empty() { "no packet meets another verdict".to_owned() } else { parts.join(", ") };
        let _ = writeln!(out, "{old} → {new}: {says}.");
    }
    list(&mut out, "Newly admitted", &admitted);
    list(&mut out, "Newly cut", &denied);
    list(&mut out, "Replies that break", &replies);
    list(&mut out, "Not known before it is applied, and so not compared", &unknown);
    let mut others: Vec<String> = Vec::new();
    others.extend(difference.only_old.iter().map(|name| format!("{} goes", code(name))));
    others.extend(difference.only_new.iter().map(|name| format!("{} comes", code(name))));
    let own = difference.settings.iter().map(|setting| ("policy", setting));
    let all =
        difference.interfaces.iter().flat_map(|one| one.settings.iter().map(|setting| (one.name.as_str(), setting)));
    others.extend(own.chain(all).map(|(name, setting)| {
        format!("{}: {} {} → {}", code(name), plain(&setting.name), code(&setting.before), code(&setting.after))
    }));
    list(&mut out, "Other changes", &others);
    if !difference.interfaces.iter().all(|one| one.changes.is_empty()) {
        out.push_str("\n<details>\n<summary>Every region, and how to look closer</summary>\n\n");
        let mut left = LONG;
        for one in &difference.interfaces {
            table(&mut out, files, one, &mut left);
        }
        if left == 0 {
            out.push_str("The rest is left out here: `nacld diff` prints all of it.\n\n");
        }
        out.push_str(
            "Compared is the first packet of each flow; packets that AWS never filters are left out.\n\n</details>\n",
        );
    }
    out
}

fn list(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n### {title}\n");
    for line in lines.iter().take(SHORT) {
        let _ = writeln!(out, "- {line}");
    }
    if lines.len() > SHORT {
        let _ = writeln!(out, "- and {} more", lines.len() - SHORT);
    }
}

/// A line for each box of a change.
fn regions(one: &InterfaceDifference, change: &Change) -> Vec<String> {
    let way = if change.direction == Direction::Inbound { "from" } else { "to" };
    let line = |boxed| {
        let [addresses, traffic] = cells(boxed);
        format!(
            "{} {}: **{}** {way} {}, {}",
            code(&one.name),
            change.direction.name(),
            plain(&traffic),
            plain(&addresses),
            plain(&said(&change.after))
        )
    };
    change.boxes.iter().map(line).collect()
}

fn reply(reply: &BrokenReply) -> String {
    let BrokenReply { nacl, finding } = reply;
    let help = finding.help.as_ref().map(|help| format!(". To mend it, {}", plain(help))).unwrap_or_default();
    format!("{}: {} ({}){help}", code(&format!("nacl:{nacl}")), plain(&finding.message), finding.code)
}

fn table(out: &mut String, files: Files<'_>, one: &InterfaceDifference, left: &mut usize) {
    if one.changes.is_empty() || *left == 0 {
        return;
    }
    let _ = writeln!(out, "**{}**\n", code(&one.name));
    out.push_str("| | Way | Traffic | Other end | Before | After |\n|---|---|---|---|---|---|\n");
    for change in &one.changes {
        let what = match change.what {
            What::Admitted => "admitted",
            What::Denied => "cut",
            What::Rule => "other rule",
        };
        for boxed in change.boxes.iter().take(*left) {
            let [addresses, traffic] = cells(boxed);
            let _ = writeln!(
                out,
                "| {what} | {} {} | {} | {} | {} | {} |",
                change.direction.name(),
                family_name(change.family),
                plain(&traffic),
                plain(&addresses),
                plain(&said(&change.before)),
                plain(&said(&change.after))
            );
        }
        *left = left.saturating_sub(change.boxes.len());
    }
    let first = &one.changes[0];
    let place = Place { file: files.new, interface: &one.name };
    if let Some(command) = command(place, first.direction, &first.boxes[0].example) {
        let _ = writeln!(out, "\n```\n{command}\n```\n");
    }
}

/// A text that says nothing to Markdown or HTML.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '@' | '!' => out.extend(['\\', sign]),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            sign if sign.is_control() => out.push(' '),
            sign => out.push(sign),
        }
    }
    out
}

/// A name in the font of code, whatever stands in it.
fn code(text: &str) -> String {
    let text: String = text.chars().map(|sign| if sign.is_control() || sign == '|' { ' ' } else { sign }).collect();
    let mut longest = 0;
    let mut run = 0;
    for sign in text.chars() {
        run = if sign == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(longest + 1);
    let blank = if longest > 0 { " " } else { "" };
    format!("{fence}{blank}{text}{blank}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_named_is_read_as_markup() {
        assert_eq!(plain("a*b_c|<img src=x>@all"), "a\\*b\\_c\\|&lt;img src=x&gt;\\@all");
        assert_eq!(plain("one\ntwo"), "one two");
        assert_eq!(code("web"), "`web`");
        assert_eq!(code("a`b``c"), "``` a`b``c ```");
        assert_eq!(code("a|b\nc"), "`a b c`");
    }
}
