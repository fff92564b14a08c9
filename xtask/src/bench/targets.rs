//! The targets (issue 4): the arithmetic of each, here and nowhere else, on minima of one run. What was not measured is
//! neither met nor missed.

use super::lines::{Row, Run, Want};

/// Numbers of rules a target about "every N" asks for.
pub const SIZES: [usize; 6] = [1, 20, 40, 100, 1000, 5000];

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Met(f64),
    /// What was measured, and how far that is from the bound.
    Missed(f64, f64),
    /// What is not there.
    NotMeasured(String),
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Target {
    pub what: String,
    pub bound: Bound,
    /// ` ns`, `×`, ` %`, ` ms`.
    pub unit: &'static str,
    pub outcome: Outcome,
    /// Where the figure is from, and the second figure where there are two honest ones.
    pub note: String,
}

/// A figure and a note about it, or what is missing.
type Figure = Result<(f64, String), String>;

impl Target {
    fn new(what: impl Into<String>, bound: Bound, unit: &'static str, figure: Figure) -> Self {
        let (outcome, note) = match figure {
            Err(missing) => (Outcome::NotMeasured(missing), String::new()),
            Ok((figure, note)) => {
                let over = match bound {
                    Bound::AtMost(limit) => figure - limit,
                    Bound::AtLeast(limit) => limit - figure,
                };
                (if over <= 0.0 { Outcome::Met(figure) } else { Outcome::Missed(figure, over) }, note)
            }
        };
        Self { what: what.into(), bound, unit, outcome, note }
    }
}

/// All targets, in the order.
pub fn all(run: &Run) -> Vec<Target> {
    let mut targets = Vec::new();
    for (family, limit) in [(4, 12.0), (6, 20.0)] {
        for pattern in ["hot", "random"] {
            targets.push(Target::new(
                format!(
                    "Classification and counter over the parse-only program, N = 1 to 1000, IPv{family}, {pattern}"
                ),
                Bound::AtMost(limit),
                " ns",
                over_parse_only(run, family, pattern),
            ));
        }
    }
    for (family, pattern, limit) in [(4, "hot", 3.0), (4, "random", 5.0), (6, "hot", 10.0), (6, "random", 12.0)] {
        targets.push(Target::new(
            format!("Cost at N = 1000 less cost at N = 1, IPv{family}, {pattern}"),
            Bound::AtMost(limit),
            " ns",
            growth(run, family, pattern),
        ));
    }
    for (peer, name, limits) in
        [("nft-ordered", "nftables, ordered", [10.0, 15.0, 200.0]), ("iptables", "iptables", [5.0, 7.0, 80.0])]
    {
        for (rules, limit) in [20, 40, 1000].into_iter().zip(limits) {
            for family in [4, 6] {
                targets.push(Target::new(
                    format!("Live-frame drop against {name}, N = {rules}, IPv{family}"),
                    Bound::AtLeast(limit),
                    "×",
                    against(run, peer, family, &[rules]),
                ));
            }
        }
    }
    for family in [4, 6] {
        targets.push(Target::new(
            format!("Live-frame drop against nftables' set form, every N, IPv{family}"),
            Bound::AtLeast(4.0),
            "×",
            against(run, "nft-set", family, &SIZES),
        ));
    }
    for family in [4, 6] {
        targets.push(Target::new(
            format!("Established flow, stateful, 1000 flows, against stateless, IPv{family}"),
            Bound::AtMost(2.0),
            "×",
            established(run, family),
        ));
    }
    for (what, mode) in [("stateless", "stateless"), ("stateful and security groups", "established")] {
        targets.push(Target::new(
            format!("iperf3 over a veth, throughput below that with a bare XDP_PASS program, {what}"),
            Bound::AtMost(5.0),
            " %",
            iperf3(run, mode),
        ));
    }
    targets.push(Target::new(
        "Reload of 1000 rules, all of it, the slowest one",
        Bound::AtMost(100.0),
        " ms",
        reload(run),
    ));
    targets
}

