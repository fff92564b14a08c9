//! A run as tables, each under the name that the page's template calls it by. Every row of a run is in one of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    lines::{Row, Run, Want},
    table::Table,
    targets::{self, Bound, Outcome, SIZES, gigabits},
};

/// A table with its name and, for the terminal, its heading.
pub struct Named {
    pub name: &'static str,
    pub heading: &'static str,
    pub table: Table,
}

/// All of them, in the order of the page.
pub fn all(run: &Run) -> Vec<Named> {
    let rows = |section| run.rows.iter().filter(move |row| self::section(row) == section).collect::<Vec<_>>();
    let pivoted = |section| pivot(&rows(section), "rules", &|_, cell| cell);
    [
        ("machine", "The machine", machine(run)),
        ("targets", "Targets", targets(run)),
        ("alone", "The programs alone: ns a packet, minimum / median / maximum", pivoted(Section::Alone)),
        ("net", "Over the floors: ns a packet over parse-only / over bare, minima", net(run)),
        ("more", "Stateful, groups, counters: ns a packet", list(&rows(Section::More))),
        ("live", "Live frames into a veth: ns a packet, minimum / median / maximum", pivoted(Section::Live)),
        ("ratios", "Live frames: cost of the others as a multiple of nacld's, minima", ratios(run)),
        (
            "generator",
            "End to end, 64-byte frames: ns a packet, the slower of both ends, minimum / median / maximum",
            pivoted(Section::Generator),
        ),
        ("iperf3", "End to end, iperf3: Gbit/s, best / median / worst", iperf3(&rows(Section::Iperf3))),
        ("memory", "Memory of the kernel's maps", memory(run)),
        (
            "crossing",
            "Where rows take over from tables: ns a packet, minimum / median / maximum",
            pivoted(Section::Crossing),
        ),
        ("times", "Time the daemon takes: ms, minimum / median / maximum", times(run)),
        ("verifier", "What the verifier walks", verifier(run)),
        ("cores", "One core and both: ns a packet on each core", cores(&rows(Section::Cores))),
        ("estimate", "Estimate for fast networks", estimate(run)),
        ("limits", "What a peer cannot express", limits(run)),
        ("missing", "Not measured", missing(run)),
    ]
    .into_iter()
    .map(|(name, heading, table)| Named { name, heading, table })
    .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Alone,
    More,
    Live,
    Generator,
    Iperf3,
    Cores,
    Crossing,
}

/// The one section a row belongs to.
fn section(row: &Row) -> Section {
    let variant = row.detail("variant").unwrap_or_default();
    if variant.ends_with("-core") || variant.ends_with("-cores") {
        return Section::Cores;
    }
    if variant.starts_with("crossing") {
        return Section::Crossing;
    }
    match row.harness.as_str() {
        "live" => Section::Live,
        "e2e" if variant.contains("iperf3") => Section::Iperf3,
        "e2e" => Section::Generator,
        _ if row.mode == "stateless" && row.detail.keys().all(|key| key == "hook") => Section::Alone,
        _ => Section::More,
    }
}

/// What stands in a column of a table of rows.
fn attribute(row: &Row, name: &str) -> String {
    match name {
        "subject" => row.detail("hook").map_or_else(|| row.subject.clone(), |hook| format!("{} ({hook})", row.subject)),
        "mode" => row.mode.clone(),
        "family" => format!("IPv{}", row.family),
        "pattern" => row.pattern.clone(),
        "rules" if row.rules == 0 => "-".into(),
        "rules" => row.rules.to_string(),
        detail => row.detail(detail).unwrap_or_else(|| "-".into()),
    }
}

/// The attributes that tell these rows apart, without `but`.
fn attributes(rows: &[&Row], but: &str) -> Vec<String> {
    let fixed = ["subject", "mode", "family", "rules", "pattern"].map(String::from);
    let details: BTreeSet<_> = rows.iter().flat_map(|row| row.detail.keys().cloned()).collect();
    let all = fixed.into_iter().chain(details).filter(|name| name != "hook" && name != but);
    // One value everywhere is for the heading to say; who and which family always stand there.
    let told = |name: &String| rows.iter().map(|row| attribute(row, name)).collect::<BTreeSet<_>>().len() > 1;
    all.filter(|name| name == "subject" || name == "family" || told(name)).collect()
}

/// Rows side by side: one column for each value of an attribute.
fn pivot(rows: &[&Row], column: &str, cell: &dyn Fn(&Row, String) -> String) -> Table {
    let names = attributes(rows, column);
    let cells = rows.iter().map(|row| {
        let value = attribute(row, column);
        let head = match (column, value.as_str()) {
            ("rules", "-") => "no rules".into(),
            ("rules", _) => format!("N = {value}"),
            _ => value,
        };
        let order = if column == "rules" { row.rules } else { 0 };
        (names.iter().map(|name| attribute(row, name)).collect(), (order, head), cell(row, three(row)))
    });
    grid(names.clone(), cells.collect())
}

