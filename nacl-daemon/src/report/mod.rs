//! Values → text and JSON for people and machines. Never queries.

pub mod broken;
pub mod codes;
pub mod conntrack;
pub mod console;
pub mod diagnostics;
pub mod diff;
pub mod doctor;
pub mod explain;
pub mod flowlog;
pub mod github;
pub mod import;
pub mod json;
pub mod layout;
pub mod lockout;
pub mod markdown;
pub mod metrics;
pub mod path;
pub mod regions;
pub mod replay;
pub mod rule;
pub mod rules;
pub mod sarif;
pub mod search;
pub mod status;
pub mod testing;
pub mod watch;

/// An interface and its namespace as a person reads them.
pub fn place(interface: &str, netns: Option<&str>) -> String {
    netns.map_or_else(|| interface.to_owned(), |netns| format!("{interface} (netns {netns})"))
}

/// An interface by all its names, as a person reads them: `eth0`, `web (eth0 in netns blue)`.
pub fn named(interface: &str, device: &str, netns: Option<&str>) -> String {
    if interface == device {
        return place(device, netns);
    }
    let within = netns.map(|netns| format!(" in netns {netns}")).unwrap_or_default();
    format!("{interface} ({device}{within})")
}

/// `1 rule`, `2 rules`.
pub fn count_of(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
