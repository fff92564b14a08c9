//! What the benchmark printed (`nacl-daemon/benches/line_rate/out.rs` writes it), read back. Nothing is computed here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The machine; always there once read.
    pub machine: Machine,
    /// How it ended. `None`: it did not.
    pub end: Option<End>,
    pub rows: Vec<Row>,
    pub verifier: Vec<Verifier>,
    pub memory: Vec<Memory>,
    pub times: Vec<Time>,
    pub missing: Vec<Missing>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub mhz: u32,
    pub mitigations: Vec<String>,
    #[serde(default)]
    pub jit: [Option<u32>; 2],
    pub quick: bool,
    #[serde(default)]
    pub parts: Vec<String>,
    pub rounds: usize,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct End {
    pub seconds: u64,
    pub steal_percent: f64,
}

/// One figure, in nanoseconds a packet.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Row {
    pub subject: String,
    pub harness: String,
    pub mode: String,
    pub family: u8,
    pub rules: usize,
    pub pattern: String,
    pub ns_min: f64,
    pub ns_median: f64,
    pub ns_max: f64,
    /// What tells rows apart that are otherwise the same: `hook`, `layers`, `flows`, `variant`.
    #[serde(flatten)]
    pub detail: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Verifier {
    pub program: String,
    pub instructions: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Memory {
    pub shape: String,
    pub rules: usize,
    pub interfaces: usize,
    pub tier: String,
    pub form: String,
    pub bytes: u64,
    pub of: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Time {
    pub what: String,
    pub shape: String,
    pub rules: usize,
    pub interfaces: usize,
    pub us_min: f64,
    pub us_median: f64,
    pub us_max: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Missing {
    pub what: String,
    pub why: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Limit {
    pub subject: String,
    pub why: String,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Machine(Machine),
    Row(Row),
    Verifier(Verifier),
    Memory(Memory),
    Time(Time),
    Missing(Missing),
    Limit(Limit),
    End(End),
}

/// Which row is meant. What is not said has to be as in [`Want::new`], and a detail that is not named must not be there:
/// so a row never stands in for another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Want {
    pub subject: String,
    pub harness: String,
    pub mode: String,
    pub family: u8,
    pub rules: usize,
    pub pattern: String,
    pub detail: BTreeMap<String, String>,
}

impl Want {
    /// A stateless row of IPv4 and the hot pattern.
    pub fn new(subject: &str, harness: &str) -> Self {
        Self {
            subject: subject.into(),
            harness: harness.into(),
            mode: "stateless".into(),
            family: 4,
            rules: 0,
            pattern: "hot".into(),
            detail: BTreeMap::new(),
        }
    }

    pub fn mode(mut self, mode: &str) -> Self {
        self.mode = mode.into();
        self
    }

    pub const fn family(mut self, family: u8) -> Self {
        self.family = family;
        self
    }

    pub const fn rules(mut self, rules: usize) -> Self {
        self.rules = rules;
        self
    }

    pub fn pattern(mut self, pattern: &str) -> Self {
        self.pattern = pattern.into();
        self
    }

    pub fn with(mut self, detail: &str, value: &str) -> Self {
        self.detail.insert(detail.into(), value.into());
        self
    }
}

impl Row {
    /// What tells this row from every other.
    pub fn want(&self) -> Want {
        Want {
            subject: self.subject.clone(),
            harness: self.harness.clone(),
            mode: self.mode.clone(),
            family: self.family,
            rules: self.rules,
            pattern: self.pattern.clone(),
            detail: self.detail.keys().map(|key| (key.clone(), self.detail(key).unwrap_or_default())).collect(),
        }
    }

    /// A detail as text.
    pub fn detail(&self, name: &str) -> Option<String> {
        match self.detail.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl Run {
    /// Reads lines. Everything that is wrong with them is said at once.
    pub fn read(text: &str) -> Result<Self> {
        let mut run = Self::default();
        let mut machine = None;
        let mut seen = BTreeSet::new();
        let mut wrong = Vec::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(Line::Machine(line)) => {
                    if machine.replace(line).is_some() {
                        wrong.push(format!("line {number}: a second machine; one file is one run"));
                    }
                }
                Ok(Line::Row(row)) => {
                    if !seen.insert(row.want()) {
                        wrong.push(format!("line {number}: this figure was there before: {line}"));
                    }
                    if !sound([row.ns_min, row.ns_median, row.ns_max]) {
                        wrong.push(format!("line {number}: not three rising positive figures: {line}"));
                    }
                    run.rows.push(row);
                }
                Ok(Line::Time(time)) => {
                    if !sound([time.us_min, time.us_median, time.us_max]) {
                        wrong.push(format!("line {number}: not three rising positive figures: {line}"));
                    }
                    run.times.push(time);
                }
                Ok(Line::Verifier(line)) => run.verifier.push(line),
                Ok(Line::Memory(line)) => run.memory.push(line),
                Ok(Line::Missing(line)) => run.missing.push(line),
                Ok(Line::Limit(line)) => run.limits.push(line),
                Ok(Line::End(line)) => run.end = Some(line),
                Err(error) => wrong.push(format!("line {number}: {error}: {line}")),
            }
        }
        if !wrong.is_empty() {
            bail!("the benchmark's output cannot be read:\n  {}", wrong.join("\n  "));
        }
        run.machine = machine.context("the benchmark's output does not say of which machine it is")?;
        Ok(run)
    }

    /// The row that is meant.
    pub fn row(&self, want: &Want) -> Option<&Row> {
        self.rows.iter().find(|row| row.want() == *want)
    }
}

#[cfg(test)]
impl Row {
    /// A row that is made up: what is wanted, with these figures.
    pub fn of(want: &Want, [ns_min, ns_median, ns_max]: [f64; 3]) -> Self {
        Self {
            subject: want.subject.clone(),
            harness: want.harness.clone(),
            mode: want.mode.clone(),
            family: want.family,
            rules: want.rules,
            pattern: want.pattern.clone(),
            ns_min,
            ns_median,
            ns_max,
            detail: want.detail.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect(),
        }
    }
}

fn sound(figures: [f64; 3]) -> bool {
    figures.iter().all(|figure| figure.is_finite() && *figure > 0.0) && figures.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str =
        r#"{"kind":"machine","kernel":"6.18","cpu":"x","cores":2,"mhz":2000,"mitigations":[],"quick":true,"rounds":5}"#;
    const ROW: &str = r#"{"kind":"row","subject":"xdp","harness":"test_run","mode":"established","family":6,"rules":20,"pattern":"random","ns_min":40,"ns_median":41.5,"ns_max":50,"flows":1000}"#;

    #[test]
    fn a_row_is_found_by_all_that_tells_it_apart() {
        let run = Run::read(&format!("{MACHINE}\n{ROW}\n")).expect("a run");
        let want = Want::new("xdp", "test_run").mode("established").family(6).rules(20).pattern("random");
        assert!(run.row(&want).is_none(), "its flows were not named");
        assert!((run.row(&want.with("flows", "1000")).expect("the row").ns_median - 41.5).abs() < 1e-9);
        assert!(run.end.is_none());
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = [
            ROW,
            ROW,
            &ROW.replace("41.5", "39"),
            &ROW.replace("1000", "1").replace(":40", ":0"),
            "{\"kind\":\"newer\"}",
            "bench: progress",
        ]
        .join("\n");
        let error = Run::read(&text).expect_err("wrong").to_string();
        assert!(!error.contains("line 1:"), "{error}");
        for number in 2..=6 {
            assert!(error.contains(&format!("line {number}:")), "{number}: {error}");
        }
        assert!(Run::read(ROW).expect_err("wrong").to_string().contains("which machine"));
    }
}
