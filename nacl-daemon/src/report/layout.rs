//! Lines that are too long for a terminal, broken between words. The one place for all that people read; knows no terminal: how wide one is,
//! is the caller's to say.
//!
//! What is meant to be pasted stays on one line, however long it is: a rule as TOML stands in braces, a command in backticks, and neither is ever
//! broken. Nor is a packet's way, `from → to`.

use std::fmt::Write as _;

use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm, core::Word};

/// Columns that text has at least: what is narrower is read by nobody.
const LEAST: usize = 30;

/// A line with so many cells, two blanks or more between them, is one of a table: it is broken between them, and not within.
const CELLS: usize = 4;

/// Breaks the lines of a text that are wider than a terminal; `None`: there is none, and nothing is broken. What is broken goes on below the
/// column where its line began to say something.
pub fn fit(text: &str, width: Option<u16>) -> String {
    let Some(width) = width.map(usize::from) else { return text.to_owned() };
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        if textwrap::core::display_width(line) <= width {
            let _ = write!(out, "{line}{end}");
            continue;
        }
        let below = " ".repeat(below(line, width));
        let options = options(width).subsequent_indent(&below);
        let _ = write!(out, "{}{end}", textwrap::wrap(line, options).join("\n"));
    }
    out
}

/// A paragraph on lines of so many columns.
pub fn lines(text: &str, width: usize) -> Vec<String> {
    textwrap::wrap(text, options(width)).into_iter().map(String::from).collect()
}

fn options<'o>(width: usize) -> Options<'o> {
    Options::new(width.max(LEAST))
        .break_words(false)
        .word_separator(WordSeparator::Custom(words))
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit)
}

/// Where a line that is broken goes on: below its text, where a label stands before it, with two blanks or more between them; else below its
/// beginning.
fn below(line: &str, width: usize) -> usize {
    let plain = anstream::adapter::strip_str(line).to_string();
    let signs: Vec<char> = plain.chars().collect();
    let start = signs.iter().take_while(|sign| **sign == ' ').count();
    // A column further to the right would leave too little.
    let mut columns = (start + 1..=(width / 4).min(signs.len().saturating_sub(1)))
        .filter(|at| signs[*at] != ' ' && signs[*at - 1] == ' ' && signs[*at - 2] == ' ');
    columns.next_back().unwrap_or(if start == 0 { 2 } else { start })
}

/// Words with the blanks behind them. What is never broken is one word.
fn words(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let mut words: Vec<Word<'_>> = Vec::new();
    let table = line.split("  ").filter(|cell| !cell.trim().is_empty()).count() >= CELLS;
    // Where the next word begins, how far it was looked at, and the end of what must not be broken.
    let (mut start, mut at, mut whole) = (0, 0, 0);
    for piece in line.split_inclusive(' ') {
        let word = piece.trim_end_matches(' ');
        whole = unbroken(line, whole.max(at), at + word.len()).unwrap_or(whole);
        at += piece.len();
        let rest = &line[at..];
        let arrow = |text: &str| matches!(text, "→" | "▸");
        let joined = whole > at
            || arrow(word)
            || arrow(rest.split(' ').next().unwrap_or_default())
            || table && !line[..at].ends_with("  ");
        // Blanks belong to the word before them, and those at the beginning to the first.
        if !joined && !rest.starts_with(' ') && !line[start..at].trim_start().is_empty() {
            words.push(Word::from(&line[start..at]));
            start = at;
        }
    }
    if start < line.len() {
        words.push(Word::from(&line[start..]));
    }
    Box::new(words.into_iter())
}

/// The end of what begins in a word and must not be broken, if it is behind the word.
fn unbroken(line: &str, start: usize, end: usize) -> Option<usize> {
    let mut last = start;
    loop {
        let open = last + line.get(last..end)?.find(['{', '`'])?;
        let close = if line[open..].starts_with('`') {
            line[open + 1..].find('`').map(|at| open + 1 + at + 1)
        } else {
            let mut depth = 0_usize;
            line[open..].char_indices().find_map(|(at, sign)| {
                depth = match sign {
                    '{' => depth + 1,
                    '}' => depth - 1,
                    _ => depth,
                };
                (depth == 0).then_some(open + at + 1)
            })
        };
        // What is never closed was nothing of the kind.
        let close = close.unwrap_or(open + 1);
        if close > end {
            return Some(close);
        }
        last = close;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_and_go_on_below() {
        let text = "  label        one two three four five six seven\nshort\n\n";
        assert_eq!(fit(text, None), text);
        assert_eq!(fit(text, Some(60)), "  label        one two three four five six seven\nshort\n\n");
        assert_eq!(
            fit("  a  one two three four five six seven eight\n", Some(32)),
            "  a  one two three four five six\n     seven eight\n"
        );
        assert_eq!(
            fit("one two three four five six seven eight nine", Some(32)),
            "one two three four five six\n  seven eight nine"
        );
    }

    #[test]
    fn a_style_takes_no_room() {
        let text = "\u{1b}[1mone two\u{1b}[0m three four five six \u{1b}[2mseven\u{1b}[0m";
        assert_eq!(fit(text, Some(34)), text);
    }

    #[test]
    fn what_is_pasted_stays_whole() {
        let rule = "{ rule = 110, action = \"allow\", icmp = { type = 3, code = 4 }, source = \"0.0.0.0/0\" },";
        assert_eq!(
            fit(&format!("    fix: add to inbound of [nacl.web]: {rule}\n"), Some(40)),
            format!("    fix: add to inbound of [nacl.web]:\n    {rule}\n")
        );
        assert_eq!(
            lines("say `nacld reload --confirm 60s --force` and then `nacld confirm`, or nothing", 30),
            ["say", "`nacld reload --confirm 60s --force`", "and then `nacld confirm`, or", "nothing"]
        );
        // What is opened and never closed is a word like others.
        assert_eq!(lines("an { and a ` that stand alone in a line of words", 30).len(), 2);
    }

    #[test]
    fn a_line_of_a_table_is_broken_between_its_cells() {
        assert_eq!(
            fit("   1  leaves server  security group sg-3  allow inbound 1  policy.toml:12", Some(50)),
            "   1  leaves server  security group sg-3\n      allow inbound 1  policy.toml:12"
        );
    }

    #[test]
    fn a_way_stays_whole() {
        assert_eq!(
            lines("a packet goes from 198.51.100.7:50000 → 10.0.1.10:443 and dies", 40),
            ["a packet goes from", "198.51.100.7:50000 → 10.0.1.10:443 and", "dies"]
        );
    }
}
