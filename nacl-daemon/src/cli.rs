//! The command line as clap types: verbs, options and their help. No verb does anything here (`cmd/<verb>.rs` does).

use std::{path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{self, styling},
};
use nacl_common::Direction;
use nacl_daemon::{
    analyze::Ports,
    clients::Client,
    import::cloudformation,
    logs,
    observe::{
        Filter,
        filter::Expression,
        flows::{IpProtocol, StateName, Within},
    },
    policy::codes::Code,
    resolve::{OnExit, flowlog::Format},
    service::{DEFAULT_SOCKET, DEFAULT_STATE, metrics::Loopback},
};

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default().bold())
    .placeholder(styling::AnsiColor::Cyan.on_default());

/// The usage of a verb that has more than one: each on a line, in the colours of the others.
fn usage(forms: &[&str]) -> builder::StyledStr {
    let (literal, placeholder) = (STYLES.get_literal(), STYLES.get_placeholder());
    let word = |word: &str| {
        let style = if word.starts_with(['<', '[']) { placeholder } else { literal };
        format!("{style}{word}{style:#}")
    };
    let form = |form: &&str| form.split(' ').map(word).collect::<Vec<_>>().join(" ");
    forms.iter().map(form).collect::<Vec<_>>().join("\n       ").into()
}

const AFTER: &str = "\
Exit codes:
    0  done
    1  failed; doctor: something prevents enforcement
    2  wrong usage; also a name that is not there, such as an interface that the policy does not have
    3  check: errors in the policy          4  check --deny warnings: only warnings
    5  explain --exit-code: request denied  6  explain --exit-code: reply denied
    7  lab, test: an expectation did not hold
    8  diff --exit-code: the policies differ
    9  search: no such packet
  130  interrupted by Ctrl-C

Environment: NACLD_SOCKET (see --socket), NACLD_STATE (see --state), NO_COLOR, NACLD_LOG (a filter such as nacl_daemon=debug), \
NACLD_LOG_FORMAT (see run --log-format).";

/// AWS network ACLs, enforced on real packets.
#[derive(Debug, Parser)]
#[command(name = "nacld", version, about, styles = STYLES, after_long_help = AFTER, max_term_width = 120)]
#[command(propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN", help_heading = "Global")]
    pub color: Color,
    /// Log more to standard error; twice for still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global")]
    pub verbose: u8,
    /// Log only errors.
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global")]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Check(Check),
    ExplainCode(ExplainCode),
    Explain(Explain),
    Replay(Replay),
    Diff(Diff),
    Search(Search),
    Import(Import),
    Export(Export),
    Test(Test),
    Run(Run),
    Status(Status),
    Rules(Rules),
    Top(Top),
    Watch(Watch),
    Mode(Mode),
    Conntrack(Conntrack),
    Flows(Flows),
    Reload(Reload),
    Confirm(Confirm),
    Rollback(Rollback),
    Detach(Detach),
    Doctor(Doctor),
    Lab(Lab),
    Man(Man),
    Completions(Completions),
}

/// The socket of a running daemon.
#[derive(Args, Clone, Debug)]
pub struct Socket {
    /// Unix socket of the daemon.
    #[arg(long, env = "NACLD_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH", hide_env_values = true)]
    pub socket: PathBuf,
}

/// Check policy files: everything that is wrong with them, and what their rules come to.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel: a policy can be checked on any machine. Findings about rules (N001, …) are
/// exact, over all packets there can be, and come with a packet that proves them: rules that can never match or change
/// nothing, replies that reach nobody or only some kinds of clients, and so on. `nacld explain-code N001` tells the story of one. With
/// `--here` it also asks this machine who is connected to it by SSH, and says whom the policy would cut off, by which rule; as root it
/// sees all of them. Such a connection is a warning.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld check policy.toml
  nacld check --deny warnings --format github policy.toml
  nacld check --format sarif policy.toml > nacld.sarif
  nacld check --fix --dry-run policy.toml")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Check {
    /// Policy files; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Exit with 4 when there are warnings and no errors.
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub deny: Option<Deny>,
    /// Also say which SSH connections to this machine the policy would cut if it were enforced now.
    #[arg(long)]
    pub here: bool,
    /// How to print diagnostics: for people on standard error, all other forms on standard output.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text, value_name = "FORMAT")]
    pub format: CheckFormat,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Write the edits that change no verdict into the files: rules that can never match or change nothing are removed, CIDRs are
    /// written as AWS stores them, and so on. Comments and layout stay. The engine proves each edit before it is written: over all packets
    /// no verdict is another. Nothing is written where the policy has errors.
    #[arg(long, conflicts_with_all = ["format", "json"])]
    pub fix: bool,
    /// Print what --fix would write as a unified diff, and write nothing.
    #[arg(long, requires = "fix")]
    pub dry_run: bool,
}

/// How `check` prints diagnostics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
    /// SARIF 2.1.0, for code scanners.
    Sarif,
    /// Workflow commands of GitHub Actions, which stand beside the lines of a pull request.
    Github,
}

/// Tell the story of a diagnostic's code: what it means, why AWS behaves so, an example, and what to do.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel.
#[derive(Args, Debug)]
pub struct ExplainCode {
    /// Codes, such as N005 or E011; none: a line for each there is.
    #[arg(value_name = "CODE", value_parser = code)]
    pub codes: Vec<&'static Code>,
    /// All stories.
    #[arg(long, conflicts_with = "codes")]
    pub all: bool,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A diagnostic's code by its name.
fn code(text: &str) -> Result<&'static Code, String> {
    Code::of(text).ok_or_else(|| "there is no such code: `nacld explain-code` lists them".to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Deny {
    /// Warnings.
    Warnings,
}

/// Say what becomes of one flow, request and reply, and why.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel; `--level kernel` needs root and an eBPF kernel. The interface
/// named in the policy need not exist.
#[derive(Args, Debug)]
#[command(override_usage = usage(&[
    "nacld explain [OPTIONS] --config <FILE> <PROTOCOL> <SOURCE> <DESTINATION>",
    "nacld explain [OPTIONS] --config <FILE> --jsonl [--sequence]",
]))]
#[command(after_long_help = "\
Examples:
  nacld explain --config policy.toml --interface eth0 tcp 198.51.100.7:52345 10.0.1.10:443
  nacld explain --config policy.toml --interface eth0 icmp 198.51.100.7 10.0.1.10
  nacld explain --config policy.toml --interface eth0 --mode stateful tcp 198.51.100.7:52345 10.0.1.10:443
  nacld explain --config policy.toml tcp 10.0.1.20:50000 10.0.2.10:80       from one interface of the policy to another
  nacld explain --config policy.toml --interface eth0 --jsonl < packets.jsonl
  nacld explain --config policy.toml --interface eth0 --jsonl --sequence < packets.jsonl

