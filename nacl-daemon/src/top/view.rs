//! A [`Model`] → cells of a terminal. It asks nobody, and decides nothing but what fits.
//!
//! What a colour says is said by a letter or a word too.

use std::{borrow::Cow, fmt::Write as _};

use ansi_to_tui::IntoText as _;
use nacl_common::{Action, Direction};
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Cell, Clear, Padding, Paragraph, Row, Table, TableState, Wrap},
};

use super::model::{Dialog, Link, Model, Pane, RuleLine, decided, ends};
use crate::{
    observe::{BrokenReturn, Record, Remembered, Status},
    report::{self, console::count, named, rule::protocol_name},
    resolve::Layers,
};

/// The screen: what it may use, and how far each list is scrolled.
#[derive(Debug, Default)]
pub struct Screen {
    /// Whether there may be colour.
    pub colour: bool,
    lists: [TableState; 4],
}

/// What a text is meant to say, which a colour helps with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Dim,
    Strong,
    Good,
    Bad,
    Loud,
    Alarm,
}

/// A table's column: its heading, how wide, and whether it is of numbers.
struct Column {
    title: &'static str,
    width: Constraint,
    right: bool,
}

const fn column(title: &'static str, width: Constraint) -> Column {
    Column { title, width, right: false }
}

const fn numbers(title: &'static str, width: u16) -> Column {
    Column { title, width: Constraint::Length(width), right: true }
}

/// Rows from which on the whole head is shown.
const HIGH: u16 = 14;

impl Screen {
    /// A screen without scrolling.
    pub fn new(colour: bool) -> Self {
        Self { colour, ..Self::default() }
    }

    fn style(&self, tone: Tone) -> Style {
        let (colour, modifier) = match tone {
            Tone::Plain => (None, Modifier::empty()),
            Tone::Dim => (None, Modifier::DIM),
            Tone::Strong => (None, Modifier::BOLD),
            Tone::Good => (Some(Color::Green), Modifier::empty()),
            Tone::Bad => (Some(Color::Red), Modifier::BOLD),
            Tone::Loud => (Some(Color::Yellow), Modifier::BOLD),
            Tone::Alarm => (Some(Color::Yellow), Modifier::BOLD.union(Modifier::REVERSED)),
        };
        let style = Style::new().add_modifier(modifier);
        match colour.filter(|_| self.colour) {
            Some(colour) => style.fg(colour),
            None => style,
        }
    }

