//! `cargo xtask reloads` and `cargo xtask kills`: build the test `evidence`, run its long form as root, and put what it found into
//! `docs/evidence.md`. They judge nothing: a run that finds something wrong fails by itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use serde::Deserialize;

use crate::{
    bench::table::Table,
    build, setup,
    shell::{as_root, cargo, execute, output, root, say, target},
};

/// The test's name in nacl-daemon/Cargo.toml.
const NAME: &str = "evidence";

#[derive(ClapArgs)]
pub struct Reloads {
    /// Reloads; the page is written of ten thousand and more
    #[arg(long, default_value_t = WHOLE_RELOADS)]
    count: usize,
    /// Packets a second, below which the run fails
    #[arg(long, default_value_t = WHOLE_RATE)]
    rate: u32,
    /// Run nothing: write the page again of what a run found (it is kept in target/reloads-lines.jsonl)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["count", "rate"])]
    render: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub struct Kills {
    /// Kills at random moments; the page is written of two hundred and more
    #[arg(long, default_value_t = WHOLE_KILLS)]
    count: usize,
    /// Packets a second, below which the run fails
    #[arg(long, default_value_t = KILLS_RATE)]
    rate: u32,
    /// What the moments are made from: a run that fails prints it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run nothing: write the page again of what a run found (it is kept in target/kills-lines.jsonl)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["count", "rate", "seed"])]
    render: Option<PathBuf>,
}

/// What the page is of.
const WHOLE_RELOADS: usize = 10_000;
const WHOLE_RATE: u32 = 100_000;
const WHOLE_KILLS: usize = 200;
const KILLS_RATE: u32 = 20_000;

/// The commands.
pub fn reloads(args: &Reloads) -> Result<()> {
    if let Some(file) = &args.render {
        return finish("reloads", file);
    }
    say(&format!("{} reloads at {} packets a second (ten thousand take an hour at most)", args.count, args.rate));
    run("reloads", args.count, args.rate, 0)
}

/// As [`reloads`].
pub fn kills(args: &Kills) -> Result<()> {
    if let Some(file) = &args.render {
        return finish("kills", file);
    }
    say(&format!("{} kills at {} packets a second, seed {}", args.count, args.rate, args.seed));
    run("kills", args.count, args.rate, args.seed)
}

fn run(which: &str, count: usize, rate: u32, seed: u64) -> Result<()> {
    let ready = setup::ensure()?;
    let program = build(&ready)?;
    let lines = target().join(format!("{which}-lines.jsonl"));
    fs::write(&lines, "").with_context(|| lines.display().to_string())?;
    let mut command = as_root("env", "the run (network namespaces of its own, programs loaded into the kernel)")?;
    command.arg(format!("NACLD_EVIDENCE_COUNT={count}"));
    command.arg(format!("NACLD_EVIDENCE_RATE={rate}"));
    command.arg(format!("NACLD_EVIDENCE_SEED={seed}"));
    command.arg(format!("NACLD_EVIDENCE_LINES={}", lines.display()));
    command.arg(program).args(["--exact", &format!("evidence::{which}::{which}"), "--nocapture"]);
    let done = execute(command.current_dir(root().join(build::PACKAGE)));
    let shown = finish(which, &lines);
    done.with_context(|| format!("the run failed; what it found is in {}", lines.display()))?;
    shown
}

/// Prints what a run has found, and puts it into the page where it was a whole run that found nothing wrong.
fn finish(which: &str, lines: &Path) -> Result<()> {
    let text = fs::read_to_string(lines).with_context(|| lines.display().to_string())?;
    let read = |line: &str| serde_json::from_str(line).with_context(|| format!("a line of the run: {line}"));
    let lines: Vec<Line> = text.lines().map(read).collect::<Result<_>>()?;
    let tables: Tables = lines.iter().flat_map(tables).collect();
    for (heading, table) in &tables {
        println!("\n{heading}\n{}", table.terminal(None));
    }
    println!();
    if tables.is_empty() {
        bail!("the run found nothing: is there a test evidence::{which}::{which}?");
    }
    if !lines.iter().any(|line| matches!(line, Line::End)) {
        bail!("the run has not come to its end, or found something wrong");
    }
    let page = root().join("docs/evidence.md");
    if !lines.iter().any(whole) {
        say(&format!("{} is of whole runs and stays as it is", page.display()));
        return Ok(());
    }
    let old = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    fs::write(&page, replaced(&old, which, &markdown(&tables))?).with_context(|| page.display().to_string())?;
    say(&format!("wrote {}", page.display()));
    Ok(())
}

fn build(ready: &setup::Ready) -> Result<PathBuf> {
    say("building nacld and the run (minutes, the first time)");
    let mut command = cargo();
    command.args(["test", "--no-run", "--package", build::PACKAGE, "--features", build::KERNEL_TESTS, "--test", NAME]);
    build::executable(build::with_kernel(&mut command, ready), "test", NAME)
}

/// A line of a run.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Reloads(Reloaded),
    Kills(Killed),
    /// Nothing was wrong.
    End,
}

