//! What is measured: one figure a row, and how often a figure is taken.

use anyhow::Result;
use serde::Serialize;

/// One figure, in nanoseconds a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `xdp`, `tc`, `parse-only`, `bare`, `linear`, `nft-ordered`, `nft-set`, `iptables`.
    pub subject: &'static str,
    /// `test_run`: the program alone (BPF_PROG_TEST_RUN). `live`: frames put into a veth by the kernel itself
    /// (BPF_F_TEST_XDP_LIVE_FRAMES). `e2e`: frames or streams sent by another program.
    pub harness: &'static str,
    /// `stateless`, `established` or `new`.
    pub mode: &'static str,
    /// 4 or 6.
    pub family: u8,
    /// Rules in the list.
    pub rules: usize,
    /// `hot`: one packet, which the last rule matches. `random`: 65,536 packets of as many flows.
    pub pattern: &'static str,
    /// Smallest of all rounds.
    pub ns_min: f64,
    /// Half of the rounds were faster.
    pub ns_median: f64,
    /// Largest.
    pub ns_max: f64,
    /// What tells rows apart that are otherwise the same; absent where nothing does.
    #[serde(flatten)]
    pub detail: Detail,
}

/// What tells rows apart that are otherwise the same.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Detail {
    /// Hook of a floor: `xdp` or `tc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<&'static str>,
    /// Layers that judge, where it is not the network ACL alone: `groups`, `both`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<&'static str>,
    /// Connections in the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<usize>,
    /// What packets are to one another: `same flows` on all cores or `own flows`, a `flood` of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<&'static str>,
    /// Anything else: `uncounted`, `events`, `flow log`, `iperf3`, `both-cores`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<&'static str>,
}

impl Row {
    /// A row whose figures are still to come.
    pub fn new(
        subject: &'static str,
        harness: &'static str,
        mode: &'static str,
        family: u8,
        rules: usize,
        pattern: &'static str,
    ) -> Self {
        let (ns_min, ns_median, ns_max) = (0.0, 0.0, 0.0);
        let detail = Detail::default();
        Self { subject, harness, mode, family, rules, pattern, ns_min, ns_median, ns_max, detail }
    }

    /// Fills in the figures.
    #[must_use]
    pub fn with(mut self, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        self.ns_min = samples[0];
        self.ns_median = samples[samples.len() / 2];
        self.ns_max = samples[samples.len() - 1];
        self
    }
}

/// Something that can be measured again and again.
pub struct Cell<'a> {
    /// What it is.
    pub row: Row,
    /// Takes one figure, in nanoseconds a packet.
    pub take: Box<dyn FnMut() -> Result<f64> + 'a>,
}

/// Takes every figure once a round, so that a slow spell of the machine meets all of them and not one.
pub fn measure(mut cells: Vec<Cell<'_>>, rounds: usize) -> Result<Vec<Row>> {
    let mut samples = vec![Vec::new(); cells.len()];
    for _ in 0..rounds {
        for (cell, samples) in cells.iter_mut().zip(&mut samples) {
            samples.push((cell.take)()?);
        }
    }
    Ok(cells.into_iter().zip(samples).map(|(cell, samples)| cell.row.with(samples)).collect())
}