/// The words a cell's line begins with; its column's place and heading; the cell.
type Cell = (Vec<String>, (usize, String), String);

/// One line's cells by column.
type Cells = BTreeMap<(usize, String), String>;

/// Cells by line, in the order in which lines are first named, and by column.
fn grid(names: Vec<String>, cells: Vec<Cell>) -> Table {
    let columns: BTreeSet<_> = cells.iter().map(|(_, column, _)| column.clone()).collect();
    let figures = names.len();
    let mut table = Table::new(names.into_iter().chain(columns.iter().map(|(_, head)| head.clone())), figures);
    let mut lines: Vec<(Vec<String>, Cells)> = Vec::new();
    for (key, column, cell) in cells {
        let at = lines.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            lines.push((key, Cells::new()));
            lines.len() - 1
        });
        // Two of one place are both shown: nothing is hidden.
        lines[at].1.entry(column).and_modify(|there| *there = format!("{there}; {cell}")).or_insert(cell);
    }
    for (key, cells) in lines {
        let figures = columns.iter().map(|column| cells.get(column).cloned().unwrap_or_else(|| "-".into()));
        table.row(key.into_iter().chain(figures));
    }
    table
}

/// One row a line.
fn list(rows: &[&Row]) -> Table {
    let names = attributes(rows, "");
    let mut table = Table::new(names.iter().map(String::as_str).chain(["min", "median", "max"]), names.len());
    for row in rows {
        let figures = [row.ns_min, row.ns_median, row.ns_max].map(figure);
        table.row(names.iter().map(|name| attribute(row, name)).chain(figures));
    }
    table
}

fn three(row: &Row) -> String {
    [row.ns_min, row.ns_median, row.ns_max].map(figure).join(" / ")
}

/// As many digits as mean something.
pub fn figure(value: f64) -> String {
    if value.fract().abs() < 0.05 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn machine(run: &Run) -> Table {
    let machine = &run.machine;
    let mut table = Table::new(["", ""], 2);
    table.row(["kernel", &machine.kernel]);
    let mhz = if machine.mhz > 0 { format!(", {} MHz", machine.mhz) } else { String::new() };
    table.row(["CPU".to_owned(), format!("{}{mhz}, {} online", machine.cpu, machine.cores)]);
    let [enabled, harden] = machine.jit.map(|value| value.map_or_else(|| "?".into(), |value| value.to_string()));
    table.row(["BPF JIT".to_owned(), format!("bpf_jit_enable {enabled}, bpf_jit_harden {harden}")]);
    for mitigation in &machine.mitigations {
        let (name, what) = mitigation.split_once(": ").unwrap_or((mitigation, ""));
        table.row([name, what]);
    }
    let kind = if machine.quick { "quick" } else { "full" };
    let end = run.end.map_or_else(
        || "NOT FINISHED".into(),
        |end| {
            let (minutes, seconds) = (end.seconds / 60, end.seconds % 60);
            format!("{minutes} min {seconds} s, {:.1} % of the CPU time stolen by other guests", end.steal_percent)
        },
    );
    table.row(["run".to_owned(), format!("{kind}, {} rounds; {}; {end}", machine.rounds, machine.parts.join(", "))]);
    table
}

fn targets(run: &Run) -> Table {
    let mut table = Table::new(["target", "bound", "measured", "outcome", "from"], 5);
    for target in targets::all(run) {
        let unit = target.unit;
        let bound = match target.bound {
            Bound::AtMost(limit) => format!("≤ {limit}{unit}"),
            Bound::AtLeast(limit) => format!("≥ {limit}{unit}"),
        };
        let (measured, outcome, note) = match target.outcome {
            Outcome::Met(measured) => (format!("{measured:.1}{unit}"), "met".into(), target.note),
            Outcome::Missed(measured, by) => {
                (format!("{measured:.1}{unit}"), format!("MISSED by {by:.1}{unit}"), target.note)
            }
            Outcome::NotMeasured(why) => ("-".into(), "not measured".into(), why),
        };
        table.row([target.what, bound, measured, outcome, note]);
    }
    table
}

fn net(run: &Run) -> Table {
    let heads = SIZES.iter().map(|size| format!("N = {size}"));
    let mut table = Table::new(["subject", "family", "pattern"].map(String::from).into_iter().chain(heads), 3);
    for hook in ["xdp", "tc"] {
        for (family, pattern) in [(4, "hot"), (4, "random"), (6, "hot"), (6, "random")] {
            let cells: Vec<_> = SIZES
                .iter()
                .map(|rules| {
                    let of = |floor| {
                        targets::over(run, floor, hook, family, *rules, pattern).map_or_else(|_| "-".into(), figure)
                    };
                    match [of("parse-only"), of("bare")] {
                        [parse, bare] if parse == "-" && bare == "-" => "-".to_owned(),
                        both => both.join(" / "),
                    }
                })
                .collect();
            if cells.iter().any(|cell| cell != "-") {
                table.row([hook.to_owned(), format!("IPv{family}"), pattern.to_owned()].into_iter().chain(cells));
            }
        }
    }
    table
}

fn ratios(run: &Run) -> Table {
    let others: Vec<_> = run
        .rows
        .iter()
        .filter(|row| section(row) == Section::Live && row.subject != "xdp" && nacld(run, row).is_some())
        .collect();
    pivot(&others, "rules", &|row, _| nacld(run, row).map_or_else(|| "-".into(), |ns| times_as(row.ns_min / ns)))
}

/// Nacld's minimum for what this row's subject was given.
fn nacld(run: &Run, row: &Row) -> Option<f64> {
    run.row(&Want { subject: "xdp".into(), ..row.want() }).map(|row| row.ns_min)
}

fn times_as(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.1}×") } else { format!("{ratio:.0}×") }
}

