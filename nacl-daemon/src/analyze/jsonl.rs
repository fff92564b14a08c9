//! Answers a stream of packets, one JSON object a line: `nacld explain --jsonl`. Who judges is the caller's choice.

use std::io::{self, BufRead, Write};

use nacl_common::{Direction, Packet, Verdict};
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

#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
    line: u64,
}

/// Judges each line of `input` and writes one line of `output` for it; a line that is no packet is answered with
/// `{"error": …, "line": …}`. Blank lines are passed over. Returns how many lines were no packet.
///
/// # Errors
/// Reading, writing or judging fails; what was answered before stays written.
pub fn answer<E: std::error::Error + 'static>(
    nacl: &str,
    compiled: &Compiled,
    mut judge: impl FnMut(Direction, &Packet) -> Result<Verdict, E>,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<u64, StreamError<E>> {
    let (mut refused, mut number, mut line) = (0, 0, Vec::new());
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
        let query = serde_json::from_slice::<Query>(&line);
        match query.map_err(|error| error.to_string()).and_then(|query| query.packet().map_err(str::to_owned)) {
            Ok((direction, packet)) => {
                let verdict = judge(direction, &packet).map_err(StreamError::Judge)?;
                let rule = compiled.slots.slots.get(&verdict.slot).and_then(|slot| slot.rule);
                let answer = report::explain::verdict(nacl, rule, verdict.action, verdict.layer, verdict.reason);
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