/// A row's minimum, or what to say where it is missing.
fn minimum(run: &Run, want: &Want) -> Result<f64, String> {
    run.row(want).map(|row| row.ns_min).ok_or_else(|| {
        let Want { subject, harness, mode, family, rules, pattern, detail } = want;
        let row = format!("no row {subject}, {harness}, {mode}, IPv{family}, N = {rules}, {pattern}");
        detail.iter().fold(row, |row, (key, value)| row + ", " + key + " " + value)
    })
}

/// What nacld adds to the program of its hook that only parses, or to the bare one (`floor`).
pub fn over(run: &Run, floor: &str, hook: &str, family: u8, rules: usize, pattern: &str) -> Result<f64, String> {
    let floor = Want::new(floor, "test_run").family(family).pattern(pattern).with("hook", hook);
    let nacld = Want::new(hook, "test_run").family(family).rules(rules).pattern(pattern);
    Ok(minimum(run, &nacld)? - minimum(run, &floor)?)
}

fn over_parse_only(run: &Run, family: u8, pattern: &str) -> Figure {
    let sizes = SIZES.into_iter().filter(|rules| *rules <= 1000);
    let figures: Result<Vec<_>, String> =
        sizes.map(|rules| Ok((over(run, "parse-only", "xdp", family, rules, pattern)?, rules))).collect();
    let (worst, rules) = figures?.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).ok_or("no sizes")?;
    let bare = over(run, "bare", "xdp", family, rules, pattern)?;
    Ok((worst, format!("largest at N = {rules}; {bare:.0} ns over the bare program")))
}

fn growth(run: &Run, family: u8, pattern: &str) -> Figure {
    let at = |rules| minimum(run, &Want::new("xdp", "test_run").family(family).rules(rules).pattern(pattern));
    let (small, large) = (at(1)?, at(1000)?);
    Ok((large - small, format!("{large:.0} ns and {small:.0} ns")))
}

/// How many times nacld's cost a peer's is: the smallest of these sizes.
fn against(run: &Run, peer: &str, family: u8, sizes: &[usize]) -> Figure {
    let mut worst: Option<(f64, String)> = None;
    for &rules in sizes {
        let at = |subject| minimum(run, &Want::new(subject, "live").family(family).rules(rules));
        let (peer, ours) = (at(peer)?, at("xdp")?);
        let ratio = peer / ours;
        if worst.as_ref().is_none_or(|(smallest, _)| ratio < *smallest) {
            let place = if sizes.len() > 1 { format!("smallest at N = {rules}; ") } else { String::new() };
            // How much of it is the machine's: no program can do better than one that looks at nothing.
            let drop = Want::new("bare", "live").family(family).with("hook", "xdp").with("variant", "drop");
            let drop = minimum(run, &drop);
            let best = drop.map_or_else(
                |_| String::new(),
                |drop| format!("; dropping unseen, {drop:.0} ns, would be {:.0}×", peer / drop),
            );
            worst = Some((ratio, format!("{place}{peer:.0} ns and {ours:.0} ns{best}")));
        }
    }
    worst.ok_or_else(|| "no sizes".into())
}

/// Rows of established flows are paired with the stateless ones of the same rules and pattern; the worst pair counts.
fn established(run: &Run, family: u8) -> Figure {
    let want = |row: &Row| Want::new("xdp", "test_run").family(family).rules(row.rules).pattern(&row.pattern);
    let mut worst: Option<(f64, String)> = None;
    for row in &run.rows {
        let stateless = want(row);
        if row.want() != stateless.clone().mode("established").with("flows", "1000") {
            continue;
        }
        let (with, without) = (row.ns_min, minimum(run, &stateless)?);
        let bare = Want::new("bare", "test_run").family(family).pattern(&row.pattern).with("hook", "xdp");
        let bare = minimum(run, &bare)?;
        if worst.as_ref().is_none_or(|(largest, _)| with / without > *largest) {
            let net = if without > bare {
                format!("net of the bare program {:.2}×", (with - bare) / (without - bare))
            } else {
                "the stateless program is no slower than the bare one".into()
            };
            let (rules, pattern) = (row.rules, &row.pattern);
            worst = Some((with / without, format!("N = {rules}, {pattern}: {with:.0} ns and {without:.0} ns; {net}")));
        }
    }
    worst.ok_or_else(|| format!("no row xdp, test_run, established, IPv{family}, flows 1000"))
}