    fn span<'t>(&self, tone: Tone, text: impl Into<Cow<'t, str>>) -> Span<'t> {
        Span::styled(text, self.style(tone))
    }

    /// Draws everything. Returns how many rows the list has.
    pub fn draw(&mut self, model: &Model, frame: &mut Frame<'_>) -> usize {
        let area = frame.area();
        let head = self.head(model, area);
        let [top, tabs, body, foot] = Layout::vertical([
            Constraint::Length(head.len() as u16),
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(Paragraph::new(head), top);
        frame.render_widget(self.tabs(model, area.width), tabs);
        let rows = self.body(model, frame, body);
        frame.render_widget(self.foot(model, area.width), foot);
        if let Some(dialog) = &model.dialog {
            self.dialog(dialog, frame);
        }
        rows
    }

    fn head<'m>(&self, model: &'m Model, area: Rect) -> Vec<Line<'m>> {
        let mut lines = Vec::new();
        let Some(now) = &model.now else { return lines };
        let status = &now.reading.status;
        if area.height >= HIGH {
            lines.push(self.daemon(model, status, area.width));
        }
        lines.push(self.interface(model));
        if area.height >= HIGH {
            lines.push(self.totals(model));
        }
        let mut banners = Vec::new();
        if let Link::Lost(why) = &model.link {
            banners.push(format!("NO DAEMON: {why}; asking again. What is below is what it said last"));
        }
        if let Some(pending) = &status.pending {
            let left = pending.seconds_left;
            banners.push(format!("NOT CONFIRMED: undone in {left} s unless you type `nacld confirm`"));
        }
        if model.status().is_some_and(|one| !one.modes.in_force.enforce) {
            banners.push("MONITOR ONLY: packets are judged and counted, and NONE IS DROPPED".to_owned());
        }
        if let Some(reload) = status.last_reload.as_ref().filter(|reload| !reload.ok) {
            let why = reload.error.as_deref().unwrap_or("it failed");
            banners.push(format!("NOT RELOADED: the policy before it stays in force: {why}"));
        }
        banners.extend(status.problems.iter().map(|problem| format!("PROBLEM: {problem}")));
        for absent in &status.absent {
            let place = named(&absent.interface, &absent.device, absent.netns.as_deref());
            let why = absent.why.as_deref().unwrap_or("it is not here");
            banners.push(format!("WAITING for {place}: {why}"));
        }
        // The list keeps its room, however much there is to say.
        let most = usize::from(area.height / 4).max(1);
        let hidden = banners.len().saturating_sub(most);
        let width = usize::from(area.width);
        for (at, banner) in banners.into_iter().take(most).enumerate() {
            let more = if at + 1 == most && hidden > 0 {
                format!(" (and {hidden} more: `nacld status`)")
            } else {
                String::new()
            };
            lines.push(self.span(Tone::Alarm, format!(" {:<width$}", banner + &more)).into());
        }
        lines
    }

    /// The daemon, its policy and the last reload.
    fn daemon<'m>(&self, model: &Model, status: &'m Status, width: u16) -> Line<'m> {
        let short = status.policy.sha256.get(..12).unwrap_or_default();
        let file = status.policy.file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let mut spans = vec![
            self.span(Tone::Strong, format!("nacld {}", status.version)),
            format!("  {file} ").into(),
            self.span(Tone::Dim, short),
        ];
        match &status.last_reload {
            Some(reload) if reload.ok => spans.push(format!("  reloaded {}", minute(&reload.time)).into()),
            Some(reload) => spans.push(self.span(Tone::Bad, format!("  RELOAD FAILED {}", minute(&reload.time)))),
            None => spans.push(format!("  read {}", minute(&status.policy.loaded)).into()),
        }
        let right = if model.paused { " PAUSED " } else { "" };
        let used: usize = spans.iter().map(Span::width).sum();
        if !right.is_empty() {
            let room = usize::from(width).saturating_sub(used + right.len());
            spans.push(" ".repeat(room).into());
            spans.push(self.span(Tone::Alarm, right));
        }
        spans.into()
    }

    /// What is in force on the interface that is shown. What matters most comes first: a narrow screen cuts the rest.
    fn interface<'m>(&self, model: &'m Model) -> Line<'m> {
        let (Some(one), Some(now)) = (model.status(), &model.now) else {
            return self.span(Tone::Loud, "no interface: nothing is enforced").into();
        };
        let setting = one.modes.in_force;
        let all = now.reading.status.interfaces.len();
        let mut spans = vec![self.span(Tone::Strong, one.interface.as_str())];
        if all > 1 {
            spans.push(self.span(Tone::Dim, format!(" {}/{all}", model.interface + 1)));
        }
        let live = |is: bool| if is { "*" } else { "" };
        let mode_live = live(setting.mode != one.modes.policy.mode);
        spans.push(format!("  {}{mode_live}", setting.mode.name()).into());
        spans.push(
            format!("  layers {}{}", setting.layers.name(), live(setting.layers != one.modes.policy.layers)).into(),
        );
        let enforcing_live = live(setting.enforce != one.modes.policy.enforce);
        spans.push(if setting.enforce {
            self.span(Tone::Good, format!("  enforcing{enforcing_live}"))
        } else {
            self.span(Tone::Loud, format!("  MONITOR{enforcing_live}"))
        });
        spans.push(format!("  acl {}", one.nacl).into());
        match one.groups.as_deref() {
            None => {}
            Some([]) => spans.push(self.span(Tone::Loud, "  no group: nothing passes")),
            Some(groups) => spans.push(format!("  groups {}", groups.join(", ")).into()),
        }
        if let Some(subnet) = &one.subnet {
            spans.push(format!("  subnet {subnet}").into());
        }
        if one.interface != one.device || one.netns.is_some() {
            let netns = one.netns.as_ref().map(|netns| format!(" in {netns}")).unwrap_or_default();
            spans.push(self.span(Tone::Dim, format!("  {}{netns}", one.device)));
        }
        if setting != one.modes.policy {
            spans.push(self.span(Tone::Dim, "  * set live"));
        }
        spans.into()
    }

    /// What passed, what did not, and how full the connection table is.
    fn totals<'m>(&self, model: &Model) -> Line<'m> {
        let Some(one) = model.status() else { return Line::default() };
        let (allowed, denied) = model.rates().map_or((None, None), |(allowed, denied)| (Some(allowed), Some(denied)));
        let mut spans = vec![
            self.span(Tone::Good, format!("allowed {}", count(one.packets.allowed))),
            format!(" {}/s  ", rate(allowed)).into(),
            self.span(
                if denied.is_some_and(|denied| denied > 0.0) { Tone::Bad } else { Tone::Plain },
                format!("denied {}", count(one.packets.denied)),
            ),
            format!(" {}/s", rate(denied)).into(),
        ];
        let tracking = &one.conntrack;
        if tracking.on() || tracking.entries > 0 {
            let room = (tracking.entries * 100).checked_div(tracking.capacity).unwrap_or_default();
            let tone = if tracking.warning().is_some() { Tone::Loud } else { Tone::Plain };
            let text = format!("  conntrack {} of {} ({room}%)", count(tracking.entries), count(tracking.capacity));
            spans.push(self.span(tone, text));
            if tracking.conntrack_allowance_exceeded > 0 {
                let full = count(tracking.conntrack_allowance_exceeded);
                spans.push(self.span(Tone::Bad, format!("  FULL: {full} dropped")));
            }
        }
        spans.into()
    }

    fn tabs<'m>(&self, model: &'m Model, width: u16) -> Paragraph<'m> {
        let mut spans: Vec<Span<'m>> = Vec::new();
        for (at, pane) in Pane::ALL.into_iter().enumerate() {
            let chosen = pane == model.pane;
            // A narrow screen shows where it is, and the keys of the rest.
            let text =
                if width < 60 && !chosen { format!(" {} ", at + 1) } else { format!(" {} {} ", at + 1, pane.title()) };
            let style =
                if chosen { Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD) } else { Style::new() };
            spans.push(Span::styled(text, style));
            let broken = model.now.as_ref().map_or(0, |now| now.reading.status.broken.len());
            if pane == Pane::Broken && broken > 0 {
                spans.push(self.span(Tone::Bad, format!("{broken}! ")));
            }
        }
        let list = model.list();
        spans.push(self.span(Tone::Dim, format!("  by {}", model.pane.orders()[list.order])));
        if !list.filter.is_empty() {
            spans.push(self.span(Tone::Loud, format!("  /{}", list.filter)));
        }
        if model.pane == Pane::Verdicts {
            spans.push(self.span(Tone::Dim, if model.allowed_too { "  all" } else { "  denied only" }));
            if model.missed > 0 {
                spans.push(self.span(Tone::Loud, format!("  {} not shown", count(model.missed))));
            }
        }
        Paragraph::new(Line::from(spans))
    }

    fn foot<'m>(&self, model: &'m Model, width: u16) -> Paragraph<'m> {
        if model.typing {
            let text = format!("filter: {}_   Enter keeps it, Esc clears it", model.list().filter);
            return Paragraph::new(self.span(Tone::Strong, text));
        }
        if let Some(said) = &model.said {
            let tone = if said.failed { Tone::Bad } else { Tone::Good };
            let word = if said.failed { "not done: " } else { "" };
            return Paragraph::new(self.span(tone, format!("{word}{}", said.text)));
        }
        let mut keys = vec![("q", "quit"), ("?", "help"), ("Tab", "pane"), ("/", "filter"), ("s", "sort")];
        match model.pane {
            Pane::Verdicts => keys.extend([("e", "explain"), ("a", "all")]),
            Pane::Broken => keys.push(("e", "explain")),
            Pane::Rules | Pane::Connections => {}
        }
        keys.extend([("space", "pause"), ("m", "mode"), ("l", "layers")]);
        if model.now.as_ref().is_some_and(|now| now.reading.status.interfaces.len() > 1) {
            keys.push(("i", "interface"));
        }
        let mut spans: Vec<Span<'m>> = Vec::new();
        let mut used = 0;
        for (key, meaning) in keys {
            used += key.len() + meaning.len() + 3;
            if used > usize::from(width) + 2 {
                break;
            }
            spans.push(self.span(Tone::Strong, key));
            spans.push(self.span(Tone::Dim, format!(" {meaning}  ")));
        }
        Paragraph::new(Line::from(spans))
    }

    fn body(&mut self, model: &Model, frame: &mut Frame<'_>, area: Rect) -> usize {
        // The heading takes a row.
        let rows = usize::from(area.height.saturating_sub(1));
        let Some(now) = &model.now else {
            let text = match &model.link {
                Link::Lost(why) => format!("{why}\n\nAsking again; it is shown as soon as it answers."),
                _ => "asking the daemon".to_owned(),
            };
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), area);
            return rows;
        };
        let tone = if model.link == Link::Up { Tone::Plain } else { Tone::Dim };
        let place = model.pane.index();
        let filtered = !model.list().filter.is_empty();
        let (columns, cells, empty) = match model.pane {
            Pane::Rules => {
                let lines = model.rule_lines();
                let (columns, cells) = self.rules(&lines, area.width);
                (columns, cells, "no rules")
            }
            Pane::Verdicts => {
                let (columns, cells) = self.verdicts(&model.verdicts(), area.width);
                let empty = if model.allowed_too {
                    "no packet was reported since this screen was opened"
                } else {
                    "no packet was denied since this screen was opened; `a` shows those that pass too"
                };
                (columns, cells, empty)
            }
            Pane::Connections => {
                let (columns, cells) = connections(&model.shown_connections(), area.width);
                let remembers =
                    now.reading.status.interfaces.get(model.interface).is_some_and(|one| one.conntrack.on());
                let empty = if remembers {
                    "no connection is remembered"
                } else {
                    "nothing is remembered: stateless, and no security group judges"
                };
                (columns, cells, empty)
            }
            Pane::Broken => {
                let (columns, cells) = self.broken(&model.broken(), area.width);
                (columns, cells, "no broken return was found: no request passed whose reply was denied")
            }
        };
        if cells.is_empty() {
            let text = if filtered { "nothing matches the filter (Esc clears it)" } else { empty };
            let text = Paragraph::new(self.span(Tone::Dim, format!("\n  {text}").trim_start_matches('\n').to_owned()));
            frame.render_widget(text.wrap(Wrap { trim: false }), area);
            return rows;
        }
        let head = columns.iter().map(|column| aligned(Line::from(column.title), column.right));
        let head =
            Row::new(head.collect::<Vec<_>>()).style(self.style(Tone::Strong).add_modifier(Modifier::UNDERLINED));
        let widths: Vec<_> = columns.iter().map(|column| column.width).collect();
        let right: Vec<_> = columns.iter().map(|column| column.right).collect();
        let shown = cells.into_iter().map(|cells| {
            let cells = cells.into_iter().zip(&right).map(|(cell, right)| aligned(cell, *right));
            Row::new(cells.collect::<Vec<_>>())
        });
        let chosen = Style::new().add_modifier(Modifier::REVERSED);
        let table = Table::new(shown, widths).header(head).row_highlight_style(chosen).style(self.style(tone));
        self.lists[place].select(Some(model.list().cursor));
        frame.render_stateful_widget(table.column_spacing(1), area, &mut self.lists[place]);
        rows
    }

    fn rules(&self, lines: &[RuleLine], width: u16) -> (Vec<Column>, Vec<Vec<Line<'static>>>) {
        use Constraint::{Fill, Length};
        let widest = lines.iter().map(|line| line.rule.chars().count()).max().unwrap_or_default();
        let rule = Length(widest.clamp(4, 16) as u16);
        // What is left out first says least; what stays is which rule, what it does, and how often.
        let wide = |from: u16| width >= from;
        let bar = if wide(70) { (width / 10).min(24) } else { 0 };
        let highest = lines.iter().filter_map(|line| line.rate).fold(0.0, f64::max);
        let most = lines.iter().map(|line| line.hits.packets).max().unwrap_or_default();
        let mut columns =
            vec![column("", Length(3)), column("Rule", rule), column("", Length(if wide(50) { 5 } else { 1 }))];
        if wide(120) {
            columns.push(column("Type", Length(19)));
        }
        if wide(60) {
            columns.push(column("Ports", Length(if wide(140) { 24 } else { 16 })));
        }
        columns.push(column("Remote", Fill(1)));
        columns.extend([numbers("Rate/s", 7), numbers("Packets", if wide(60) { 11 } else { 7 })]);
        if wide(120) {
            columns.push(numbers("Line", 5));
        }
        if bar > 0 {
            columns.push(column("", Length(bar)));
        }
        let row = |line: &RuleLine| {
            let tone = match (line.action, line.rate.is_some_and(|rate| rate > 0.0), line.hits.packets) {
                (_, _, 0) => Tone::Dim,
                (Action::Allow, ..) => Tone::Good,
                (Action::Deny, true, _) => Tone::Bad,
                (Action::Deny, false, _) => Tone::Plain,
            };
            let (letter, word) = match line.action {
                Action::Allow => ("A", "allow"),
                Action::Deny => ("D", "deny"),
            };
            let way = if line.direction == Direction::Inbound { "in" } else { "out" };
            let text = |text: String| Line::from(self.span(tone, text));
            let mut cells =
                vec![text(way.into()), text(line.rule.clone()), text(if wide(50) { word } else { letter }.into())];
            if wide(120) {
                cells.push(text(line.kind.clone()));
            }
            if wide(60) {
                cells.push(text(if wide(120) && !line.ports.is_empty() {
                    line.ports.clone()
                } else {
                    line.brief.clone()
                }));
            }
            cells.push(text(line.remote.clone()));
            cells.extend([
                text(rate(line.rate)),
                text(if wide(60) { count(line.hits.packets) } else { short(line.hits.packets as f64) }),
            ]);
            if wide(120) {
                cells.push(text(if line.line > 0 { line.line.to_string() } else { String::new() }));
            }
            if bar > 0 {
                // Of what moves now; where nothing does, of what has.
                let share = match line.rate {
                    Some(rate) if highest > 0.0 => rate / highest,
                    _ if most > 0 && highest <= 0.0 => line.hits.packets as f64 / most as f64,
                    _ => 0.0,
                };
                cells.push(text(blocks(share, bar)));
            }
            cells
        };
        (columns, lines.iter().map(row).collect())
    }

    fn verdicts(&self, records: &[&Record], width: u16) -> (Vec<Column>, Vec<Vec<Line<'static>>>) {
        use Constraint::{Fill, Length};
        let wide = |from: u16| width >= from;
        let mut columns = vec![column("Time", Length(if wide(100) { 12 } else { 8 }))];
        columns.extend([
            column("", Length(3)),
            column("", Length(if wide(90) { 7 } else { 1 })),
            column("", Length(5)),
        ]);
        if wide(60) {
            columns.extend([column("Source", Fill(5)), column("Destination", Fill(5)), column("By", Fill(6))]);
        } else {
            columns.extend([column("From, to", Fill(3)), column("By", Fill(2))]);
        }
        let row = |record: &&Record| {
            let (tone, letter, word) = match (record.action.as_str(), record.enforced) {
                ("allow", _) => (Tone::Good, "A", "allow"),
                (_, true) => (Tone::Bad, "D", "deny"),
                // It went on: nothing is dropped here.
                (_, false) => (Tone::Loud, "M", "monitor"),
            };
            let text = |text: String| Line::from(text);
            let time = record.time.get(11..if wide(100) { 23 } else { 19 }).unwrap_or(&record.time).to_owned();
            let way = if record.direction == "inbound" { "in" } else { "out" };
            let mut cells = vec![text(time), text(way.into())];
            cells.push(self.span(tone, if wide(90) { word } else { letter }).into());
            cells.push(text(record.protocol.map_or_else(|| "frame".to_owned(), protocol_name)));
            let mut destination = record.destination();
            if let Some(flags) = record.tcp_flags.as_ref().filter(|flags| !flags.is_empty() && wide(100)) {
                destination.extend([" ", flags]);
            }
            if let (Some(kind), Some(code)) = (record.icmp_type, record.icmp_code) {
                let _ = write!(destination, " type {kind}/{code}");
            }
            if wide(60) {
                cells.extend([text(record.source()), text(destination)]);
            } else {
                cells.push(text(format!("{} {destination}", record.source())));
            }
            cells.push(self.span(tone, decided(record)).into());
            cells
        };
        (columns, records.iter().map(row).collect())
    }

    fn broken(&self, all: &[&BrokenReturn], width: u16) -> (Vec<Column>, Vec<Vec<Line<'static>>>) {
        use Constraint::{Fill, Length};
        let wide = |from: u16| width >= from;
        let mut columns = vec![column("Last", Length(8)), numbers("Replies", 7), column("Asks", Fill(3))];
        columns.extend([column("Passes by", Fill(1)), column("Denied by", Fill(1))]);
        if wide(120) {
            columns.push(column("Mended by", Fill(3)));
        }
        let row = |one: &&BrokenReturn| {
            let text = |text: String| Line::from(text);
            let (client, server) = report::broken::ends(&one.example);
            let mut cells = vec![text(one.last.get(11..19).unwrap_or(&one.last).to_owned())];
            cells.extend([text(count(one.replies)), text(format!("{client} {server}"))]);
            let (passes, denies) = one.rulings();
            cells.push(self.span(Tone::Good, passes.decided_by.to_string()).into());
            cells.push(self.span(Tone::Bad, denies.decided_by.to_string()).into());
            if wide(120) {
                let fix = one.fix.iter().flatten().map(|remedy| remedy.rule.clone()).collect::<Vec<_>>();
                cells.push(text(fix.join(" and ")));
            }
            cells
        };
        (columns, all.iter().map(row).collect())
    }

    fn dialog(&self, dialog: &Dialog, frame: &mut Frame<'_>) {
        match dialog {
            Dialog::Help => popup(frame, " Keys ", Text::from(self.help()), 0),
            Dialog::Ask { question, .. } => {
                let text = vec![
                    Line::from(question.as_str()),
                    Line::default(),
                    Line::from("It holds until the next reload. Only root may do it."),
                    Line::default(),
                    Line::from(vec![
                        self.span(Tone::Strong, "y"),
                        " yes    ".into(),
                        self.span(Tone::Strong, "n"),
                        " no".into(),
                    ]),
                ];
                popup(frame, " Change the mode ", text.into(), 0);
            }
            Dialog::Layers { interface, now, groups } => {
                let mut keys = Vec::new();
                let choices = [
                    ("b", "both: the network ACL, and the security groups where there are any", Layers::Both, true),
                    ("n", "nacl: only the network ACL", Layers::Nacl, true),
                    ("s", "sg: only the security groups", Layers::Groups, *groups),
                ];
                for (key, meaning, layers, can) in choices {
                    let mark = if layers == *now { "  (now)" } else { "" };
                    let none = if can { "" } else { "  (there are none)" };
                    let tone = if can { Tone::Plain } else { Tone::Dim };
                    keys.push(
                        vec![self.span(Tone::Strong, key), self.span(tone, format!(" {meaning}{mark}{none}"))].into(),
                    );
                }
                let mut text = vec![Line::from(format!("Which layers are to judge on {interface}?")), Line::default()];
                text.append(&mut keys);
                text.extend([
                    Line::default(),
                    Line::from("It holds until the next reload. Only root may do it. Esc: leave it."),
                ]);
                popup(frame, " Choose the layers ", text.into(), 0);
            }
            Dialog::Text { title, text, from } => {
                let plain = || Text::from(anstream::adapter::strip_str(text).to_string());
                let shown = if self.colour { text.into_text().unwrap_or_else(|_| plain()) } else { plain() };
                popup(frame, &format!(" {title} · Esc closes it "), shown, *from);
            }
        }
    }

    fn help(&self) -> Vec<Line<'static>> {
        const KEYS: [(&str, &str); 14] = [
            ("q", "quit"),
            ("Ctrl-Z", "back to the shell; fg: go on"),
            ("Tab 1-4", "next pane, or that one"),
            ("j k ↑ ↓", "down, up; PgUp PgDn Home End"),
            ("/", "filter: rows with this text"),
            ("Esc", "no filter"),
            ("s", "sort by something else"),
            ("space", "pause; again: go on"),
            ("a", "verdicts: those that pass too"),
            ("e", "verdicts: explain this one"),
            ("m", "stateless or stateful"),
            ("l", "which layers judge"),
            ("i", "next interface"),
            ("", "A allowed, D denied, M monitor"),
        ];
        let line = |(key, meaning): (&'static str, &'static str)| {
            Line::from(vec![self.span(Tone::Strong, format!("{key:<9}")), meaning.into()])
        };
        KEYS.into_iter().map(line).collect()
    }
}

