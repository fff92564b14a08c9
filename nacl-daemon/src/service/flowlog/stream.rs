//! Standard output, written by a thread of its own: who reads it may have stopped, and nothing else waits for that. Knows nothing of
//! what is written.

use std::{
    io::{self, Write},
    sync::{
        LazyLock,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

/// How long a reader is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A text, and where to say how it went.
type Job = (String, SyncSender<io::Result<()>>);

/// One text waits at most.
static WRITER: LazyLock<SyncSender<Job>> = LazyLock::new(|| {
    let (jobs, wanted) = mpsc::sync_channel(1);
    // Without it nobody takes the jobs, and `put` says so.
    drop(thread::Builder::new().name("flow-logs-out".into()).spawn(move || write(&wanted, io::stdout)));
    jobs
});

fn write<W: Write>(wanted: &Receiver<Job>, out: impl Fn() -> W) {
    for (text, done) in wanted {
        let mut out = out();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        // Nobody waits any more where it took too long.
        let _ = done.try_send(written);
    }
}

/// Writes a text. Where that fails because nobody reads, it may still be written later, when somebody does.
pub fn put(text: String) -> io::Result<()> {
    to(&WRITER, text, PATIENCE)
}

fn to(writer: &SyncSender<Job>, text: String, patience: Duration) -> io::Result<()> {
    let unread = || io::Error::new(io::ErrorKind::TimedOut, "nobody reads standard output");
    let (done, is_done) = mpsc::sync_channel(1);
    match writer.try_send((text, done)) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return Err(unread()),
        Err(TrySendError::Disconnected(_)) => return Err(io::Error::other("no thread could be had")),
    }
    match is_done.recv_timeout(patience) {
        Ok(written) => written,
        Err(RecvTimeoutError::Timeout) => Err(unread()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the thread that writes has ended")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_reader_that_stopped_keeps_nobody_waiting() {
        let (mut reader, pipe) = io::pipe().expect("a pipe");
        let (jobs, wanted) = mpsc::sync_channel(1);
        let writing = thread::spawn(move || write(&wanted, || &pipe));
        let briefly = Duration::from_millis(50);
        to(&jobs, "one\n".to_owned(), PATIENCE).expect("it fits the pipe");
        // More than a pipe holds.
        let large = "two\n".repeat(1 << 18);
        let late = to(&jobs, large.clone(), briefly).expect_err("nobody reads");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        // The next one waits behind it, the one after that finds no place.
        to(&jobs, "three\n".to_owned(), briefly).expect_err("nobody reads");
        to(&jobs, "four\n".to_owned(), briefly).expect_err("nobody reads");
        drop(jobs);
        let mut read = String::new();
        reader.read_to_string(&mut read).expect("the rest");
        assert_eq!(read, format!("one\n{large}three\n"));
        writing.join().expect("the thread ends");
    }
}