Without --interface, where both ends are interfaces of the policy ([interface] or [eni]), or where it has several and one of them is \
an end, the flow is followed along its way: past every list it crosses, out of one end and into the other and back, without and with a memory.

A line of --jsonl is a packet: direction, src, dst, protocol (number) and, where the packet has them, sport and dport, or \
icmp_type, icmp_code and icmp_id (of an echo), tcp_flags (letters of SAFRPU), hop_limit, fragment (\"first\", \"later\" or \
true) and ident:
  {\"direction\":\"inbound\",\"src\":\"198.51.100.7\",\"dst\":\"10.0.1.10\",\"protocol\":6,\"sport\":52345,\"dport\":443}

Without --sequence each line is judged as the first packet of its flow. With it the lines are met one after the other, as \
by an interface that is attached at time 0, and what is remembered of a line decides about later ones: time is in \
seconds, does not go back, and is that of the line before where absent; TCP packets need tcp_flags. The answer's flow says what \
the connection table knew: new, forward, reply, unknown or none.")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Explain {
    /// Policy file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Interface of the policy, or eni:NAME, subnet:NAME, nacl:NAME or sg:NAME: explain the flow at this place alone. May be left out when
    /// there is one interface, and where the ends tell.
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Show beside each other what is with and without a memory, as a way is shown.
    #[arg(long, conflicts_with_all = ["jsonl", "mode"])]
    pub both_modes: bool,
    /// Protocol: a name (tcp, udp, icmp, …) or a number.
    #[arg(required = true, conflicts_with = "jsonl")]
    pub protocol: Option<String>,
    /// Sender, ADDRESS:PORT, [ADDRESS]:PORT or, for a protocol without ports, ADDRESS.
    #[arg(required = true, conflicts_with = "jsonl", value_name = "SOURCE")]
    pub source: Option<String>,
    /// Receiver, likewise.
    #[arg(required = true, conflicts_with = "jsonl", value_name = "DESTINATION")]
    pub destination: Option<String>,
    /// ICMP type, or TYPE/CODE, of the request (default: an echo request).
    #[arg(long, value_name = "TYPE[/CODE]", conflicts_with = "jsonl")]
    pub icmp: Option<String>,
    /// Which way the request goes (default: from the interface's addresses and subnet, else inbound).
    #[arg(long, value_enum, value_name = "WAY", conflicts_with = "jsonl")]
    pub direction: Option<Way>,
    /// What kind of client asks, so that a fix opens that client's ports: linux, windows, windows-xp, nat-gateway, …
    #[arg(long, value_name = "KIND", value_parser = client, conflicts_with = "jsonl")]
    pub client: Option<Client>,
    /// What if the network ACL remembered connections, or did not (default: as the policy says).
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<ModeName>,
    /// What if only these layers judged (default: as the policy says).
    #[arg(long, value_enum, value_name = "LAYERS")]
    pub layers: Option<LayersName>,
    /// Read packets from standard input, one JSON object a line, and answer each with one line.
    #[arg(long)]
    pub jsonl: bool,
    /// The lines are one sequence: what is remembered of one decides about the next.
    #[arg(long, requires = "jsonl")]
    pub sequence: bool,
    /// Who judges: the engine in this process, or the program loaded into the kernel (BPF_PROG_TEST_RUN).
    #[arg(long, value_enum, default_value_t = Level::Host)]
    pub level: Level,
    /// Print as JSON.
    #[arg(long, conflicts_with = "jsonl")]
    pub json: bool,
    /// Exit with 5 when the request is denied and with 6 when the reply is.
    #[arg(long)]
    pub exit_code: bool,
}

/// Say what a policy would have done to captured traffic: packet by packet, and in sum.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel; `--level kernel` needs root and an eBPF kernel. Reads pcap and
/// pcapng, of any size, as a stream. The time is the capture's, so what is remembered of connections, and for how long, is what it
/// would have been on an interface that was attached to when the capture began.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld replay --config policy.toml traffic.pcapng
  nacld replay --config policy.toml --summary traffic.pcap
  nacld replay --config policy.toml --mode stateful --local 10.0.1.0/24 traffic.pcap
  nacld replay --config policy.toml --flows traffic.pcap          AWS's flow log, default format
  tcpdump -w - -i eth0 | nacld replay --config policy.toml -

Which way a packet goes is told by the interface's addresses (--local, else the policy's, else the capture's own), then by its subnet, then by \
what the capture says (pcapng's flags, Linux's cooked captures). A packet of which nothing tells it is not judged, but counted; so is \
one whose headers the capture did not keep.

Exits with 0 when the whole file was read, whatever became of its packets, and with 1 when it could not be read to its end: \
what was read before is printed, and the error names packet and byte.")]
pub struct Replay {
    /// Capture, pcap or pcapng; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Policy file.
    #[arg(short, long, alias = "policy", value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Interface of the policy; may be left out when there is only one.
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Addresses on this side, instead of those of the interface; several with commas.
    #[arg(long, value_name = "ADDRESS|CIDR", value_delimiter = ',')]
    pub local: Vec<Within>,
    /// What if the network ACL remembered connections, or did not (default: as the policy says).
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<ModeName>,
    /// What if only these layers judged (default: as the policy says).
    #[arg(long, value_enum, value_name = "LAYERS")]
    pub layers: Option<LayersName>,
    /// Who judges: the engine in this process, or the program loaded into the kernel (BPF_PROG_TEST_RUN).
    #[arg(long, value_enum, default_value_t = Level::Host)]
    pub level: Level,
    /// Stop after this many packets.
    #[arg(long, value_name = "PACKETS")]
    pub limit: Option<u64>,
    /// Print no packets, only what became of them in sum.
    #[arg(long)]
    pub summary: bool,
    /// Print flow records instead, as AWS's flow logs have them.
    #[arg(long, conflicts_with_all = ["json", "summary"])]
    pub flows: bool,
    /// Seconds that a flow record covers at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "flows", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub window: u64,
    /// Fields of a flow record, as in AWS's flow logs of versions 2 to 5 (default: AWS's own).
    #[arg(long, value_name = "FORMAT", requires = "flows")]
    pub format: Option<Format>,
    /// Print one JSON object a line, the last of them the summary.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// The engine in this process.
    Host,
    /// The program loaded into the kernel.
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    /// Every packet is judged alone, as AWS does.
    Stateless,
    /// The first packet of a connection is judged, what follows passes: the what-if.
    Stateful,
}

impl From<ModeName> for nacl_daemon::resolve::Mode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Stateless => Self::Stateless,
            ModeName::Stateful => Self::Stateful,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayersName {
    /// The network ACL, and the security groups where there are any.
    Both,
    /// Only the network ACL.
    Nacl,
    /// Only the security groups.
    Sg,
}

impl From<LayersName> for nacl_daemon::resolve::Layers {
    fn from(layers: LayersName) -> Self {
        match layers {
            LayersName::Both => Self::Both,
            LayersName::Nacl => Self::Nacl,
            LayersName::Sg => Self::Groups,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Into the subnet.
    Inbound,
    /// Out of the subnet.
    Outbound,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Inbound => Self::Inbound,
            Way::Outbound => Self::Outbound,
        }
    }
}

/// A filter, as it was written: the daemon reads it again.
fn filter(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    text.parse::<Expression>().map(|read| read.to_string()).map_err(|error| error.to_string())
}

fn client(name: &str) -> Result<Client, String> {
    Client::from_name(name).ok_or_else(|| format!("known kinds: {}", Client::ALL.map(Client::name).join(", ")))
}

/// Say exactly which packets another version of a policy would admit or deny, by which rules.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel. Nothing is missed and nothing is reported that does not change: the
/// packets are shown as regions, each with an example for `nacld explain`. What is compared is the first packet of a flow. Other
/// settings that differ, and interfaces that only one of the files has, are named. Where a file has no interfaces, each network ACL and
/// each security group is compared standing alone. A file may be a policy, what AWS's tools answer, a Terraform plan or state, or a
/// CloudFormation template; what is not known before it is applied is listed and not compared.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld diff old.toml new.toml
  git show HEAD:policy.toml | nacld diff - policy.toml --exit-code
  terraform show -json plan.out > plan.json; nacld diff plan.json --format markdown     what the plan would do
  nacld diff policy.toml template.yaml
  nacld diff old.toml new.toml --json | jq '.interfaces[].changes[] | select(.change == \"admitted\")'

As JSON: equal, only_in_old, only_in_new, settings, and interfaces with their settings and changes. A change has direction, \
family, change (admitted, denied or rule), before and after (action, layer, by, line), and regions: remote (text, cidrs), \
traffic (text, keys), example (packet, a line of explain --jsonl; explain, a command).")]
pub struct Diff {
    /// Policy file as it was; `-` is standard input.
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// Policy file as it is to be; `-` is standard input. May be left out where OLD is a Terraform plan: what it found is then
    /// compared with what it will make.
    #[arg(value_name = "NEW")]
    pub new: Option<PathBuf>,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Only this interface, by its name in the policy or, where that is unique, by its device; or eni:NAME, subnet:NAME, nacl:NAME, sg:NAME.
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Also where another rule decides the same.
    #[arg(long)]
    pub rules: bool,
    /// How to print what differs.
    #[arg(long, value_enum, default_value_t = DiffFormat::Text, value_name = "FORMAT")]
    pub format: DiffFormat,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Exit with 8 when the policies differ.
    #[arg(long)]
    pub exit_code: bool,
}

/// How `diff` prints what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
    /// For a comment on a pull request.
    Markdown,
}

