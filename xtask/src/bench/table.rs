//! A table, for the terminal and for a page.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, TableComponent, presets};

/// Rows of text under headings.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<String>,
    /// Columns before this one are words, the others are figures.
    figures: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one; columns from `figures` on are aligned to the right.
    pub fn new<T: Into<String>>(head: impl IntoIterator<Item = T>, figures: usize) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), figures, rows: Vec::new() }
    }

    /// Adds a row, which has as many cells as there are headings.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.head.len(), "{cells:?}");
        self.rows.push(cells);
    }

    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// For a terminal of so many columns, if it is one.
    pub fn terminal(&self, width: Option<u16>) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING).set_header(&self.head);
        table.set_style(TableComponent::HeaderLines, '─');
        table.set_style(TableComponent::MiddleHeaderIntersections, '─');
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.add_rows(&self.rows);
        for column in table.column_iter_mut().skip(self.figures) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// For a page of Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = String>| {
            let cells: Vec<_> = cells.collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        };
        line(&mut self.head.iter().map(|cell| escaped(cell)));
        line(&mut (0..self.head.len()).map(|column| if column < self.figures { "---" } else { "---:" }.into()));
        for row in &self.rows {
            line(&mut row.iter().map(|cell| escaped(cell)));
        }
        out
    }
}

fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_keeps_what_means_something_to_it() {
        let mut table = Table::new(["what", "ns"], 1);
        table.row(["the `*` rule, a|b", "5"]);
        assert_eq!(table.markdown(), "| what | ns |\n| --- | ---: |\n| the `\\*` rule, a\\|b | 5 |\n");
        assert!(table.terminal(Some(80)).contains("a|b"));
    }
}
