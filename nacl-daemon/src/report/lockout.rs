//! Whom a policy would lock out, for people.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style};

use super::named;
use crate::service::lockout::Outlook;

const GREEN: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
const LOUD: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));

/// What `nacld check --here` adds. Says what is not known as plainly as what is.
pub fn text(outlooks: &[Outlook]) -> String {
    let mut out = String::new();
    for outlook in outlooks {
        let place = named(&outlook.interface, &outlook.device, outlook.netns.as_deref());
        if let Some(why) = &outlook.unknown {
            let _ = writeln!(out, "{place}: who is connected by SSH is not known: {why}");
            continue;
        }
        let seen = if outlook.partly { " that can be seen without root" } else { "" };
        if outlook.connections.is_empty() {
            let _ = writeln!(out, "{place}: nobody is connected by SSH{seen}");
        }
        for connection in &outlook.connections {
            let (style, word) = if connection.cut.is_some() { (LOUD, "warning") } else { (GREEN, "note") };
            let _ = writeln!(out, "{style}{word}{style:#}: {place}: {}", connection.text);
        }
        if outlook.partly && !outlook.connections.is_empty() {
            let _ = writeln!(out, "{place}: these are the SSH connections{seen}");
        }
    }
    out
}
