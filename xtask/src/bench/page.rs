//! `docs/performance.md`: a template (`page.md`), and nothing else but the lines of a run.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Result, bail};

use super::{lines::Run, plots::Picture, tables::Named};

const TEMPLATE: &str = include_str!("page.md");
/// Where the pictures are, from the page.
pub const PICTURES: &str = "performance";

/// The page. A place in the template is `{{name}}` of a table, or `{{plot:name}}`, alone on its line.
pub fn page(run: &Run, tables: &[Named], pictures: &[Picture]) -> Result<String> {
    let mut page = String::new();
    let mut used = BTreeSet::new();
    for line in TEMPLATE.lines() {
        let Some(place) = line.strip_prefix("{{").and_then(|line| line.strip_suffix("}}")) else {
            page.push_str(line);
            page.push('\n');
            continue;
        };
        if place == "warning" {
            page.push_str(&warning(run));
        } else if let Some(name) = place.strip_prefix("plot:") {
            if let Some(picture) = pictures.iter().find(|picture| picture.name == name) {
                used.insert(picture.name);
                let _ = writeln!(page, "![{}]({PICTURES}/{name}.svg)", picture.alt);
            } else {
                page.push_str("(No picture: nothing of it was measured in this run.)\n");
            }
        } else if let Some(named) = tables.iter().find(|named| named.name == place) {
            used.insert(named.name);
            let text = if named.table.is_empty() { nothing(place).to_owned() } else { named.table.markdown() };
            page.push_str(&text);
        } else {
            bail!("page.md has a place that nothing fills: {line}");
        }
    }
    let left: Vec<_> = tables
        .iter()
        .map(|named| named.name)
        .chain(pictures.iter().map(|picture| picture.name))
        .filter(|name| !used.contains(name))
        .collect();
    if !left.is_empty() {
        bail!("page.md has no place for {}", left.join(", "));
    }
    Ok(page)
}

fn nothing(place: &str) -> &'static str {
    match place {
        "missing" => "Everything was measured.\n",
        "limits" => "None was met in this run.\n",
        _ => "(Not measured in this run.)\n",
    }
}

/// What makes a run less than it should be, in front of everything.
fn warning(run: &Run) -> String {
    let mut text = String::new();
    if run.machine.quick {
        text.push_str(
            "> **A quick run** made this page: fewer rounds and packets. `cargo xtask bench` makes the real one.\n\n",
        );
    }
    if run.end.is_none() {
        text.push_str("> **The run was not finished**; what follows is as far as it came.\n\n");
    }
    if !run.missing.is_empty() {
        text.push_str("> **Something could not be measured here**: see [Not measured](#not-measured).\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{plots, tables};

    #[test]
    fn every_table_and_picture_has_its_place() {
        let run = Run::default();
        let pictures: Vec<_> =
            plots::NAMES.into_iter().map(|name| Picture { name, alt: "", svg: String::new() }).collect();
        let page = page(&run, &tables::all(&run), &pictures).expect("a page");
        for name in plots::NAMES {
            assert!(page.contains(&format!("]({PICTURES}/{name}.svg)")), "{name}");
        }
        assert!(page.contains("not finished") && !page.contains("{{"));
    }
}