fn connections(all: &[&Remembered], width: u16) -> (Vec<Column>, Vec<Vec<Line<'static>>>) {
    use Constraint::{Fill, Length};
    let wide = |from: u16| width >= from;
    let mut columns =
        vec![column("", Length(3)), column("", Length(5)), column("Client", Fill(1)), column("Server", Fill(1))];
    columns.extend([column("State", Length(if wide(60) { 11 } else { 5 })), numbers("Expires", 9)]);
    if wide(100) {
        columns.push(column("Let in by", Fill(1)));
    }
    let row = |one: &&Remembered| {
        let (client, server) = ends(one);
        let text = |text: String| Line::from(text);
        let way = if one.began == Direction::Inbound { "in" } else { "out" };
        let mut cells = vec![text(way.into()), text(protocol_name(one.protocol)), text(client), text(server)];
        cells.push(text(one.state.clone()));
        cells.push(text(left(one.expires_in)));
        if wide(100) {
            let rules = one.nacl_rule.iter().chain(&one.group_rule).map(|rule| {
                let which = rule.rule.or(rule.position).map(|number| format!(" {number}")).unwrap_or_default();
                // The policy has it no more, and the connection lives on what is remembered (S32).
                let gone = if rule.in_force { "" } else { " (gone)" };
                format!("{}{which}{gone}", rule.name)
            });
            cells.push(text(rules.collect::<Vec<_>>().join(", ")));
        }
        cells
    };
    (columns, all.iter().map(row).collect())
}

