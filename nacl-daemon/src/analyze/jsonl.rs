//! Answers a stream of packets, one JSON object a line: `nacld explain --jsonl`. Who judges is the caller's choice.

use std::io::{self, BufRead, Write};

use nacl_common::{Direction, Packet, Verdict, flow::Met};
use serde::Serialize;
use thiserror::Error;

use super::query::Query;
use crate::{compile::Compiled, report};

/// Why a stream ended early.
#[derive(Debug, Error)]
pub enum StreamError<E: std::error::Error + 'static> {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The judge failed.
    #[error(transparent)]
    Judge(E),
}

/// How the lines of a stream belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Each is the first packet of its flow; the judge remembers nothing.
    Apart,
    /// They are met one after the other, at their times; the judge remembers.
    Sequence,
}

#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
    line: u64,
}

/// Judges each line of `input` and writes one line of `output` for it; a line that is no packet is answered with
/// `{"error": …, "line": …}`. Blank lines are passed over. Returns how many lines were no packet.
///
/// `judge` is given the time in nanoseconds: of the line in a sequence, where a line without a time is met at that of the line
/// before, and else 0.
///
/// # Errors
/// Reading, writing or judging fails; what was answered before stays written.
pub fn answer<E: std::error::Error + 'static>(
    nacl: &str,
    compiled: &Compiled,
    lines: Lines,
    mut judge: impl FnMut(u64, Direction, &Packet) -> Result<(Verdict, Met), E>,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<u64, StreamError<E>> {
    let (mut refused, mut number, mut line, mut now) = (0, 0, Vec::new(), 0);
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            output.flush()?;
            return Ok(refused);
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        match read(&line, lines, now) {
            Ok((time, direction, packet)) => {
                now = time;
                let (verdict, met) = judge(now, direction, &packet).map_err(StreamError::Judge)?;
                let answer = report::explain::answer(nacl, &compiled.slots, &verdict, met);
                serde_json::to_writer(&mut output, &answer).map_err(io::Error::from)?;
            }
            Err(error) => {
                refused += 1;
                serde_json::to_writer(&mut output, &Refusal { error: &error, line: number })
                    .map_err(io::Error::from)?;
            }
        }
        output.write_all(b"\n")?;
    }
}

/// A line as a packet and when it is met, not before `now`.
fn read(line: &[u8], lines: Lines, now: u64) -> Result<(u64, Direction, Packet), String> {
    let query = serde_json::from_slice::<Query>(line).map_err(|error| error.to_string())?;
    let (direction, packet) = query.packet()?;
    let time = match lines {
        Lines::Apart if query.has_time() => {
            return Err("time means something in a sequence only: ask with --sequence".to_owned());
        }
        Lines::Apart => now,
        Lines::Sequence => query.in_sequence()?.unwrap_or(now),
    };
    if time < now {
        return Err("time goes back: the lines of a sequence are met one after the other".to_owned());
    }
    Ok((time, direction, packet))
}
