//! Messages and keys → another [`Model`], and what is to be asked of the daemon for it. Nothing is asked here.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Dialog, Link, Model, Pane, RECORDS, Read, Said};
use crate::{
    observe::{InterfaceModes, Record},
    report,
    resolve::Layers,
    service::api::SetMode,
};

/// Something that happened.
#[derive(Debug)]
pub enum Message {
    /// A key.
    Key(KeyEvent),
    /// The daemon was asked.
    Read(Box<Read>),
    /// The daemon does not answer.
    Lost(String),
    /// A verdict.
    Verdict(Box<Record>),
    /// So many verdicts came too fast.
    Missed(u64),
    /// A setting was changed, or why it was not.
    Set(Result<Box<InterfaceModes>, String>),
    /// A verdict was explained, or why it was not.
    Explained(Result<String, String>),
    /// Verdicts of that kind cannot be had.
    NotTold(String),
    /// The list has so many rows on the screen.
    Page(usize),
}

/// Something that is to be done for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The person has seen enough.
    Quit,
    /// The person wants the shell back for a while.
    Suspend,
    /// Ask the daemon now.
    Refresh,
    /// Follow other verdicts: allowed ones too, or not.
    Follow {
        /// Allowed ones too.
        all: bool,
    },
    /// Have a setting changed.
    Set {
        /// Interface.
        interface: String,
        /// What.
        set: SetMode,
    },
    /// Explain a verdict.
    Explain(Box<Record>),
}

impl Model {
    /// Takes a message in.
    pub fn update(&mut self, message: Message) -> Option<Effect> {
        match message {
            Message::Key(key) if key.kind == KeyEventKind::Release => None,
            Message::Key(key) => self.key(key),
            Message::Read(read) => {
                self.link = Link::Up;
                if !self.paused {
                    self.read(*read);
                }
                None
            }
            Message::Lost(why) => {
                self.link = Link::Lost(why);
                None
            }
            Message::Verdict(record) => {
                if !self.paused {
                    self.verdict(*record);
                }
                None
            }
            Message::Missed(count) => {
                self.missed += count;
                None
            }
            Message::Set(Ok(modes)) => {
                let setting = modes.modes.in_force;
                let text = format!(
                    "{} is {} now, layers {}, until the next reload",
                    modes.interface,
                    setting.mode.name(),
                    setting.layers.name()
                );
                self.said = Some(Said { text, failed: false });
                Some(Effect::Refresh)
            }
            Message::Explained(Ok(text)) => {
                self.dialog = Some(Dialog::Text { title: "Explained".to_owned(), text, from: 0 });
                None
            }
            Message::Set(Err(why)) | Message::Explained(Err(why)) => {
                self.said = Some(Said { text: why, failed: true });
                None
            }
            Message::NotTold(why) => {
                self.allowed_too = false;
                self.said = Some(Said { text: why, failed: true });
                Some(Effect::Follow { all: false })
            }
            Message::Page(rows) => {
                self.page = rows;
                None
            }
        }
    }

    fn read(&mut self, read: Read) {
        // The same interface stays on the screen when another one comes or goes.
        let name = self.status().map(|status| status.interface.clone());
        if let Some(connections) = &read.connections {
            self.connections.clone_from(connections);
        }
        let interfaces = &read.reading.status.interfaces;
        let at = interfaces.iter().position(|one| Some(&one.interface) == name.as_ref());
        self.interface = at.unwrap_or_default();
        // A key asks at once: rates over a moment would jump, so the reading before stays what they are counted from.
        let apart = |from: &Read, to: &Read| to.at.saturating_sub(from.at);
        let soon = match (&self.before, &self.now) {
            (Some(before), Some(now)) => apart(now, &read) < apart(before, now) / 2,
            _ => false,
        };
        let last = self.now.replace(read);
        if !soon {
            self.before = last;
        }
        self.keep_cursor();
    }

    fn verdict(&mut self, record: Record) {
        let shown = self.shows(&record);
        self.records.push_front(record);
        self.records.truncate(RECORDS);
        // What is under the cursor stays under it, but for the newest, which is always the newest. Others are not looked at: there may
        // be a thousand a second.
        let list = &mut self.lists[Pane::Verdicts.index()];
        if shown && list.order == 0 && list.cursor > 0 {
            list.cursor = (list.cursor + 1).min(RECORDS - 1);
        }
    }

    fn keep_cursor(&mut self) {
        let last = self.rows().saturating_sub(1);
        let shown = self.list_mut();
        shown.cursor = shown.cursor.min(last);
    }

    fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        // What a terminal makes signals of, where nobody reads its keys one by one.
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return Some(Effect::Quit),
                KeyCode::Char('z') => return Some(Effect::Suspend),
                _ => {}
            }
        }
        if self.typing {
            self.type_filter(key.code);
            return None;
        }
        if self.dialog.is_some() {
            return self.answer(key.code);
        }
        self.said = None;
        match key.code {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.dialog = Some(Dialog::Help),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => {
                self.list_mut().filter.clear();
                self.keep_cursor();
            }
            KeyCode::Tab => return Some(self.show((self.pane.index() + 1) % Pane::ALL.len())),
            KeyCode::BackTab => return Some(self.show((self.pane.index() + Pane::ALL.len() - 1) % Pane::ALL.len())),
            KeyCode::Char(digit @ '1'..='4') => return Some(self.show(digit as usize - '1' as usize)),
            KeyCode::Char('s') => {
                let orders = self.pane.orders().len();
                let list = self.list_mut();
                list.order = (list.order + 1) % orders;
                list.cursor = 0;
            }
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('a') => {
                self.allowed_too = !self.allowed_too;
                return Some(Effect::Follow { all: self.allowed_too });
            }
            KeyCode::Char('i') => {
                let count = self.now.as_ref().map_or(0, |now| now.reading.status.interfaces.len());
                self.interface = (self.interface + 1) % count.max(1);
                self.keep_cursor();
            }
            KeyCode::Char('m') => self.ask_mode(),
            KeyCode::Char('l') => self.ask_layers(),
            KeyCode::Char('e') | KeyCode::Enter => return self.explain(),
            code => self.go(code),
        }
        None
    }

    fn show(&mut self, pane: usize) -> Effect {
        self.pane = Pane::ALL[pane];
        self.keep_cursor();
        // Connections are asked for only while they are looked at.
        Effect::Refresh
    }

    fn go(&mut self, code: KeyCode) {
        let (page, last) = (self.page.max(1), self.rows().saturating_sub(1));
        let shown = self.list_mut();
        shown.cursor = match code {
            KeyCode::Down | KeyCode::Char('j') => shown.cursor + 1,
            KeyCode::Up | KeyCode::Char('k') => shown.cursor.saturating_sub(1),
            KeyCode::PageDown => shown.cursor + page,
            KeyCode::PageUp => shown.cursor.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            _ => shown.cursor,
        }
        .min(last);
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.list_mut().filter.clear();
            }
            KeyCode::Backspace => drop(self.list_mut().filter.pop()),
            KeyCode::Char(sign) => self.list_mut().filter.push(sign),
            _ => {}
        }
        self.keep_cursor();
    }

    fn answer(&mut self, code: KeyCode) -> Option<Effect> {
        let page = self.page.max(1) as u16;
        match self.dialog.take()? {
            Dialog::Help => None,
            Dialog::Ask { question, interface, set } => match code {
                KeyCode::Char('y' | 'Y') => Some(Effect::Set { interface, set }),
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => None,
                // Neither by Enter nor by any other key: it changes what is dropped.
                _ => {
                    self.dialog = Some(Dialog::Ask { question, interface, set });
                    None
                }
            },
            Dialog::Layers { interface, now, groups } => {
                let wanted = match code {
                    KeyCode::Char('b' | 'B') => Layers::Both,
                    KeyCode::Char('n' | 'N') => Layers::Nacl,
                    KeyCode::Char('s' | 'S') if groups => Layers::Groups,
                    KeyCode::Esc | KeyCode::Char('q') => return None,
                    _ => {
                        self.dialog = Some(Dialog::Layers { interface, now, groups });
                        return None;
                    }
                };
                let set = SetMode { layers: Some(wanted), ..SetMode::default() };
                (wanted != now).then_some(Effect::Set { interface, set })
            }
            Dialog::Text { title, text, from } => {
                let last = (text.lines().count() as u16).saturating_sub(1);
                let from = match code {
                    KeyCode::Down | KeyCode::Char('j') => from + 1,
                    KeyCode::Up | KeyCode::Char('k') => from.saturating_sub(1),
                    KeyCode::PageDown | KeyCode::Char(' ') => from + page,
                    KeyCode::PageUp => from.saturating_sub(page),
                    KeyCode::Home | KeyCode::Char('g') => 0,
                    KeyCode::End | KeyCode::Char('G') => last,
                    KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | 'e') => return None,
                    _ => from,
                };
                self.dialog = Some(Dialog::Text { title, text, from: from.min(last) });
                None
            }
        }
    }

    fn ask_mode(&mut self) {
        let (Some(status), Some(mode)) = (self.status(), self.other_mode()) else { return };
        let (interface, now) = (status.interface.clone(), status.modes.in_force.mode);
        let question = format!("Make {interface} {}? It is {} now.", mode.name(), now.name());
        let set = SetMode { mode: Some(mode), ..SetMode::default() };
        self.dialog = Some(Dialog::Ask { question, interface, set });
    }

    fn ask_layers(&mut self) {
        let Some(status) = self.status() else { return };
        let (interface, now) = (status.interface.clone(), status.modes.in_force.layers);
        self.dialog = Some(Dialog::Layers { interface, now, groups: status.groups.is_some() });
    }

    fn explain(&mut self) -> Option<Effect> {
        let cursor = self.list().cursor;
        match self.pane {
            Pane::Verdicts => Some(Effect::Explain(Box::new((*self.verdicts().get(cursor)?).clone()))),
            Pane::Broken => {
                let (title, text) = ("Broken return".to_owned(), report::broken::found(self.broken().get(cursor)?));
                self.dialog = Some(Dialog::Text { title, text, from: 0 });
                None
            }
            Pane::Rules | Pane::Connections => {
                let text = "verdicts and broken returns are explained: keys 2 and 4 show them".to_owned();
                self.said = Some(Said { text, failed: false });
                None
            }
        }
    }
}