fn popup(frame: &mut Frame<'_>, title: &str, text: Text<'_>, from: u16) {
    let area = frame.area();
    // The border takes two of each; long lines are broken, so what there is decides only how wide at most.
    let width = (text.width() as u16).saturating_add(4).clamp(20, area.width.max(20)).min(area.width);
    let inside = usize::from(width.saturating_sub(4).max(1));
    let lines: usize = text.lines.iter().map(|line| line.width().div_ceil(inside).max(1)).sum();
    let height = (lines as u16).saturating_add(2).min(area.height);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let block = Block::bordered().title(title.to_owned()).padding(Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(text).block(block).wrap(Wrap { trim: false }).scroll((from, 0)), place);
}

fn aligned(line: Line<'_>, right: bool) -> Cell<'_> {
    Cell::from(Text::from(line).alignment(if right { Alignment::Right } else { Alignment::Left }))
}

/// `11-21 22:04` of a time as RFC 3339, in UTC as that is.
fn minute(time: &str) -> String {
    time.get(5..16).map_or_else(|| time.to_owned(), |minute| minute.replace('T', " "))
}

/// Packets a second, in few signs.
fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), short)
}

/// A number in at most five signs: `0`, `0.4`, `12`, `1.2k`, `34k`, `5.6M`.
fn short(number: f64) -> String {
    let mut scaled = number;
    for unit in ["", "k", "M", "G"] {
        if scaled < 999.5 || unit == "G" {
            let exact = scaled.fract() == 0.0 && unit.is_empty();
            return if scaled >= 9.95 || exact { format!("{scaled:.0}{unit}") } else { format!("{scaled:.1}{unit}") };
        }
        scaled /= 1000.0;
    }
    String::new()
}