/// Make a policy of what a team has at AWS.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel, nor AWS. The policy goes to standard output, what is told of it to
/// standard error: everything that a policy cannot say, and everything that is only named, with its place. Where something is
/// wrong with a document, all of it is told and nothing is written.
#[derive(Args, Debug)]
pub struct Import {
    #[command(subcommand)]
    pub from: ImportFrom,
}

#[derive(Debug, Subcommand)]
pub enum ImportFrom {
    Aws(ImportAws),
    Terraform(ImportTerraform),
    Cloudformation(ImportCloudformation),
}

/// What every import takes.
#[derive(Args, Clone, Debug)]
pub struct ImportTo {
    /// Write the policy to this file instead of standard output.
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Put an interface of AWS's on a device of this machine, by its id or name; without it the policy enforces nothing. Also a
    /// subnet, or a network ACL by itself. May be repeated.
    #[arg(long, value_name = "DEVICE=ENI", value_parser = pair)]
    pub interface: Vec<(String, String)>,
    /// Only this VPC, by its id or name; may be repeated (default: all there are).
    #[arg(long, value_name = "VPC")]
    pub vpc: Vec<String>,
}

/// From what `aws ec2 describe-…` answers, as JSON.
///
/// Any of describe-network-acls, -security-groups, -security-group-rules, -subnets, -network-interfaces, -vpcs,
/// -managed-prefix-lists and -prefix-lists, and get-managed-prefix-list-entries: in any order, in one file or in many, with
/// pages one after another, whole or cut down by jq. An answer with entries does not say of which list they are: name its file
/// after the list, `pl-….json`, or give it with --prefix-list.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  aws ec2 describe-network-acls > acls.json
  aws ec2 describe-subnets > subnets.json
  nacld import aws acls.json subnets.json -o policy.toml
  nacld import aws *.json --interface eth0=eni-0a1b2c3d4e5f60718 | nacld check -")]
