//! `cargo xtask bench`: builds the benchmark (`nacl-daemon/benches/line_rate`), runs it as root, and makes tables, pictures
//! and `docs/performance.md` of what it prints. Measures nothing itself.

pub mod lines;
mod page;
mod plots;
pub mod smoke;
pub mod table;
mod tables;
mod targets;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, builder::PossibleValuesParser};

use self::{
    lines::Run,
    tables::Named,
    targets::{Outcome, Target},
};
use crate::{
    build, setup,
    shell::{as_root, cargo, root, say, target},
};

/// The benchmark's name in nacl-daemon/Cargo.toml.
pub const NAME: &str = "line_rate";

/// Its parts.
const PARTS: [&str; 5] = ["test_run", "live", "e2e", "growth", "scaling"];

#[derive(ClapArgs)]
pub struct Args {
    /// About a minute instead of ten, and figures to match
    #[arg(long)]
    quick: bool,
    /// These parts only; the page then goes to target/, not to docs/
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = PossibleValuesParser::new(PARTS))]
    only: Vec<String>,
    /// Measure nothing: make tables and the page again of what a run printed (it is kept in target/bench-lines.jsonl)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "only"])]
    render: Option<PathBuf>,
}

/// The command.
pub fn run(args: &Args) -> Result<()> {
    let (text, file, status) = if let Some(file) = &args.render {
        (fs::read_to_string(file).with_context(|| file.display().to_string())?, file.clone(), None)
    } else {
        let file = target().join("bench-lines.jsonl");
        let (text, status) = measure(args, &file)?;
        (text, file, Some(status))
    };
    let failed = status.filter(|status| !status.success());
    let run = match (Run::read(&text), failed) {
        (Ok(run), _) => run,
        (Err(error), Some(status)) => return Err(error.context(format!("the benchmark failed: {status}"))),
        (Err(error), None) => return Err(error.context(file.display().to_string())),
    };
    let tables = tables::all(&run);
    print(&tables);
    if let Some(status) = failed {
        bail!("the benchmark failed ({status}); nothing was written but {}", file.display());
    }
    // The page in docs/ is of a whole run.
    let whole = PARTS.iter().all(|part| run.machine.parts.iter().any(|one| one == part));
    let folder = if whole { root().join("docs") } else { target().join("bench") };
    write(&run, &tables, &folder)?;
    summary(&targets::all(&run));
    Ok(())
}

/// Builds and runs the benchmark. Returns what it printed, which `file` keeps, and how it ended.
fn measure(args: &Args, file: &Path) -> Result<(String, ExitStatus)> {
    let ready = setup::ensure()?;
    setup::peers();
    say("building the benchmark as the product is built, optimised (minutes, the first time)");
    let mut command = cargo();
    command.args(["build", "--profile", "bench", "--package", build::PACKAGE, "--features", build::KERNEL_TESTS]);
    command.args(["--bench", NAME]);
    let program = build::executable(build::with_kernel(&mut command, &ready), "bench", NAME)?;
    let mut command =
        as_root(&program, "the benchmark (network namespaces of its own, programs loaded into the kernel)")?;
    if args.quick {
        command.arg("--quick");
    }
    if !args.only.is_empty() {
        command.arg("--only").arg(args.only.join(","));
    }
    say(if args.quick { "measuring (about a minute)" } else { "measuring (about ten minutes; --quick takes one)" });
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| program.display().to_string())?;
    // Kept line by line: an interrupted run leaves what it had.
    let mut kept = fs::File::create(file).with_context(|| file.display().to_string())?;
    let mut text = String::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line? + "\n";
        kept.write_all(line.as_bytes()).with_context(|| file.display().to_string())?;
        text.push_str(&line);
    }
    Ok((text, child.wait()?))
}

fn print(tables: &[Named]) {
    let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0);
    for Named { heading, table, .. } in tables.iter().filter(|named| !named.table.is_empty()) {
        println!("\n{heading}\n{}", table.terminal(width));
    }
    println!();
}

fn write(run: &Run, tables: &[Named], folder: &Path) -> Result<()> {
    let pictures = plots::all(run)?;
    let page = page::page(run, tables, &pictures)?;
    let beside = folder.join(page::PICTURES);
    fs::create_dir_all(&beside).with_context(|| beside.display().to_string())?;
    // A picture of an earlier run must not stand beside the page of this one.
    for entry in fs::read_dir(&beside)? {
        let old = entry?.path();
        if old.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(&old).with_context(|| old.display().to_string())?;
        }
    }
    let mut files = vec![
        (folder.join("performance.md"), page),
        (target().join("bench.json"), serde_json::to_string_pretty(&run.rows)? + "\n"),
    ];
    files.extend(pictures.into_iter().map(|picture| (beside.join(picture.name).with_extension("svg"), picture.svg)));
    for (file, text) in files {
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        say(&format!("wrote {}", file.strip_prefix(root()).unwrap_or(&file).display()));
    }
    Ok(())
}

fn summary(targets: &[Target]) {
    let count = |which: fn(&Outcome) -> bool| targets.iter().filter(|target| which(&target.outcome)).count();
    say(&format!(
        "targets: {} met, {} missed, {} not measured",
        count(|outcome| matches!(outcome, Outcome::Met(_))),
        count(|outcome| matches!(outcome, Outcome::Missed(..))),
        count(|outcome| matches!(outcome, Outcome::NotMeasured(_))),
    ));
}
