//! Does the benchmark still measure what the page needs? Its short form (`--smoke`) is run by `cargo xtask test`; here is
//! what has to arrive. Never how large a figure is: reading already refuses those that are not positive.

use anyhow::{Result, bail};

use super::{
    PARTS,
    lines::{Row, Run},
};

/// The smallest and the largest list the short form has at least.
const SIZES: [usize; 2] = [1, 1000];
/// The one list that it puts peers before.
const LIVE_SIZE: usize = 20;

/// Something the page needs, and whether it is there.
struct Need {
    part: &'static str,
    what: String,
    there: bool,
    /// What the benchmark calls it where it says that it left it out.
    called: &'static str,
}

/// Checks what the short form printed. Everything that is not there is said at once.
pub fn check(text: &str) -> Result<()> {
    let run = Run::read(text)?;
    let mut wrong = Vec::new();
    if run.end.is_none() {
        wrong.push("the last line: the run was not finished".to_owned());
    }
    // One that is not there any more is a gap in the page.
    for part in PARTS {
        if !run.machine.parts.iter().any(|one| one == part) {
            wrong.push(format!("the part {part}"));
        }
    }
    let left_out =
        |need: &Need| !need.called.is_empty() && run.missing.iter().any(|missing| missing.what.contains(need.called));
    let needs = needs(&run);
    wrong.extend(
        needs.iter().filter(|need| !need.there && !left_out(need)).map(|need| format!("{}: {}", need.part, need.what)),
    );
    if !wrong.is_empty() {
        bail!("the benchmark's short form has left out:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn needs(run: &Run) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut need = |part, what: String, called, there| needs.push(Need { part, what, there, called });
    let any = |is: &dyn Fn(&Row) -> bool| run.rows.iter().any(is);
    let detail = |row: &Row, name: &str, value: &str| row.detail(name).as_deref() == Some(value);
    for program in ["nacl_ingress", "nacl_egress"] {
        let there = run.verifier.iter().any(|line| line.program == program && line.instructions > 0);
        need("verifier", program.into(), "verifier", there);
    }
    for family in [4, 6] {
        for hook in ["xdp", "tc"] {
            for pattern in ["hot", "random"] {
                for floor in ["bare", "parse-only"] {
                    let is = |row: &Row| {
                        row.harness == "test_run"
                            && row.subject == floor
                            && row.family == family
                            && row.pattern == pattern
                            && detail(row, "hook", hook)
                    };
                    need("test_run", format!("{floor} at {hook}, IPv{family}, {pattern}"), "", any(&is));
                }
                for rules in SIZES {
                    let is = |row: &Row| {
                        row.harness == "test_run"
                            && row.subject == hook
                            && row.mode == "stateless"
                            && row.detail.is_empty()
                            && (row.family, row.rules) == (family, rules)
                            && row.pattern == pattern
                    };
                    need("test_run", format!("{hook}, IPv{family}, {pattern}, N = {rules}"), "", any(&is));
                }
            }
        }
        let xdp = |row: &Row| row.harness == "test_run" && row.subject == "xdp" && row.family == family;
        let established = |row: &Row| xdp(row) && row.mode == "established" && detail(row, "flows", "1000");
        need("test_run", format!("established, 1000 flows, IPv{family}"), "", any(&established));
        need("test_run", format!("new, IPv{family}"), "", any(&|row| xdp(row) && row.mode == "new"));
        need("test_run", format!("groups, IPv{family}"), "", any(&|row| xdp(row) && detail(row, "layers", "groups")));
        let uncounted = |row: &Row| xdp(row) && detail(row, "variant", "uncounted");
        need("test_run", format!("uncounted, IPv{family}"), "", any(&uncounted));
        for pattern in ["hot", "random"] {
            let logged = |row: &Row| xdp(row) && row.pattern == pattern && detail(row, "variant", "flow log");
            need("test_run", format!("flow log, IPv{family}, {pattern}"), "", any(&logged));
        }
        for (subject, called) in
            [("xdp", ""), ("linear", ""), ("nft-ordered", "nft"), ("nft-set", "nft"), ("iptables", "iptables")]
        {
            let is = |row: &Row| {
                row.harness == "live" && row.subject == subject && (row.family, row.rules) == (family, LIVE_SIZE)
            };
            need("live", format!("{subject}, IPv{family}, N = {LIVE_SIZE}"), called, any(&is));
        }
    }
    let e2e = |row: &Row| row.harness == "e2e";
    let streamed = |row: &Row| e2e(row) && row.detail("variant").is_some_and(|variant| variant.contains("iperf3"));
    for subject in ["xdp", "bare"] {
        let is = |row: &Row| streamed(row) && row.subject == subject;
        need("e2e", format!("iperf3, {subject}"), "iperf3", any(&is));
    }
    for (subject, called) in [("xdp", ""), ("nft-ordered", "nft"), ("iptables", "iptables")] {
        let is = |row: &Row| e2e(row) && !streamed(row) && row.subject == subject;
        need("e2e", format!("frames, {subject}"), called, any(&is));
    }
    for shape in ["typical", "adversarial", "prefix-list", "interfaces"] {
        let there = run.memory.iter().any(|line| line.shape == shape && line.bytes > 0);
        need("growth", format!("memory, {shape}"), "", there);
    }
    for what in ["compile", "upload", "switch", "reload"] {
        for shape in ["typical", "adversarial"] {
            let there = run.times.iter().any(|time| time.what == what && time.shape == shape && time.rules == 1000);
            need("growth", format!("time, {what}, {shape}, N = 1000"), "", there);
        }
    }
    for variant in ["one-core", "both-cores"] {
        let is = |row: &Row| row.detail("variant").is_some_and(|found| found.contains(variant));
        need("scaling", variant.into(), "both-cores", any(&is));
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_figures_lacks_every_need() {
        let text = r#"{"kind":"machine","kernel":"6.18","cpu":"x","cores":2,"mhz":2000,"mitigations":[],"quick":true,"parts":["test_run","live","e2e","growth"],"rounds":1}
{"kind":"missing","what":"iptables","why":"not installed"}
{"kind":"end","seconds":1,"steal_percent":0.0}"#;
        let error = check(text).expect_err("nothing is there").to_string();
        for what in
            ["the part scaling", "established, 1000 flows, IPv6", "live: nft-set, IPv4, N = 20", "reload, typical"]
        {
            assert!(error.contains(what), "{what}: {error}");
        }
        assert!(!error.contains("iptables"), "it was said to be left out: {error}");
        assert!(!error.contains("finished"), "{error}");
    }
}