pub struct ImportAws {
    /// Answers; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "prefix_list")]
    pub files: Vec<PathBuf>,
    /// Entries of a prefix list; may be repeated.
    #[arg(long, value_name = "pl-ID=FILE", value_parser = pair)]
    pub prefix_list: Vec<(String, String)>,
    #[command(flatten)]
    pub to: ImportTo,
}

/// From Terraform: `terraform show -json` of a plan or a state, a state file, or HCL as far as literals go.
///
/// Of a plan what it will make, unless --prior asks for what it found. What is not known before it is applied is told, and left out.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  terraform plan -out plan && terraform show -json plan > plan.json
  nacld import terraform plan.json -o policy.toml
  nacld import terraform main.tf network.tf | nacld check -")]
pub struct ImportTerraform {
    /// Plan, state or HCL; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Of a plan, what it found instead of what it will make.
    #[arg(long)]
    pub prior: bool,
    #[command(flatten)]
    pub to: ImportTo,
}

/// From CloudFormation's templates, YAML with its short forms or JSON.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nacld import cloudformation network.yaml --parameter Stage=prod --parameter AWS::Region=eu-central-1")]
pub struct ImportCloudformation {
    /// Templates; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub parameters: Parameters,
    #[command(flatten)]
    pub to: ImportTo,
}

/// What a CloudFormation template needs, wherever one is read.
#[derive(Args, Clone, Debug)]
pub struct Parameters {
    /// Value of a CloudFormation template's parameter, or of a pseudo parameter such as AWS::Region; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    parameter: Vec<(String, String)>,
}

impl Parameters {
    /// By name.
    pub fn given(&self) -> cloudformation::Parameters {
        self.parameter.iter().cloned().collect()
    }
}

/// NAME=VALUE; a parameter can be empty.
fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected a name and a value with = between them".to_owned()),
    }
}

