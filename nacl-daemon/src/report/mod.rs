//! Values → text and JSON for people and machines. Never queries.

pub mod console;
pub mod diagnostics;
pub mod explain;
pub mod json;
pub mod rule;
pub mod rules;
pub mod status;

/// An interface and its namespace as a person reads them.
pub fn place(interface: &str, netns: Option<&str>) -> String {
    netns.map_or_else(|| interface.to_owned(), |netns| format!("{interface} (netns {netns})"))
}