fn iperf3(rows: &[&Row]) -> Table {
    let names = attributes(rows, "");
    let heads = ["best", "median", "worst", "median, of the bare program's"];
    let mut table = Table::new(names.iter().map(String::as_str).chain(heads), names.len());
    for row in rows {
        let bare = Want::new("bare", "e2e").family(row.family).with("variant", "iperf3");
        let bare = rows.iter().find(|row| row.want() == bare);
        let share = bare.map_or_else(|| "-".into(), |bare| format!("{:.1} %", bare.ns_median / row.ns_median * 100.0));
        let figures = [row.ns_min, row.ns_median, row.ns_max].map(|ns| format!("{:.2}", gigabits(ns)));
        table.row(names.iter().map(|name| attribute(row, name)).chain(figures).chain([share]));
    }
    table
}

fn memory(run: &Run) -> Table {
    let cells = run.memory.iter().map(|line| {
        let key = vec![line.shape.clone(), line.of.clone(), line.interfaces.to_string()];
        let rows = if line.form == "rows" { ", rows" } else { "" };
        (key, by_rules(line.rules), format!("{} ({}{rows})", bytes(line.bytes), line.tier))
    });
    grid(["list", "of", "interfaces"].map(String::from).to_vec(), cells.collect())
}

fn by_rules(rules: usize) -> (usize, String) {
    (rules, format!("N = {rules}"))
}

fn bytes(bytes: u64) -> String {
    let (kib, bytes) = (1024.0, bytes as f64);
    if bytes < 10.0 * kib {
        format!("{bytes:.0}")
    } else if bytes < 10.0 * kib * kib {
        format!("{:.0} KiB", bytes / kib)
    } else {
        format!("{:.1} MiB", bytes / kib / kib)
    }
}

fn times(run: &Run) -> Table {
    let cells = run.times.iter().map(|time| {
        let figures = [time.us_min, time.us_median, time.us_max].map(|us| format!("{:.2}", us / 1000.0));
        let key = vec![time.what.clone(), time.shape.clone(), time.interfaces.to_string()];
        (key, by_rules(time.rules), figures.join(" / "))
    });
    grid(["what", "list", "interfaces"].map(String::from).to_vec(), cells.collect())
}

fn verifier(run: &Run) -> Table {
    let mut table = Table::new(["program", "instructions"], 1);
    for line in &run.verifier {
        table.row([line.program.clone(), line.instructions.to_string()]);
    }
    table
}

/// One core and both side by side, and what the other one costs.
fn cores(rows: &[&Row]) -> Table {
    let names = attributes(rows, "variant");
    let mut cells: Vec<Cell> = Vec::new();
    for row in rows {
        let key: Vec<_> = names.iter().map(|name| attribute(row, name)).collect();
        let alone = row.want().with("variant", "one-core");
        let alone = rows.iter().find(|row| row.want() == alone);
        let variant = attribute(row, "variant");
        if let Some(alone) = alone.filter(|_| variant != "one-core") {
            cells.push((
                key.clone(),
                (2, format!("{variant} / one-core")),
                format!("{:.2}", row.ns_min / alone.ns_min),
            ));
        }
        let place = usize::from(variant != "one-core");
        cells.push((key, (place, variant), three(row)));
    }
    grid(names, cells)
}

/// What a driver takes for a packet before any program of ours: from and to (XDP paper and drivers' own figures).
const DRIVER: [f64; 2] = [30.0, 42.0];
/// 64-byte frames a second on the wire, in millions.
const NETWORKS: [(&str, f64); 2] = [("25 GbE", 37.2), ("100 GbE", 148.8)];

