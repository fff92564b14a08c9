//! A terminal and a daemon around a [`Model`]: what comes in becomes messages, what is to be done is done. The terminal is given back
//! as it was, however this ends.

use std::{
    io, panic,
    sync::Arc,
    time::{Duration, Instant},
};

use crossterm::{
    event::{Event, EventStream},
    execute,
    terminal::{EnterAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::{Method, body::Incoming};
use nix::sys::signal::{Signal, raise};
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    layout::{Position, Rect},
};
use serde::Deserialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    explain::explain,
    model::{Model, Pane, Read},
    update::{Effect, Message},
    view::Screen,
};
use crate::{
    observe::{Filter, Reading, Record},
    service::{
        api::{Rules, SetMode},
        client::{Client, ClientError},
    },
};

/// How it is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often the daemon is asked.
    pub interval: Duration,
    /// Whether there may be colour.
    pub colour: bool,
}

/// Messages that wait to be taken in. Whoever sends more waits, so that a flood of verdicts does not fill the memory.
const WAITING: usize = 1024;
/// No screen is drawn more often: nobody sees it.
const FRAME: Duration = Duration::from_millis(33);
/// Where asking takes long, because a table is large, it is asked less often: after so many times as long, but not later than this.
const SHARE: u32 = 2;
const LATEST: Duration = Duration::from_secs(2);
/// Columns of a frame that is for no terminal.
const WIDTH: u16 = 100;

/// Shows the screen until the person or a signal ends it.
///
/// # Errors
/// The terminal cannot be used.
pub async fn run(client: Client, options: Options) -> io::Result<()> {
    let mut signals = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()]
        .map(signal)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()?;
    // From here on also where something panics.
    let terminal = ratatui::try_init()?;
    let continued = signal(SignalKind::from_raw(Signal::SIGCONT as i32))?;
    let ended = show(terminal, client, options, &mut signals, continued).await;
    ratatui::restore();
    ended
}

async fn show(
    mut terminal: ratatui::DefaultTerminal,
    client: Client,
    options: Options,
    signals: &mut [tokio::signal::unix::Signal],
    mut continued: tokio::signal::unix::Signal,
) -> io::Result<()> {
    let (mut model, mut screen) = (Model::default(), Screen::new(options.colour));
    let (sender, mut messages) = mpsc::channel(WAITING);
    let (pane, looked_at) = watch::channel(model.pane);
    let wake = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(ask(client.clone(), options.interval, looked_at, Arc::clone(&wake), sender.clone()));
    let mut following = tasks.spawn(follow(client.clone(), false, options.interval, sender.clone()));
    let mut keys = EventStream::new();
    loop {
        let mut rows = 0;
        terminal.draw(|frame| rows = screen.draw(&model, frame))?;
        model.update(Message::Page(rows));
        let drawn = Instant::now();
        let mut effects = Vec::new();
        tokio::select! {
            () = any(signals) => return Ok(()),
            // Whoever stopped it, the shell has had the terminal meanwhile.
            Some(()) = continued.recv() => take(&mut terminal)?,
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) => effects.extend(model.update(Message::Key(key))),
                // Another size, above all: it is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            Some(message) = messages.recv() => {
                effects.extend(model.update(message));
                // What else is there already is shown with it.
                while let Ok(message) = messages.try_recv() {
                    effects.extend(model.update(message));
                    if drawn.elapsed() > FRAME {
                        break;
                    }
                }
            }
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    panic::resume_unwind(error.into_panic());
                }
            }
        }
        pane.send_replace(model.pane);
        for effect in effects {
            match effect {
                Effect::Quit => return Ok(()),
                Effect::Suspend => {
                    terminal.show_cursor()?;
                    ratatui::try_restore()?;
                    // Returns when somebody has continued it; at once where no shell could.
                    raise(Signal::SIGTSTP)?;
                    take(&mut terminal)?;
                }
                Effect::Refresh => wake.notify_one(),
                Effect::Follow { all } => {
                    following.abort();
                    following = tasks.spawn(follow(client.clone(), all, options.interval, sender.clone()));
                }
                Effect::Set { interface, set } => {
                    drop(tasks.spawn(change(client.clone(), interface, set, sender.clone())));
                }
                Effect::Explain(record) => drop(explained(&model, *record, &mut tasks, sender.clone())),
            }
        }
        if let Some(rest) = FRAME.checked_sub(drawn.elapsed()) {
            sleep(rest).await;
        }
    }
}

/// Takes the screen again, of which others have had the use.
fn take(terminal: &mut ratatui::DefaultTerminal) -> io::Result<()> {
    // It is set again only where it counts as given back.
    disable_raw_mode()?;
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)?;
    // Not `clear`, which asks the terminal where its cursor is: the thread that waits for keys may take the answer, and then
    // there is none within two seconds.
    let size = terminal.size()?;
    terminal.resize((Position::ORIGIN, size).into())
}

async fn any(signals: &mut [tokio::signal::unix::Signal]) {
    let waits = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(waits).await;
}

/// Where nobody listens any more, nothing is to be told.
async fn tell(sender: &mpsc::Sender<Message>, message: Message) {
    drop(sender.send(message).await);
}