/// The share of throughput that is lost. The worst of all rows of this mode counts. By medians: two ends and a stack are in a
/// figure of seconds, and the best of a few of them is luck.
fn iperf3(run: &Run, mode: &str) -> Figure {
    let mut worst: Option<(f64, String)> = None;
    let lost = |slow: f64, fast: f64| (1.0 - fast / slow) * 100.0;
    let streamed = |row: &&Row| {
        row.subject == "xdp"
            && row.harness == "e2e"
            && row.mode == mode
            && row.detail("variant").as_deref() == Some("iperf3")
    };
    for row in run.rows.iter().filter(streamed) {
        let want = Want::new("bare", "e2e").family(row.family).with("variant", "iperf3");
        let bare = run.row(&want).ok_or_else(|| "no row of iperf3 with the bare program".to_owned())?;
        let figure = lost(row.ns_median, bare.ns_median);
        if worst.as_ref().is_none_or(|(largest, _)| figure > *largest) {
            let best = lost(row.ns_min, bare.ns_min);
            let (with, without) = (gigabits(row.ns_median), gigabits(bare.ns_median));
            let layers = row.detail("layers").map(|layers| layers + ", ").unwrap_or_default();
            worst = Some((
                figure,
                format!("{layers}N = {}: {with:.2} and {without:.2} Gbit/s; by the best rounds {best:.1} %", row.rules),
            ));
        }
    }
    worst.ok_or_else(|| format!("no row of iperf3 with nacld, {mode}"))
}

/// Rows of iperf3 are nanoseconds for 1500 bytes of payload.
pub fn gigabits(ns: f64) -> f64 {
    12_000.0 / ns
}