/// NAME=VALUE.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() || value.is_empty() {
        return Err("expected two names with = between them".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Write what a policy says in the words of something else.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel. What the other side cannot say is told on standard error.
#[derive(Args, Debug)]
pub struct Export {
    #[command(subcommand)]
    pub to: ExportTo,
}

#[derive(Debug, Subcommand)]
pub enum ExportTo {
    /// As AWS's tools would answer (`aws ec2 describe-…`): one document of JSON, each key an answer.
    Aws(ExportPolicy),
    /// As Terraform's HCL, with import blocks where ids are known.
    Terraform(ExportPolicy),
    /// As a CloudFormation template in YAML.
    Cloudformation(ExportPolicy),
    Nftables(ExportNftables),
}

/// What every export takes.
#[derive(Args, Debug)]
pub struct ExportPolicy {
    /// Policy file; `-` is standard input.
    #[arg(value_name = "POLICY")]
    pub policy: PathBuf,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
}

/// As rules for `nft -f` that judge the packets of an interface as nacld does, without it.
///
/// Where nothing is remembered they stand on the interface's netdev hooks (kernel 5.16, nft 1.0.1), else behind conntrack. What nftables
/// cannot say the same way is told on standard error. The table is replaced as a whole each time it is loaded.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  nacld export nftables policy.toml | nft -c -f -         does the kernel take it?
  nacld export nftables policy.toml --interface eth0 -o eth0.nft")]
pub struct ExportNftables {
    #[command(flatten)]
    pub policy: ExportPolicy,
    /// Interface of the policy (default: the only one).
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
}

/// Say whether there is any packet from or to somewhere that a policy lets pass, and by which rules.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel. Exits with 0 when there is one and with 9 when there is none. What is
/// asked about is the first packet of a flow.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld search policy.toml inbound --port ssh --protocol tcp     who may reach SSH, by which rules
  nacld search policy.toml inbound --remote 192.0.2.0/24         all that this network may begin
  nacld search policy.toml outbound --remote 10.0.0.0/8 --denied what cannot be reached inside
  nacld search policy.toml --icmp 3/4                            do \"packet too big\" messages pass?

As JSON: found, and interfaces with what was found: direction, family, by and also (action, layer, by, line), and regions as \
nacld diff has them.")]
pub struct Search {
    /// Policy file; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Only packets that go this way (default: both).
    #[arg(value_enum, value_name = "WAY")]
    pub direction: Option<Way>,
    /// Addresses of the other end, as an address or a CIDR; may be repeated (default: all of both families).
    #[arg(short, long, value_name = "CIDR")]
    pub remote: Vec<Within>,
    /// A protocol by its name (tcp, udp, icmp, …) or number; may be repeated (default: all).
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Vec<IpProtocol>,
    /// Destination port, such as 443, https or 1024-65535; may be repeated. Without a protocol: of tcp and udp.
    #[arg(short, long, value_name = "PORT")]
    pub port: Vec<Ports>,
    /// ICMP type, or TYPE/CODE; may be repeated.
    #[arg(long, value_name = "TYPE[/CODE]", value_parser = icmp, conflicts_with = "port")]
    pub icmp: Vec<(u8, Option<u8>)>,
    /// Packets that are denied instead.
    #[arg(long)]
    pub denied: bool,
    /// Also what passes without a rule: services that AWS never filters, DHCP, neighbour discovery.
    #[arg(long, conflicts_with = "denied")]
    pub exempt: bool,
    /// Only this interface, by its name in the policy or, where that is unique, by its device; or eni:NAME, subnet:NAME, nacl:NAME, sg:NAME.
    #[arg(short, long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// An ICMP type, and a code where one is named.
fn icmp(text: &str) -> Result<(u8, Option<u8>), String> {
    let number = |text: &str| text.parse::<u8>().map_err(|_| format!("{text:?} is no number from 0 to 255"));
    match text.split_once('/') {
        Some((kind, code)) => Ok((number(kind)?, Some(number(code)?))),
        None => Ok((number(text)?, None)),
    }
}

/// Attach a policy to its interfaces and enforce it until told to stop.
///
/// Needs root (or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON) and an eBPF kernel. It is the daemon: `rules`, `status`, `mode`,
/// `conntrack`, `reload` and `detach` talk to it. Ctrl-C or SIGTERM detaches and leaves nothing behind; SIGHUP reads the file again.
#[derive(Args, Debug)]
#[command(after_long_help = "\
An interface that carries an established SSH connection is attached to only with --confirm, --for or --force, so that a \
mistake in the policy does not lock you out: with the first two it mends itself.

Programs, tables, connections and counters are pinned, so a daemon that is killed leaves no gap: the kernel goes on \
enforcing, and the next `nacld run` takes over what it finds, with every connection and counter.

The API is HTTP with JSON on the socket:
  curl --unix-socket /run/nacld/nacld.sock http://nacld/v1/status
  curl --unix-socket /run/nacld/nacld.sock http://nacld/v1/rules?interface=eth0
  curl --unix-socket /run/nacld/nacld.sock http://nacld/v1/conntrack?interface=eth0&port=443
  curl --unix-socket /run/nacld/nacld.sock --json '{\"mode\": \"stateful\"}' http://nacld/v1/interfaces/eth0/mode
  curl --unix-socket /run/nacld/nacld.sock --json '{\"enforce\": false}' http://nacld/v1/interfaces/eth0/mode
  curl --unix-socket /run/nacld/nacld.sock -N http://nacld/v1/events?action=deny")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Run {
    /// Policy file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Detach by itself after this long, such as 60s, 5m or 1h30m. Nothing is pinned then.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub lifetime: Option<Duration>,
    /// Undo it after this long unless `nacld confirm` comes; the kernel does it, also where nacld was killed.
    #[arg(long, value_name = "DURATION", value_parser = seconds, conflicts_with = "lifetime")]
    pub confirm: Option<Duration>,
    /// What becomes of what is enforced on Ctrl-C or SIGTERM (default: `on_exit` of the policy, else detach).
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_exit: Option<OnExitName>,
    #[command(flatten)]
    pub store: Store,
    /// Pin nothing: whatever ends this process ends enforcement.
    #[arg(long)]
    pub no_pins: bool,
    /// Attach also to an interface that carries an SSH connection.
    #[arg(long)]
    pub force: bool,
    /// Print what the programs log, one line a packet; for finding faults, not for traffic.
    #[arg(long)]
    pub trace: bool,
    /// Print every dropped packet as it happens.
    #[arg(long)]
    pub watch: bool,
    /// Put the policy file in force whenever it changes. One that cannot be used changes nothing.
    #[arg(long)]
    pub follow: bool,
    /// Wait for the policy's interfaces also where none of them is here.
    #[arg(long)]
    pub wait: bool,
    /// Group whose members may open the socket and look; changing is for root (default: root's).
    #[arg(long, env = "NACLD_SOCKET_GROUP", value_name = "NAME", hide_env_values = true)]
    pub socket_group: Option<String>,
    /// Serve metrics on this address of this machine too, such as 127.0.0.1:9464, at /metrics (default: only on the socket).
    #[arg(long, env = "NACLD_METRICS", value_name = "ADDRESS", hide_env_values = true)]
    pub metrics: Option<Loopback>,
    /// Log in this form, and log what is otherwise printed for a person (default: the journal's fields where standard
    /// error is the journal, else text).
    #[arg(long, env = "NACLD_LOG_FORMAT", value_enum, value_name = "FORMAT", hide_env_values = true)]
    pub log_format: Option<LogFormat>,
    #[command(flatten)]
    pub socket: Socket,
}

impl Run {
    /// The form of log that was asked for.
    pub fn log_format(&self) -> Option<logs::Format> {
        self.log_format.map(logs::Format::from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines on standard error.
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// The journal's own fields, NACLD_INTERFACE=eth0.
    Journal,
}

impl From<LogFormat> for logs::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
            LogFormat::Journal => Self::Journal,
        }
    }
}