fn estimate(run: &Run) -> Table {
    let heads = ["packets", "nacld adds", "millions a second, a core"].map(String::from);
    let networks = NETWORKS.map(|(name, _)| format!("cores for {name}"));
    let mut table = Table::new(heads.into_iter().chain(networks), 1);
    for family in [4, 6] {
        let random = |subject| Want::new(subject, "test_run").family(family).pattern("random");
        let Some(bare) = run.row(&random("bare").with("hook", "xdp")) else { continue };
        let stateless = random("xdp").rules(1000);
        let mut packets = vec![(format!("IPv{family}, stateless, N = 1000"), run.row(&stateless))];
        for row in &run.rows {
            let established = random("xdp").mode("established").rules(row.rules);
            if let Some(flows) = row.detail("flows")
                && row.want() == established.with("flows", &flows)
            {
                packets.push((format!("IPv{family}, established, {flows} flows, N = {}", row.rules), Some(row)));
            }
        }
        for (what, row) in packets {
            let Some(row) = row else { continue };
            let adds = (row.ns_min - bare.ns_min).max(0.0);
            let rates = DRIVER.map(|driver| 1000.0 / (driver + adds));
            let cores = NETWORKS.map(|(_, wire)| {
                let [few, many] = rates.map(|rate| (wire / rate).ceil());
                if few < many { format!("{few:.0} to {many:.0}") } else { format!("{few:.0}") }
            });
            let rate = format!("{:.1} to {:.1}", rates[1], rates[0]);
            table.row([what, format!("{} ns", figure(adds)), rate].into_iter().chain(cores));
        }
    }
    table
}

fn limits(run: &Run) -> Table {
    let mut table = Table::new(["peer", "what it cannot express"], 2);
    for limit in &run.limits {
        table.row([&limit.subject, &limit.why]);
    }
    table
}

fn missing(run: &Run) -> Table {
    let mut table = Table::new(["what", "why"], 2);
    for missing in &run.missing {
        table.row([&missing.what, &missing.why]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::lines::{Memory, Time};

    /// A row whose minimum is unlike any other's.
    fn row(run: &mut Run, want: &Want) {
        let ns = 1001.0 + 7.0 * run.rows.len() as f64;
        run.rows.push(Row::of(want, [ns; 3]));
    }

    #[test]
    fn no_figure_of_a_run_is_hidden() {
        let mut run = Run::default();
        for harness in ["test_run", "live", "e2e"] {
            for mode in ["stateless", "established", "new"] {
                for (subject, family, rules) in [("bare", 4, 0), ("xdp", 4, 20), ("xdp", 6, 20), ("iptables", 4, 1000)]
                {
                    let plain = Want::new(subject, harness).mode(mode).family(family).rules(rules);
                    row(&mut run, &plain);
                    row(&mut run, &plain.clone().pattern("random"));
                    for (detail, value) in [
                        ("hook", "xdp"),
                        ("layers", "groups"),
                        ("flows", "1000"),
                        ("variant", "uncounted"),
                        ("variant", "one-core"),
                        ("variant", "both-cores"),
                        ("variant", "crossing, rows"),
                        ("something", "new"),
                    ] {
                        row(&mut run, &plain.clone().with(detail, value));
                    }
                    if harness == "e2e" {
                        row(&mut run, &plain.clone().with("variant", "iperf3"));
                        row(&mut run, &plain.with("variant", "iperf3, nothing"));
                    }
                }
            }
        }
        let all: String = all(&run).iter().map(|named| named.table.markdown()).collect();
        for row in &run.rows {
            let found = if row.detail("variant").is_some_and(|variant| variant.contains("iperf3")) {
                all.contains(&format!("| {:.2} |", gigabits(row.ns_min)))
            } else {
                all.contains(&figure(row.ns_min))
            };
            assert!(found, "{row:?}");
        }
    }

    #[test]
    fn two_figures_of_one_place_are_both_shown() {
        let memory = |form: &str, bytes| Memory {
            shape: "typical".into(),
            rules: 20,
            interfaces: 1,
            tier: "small".into(),
            form: form.into(),
            bytes,
            of: "generation".into(),
        };
        let time = |us_max| Time {
            what: "reload".into(),
            shape: "typical".into(),
            rules: 20,
            interfaces: 1,
            us_min: 1000.0,
            us_median: 2000.0,
            us_max,
        };
        let run = Run {
            memory: vec![memory("tables", 200 << 10), memory("rows", 64)],
            times: vec![time(3000.0), time(4000.0)],
            ..Run::default()
        };
        assert!(super::memory(&run).markdown().contains("| 200 KiB (small); 64 (small, rows) |"));
        assert!(times(&run).markdown().contains("1.00 / 2.00 / 3.00; 1.00 / 2.00 / 4.00"));
    }
}
