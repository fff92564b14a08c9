//! A line that repeats itself is written once in a while, and the others are counted: a fault that comes a thousand times
//! a second must fill no disk and hide no other line. Debug and trace lines are for finding faults, and all of them are
//! written.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fmt::{self, Debug, Write as _},
    hash::{Hash, Hasher},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// The same line is written once in so long, and any line of one place in the program [`BURST`] times.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of one place in the program within a [`WINDOW`]: each interface and each of a handful of faults may speak.
const BURST: u32 = 1000;
/// Lines that are remembered. Beyond, each is taken for a new one: [`BURST`] still holds.
const REMEMBERED: usize = 4096;

/// Lines, and how often each was held back.
#[derive(Debug)]
pub struct Repeats {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Book>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(held: Vec<Held>) {
        for Held { line, times } in held {
            // Not as an event of its own place: it stands for lines that were written before.
            tracing::warn!(target: super::TARGET, held_back = times, like = %line, "lines were held back");
        }
    }
}

/// A line that was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    line: String,
    times: u64,
}

#[derive(Debug)]
struct Told {
    since: Instant,
    times: u32,
    held: u64,
    line: String,
}

/// What was told in the window that runs.
#[derive(Debug, Default)]
struct Book {
    told: HashMap<u64, Told>,
    /// Of windows that are over.
    due: Vec<Held>,
}

impl Book {
    /// Whether a line may be written now. `line`: its identity, and how often it may be told in a window.
    fn admits(&mut self, identity: u64, limit: u32, text: impl FnOnce() -> String, now: Instant) -> bool {
        if let Some(told) = self.told.get_mut(&identity) {
            if now.saturating_duration_since(told.since) >= WINDOW {
                let held = mem::take(&mut told.held);
                (told.since, told.times) = (now, 0);
                if held > 0 {
                    self.due.push(Held { line: told.line.clone(), times: held });
                }
            }
            if told.times >= limit {
                told.held += 1;
                return false;
            }
            told.times += 1;
        } else if self.told.len() < REMEMBERED {
            self.told.insert(identity, Told { since: now, times: 1, held: 0, line: text() });
        }
        true
    }

    /// What was held back in windows that are over; with `all`, in those that run too.
    fn over(&mut self, now: Instant, all: bool) -> Vec<Held> {
        let mut over = mem::take(&mut self.due);
        self.told.retain(|_, told| {
            if !all && now.saturating_duration_since(told.since) < WINDOW {
                return true;
            }
            if told.held > 0 {
                over.push(Held { line: mem::take(&mut told.line), times: told.held });
            }
            false
        });
        over
    }
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self { shared: Arc::default(), worker: None }
    }

    /// The half that sees every line.
    pub(super) fn layer(&self) -> Limit {
        Limit(Arc::clone(&self.shared))
    }

    /// Tells from now on what was held back.
    pub(super) fn start(mut self) -> Self {
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let mut ended = shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
            while !*ended {
                (ended, _) = shared.end.wait_timeout(ended, WINDOW).unwrap_or_else(PoisonError::into_inner);
                let over = shared.book().over(Instant::now(), *ended);
                Shared::tell(over);
            }
        };
        // Without it nothing is lost but the counts.
        self.worker = thread::Builder::new().name("log".into()).spawn(work).ok();
        self
    }
}

impl Drop for Repeats {
    fn drop(&mut self) {
        *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.end.notify_all();
        if let Some(worker) = self.worker.take() {
            // A panic there has said so itself.
            let _ = worker.join();
        }
    }
}

/// Holds lines back.
#[derive(Debug)]
pub(super) struct Limit(Arc<Shared>);

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let mut place = DefaultHasher::new();
        event.metadata().callsite().hash(&mut place);
        let mut whole = place.clone();
        line.fields.hash(&mut whole);
        let now = Instant::now();
        let mut book = self.0.book();
        book.admits(whole.finish(), 1, || line.message.clone(), now)
            && book.admits(place.finish(), BURST, || line.message.clone(), now)
    }
}

/// A line as text.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _: fmt::Result = writeln!(self.fields, "{}={value:?}", field.name());
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    use super::*;

    fn text() -> String {
        "it is broken".to_owned()
    }

    #[test]
    fn the_same_line_once_in_a_window_and_the_others_are_counted() {
        let (mut book, start) = (Book::default(), Instant::now());
        assert!(book.admits(1, 1, text, start));
        assert!(book.admits(2, 1, text, start), "another line");
        for _ in 0..99 {
            assert!(!book.admits(1, 1, text, start + WINDOW / 2));
        }
        assert_eq!(book.over(start + WINDOW / 2, false), []);
        let held = |times| vec![Held { line: text(), times }];
        assert!(book.admits(1, 1, text, start + WINDOW), "a new window");
        assert_eq!(book.over(start + WINDOW, false), held(99), "what the one before held back is told");
        assert!(!book.admits(1, 1, text, start + WINDOW));
        assert_eq!(book.over(start + 2 * WINDOW, false), held(1), "also where nothing more comes");
        assert!(book.told.is_empty(), "and then it is forgotten");
    }

    #[test]
    fn at_the_end_everything_is_told() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.admits(1, 1, text, now) && !book.admits(1, 1, text, now));
        assert_eq!(book.over(now, true).len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut book, now) = (Book::default(), Instant::now());
        for identity in 0..2 * REMEMBERED as u64 {
            assert!(book.admits(identity, 1, text, now));
        }
        assert_eq!(book.told.len(), REMEMBERED);
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_differ_by_their_fields_and_debug_is_not_held_back() {
        let (sink, repeats) = (Sink::default(), Repeats::new());
        let out = sink.clone();
        let written = tracing_subscriber::fmt::layer().with_writer(move || out.clone());
        tracing::subscriber::with_default(Registry::default().with(written).with(repeats.layer()), || {
            for _ in 0..10 {
                for interface in ["eth0", "eth1"] {
                    tracing::warn!(interface, "it is broken");
                    tracing::debug!(interface, "so it is");
                }
            }
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("it is broken").count(), 2, "{text}");
        assert_eq!(text.matches("so it is").count(), 20, "{text}");
        let mut held = repeats.shared.book().over(Instant::now(), true);
        held.sort_by_key(|held| held.times);
        assert_eq!(held, vec![Held { line: "it is broken".into(), times: 9 }; 2]);
    }

    #[test]
    fn one_place_in_the_program_speaks_so_often_at_most() {
        let (sink, repeats) = (Sink::default(), Repeats::new());
        let out = sink.clone();
        let written = tracing_subscriber::fmt::layer().with_writer(move || out.clone());
        tracing::subscriber::with_default(Registry::default().with(written).with(repeats.layer()), || {
            for port in 0..BURST + 5 {
                tracing::info!(port, "dropped");
            }
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("dropped").count(), BURST as usize);
        assert_eq!(repeats.shared.book().over(Instant::now(), true), [Held { line: "dropped".into(), times: 5 }]);
    }
}
