//! A test program's output as a person wants it: what failed, in full, and a line for each program. All of it goes to a
//! file, because what a passing test prints is part of the proof: the differential tests say how often each edge was met.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::shell::{target, text};

/// The file.
pub struct Log {
    path: PathBuf,
    file: File,
    /// Print everything too.
    whole: bool,
}

impl Log {
    /// Begins a new one in the target directory.
    pub fn create(whole: bool) -> Result<Self> {
        let path = target().join("test.log");
        std::fs::create_dir_all(target()).context("the target directory")?;
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, whole })
    }

    /// Where it is.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Runs a test program, or cargo that runs several, to its end.
    pub fn run(&mut self, command: &mut Command) -> Result<()> {
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", text(command)))?;
        let mut part = Part::Tests;
        for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
            let line = line.context("reading the output")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(self.file, "{line}").with_context(|| format!("cannot write {}", self.path.display()))?;
            part = part.after(&line);
            if self.whole || part.shows(&line) {
                println!("{line}");
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("{} failed: {status}", text(command));
        }
        Ok(())
    }
}

/// Where in the output of a test program a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// One line a test.
    Tests,
    /// What tests printed that passed.
    Successes,
    /// What tests printed that failed.
    Failures,
}

impl Part {
    fn after(self, line: &str) -> Self {
        match line {
            "successes:" => Self::Successes,
            "failures:" => Self::Failures,
            line if line.starts_with("running ") || line.starts_with("test result: ") => Self::Tests,
            _ => self,
        }
    }

    fn shows(self, line: &str) -> bool {
        match self {
            Self::Tests => line.starts_with("test result: ") || line.starts_with("test ") && line.ends_with("FAILED"),
            Self::Successes => false,
            Self::Failures => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_shown_in_full_and_successes_counted() {
        let output = "\nrunning 2 tests\ntest a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\n1000 packets\n\n\
            successes:\n    a\n\nfailures:\n\n---- b stdout ----\npanicked\n\nfailures:\n    b\n\n\
            test result: FAILED. 1 passed; 1 failed\n\nrunning 1 test\ntest c ... ok\n\ntest result: ok. 1 passed";
        let mut part = Part::Tests;
        let shown: Vec<_> = output
            .lines()
            .filter(|line| {
                part = part.after(line);
                part.shows(line)
            })
            .filter(|line| !line.is_empty())
            .collect();
        assert_eq!(
            shown,
            [
                "test b ... FAILED",
                "failures:",
                "---- b stdout ----",
                "panicked",
                "failures:",
                "    b",
                "test result: FAILED. 1 passed; 1 failed",
                "test result: ok. 1 passed"
            ]
        );
    }
}