fn reload(run: &Run) -> Figure {
    let of = |shape: &str| {
        run.times
            .iter()
            .find(|time| time.what == "reload" && (time.rules, time.interfaces) == (1000, 1) && time.shape == shape)
            .ok_or_else(|| format!("no time of a reload of 1000 rules, {shape}"))
    };
    let (typical, adversarial) = (of("typical")?, of("adversarial")?);
    let worst = if typical.us_max >= adversarial.us_max { typical } else { adversarial };
    let [median, other] = [typical, adversarial].map(|time| time.us_median / 1000.0);
    let note = format!("{}; medians {median:.1} ms typical, {other:.1} ms adversarial", worst.shape);
    Ok((worst.us_max / 1000.0, note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::lines::Time;

    /// A run in which every target is met, and by how much is known.
    fn met() -> Run {
        let mut run = Run::default();
        for family in [4, 6] {
            for pattern in ["hot", "random"] {
                let floor =
                    |subject| Want::new(subject, "test_run").family(family).pattern(pattern).with("hook", "xdp");
                add(&mut run, &floor("bare"), 30.0);
                add(&mut run, &floor("parse-only"), 40.0);
                for (place, rules) in SIZES.into_iter().enumerate() {
                    let stateless = Want::new("xdp", "test_run").family(family).rules(rules).pattern(pattern);
                    add(&mut run, &stateless, 48.0 + 0.5 * place as f64);
                }
            }
            let established = Want::new("xdp", "test_run").mode("established").family(family).rules(20);
            add(&mut run, &established.pattern("random").with("flows", "1000"), 60.0);
            for rules in SIZES {
                let live = |subject| Want::new(subject, "live").family(family).rules(rules);
                add(&mut run, &live("xdp"), 50.0);
                add(&mut run, &live("nft-ordered"), 400.0 + 20.0 * rules as f64);
                add(&mut run, &live("iptables"), 250.0 + 5.0 * rules as f64);
                add(&mut run, &live("nft-set"), 240.0);
            }
        }
        let iperf3 = |subject| Want::new(subject, "e2e").with("variant", "iperf3");
        add(&mut run, &iperf3("bare"), 400.0);
        add(&mut run, &iperf3("bare").with("variant", "iperf3, nothing"), 300.0);
        add(&mut run, &iperf3("xdp").rules(20), 410.0);
        add(&mut run, &iperf3("xdp").rules(20).mode("established"), 410.0);
        for (shape, us_max) in [("typical", 40_000.0), ("adversarial", 80_000.0)] {
            run.times.push(Time {
                what: "reload".into(),
                shape: shape.into(),
                rules: 1000,
                interfaces: 1,
                us_min: us_max / 4.0,
                us_median: us_max / 2.0,
                us_max,
            });
        }
        run
    }

    fn add(run: &mut Run, want: &Want, ns: f64) {
        run.rows.push(Row::of(want, [ns, ns * 1.1, ns * 2.0]));
    }

    fn set(run: &mut Run, want: &Want, ns: f64) {
        let row = run.rows.iter_mut().find(|row| row.want() == *want).expect("the row");
        (row.ns_min, row.ns_median) = (ns, ns * 1.1);
    }

    fn one(run: &Run, what: &str) -> Target {
        let found: Vec<_> = all(run).into_iter().filter(|target| target.what.contains(what)).collect();
        let [target] = <[_; 1]>::try_from(found).unwrap_or_else(|found| panic!("{what}: {found:?}"));
        target
    }

    #[track_caller]
    fn close(outcome: &Outcome, expected: &Outcome) {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        let same = match (outcome, expected) {
            (Outcome::Met(a), Outcome::Met(b)) => near(*a, *b),
            (Outcome::Missed(a, by), Outcome::Missed(b, expected)) => near(*a, *b) && near(*by, *expected),
            _ => false,
        };
        assert!(same, "{outcome:?}, not {expected:?}");
    }

    /// What each target is about, the row that decides it, what that row reads when it is missed, and both outcomes.
    fn decided() -> Vec<(&'static str, Want, f64, Outcome, Outcome)> {
        use Outcome::{Met, Missed};
        let alone = |family, rules, pattern| Want::new("xdp", "test_run").family(family).rules(rules).pattern(pattern);
        let live = |subject, family, rules| Want::new(subject, "live").family(family).rules(rules);
        let stream = |mode| Want::new("xdp", "e2e").rules(20).mode(mode).with("variant", "iperf3");
        let flows = |family| alone(family, 20, "random").mode("established").with("flows", "1000");
        vec![
            (
                "counter over the parse-only program, N = 1 to 1000, IPv4, hot",
                alone(4, 40, "hot"),
                53.0,
                Met(10.0),
                Missed(13.0, 1.0),
            ),
            (
                "counter over the parse-only program, N = 1 to 1000, IPv4, random",
                alone(4, 1, "random"),
                52.5,
                Met(10.0),
                Missed(12.5, 0.5),
            ),
            (
                "counter over the parse-only program, N = 1 to 1000, IPv6, hot",
                alone(6, 100, "hot"),
                61.0,
                Met(10.0),
                Missed(21.0, 1.0),
            ),
            (
                "counter over the parse-only program, N = 1 to 1000, IPv6, random",
                alone(6, 20, "random"),
                70.0,
                Met(10.0),
                Missed(30.0, 10.0),
            ),
            ("less cost at N = 1, IPv4, hot", alone(4, 1000, "hot"), 52.0, Met(2.0), Missed(4.0, 1.0)),
            ("less cost at N = 1, IPv4, random", alone(4, 1000, "random"), 54.0, Met(2.0), Missed(6.0, 1.0)),
            ("less cost at N = 1, IPv6, hot", alone(6, 1000, "hot"), 59.0, Met(2.0), Missed(11.0, 1.0)),
            ("less cost at N = 1, IPv6, random", alone(6, 1000, "random"), 61.0, Met(2.0), Missed(13.0, 1.0)),
            ("nftables, ordered, N = 20, IPv4", live("nft-ordered", 4, 20), 450.0, Met(16.0), Missed(9.0, 1.0)),
            ("nftables, ordered, N = 20, IPv6", live("nft-ordered", 6, 20), 450.0, Met(16.0), Missed(9.0, 1.0)),
            ("nftables, ordered, N = 40, IPv4", live("nft-ordered", 4, 40), 500.0, Met(24.0), Missed(10.0, 5.0)),
            ("nftables, ordered, N = 40, IPv6", live("nft-ordered", 6, 40), 500.0, Met(24.0), Missed(10.0, 5.0)),
            ("nftables, ordered, N = 1000, IPv4", live("xdp", 4, 1000), 204.0, Met(408.0), Missed(100.0, 100.0)),
            ("nftables, ordered, N = 1000, IPv6", live("nft-ordered", 6, 1000), 9950.0, Met(408.0), Missed(199.0, 1.0)),
            ("iptables, N = 20, IPv4", live("iptables", 4, 20), 200.0, Met(7.0), Missed(4.0, 1.0)),
            ("iptables, N = 20, IPv6", live("iptables", 6, 20), 200.0, Met(7.0), Missed(4.0, 1.0)),
            ("iptables, N = 40, IPv4", live("iptables", 4, 40), 300.0, Met(9.0), Missed(6.0, 1.0)),
            ("iptables, N = 40, IPv6", live("iptables", 6, 40), 300.0, Met(9.0), Missed(6.0, 1.0)),
            ("iptables, N = 1000, IPv4", live("iptables", 4, 1000), 3500.0, Met(105.0), Missed(70.0, 10.0)),
            ("iptables, N = 1000, IPv6", live("iptables", 6, 1000), 3500.0, Met(105.0), Missed(70.0, 10.0)),
            ("set form, every N, IPv4", live("nft-set", 4, 5000), 150.0, Met(4.8), Missed(3.0, 1.0)),
            ("set form, every N, IPv6", live("nft-set", 6, 1), 150.0, Met(4.8), Missed(3.0, 1.0)),
            ("1000 flows, against stateless, IPv4", flows(4), 121.25, Met(60.0 / 48.5), Missed(2.5, 0.5)),
            ("1000 flows, against stateless, IPv6", flows(6), 121.25, Met(60.0 / 48.5), Missed(2.5, 0.5)),
            ("XDP_PASS program, stateless", stream("stateless"), 500.0, Met(100.0 / 41.0), Missed(20.0, 15.0)),
            ("XDP_PASS program, stateful", stream("established"), 500.0, Met(100.0 / 41.0), Missed(20.0, 15.0)),
        ]
    }

    #[test]
    fn every_target_is_met_missed_and_not_measured() {
        let run = met();
        let targets = all(&run);
        // One more: the reload is not about a row.
        assert_eq!(targets.len(), decided().len() + 1, "each target has its line in this test");
        for (what, row, slow, met, missed) in decided() {
            close(&one(&run, what).outcome, &met);
            let mut slower = run.clone();
            set(&mut slower, &row, slow);
            close(&one(&slower, what).outcome, &missed);
            let mut without = run.clone();
            without.rows.retain(|one| one.want() != row);
            assert!(matches!(one(&without, what).outcome, Outcome::NotMeasured(_)), "{what}");
        }
        for target in all(&Run::default()) {
            assert!(matches!(target.outcome, Outcome::NotMeasured(_)), "{target:?}");
        }
    }

    #[test]
    fn a_floor_that_is_missing_leaves_nothing_measured() {
        for (floor, targets) in [("parse-only", 4), ("bare", 4 + 2 + 2)] {
            let mut run = met();
            run.rows.retain(|row| row.subject != floor);
            let unmeasured = |target: &&Target| matches!(target.outcome, Outcome::NotMeasured(_));
            assert_eq!(all(&run).iter().filter(unmeasured).count(), targets, "{floor}");
        }
    }

    #[test]
    fn a_reload_is_judged_by_its_slowest_round_and_by_both_shapes() {
        let mut run = met();
        close(&one(&run, "Reload").outcome, &Outcome::Met(80.0));
        run.times[0].us_max = 130_000.0;
        close(&one(&run, "Reload").outcome, &Outcome::Missed(130.0, 30.0));
        run.times.pop();
        assert!(matches!(one(&run, "Reload").outcome, Outcome::NotMeasured(_)));
    }

    #[test]
    fn the_bound_itself_is_met() {
        assert_eq!(Target::new("", Bound::AtMost(5.0), "", Ok((5.0, String::new()))).outcome, Outcome::Met(5.0));
        assert_eq!(Target::new("", Bound::AtLeast(5.0), "", Ok((5.0, String::new()))).outcome, Outcome::Met(5.0));
    }

    #[test]
    fn a_ratio_has_its_second_reading() {
        let target = one(&met(), "1000 flows, against stateless, IPv4");
        assert_eq!(target.note, "N = 20, random: 60 ns and 48 ns; net of the bare program 1.62×");
    }
}