/// Where what is enforced outlives the daemon.
#[derive(Args, Clone, Debug)]
pub struct Store {
    /// Directory for pins (a bpffs is mounted in it) and for what the next daemon must know.
    #[arg(long, env = "NACLD_STATE", default_value = DEFAULT_STATE, value_name = "DIRECTORY", hide_env_values = true)]
    pub state: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnExitName {
    /// Take the programs off.
    Detach,
    /// Leave them enforcing; the next `nacld run` takes them over.
    Keep,
}

impl From<OnExitName> for OnExit {
    fn from(name: OnExitName) -> Self {
        match name {
            OnExitName::Detach => Self::Detach,
            OnExitName::Keep => Self::Keep,
        }
    }
}

/// Show what the daemon enforces, where and how.
///
/// Needs a running daemon and the right to open its socket; no kernel of its own.
#[derive(Args, Debug)]
pub struct Status {
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub socket: Socket,
}

/// One interface or all.
#[derive(Args, Debug)]
pub struct Which {
    /// Only this interface, by its name in the policy or, where that is unique, by its device.
    #[arg(value_name = "INTERFACE")]
    interface: Option<String>,
    /// The same, as verbs have it that take other things too.
    #[arg(short = 'i', long = "interface", value_name = "INTERFACE", conflicts_with = "interface", hide = true)]
    named: Option<String>,
}

impl Which {
    /// Its name, as it was typed.
    pub fn interface(&self) -> Option<&str> {
        self.interface.as_deref().or(self.named.as_deref())
    }
}

/// Show the rule tables as the AWS console does, with live hits.
///
/// Needs a running daemon and the right to open its socket. With `--config` it needs nothing, and shows the tables
/// without hits.
#[derive(Args, Debug)]
pub struct Rules {
    #[command(flatten)]
    pub which: Which,
    /// Show again every second, with what was hit since.
    #[arg(short, long, conflicts_with_all = ["config", "json"])]
    pub watch: bool,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
    /// Show a policy file instead of what a daemon enforces.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub parameters: Parameters,
    #[command(flatten)]
    pub socket: Socket,
}

/// Show on a screen of its own what moves: rules with live hits, verdicts, connections; and change the mode by a key.
///
/// Needs a running daemon and the right to open its socket, and a terminal; changing the mode needs root. Where standard output is
/// no terminal it prints one frame. Keys as in htop and k9s: q quits, ? tells the others.
#[derive(Args, Debug)]
pub struct Top {
    /// Print one frame as plain text and end.
    #[arg(long)]
    pub once: bool,
    /// How often to ask the daemon, such as 500ms or 5s; rates are counted over it.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s")]
    pub interval: Duration,
    #[command(flatten)]
    pub socket: Socket,
}

/// Follow verdicts as they happen: who, to whom, by which rule and line; and broken returns as they are found.
///
/// Needs a running daemon and the right to open its socket; no kernel of its own. What is shown are samples: where there are too many at
/// once some are left out and counted, and `nacld rules` has every packet. Ends on Ctrl-C, with the daemon, and when nobody reads on.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld watch                                             everything
  nacld watch --filter denied                             what is denied
  nacld watch --filter 'denied and tcp and dport 443 and remote 198.51.100.0/24'
  nacld watch --filter 'not (udp and port 53) and rule *' --limit 20
  nacld watch --json --for 10s > verdicts.jsonl

A filter is made of `and`, `or`, `not`, parentheses and:
  denied allowed inbound outbound tcp udp icmp icmpv6 ip ip6 tracked fragment
  proto PROTOCOL · [src|dst|remote|local] ADDRESS or CIDR · [src|dst|remote|local] port PORT or FIRST-LAST · sport PORT · dport PORT
  interface NAME · nacl NAME · group NAME · rule NUMBER or * · line NUMBER · layer nacl|sg|none · reason NAME · flag NAME")]
pub struct Watch {
    /// Only this interface, by its name in the policy or, where that is unique, by its device.
    #[arg(short, long, value_name = "INTERFACE")]
    pub interface: Option<String>,
    /// Only what this expression is true of.
    #[arg(short, long, value_name = "EXPRESSION", default_value = "", hide_default_value = true, value_parser = filter)]
    pub filter: String,
    /// Print each as a line of JSON, as the API has it.
    #[arg(long)]
    pub json: bool,
    /// End after so many.
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// End after this long, such as 10s or 5m.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub lifetime: Option<Duration>,
    #[command(flatten)]
    pub socket: Socket,
}

/// Show or change, while it runs, whether a network ACL remembers connections, which layers judge, and whether what they
/// deny is dropped.
///
/// Needs a running daemon and the right to open its socket; no kernel of its own. One store switches: nothing is attached
/// anew, and no packet is lost of a flow that both settings allow. It holds until the next reload, which puts the
/// policy's word in force again.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld mode                       show what is in force everywhere
  nacld mode eth0 stateful         let the network ACL remember what it admits
  nacld mode eth0 stateless        judge every packet alone again, as AWS does
  nacld mode eth0 --layers sg      let only the security groups judge
  nacld mode eth0 --monitor        judge, count and report, and drop nothing
  nacld mode eth0 --enforce        drop again what is denied")]
#[expect(clippy::struct_field_names, reason = "`nacld mode eth0 MODE`: there is no other word for it")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Mode {
    /// Interface, by its name in the policy or, where that is unique, by its device.
    #[arg(value_name = "INTERFACE")]
    pub interface: Option<String>,
    /// Whether the network ACL remembers connections.
    #[arg(value_enum, value_name = "MODE", requires = "interface")]
    pub mode: Option<ModeName>,
    /// Which layers judge.
    #[arg(long, value_enum, value_name = "LAYERS", requires = "interface")]
    pub layers: Option<LayersName>,
    /// Judge, count and report, and drop nothing.
    #[arg(long, requires = "interface", conflicts_with = "enforce")]
    pub monitor: bool,
    /// Drop what is denied.
    #[arg(long, requires = "interface")]
    pub enforce: bool,
    /// Change it also where it would cut an SSH connection.
    #[arg(long)]
    pub force: bool,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub socket: Socket,
}

/// Show or forget the connections that are remembered.
///
/// Needs a running daemon and the right to open its socket; no kernel of its own. Security groups remember what they
/// admit, a network ACL only in stateful mode.
#[derive(Args, Debug)]
pub struct Conntrack {
    #[command(subcommand)]
    pub verb: ConntrackVerb,
}