fn explained(
    model: &Model,
    record: Record,
    tasks: &mut JoinSet<()>,
    sender: mpsc::Sender<Message>,
) -> Option<AbortHandle> {
    let status = model.status()?.clone();
    let policy = model.now.as_ref()?.reading.status.policy.clone();
    Some(tasks.spawn_blocking(move || {
        drop(sender.blocking_send(Message::Explained(explain(&record, &policy, &status))));
    }))
}

async fn change(client: Client, interface: String, set: SetMode, sender: mpsc::Sender<Message>) {
    let done = client.set_mode(&interface, &set).await;
    tell(&sender, Message::Set(done.map(Box::new).map_err(|error| said(&error)))).await;
}

/// An error with what to do about it, on one line.
fn said(error: &ClientError) -> String {
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}

/// Asks once for everything that is shown.
async fn read(client: &Client, pane: Pane, began: Instant) -> Result<Read, ClientError> {
    let status = client.status().await?;
    let Rules { mut interfaces } = client.rules(None).await?;
    let at = began.elapsed();
    // They were asked one after the other: what came between is shown with the next reading.
    let mut rules = Vec::new();
    let mut status = status;
    status.interfaces.retain(|one| {
        let place = interfaces.iter().position(|rules| rules.interface == one.interface);
        place.map(|place| rules.push(interfaces.swap_remove(place))).is_some()
    });
    let connections = match pane {
        Pane::Connections => Some(client.connections(None, &Filter::default()).await?.connections),
        _ => None,
    };
    Ok(Read { at, reading: Reading { status, rules }, connections })
}

/// Asks the daemon again and again.
async fn ask(
    client: Client,
    interval: Duration,
    pane: watch::Receiver<Pane>,
    wake: Arc<Notify>,
    sender: mpsc::Sender<Message>,
) {
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let shown = *pane.borrow();
        tell(
            &sender,
            match read(&client, shown, began).await {
                Ok(read) => Message::Read(Box::new(read)),
                Err(error) => Message::Lost(error.to_string()),
            },
        )
        .await;
        let pause = interval.max((asked.elapsed() * SHARE).min(LATEST));
        // Rates need two readings that are apart, but who has pressed a key does not wait.
        drop(timeout(pause, wake.notified()).await);
    }
}

/// A line of the stream.
#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Missed { missed: u64 },
    Record(Box<Record>),
}

/// Passes verdicts on until the stream ends.
async fn pass_on(mut body: Incoming, sender: &mpsc::Sender<Message>) {
    let mut rest = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Told::Missed { missed }) => tell(sender, Message::Missed(missed)).await,
                Ok(Told::Record(record)) => tell(sender, Message::Verdict(record)).await,
                // Of a later nacld: it is not for this one.
                Err(_) => {}
            }
        }
    }
}

/// Follows verdicts for ever: where the daemon goes away, the next one's.
async fn follow(client: Client, all: bool, interval: Duration, sender: mpsc::Sender<Message>) {
    let path = if all { "/v1/events?action=all" } else { "/v1/events" };
    loop {
        match client.send(Method::GET, path).await {
            Ok(response) if response.status().is_success() => pass_on(response.into_body(), &sender).await,
            Ok(_) if all => {
                let why = "allowed packets cannot be reported now: a change awaits confirmation".to_owned();
                return tell(&sender, Message::NotTold(why)).await;
            }
            // Whoever asks for readings says so.
            Ok(_) | Err(_) => {}
        }
        sleep(interval).await;
    }
}

/// One frame as plain text, of two readings that are so far apart. `width`: of the terminal it is for, if there is one.
///
/// # Errors
/// The daemon cannot be asked.
pub async fn once(client: &Client, interval: Duration, width: Option<u16>) -> Result<String, ClientError> {
    let began = Instant::now();
    let mut model = Model::default();
    for last in [false, true] {
        let read = read(client, model.pane, began).await?;
        model.update(Message::Read(Box::new(read)));
        if !last {
            sleep(interval).await;
        }
    }
    Ok(frame(&model, width.unwrap_or(WIDTH)))
}

/// A model on a screen that is as high as it needs to be, as plain text without the line of keys.
fn frame(model: &Model, width: u16) -> String {
    let mut text = String::new();
    let interfaces = model.now.as_ref().map_or(0, |now| now.reading.status.interfaces.len());
    for interface in 0..interfaces {
        let model = Model { interface, ..model.clone() };
        // The head, the tabs, a heading and the keys; banners take a fourth of the screen at most.
        let height = (model.rows() as u16).saturating_add(8) * 4 / 3;
        let mut screen = Screen::new(false);
        let Ok(mut terminal) = Terminal::new(TestBackend::new(width.max(20), height));
        let Ok(drawn) = terminal.draw(|frame| {
            screen.draw(&model, frame);
        });
        text.push_str(lines(drawn.buffer).trim_end());
        text.push_str("\n\n");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// All lines but the last.
fn lines(buffer: &Buffer) -> String {
    let Rect { width, height, .. } = buffer.area;
    let mut text = String::new();
    for row in 0..height.saturating_sub(1) {
        let mut skip = 0;
        let mut line = String::new();
        for column in 0..width {
            let symbol = buffer[(column, row)].symbol();
            if skip == 0 {
                line.push_str(symbol);
                skip = unicode_width(symbol);
            }
            skip -= usize::from(skip > 0);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Cells that a symbol takes.
fn unicode_width(symbol: &str) -> usize {
    ratatui::text::Span::raw(symbol).width().max(1)
}