/// Whether it is of as much as the page is to be of.
fn whole(line: &Line) -> bool {
    match line {
        Line::Reloads(found) => {
            found.api + found.command + found.signal >= WHOLE_RELOADS && found.plan.rate >= WHOLE_RATE
        }
        Line::Kills(found) => found.moments.values().sum::<usize>() >= WHOLE_KILLS && found.plan.rate >= KILLS_RATE,
        Line::End => false,
    }
}

#[derive(Deserialize)]
struct Plan {
    rate: u32,
    seed: u64,
}

#[derive(Deserialize)]
struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
    memory_mib: u64,
}

#[derive(Deserialize)]
struct Reloaded {
    plan: Plan,
    machine: Machine,
    api: usize,
    command: usize,
    signal: usize,
    speed: f64,
    reload_ms: [f64; 2],
    figures: Vec<Figures>,
    slope: f64,
    account: Account,
}

#[derive(Deserialize)]
struct Killed {
    plan: Plan,
    machine: Machine,
    moments: BTreeMap<String, usize>,
    undone: usize,
    start_ms: [f64; 2],
    nobody: f64,
    figures: Vec<Figures>,
    account: Account,
}

#[derive(Deserialize)]
struct Figures {
    after: usize,
    resident_kib: u64,
    anonymous_kib: u64,
    descriptors: usize,
    maps: usize,
    programs: usize,
    links: usize,
    generations_kib: u64,
    others_kib: u64,
    slab_kib: u64,
    vmalloc_kib: u64,
    connections: u64,
}

#[derive(Deserialize)]
struct Account {
    seconds: f64,
    sent: u64,
    rate: u64,
    slowest: u64,
    fates: Vec<Fate>,
    round_trips: u64,
    longest_ms: u64,
    lost: u64,
}

#[derive(Deserialize)]
struct Fate {
    interface: String,
    direction: String,
    kind: String,
    admitted: bool,
    sent: u64,
    lost: u64,
    arrived: u64,
}

type Tables = Vec<(String, Table)>;

fn tables(line: &Line) -> Tables {
    match line {
        Line::Reloads(found) => reloaded(found),
        Line::Kills(found) => killed(found),
        Line::End => Tables::new(),
    }
}

fn reloaded(found: &Reloaded) -> Tables {
    let mut run = about(&found.machine);
    let count = found.api + found.command + found.signal;
    let ways = format!("{} by the API, {} by `nacld reload`, {} by SIGHUP", found.api, found.command, found.signal);
    run.row(["reloads", &format!("{}: {ways}", grouped(count as u64))]);
    let [median, longest] = found.reload_ms;
    run.row([
        "speed",
        &format!("{:.1} a second; by the API {median:.1} ms in the median, {longest:.1} ms at most", found.speed),
    ]);
    traffic(&mut run, &found.account, found.plan.rate);
    run.row([
        "growth of the heap",
        &format!("{:.1} bytes a reload, over the last nine tenths of the run", found.slope),
    ]);
    vec![
        ("The run".into(), run),
        ("Every frame".into(), fates(&found.account)),
        ("What the daemon holds".into(), figures(&found.figures)),
    ]
}