#[derive(Debug, Subcommand)]
pub enum ConntrackVerb {
    /// List connections: who began them, where they stand, when they expire, and which rules let them in.
    ///
    /// Needs a running daemon and the right to open its socket; no kernel of its own.
    List {
        /// Only this interface, by its name in the policy or, where that is unique, by its device; or eni:NAME, subnet:NAME, nacl:NAME, sg:NAME.
        #[arg(value_name = "INTERFACE")]
        interface: Option<String>,
        #[command(flatten)]
        filter: Connections,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Forget connections: their next packets are judged by the rules again.
    ///
    /// Needs a running daemon and the right to open its socket; no kernel of its own. Nothing is forgotten by accident: name
    /// an interface, filter, or give --all.
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
        .args(["interface", "address", "port", "protocol", "state", "all"]))]
    Flush {
        /// Only of this interface, by its name in the policy or, where that is unique, by its device.
        #[arg(value_name = "INTERFACE")]
        interface: Option<String>,
        #[command(flatten)]
        filter: Connections,
        /// Every connection of every interface.
        #[arg(long, conflicts_with_all = ["interface", "address", "port", "protocol", "state"])]
        all: bool,
        /// Forget also where it would cut an SSH connection.
        #[arg(long)]
        force: bool,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// How full the tables are, by the names of AWS's counters, and what is in them.
    ///
    /// Needs a running daemon and the right to open its socket; no kernel of its own.
    Stats {
        /// Only this interface, by its name in the policy or, where that is unique, by its device; or eni:NAME, subnet:NAME, nacl:NAME, sg:NAME.
        #[arg(value_name = "INTERFACE")]
        interface: Option<String>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
}

/// Which connections.
#[derive(Args, Clone, Debug)]
pub struct Connections {
    /// Either end has this address, or lies in this CIDR.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<Within>,
    /// Either end has this port.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// A protocol by its name (tcp, udp, icmp, …) or number.
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<IpProtocol>,
    /// Where it stands: opening, answered, established, closing, closed, one-way, replied, stream, echo, …
    #[arg(long, value_name = "STATE")]
    pub state: Option<StateName>,
}

impl From<&Connections> for Filter {
    fn from(Connections { address, port, protocol, state }: &Connections) -> Self {
        Self { address: *address, port: *port, protocol: *protocol, state: *state }
    }
}

/// Show what the flow log has recorded in the window that runs: packets and bytes by flow, accepted or rejected.
///
/// Needs a running daemon and the right to open its socket; no kernel of its own. Windows that are over stand where the
/// policy's `[flow_log.NAME]` has them written; a flow log is switched on by `flow_log = "NAME"` below the interface.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld flows                                   lines as AWS writes them, under the names of their fields
  nacld flows eth0 --follow                     and each record again whenever it has grown
  nacld flows --format '${srcaddr} ${dstaddr} ${dstport} ${tcp-flags} ${action}'
  nacld flows --json                            with the layer, the rule and its line")]
pub struct Flows {
    #[command(flatten)]
    pub which: Which,
    /// Fields of a line, as in AWS's flow logs of versions 2 to 5 (default: AWS's own).
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    pub format: Option<Format>,
    /// Go on, and show every record that is new or has grown.
    #[arg(short, long, conflicts_with = "json")]
    pub follow: bool,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub socket: Socket,
}

/// Have the daemon read its policy file again.
///
/// Needs a running daemon and the right to open its socket. An invalid file changes nothing. What `nacld mode` had set
/// gives way to what the policy says.
#[derive(Args, Debug)]
pub struct Reload {
    /// Accept the new policy also where it would cut an SSH connection.
    #[arg(long)]
    pub force: bool,
    /// Undo it after this long unless `nacld confirm` comes; the kernel does it, also where nacld was killed.
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub confirm: Option<Duration>,
    #[command(flatten)]
    pub socket: Socket,
}

/// Keep a change that `--confirm` would undo.
///
/// Needs a running daemon and the right to change what it does.
#[derive(Args, Debug)]
pub struct Confirm {
    #[command(flatten)]
    pub socket: Socket,
}

/// Undo now a change that awaits `nacld confirm`.
///
/// Needs a running daemon and the right to change what it does. What was in force before is in force again, with the
/// connections it remembers.
#[derive(Args, Debug)]
pub struct Rollback {
    #[command(flatten)]
    pub socket: Socket,
}

/// Take nacld's programs off an interface, or stop the daemon.
///
/// Needs root where no daemon holds the interface. Works without a daemon and without a valid policy.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct Detach {
    /// Interface, by its device or by its name in the policy of the daemon that holds it.
    #[arg(value_name = "INTERFACE", group = "what")]
    pub interface: Option<String>,
    /// Every interface of this and of every named network namespace.
    #[arg(long, group = "what")]
    pub all: bool,
    /// Network namespace (a name under /run/netns).
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    #[command(flatten)]
    pub store: Store,
    #[command(flatten)]
    pub socket: Socket,
}

/// Say what stands between this machine and a policy that is enforced on it, and the command that mends each of it.
///
/// Needs nothing, and says more as root. It looks at the binary, the kernel and this process, then at interfaces: driver,
/// offloads, MTU, queues, other programs on the hooks, who is connected by SSH; and shows which direction is which. It
/// changes nothing. Exits with 0 when nothing prevents enforcement, and with 1 when something does; notes prevent nothing.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  sudo nacld doctor                        this machine, and every Ethernet interface
  sudo nacld doctor --config policy.toml   the interfaces of a policy, as it wants to hook them
  sudo nacld doctor eth1 --netns blue      one interface of a network namespace
  nacld doctor --json                      each check by a stable name, for scripts")]
