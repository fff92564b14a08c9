//! Edits of a policy's text that leave everything else as it is: comments, layout, order. Decides nothing about policies.

use std::ops::Range;

/// The bytes to take out so that a rule, an inline table in a list, is gone: with its comma, and with its line where nothing else
/// stands on it but a comment about it. `None`: it is not written so.
pub(crate) fn removal(text: &str, rule: &Range<usize>) -> Option<Range<usize>> {
    if !text.get(rule.clone())?.starts_with('{') {
        return None;
    }
    let bytes = text.as_bytes();
    let blank = |at: usize| bytes.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let mut end = rule.end;
    while blank(end) {
        end += 1;
    }
    let comma = bytes.get(end) == Some(&b',');
    if comma {
        end += 1;
    } else {
        end = rule.end;
    }
    let line = text[..rule.start].rfind('\n').map_or(0, |at| at + 1);
    let rest = text[end..].lines().next().unwrap_or_default().trim();
    if text[line..rule.start].trim().is_empty() && (rest.is_empty() || rest.starts_with('#')) {
        let next = text[end..].find('\n').map_or(text.len(), |at| end + at + 1);
        return Some(line..next);
    }
    if comma {
        while blank(end) {
            end += 1;
        }
        return Some(rule.start..end);
    }
    // The last one of a line: the comma before it goes with it, where it stands on this line.
    let before = text[line..rule.start].trim_end_matches([' ', '\t']);
    let start = if before.ends_with(',') { line + before.len() - 1 } else { rule.start };
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str, rule: &str) -> String {
        let start = text.find(rule).unwrap();
        let mut text = text.to_owned();
        let range = removal(&text, &(start..start + rule.len())).unwrap();
        text.replace_range(range, "");
        text
    }

    #[test]
    fn a_rule_goes_with_its_line_and_nothing_else_does() {
        let lines = "a = [\n  # first\n  { x = 1 }, # about 1\n  # second\n  { x = 2 }\n]\n";
        assert_eq!(without(lines, "{ x = 1 }"), "a = [\n  # first\n  # second\n  { x = 2 }\n]\n");
        assert_eq!(without(lines, "{ x = 2 }"), "a = [\n  # first\n  { x = 1 }, # about 1\n  # second\n]\n");
        let one = "a = [{ x = 1 }, { x = 2 }, { x = 3 }] # all\n";
        assert_eq!(without(one, "{ x = 1 }"), "a = [{ x = 2 }, { x = 3 }] # all\n");
        assert_eq!(without(one, "{ x = 2 }"), "a = [{ x = 1 }, { x = 3 }] # all\n");
        assert_eq!(without(one, "{ x = 3 }"), "a = [{ x = 1 }, { x = 2 }] # all\n");
        assert_eq!(without("a = [{ x = 1 }]\n", "{ x = 1 }"), "a = []\n");
        assert_eq!(without("a = [ { x = 1 } ,\n{ x = 2 } ]", "{ x = 1 }"), "a = [ \n{ x = 2 } ]");
        assert_eq!(without("a = [{ x = 1 },\n  { x = 2 }]", "{ x = 2 }"), "a = [{ x = 1 },\n  ]");
        assert_eq!(removal("[[a]]\nx = 1\n", &(0..11)), None);
    }
}