fn killed(found: &Killed) -> Tables {
    let mut run = about(&found.machine);
    let moments: Vec<_> = found.moments.iter().map(|(moment, count)| format!("{count} while {moment}")).collect();
    let count: usize = found.moments.values().sum();
    run.row(["kills", &format!("{}: {}; seed {}", grouped(count as u64), moments.join(", "), found.plan.seed)]);
    run.row(["changes that the programs took back", &grouped(found.undone as u64)]);
    run.row(["time with no daemon there", &format!("{:.0} s", found.nobody)]);
    let [median, longest] = found.start_ms;
    run.row(["from start to ready", &format!("{median:.0} ms in the median, {longest:.0} ms at most")]);
    traffic(&mut run, &found.account, found.plan.rate);
    vec![
        ("The run".into(), run),
        ("Every frame".into(), fates(&found.account)),
        ("What the daemon holds".into(), figures(&found.figures)),
    ]
}

fn about(machine: &Machine) -> Table {
    let mut table = Table::new(["", ""], 2);
    let date = output(std::process::Command::new("date").args(["-u", "+%Y-%m-%d"])).unwrap_or_default();
    table.row(["date", date.trim()]);
    table.row(["kernel", &machine.kernel]);
    let Machine { cpu, cores, memory_mib, .. } = machine;
    table.row(["machine", &format!("{cpu}, {cores} online, {memory_mib} MiB")]);
    table.row(["build", "as tests are built: debug assertions and overflow checks are on"]);
    table
}

fn traffic(table: &mut Table, account: &Account, wanted: u32) {
    let Account { seconds, sent, rate, slowest, round_trips, longest_ms, lost, .. } = account;
    table.row(["time", &format!("{seconds:.0} s")]);
    let rates = format!("{} a second, {} in the slowest ten seconds", grouped(*rate), grouped(*slowest));
    table.row(["packets", &format!("{} sent: {rates}; {} were asked for", grouped(*sent), grouped(wanted.into()))]);
    table.row(["lost by the cables", &grouped(*lost)]);
    let trips = format!("{} round trips of two connections, {longest_ms} ms the longest", grouped(*round_trips));
    table.row(["TCP through it", &trips]);
}

fn fates(account: &Account) -> Table {
    let mut table =
        Table::new(["interface", "direction", "kind", "both policies", "sent", "lost by the cable", "arrived"], 4);
    for Fate { interface, direction, kind, admitted, sent, lost, arrived } in &account.fates {
        let policies = if *admitted { "admit it" } else { "deny it" };
        table.row([interface, direction, kind, policies, &grouped(*sent), &grouped(*lost), &grouped(*arrived)]);
    }
    table
}

fn figures(figures: &[Figures]) -> Table {
    let mut table =
        Table::new(std::iter::once("after".to_owned()).chain(figures.iter().map(|one| grouped(one.after as u64))), 1);
    let mut row = |what: &str, of: fn(&Figures) -> u64| {
        table.row(std::iter::once(what.to_owned()).chain(figures.iter().map(|one| grouped(of(one)))));
    };
    row("resident memory, KiB", |one| one.resident_kib);
    row("of it heap and stacks, KiB", |one| one.anonymous_kib);
    row("file descriptors", |one| one.descriptors as u64);
    row("maps", |one| one.maps as u64);
    row("programs", |one| one.programs as u64);
    row("links", |one| one.links as u64);
    row("generations, KiB", |one| one.generations_kib);
    row("other maps, KiB", |one| one.others_kib);
    row("connections remembered", |one| one.connections);
    row("slabs of the whole machine, KiB", |one| one.slab_kib);
    row("vmalloc of the whole machine, KiB", |one| one.vmalloc_kib);
    table
}

fn markdown(tables: &Tables) -> String {
    let parts: Vec<_> =
        tables.iter().map(|(heading, table)| format!("### {heading}\n\n{}\n", table.markdown())).collect();
    parts.concat()
}

/// The page with another text between the marks of a run.
fn replaced(page: &str, which: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {which}: begin -->\n"), format!("<!-- {which}: end -->\n"));
    let (before, rest) = page.split_once(&begin).with_context(|| format!("the page has no {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("the page has no {end}"))?;
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

/// A number in groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_the_place_of_the_one_before() {
        let page =
            "a\n<!-- reloads: begin -->\nold\n<!-- reloads: end -->\nb\n<!-- kills: begin -->\n<!-- kills: end -->\n";
        let new = replaced(page, "reloads", "new\n").expect("it has the marks");
        assert_eq!(new, page.replace("old\n", "\nnew\n"));
        assert!(replaced(page, "other", "new").is_err());
        assert_eq!(replaced(&new, "reloads", "new\n").expect("likewise"), new);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