pub struct Doctor {
    /// Interfaces, by their device or by their name in the policy (default: those of the policy, else all Ethernet ones).
    #[arg(value_name = "INTERFACE")]
    pub interfaces: Vec<String>,
    /// Policy file.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Network namespace (a name under /run/netns) of interfaces that the policy does not name.
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    #[command(flatten)]
    pub store: Store,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Ready-made networks to learn on, each with a question.
///
/// `list`, `hint`, `solution` and `run --level host` need nothing; `run --level kernel` needs root and an eBPF kernel;
/// `run --level wire`, `up`, `shell`, `reload`, `verify` and `down` need root, an eBPF kernel and network namespaces.
/// `demo` takes what there is.
#[derive(Args, Debug)]
pub struct Lab {
    #[command(subcommand)]
    pub verb: LabVerb,
}

#[derive(Debug, Subcommand)]
pub enum LabVerb {
    /// List the labs.
    List {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run labs and compare every probe with what it must show.
    #[command(override_usage = usage(&["nacld lab run [OPTIONS] <LAB>...", "nacld lab run [OPTIONS] --all"]))]
    Run {
        /// Labs, by name or file.
        #[arg(value_name = "LAB", required = true, conflicts_with = "all")]
        labs: Vec<String>,
        /// All of them.
        #[arg(long)]
        all: bool,
        /// How real; several with commas. Whatever is chosen must agree with the host level.
        #[arg(long, value_enum, default_value = "host", value_delimiter = ',')]
        level: Vec<LabLevel>,
        /// Whether network ACLs remember connections: as AWS has it, the what-if, or one after the other.
        #[arg(long, value_enum, default_value = "stateless")]
        mode: LabMode,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Build a lab's network and enforce its policy, to sit in.
    Up {
        /// Lab, by name or file.
        lab: String,
    },
    /// Open a shell (or run a command) on one of its hosts.
    Shell {
        /// Lab.
        lab: String,
        /// Host.
        host: String,
        /// Command; a shell without one.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Show the labs that are up, or one lab's rules and what they counted.
    Status {
        /// Lab.
        lab: Option<String>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put the edited policy of a lab in force. An invalid one changes nothing.
    Reload {
        /// Lab.
        lab: String,
    },
    /// Give the next hint.
    Hint {
        /// Lab.
        lab: String,
    },
    /// Probe the lab with your policy; exits with 7 when an expectation does not hold.
    Verify {
        /// Lab.
        lab: String,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the solution.
    Solution {
        /// Lab.
        lab: String,
    },
    /// Take a lab down.
    #[command(override_usage = usage(&["nacld lab down [OPTIONS] <LAB>", "nacld lab down [OPTIONS] --all"]))]
    Down {
        /// Lab.
        #[arg(required = true, conflicts_with = "all")]
        lab: Option<String>,
        /// All of them, and whatever a crash left.
        #[arg(long)]
        all: bool,
    },
    /// Ask the quiz (L11), and answer it with packets.
    Demo {
        /// Do not wait for Enter.
        #[arg(long)]
        no_wait: bool,
    },
    /// The background process of a lab that is up.
    #[command(hide = true)]
    Hold {
        /// Lab, by name or file.
        lab: String,
    },
}

/// Hold what a team expects of a policy against it.
///
/// Needs neither root, nor a daemon, nor an eBPF kernel; --level kernel and wire need root and an eBPF kernel, and wire builds network
/// namespaces of its own. A test file is TOML: who asks whom, and what has to become of it. A set of addresses or ports is judged in
/// whole, not by a sample: an expectation holds for each port that such a client may pick, or it fails and says for which it does not.
/// Exits with 7 where one does not hold, or where none could be tried.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  nacld test tests/shop.toml
  nacld test --format junit tests/*.toml > nacld.xml
  nacld test --policy plan.json --filter customers tests/shop.toml
  sudo nacld test --level wire tests/shop.toml      with real sockets, in network namespaces

A test file:
  policy = \"../policy.toml\"            # relative to this file; or the documents it is imported from
  at     = \"eth0\"                      # for all tests: an interface, eni:NAME, subnet:NAME, nacl:NAME or sg:NAME
  lines  = [
    \"tcp 198.51.100.7:windows to here:443: allowed, both legs\",
    \"tcp 0.0.0.0/0 to here:22: denied by inbound *\",
  ]
  [[test]]
  name     = \"the office reaches the database\"
  from     = \"192.0.2.0/24\"            # who asks: an address, a network, eni:NAME, subnet:NAME or an interface
  to       = \"eni:database\"            # who is asked; an end that is left out is the place that is asked at
  protocol = \"tcp\"
  port     = 5432                         # or \"https\", \"8000-8099\", or a list of them
  client   = \"linux\"                   # a kind of client, or client_port (default: any, 1024-65535)
  expect   = \"allowed\"                 # request and reply pass; \"denied\"; \"reply-denied\"
  by       = \"inbound 100\"             # optional: what decides; \"nacl web inbound 100\", \"sg-1 inbound 1\", \"*\"

A test that a level cannot run is skipped, with the reason: on the wire what is no TCP, UDP or echo request, what no host can have for an \
address, and what would take more than 64 connections; at every level an interface elsewhere with a security group that the policy does not \
define. Skipped tests are no failures.")]
pub struct Test {
    /// Test files; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The policy, instead of the one that the test file names; documents of an import may be several.
    #[arg(short, long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,
    #[command(flatten)]
    pub parameters: Parameters,
    /// Only tests with this in their name.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Who is asked: the engine in this process, the program loaded into the kernel, or real sockets.
    #[arg(long, value_enum, default_value_t = LabLevel::Host)]
    pub level: LabLevel,
    /// How to print results.
    #[arg(long, value_enum, default_value_t = TestFormat::Text, value_name = "FORMAT")]
    pub format: TestFormat,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// As text: also name the tests that held.
    #[arg(long)]
    pub show_held: bool,
}

/// How `test` prints results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TestFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
    /// TAP 14.
    Tap,
    /// JUnit XML.
    Junit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LabLevel {
    /// The engine in this process.
    Host,
    /// The program loaded into the kernel.
    Kernel,
    /// Real sockets through real namespaces.
    Wire,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LabMode {
    /// Every packet is judged alone, as AWS has it.
    Stateless,
    /// The same rules, remembered.
    Stateful,
    /// Both, one after the other.
    Both,
}

/// Print the manual page, or write one for each verb into a directory.
#[derive(Args, Debug)]
#[command(hide = true)]
pub struct Man {
    /// Write nacld.1 and nacld-VERB.1 here.
    #[arg(value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

/// Print a completion script.
#[derive(Args, Debug)]
#[command(hide = true)]
pub struct Completions {
    /// Shell.
    pub shell: clap_complete::Shell,
}

/// A duration that is counted in seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = duration(text)?;
    if parsed.subsec_nanos() != 0 { Err("whole seconds, please".into()) } else { Ok(parsed) }
}

/// A duration above zero. humantime wants a unit; a bare number is taken as seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text));
    match parsed {
        Ok(Duration::ZERO) => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write for example 60s, 5m or 1h30m")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_says_what_it_needs() {
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_long_about().unwrap_or_default().to_string().to_lowercase();
            assert!(help.contains("need"), "{} does not say what it needs: {help}", verb.get_name());
        }
        let cli = Cli::command();
        let conntrack = cli.find_subcommand("conntrack").expect("the verb");
        for verb in conntrack.get_subcommands() {
            let help = verb.get_long_about().unwrap_or_default().to_string();
            assert!(help.contains("Needs a running daemon"), "{}: {help}", verb.get_name());
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("60"), Ok(Duration::from_mins(1)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        assert!(duration("0s").is_err());
        assert!(duration("soon").unwrap_err().contains("60s"));
    }
}