/// A bar of so many cells at most, in eighths.
fn blocks(share: f64, cells: u16) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    #[expect(clippy::cast_sign_loss, reason = "it is clamped")]
    let eighths = (share.clamp(0.0, 1.0) * f64::from(cells) * 8.0).round() as usize;
    // What is not nothing shows.
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// Seconds as a person reads them in few signs: `59s`, `4m 10s`, `4d 23h`.
fn left(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_few_signs() {
        let texts = [0.0, 0.04, 0.4, 5.0, 12.4, 999.4, 999.6, 1234.0, 34_567.0, 5_600_000.0, 7.2e12].map(short);
        assert_eq!(texts, ["0", "0.0", "0.4", "5", "12", "999", "1.0k", "1.2k", "35k", "5.6M", "7200G"]);
        assert_eq!([0, 59, 61, 7260, 428_400].map(left), ["0s", "59s", "1m 1s", "2h 1m", "4d 23h"]);
        assert_eq!(minute("2026-11-21T22:04:05Z"), "11-21 22:04");
    }

    #[test]
    fn bars() {
        assert_eq!([0.0, 0.001, 0.5, 1.0, 3.0].map(|share| blocks(share, 4)), ["", "▏", "██", "████", "████"]);
        assert_eq!(blocks(0.28, 4), "█▏");
    }
}
