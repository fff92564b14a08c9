//! The test file: what is written, and everything that is wrong with it at once. No file is read here and no policy is asked.

use std::{ops::Range, sync::Arc};

use ipnet::IpNet;
use toml::de::DeTable;

use crate::{
    analyze::Ports,
    clients::Client,
    compile::Decider,
    policy::{
        self, Diagnostic, Severity, codes, syntax,
        tree::{Reader, Table, Unknown, Value},
    },
    resolve::{Layers, Mode},
};

/// A test file, read.
#[derive(Clone, Debug)]
pub struct Suite {
    /// As it is named in messages.
    pub file: String,
    /// Its text.
    pub text: Arc<str>,
    /// The policy it is about; `None`: it must be named on the command line.
    pub policy: Option<WrittenPolicy>,
    /// The tests, in the order of the file.
    pub tests: Vec<Test>,
}

/// The files a policy is made of, relative to the test file: a policy, or documents of one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPolicy {
    /// As written.
    pub files: Vec<String>,
    /// Where.
    pub span: Range<usize>,
}

/// What is expected of some flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// What it is called.
    pub name: String,
    /// Where it stands.
    pub span: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// The place it is asked at; `None`: the only interface there is, or the way from one end to the other.
    pub at: Option<String>,
    /// Who asks.
    pub from: End,
    /// Who is asked.
    pub to: End,
    /// IP protocol.
    pub protocol: u8,
    /// Ports of the service, first and last; of ICMP none.
    pub ports: Vec<(u16, u16)>,
    /// ICMP type and code; `None`: an echo request.
    pub icmp: Option<(u8, u8)>,
    /// Ports that the client may pick.
    pub client: ClientPorts,
    /// What has to become of each of them.
    pub expect: Expect,
    /// What has to decide.
    pub by: Vec<By>,
    /// As if network ACLs remembered or not; `None`: as the policy says.
    pub mode: Option<Mode>,
    /// As if these layers alone judged; `None`: as the policy says.
    pub layers: Option<Layers>,
}

/// An end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The place that is asked at, whatever its address.
    Here,
    /// An address, or any of a network.
    Net(IpNet),
    /// An interface of the policy, or a place such as `eni:web` or `subnet:private`.
    Named(String),
}

/// The ports a client may pick from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPorts {
    /// Those of a kind of client, each of them.
    Kind(Client),
    /// These, first and last.
    These(u16, u16),
}

impl ClientPorts {
    /// First and last.
    pub const fn range(self) -> (u16, u16) {
        match self {
            Self::Kind(client) => client.ports(),
            Self::These(first, last) => (first, last),
        }
    }

    /// The kind, where it is one.
    pub const fn kind(self) -> Option<Client> {
        match self {
            Self::Kind(client) => Some(client),
            Self::These(..) => None,
        }
    }
}

/// What has to become of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Request and reply pass.
    Allowed,
    /// The request is dropped.
    Denied,
    /// The request arrives, and its reply is dropped.
    ReplyDenied,
}

impl Expect {
    const WORDS: [(&'static str, Self); 3] =
        [("allowed", Self::Allowed), ("denied", Self::Denied), ("reply-denied", Self::ReplyDenied)];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::ReplyDenied => "reply-denied",
        }
    }
}

/// What has to decide: `inbound 100`, `nacl web inbound 100`, `sg-3 inbound 1`, `inbound *`, `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// As written.
    pub text: String,
    /// The network ACL it has to be of.
    pub nacl: Option<String>,
    /// What it has to be; `None`: that no rule matches, in whichever list.
    pub decider: Option<Decider>,
}

impl By {
    /// Reads what decides.
    ///
    /// # Errors
    /// A sentence that says what can be written.
    fn parse(text: &str) -> Result<Self, String> {
        let by = |nacl: Option<&str>, decider| Self { text: text.to_owned(), nacl: nacl.map(str::to_owned), decider };
        if text == "*" {
            return Ok(by(None, None));
        }
        let split = |rest: &'_ str| -> Option<(String, Decider)> {
            let mut places = rest.match_indices(' ').map(|(at, _)| at);
            places.find_map(|at| {
                let decider: Decider = rest[at + 1..].parse().ok()?;
                let own = matches!(decider, Decider::Nacl { .. } | Decider::NaclImplied { .. });
                own.then(|| (rest[..at].to_owned(), decider))
            })
        };
        if let Some(rest) = text.strip_prefix("nacl ").or_else(|| text.strip_prefix("nacl:"))
            && let Some((name, decider)) = split(rest)
        {
            return Ok(by(Some(&name), Some(decider)));
        }
        let group = text.strip_prefix("sg ").or_else(|| text.strip_prefix("sg:")).unwrap_or(text);
        group
            .parse()
            .map(|decider| by(None, Some(decider)))
            .map_err(|error: crate::compile::NoDecider| error.to_string())
    }
}

const TOP: [&str; 7] = ["policy", "at", "client", "mode", "layers", "lines", "test"];

const KEYS: [&str; 13] =
    ["name", "at", "from", "to", "protocol", "port", "icmp", "client", "client_port", "expect", "by", "mode", "layers"];

/// How a line is written.
const LINE: &str = "write PROTOCOL CLIENT to SERVICE:PORT: allowed, denied or reply-denied, as in \
                    \"tcp 198.51.100.7:windows to 10.0.1.10:443: allowed\"; ` at PLACE` may stand before the colon, ` by RULE` at the end";

/// What holds where a test says nothing.
#[derive(Clone, Default)]
struct Defaults {
    at: Option<String>,
    client: Option<ClientPorts>,
    mode: Option<Mode>,
    layers: Option<Layers>,
}

/// Reads a test file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(file: &str, text: &str) -> Result<Suite, Vec<Diagnostic>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, diagnostics: Vec::new() };
    let broken = syntax::report(&mut reader, document.get_ref(), &errors);
    let top = Table::read(&mut reader, "a test file", 0..0, document.get_ref(), &TOP, &habits);
    let policy = top.get("policy").and_then(|value| files(&mut reader, value));
    let defaults = Defaults {
        at: top.get("at").and_then(|value| value.name(&mut reader, "at")).map(str::to_owned),
        client: top.get("client").and_then(|value| client(&mut reader, value, "client")),
        mode: top.get("mode").and_then(|value| mode(&mut reader, value)),
        layers: top.get("layers").and_then(|value| layers(&mut reader, value)),
    };
    let mut tests = Vec::new();
    if let Some(lines) = top.get("lines").and_then(|value| value.strings(&mut reader, "lines")) {
        for (line, span) in lines {
            tests.extend(of_line(&mut reader, line, span, &defaults));
        }
    }
    if let Some(value) = top.get("test") {
        match value.as_array() {
            Some(array) => {
                for item in array.iter().map(Value::new) {
                    tests.extend(of_table(&mut reader, item, &defaults));
                }
            }
            None => reader.push(
                Diagnostic::new(&codes::WRONG_TYPE, value.span(), "`test` must be an array of tables")
                    .at("in single brackets")
                    .help("each test begins with `[[test]]`, in double brackets"),
            ),
        }
    }
    if !top.has("test") && !top.has("lines") {
        reader.push(
            Diagnostic::new(&codes::MISSING_KEY, 0..0, "a test file without a test")
                .help("add `[[test]]` tables, or `lines = [\"tcp 198.51.100.7 to here:443: allowed\"]`"),
        );
    }
    let mut diagnostics = reader.diagnostics;
    if let Some(broken) = &broken {
        broken.quieten(&mut diagnostics);
    }
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
        return Err(diagnostics);
    }
    tests.sort_by_key(|test| test.span.start);
    let mut ends = text.match_indices('\n').map(|(at, _)| at).peekable();
    let mut line = 1;
    for test in &mut tests {
        while ends.next_if(|end| *end < test.span.start).is_some() {
            line += 1;
        }
        test.line = line;
    }
    Ok(Suite { file: file.to_owned(), text: Arc::from(text), policy, tests })
}

/// Keys that other tools have for the same.
fn habits(unknown: &Unknown<'_, '_>) -> Option<policy::tree::Hint> {
    let (key, meant) = match unknown.plain.as_str() {
        "tests" => ("tests", "test"),
        "source" | "src" => ("source", "from"),
        "destination" | "dst" => ("destination", "to"),
        "ports" | "dport" => ("ports", "port"),
        "sport" | "source_port" | "source_ports" => ("sport", "client_port"),
        _ => return None,
    };
    let span = unknown.entry.key_span.clone();
    let diagnostic = Diagnostic::new(&codes::UNKNOWN_KEY, span.clone(), format!("there is no key `{key}` here"))
        .at("unknown key")
        .help(format!("it is written `{meant}`"))
        .fix(span, meant);
    Some(policy::tree::Hint { diagnostic, meant: Some(meant) })
}

fn files(reader: &mut Reader<'_>, value: Value<'_>) -> Option<WrittenPolicy> {
    let span = value.span();
    let files = match value.as_str() {
        Some(file) => vec![file.to_owned()],
        None => value.strings(reader, "policy")?.into_iter().map(|(file, _)| file.to_owned()).collect(),
    };
    if files.is_empty() {
        reader.push(bad(span, "`policy` names no file").help("name the policy, or the documents it is imported from"));
        return None;
    }
    Some(WrittenPolicy { files, span })
}

fn mode(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Mode> {
    value.choice(reader, "mode", &[Mode::Stateless, Mode::Stateful].map(|mode| (mode.name(), mode)))
}

fn layers(reader: &mut Reader<'_>, value: Value<'_>) -> Option<Layers> {
    value.choice(reader, "layers", &[Layers::Both, Layers::Nacl, Layers::Groups].map(|layers| (layers.name(), layers)))
}

fn bad(span: Range<usize>, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(&codes::UNKNOWN_VALUE, span, message)
}

/// A diagnostic about a test, for what is found out when the policy is known.
pub(super) fn about(test: &Test, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
    bad(test.span.clone(), message).at("of this test").help(help)
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    text.parse::<Ports>().map(|Ports(first, last)| (first, last))
}

fn port_of(reader: &mut Reader<'_>, value: Value<'_>, key: &str) -> Option<(u16, u16)> {
    let found = match (value.as_integer(), value.as_str()) {
        (Some(number), _) => {
            u16::try_from(number).map(|port| (port, port)).map_err(|_| format!("{number} is no port: 0 to 65535"))
        }
        (None, Some(text)) => ports(text),
        (None, None) => Err(format!("`{key}` is a port such as 443, \"https\" or \"8000-8099\", not {}", value.kind())),
    };
    found.map_err(|message| reader.push(bad(value.span(), message))).ok()
}

fn client_of(text: &str) -> Result<ClientPorts, String> {
    if let Some(client) = Client::from_name(text) {
        return Ok(ClientPorts::Kind(client));
    }
    ports(text).map(|(first, last)| ClientPorts::These(first, last)).map_err(|_| {
        format!("{text:?} is neither a kind of client ({}) nor a port", Client::ALL.map(Client::name).join(", "))
    })
}

fn client(reader: &mut Reader<'_>, value: Value<'_>, key: &str) -> Option<ClientPorts> {
    let text = value.string(reader, key)?;
    let client = Client::from_name(text);
    if client.is_none() {
        let names = Client::ALL.map(Client::name);
        let diagnostic = bad(value.span(), format!("there is no kind of client {text:?}"))
            .note(format!("there are {}; ports are written `client_port`", names.join(", ")))
            .did_you_mean(text, value.span(), names, policy::quoted);
        reader.push(diagnostic);
    }
    client.map(ClientPorts::Kind)
}

/// An end without a port.
fn end(text: &str) -> Result<End, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(net) = bare.parse::<IpNet>() {
        return Ok(End::Net(net.trunc()));
    }
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return Ok(End::Net(address.into()));
    }
    match text {
        "here" => Ok(End::Here),
        "" => Err("an end is missing: an address, a network, `here`, or a name of the policy".to_owned()),
        _ if text.contains(['.', ':', '/'])
            && text.chars().all(|sign| sign.is_ascii_hexdigit() || ".:/".contains(sign)) =>
        {
            Err(format!("{text:?} is neither an address nor a network"))
        }
        name => Ok(End::Named(name.to_owned())),
    }
}

fn protocol_of(text: &str) -> Result<u8, String> {
    policy::protocol_number(text).or_else(|| text.parse().ok()).ok_or_else(|| {
        format!("{text:?} is no protocol: write a name such as tcp, udp, icmp or icmpv6, or a number from 0 to 255")
    })
}

fn icmp(text: &str) -> Result<(u8, u8), String> {
    let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
    match (kind.parse(), code.parse()) {
        (Ok(kind), Ok(code)) => Ok((kind, code)),
        _ => Err(format!("{text:?} is no ICMP type: write TYPE or TYPE/CODE, each from 0 to 255")),
    }
}

/// What has to be so of a test in either form.
fn complete(test: Test) -> Result<Test, String> {
    let ported = matches!(test.protocol, 6 | 17);
    if ported && test.ports.is_empty() {
        return Err("a test of tcp or udp needs the port of the service".to_owned());
    }
    if !ported && !test.ports.is_empty() {
        return Err("rules match the ports of tcp and udp only: leave the port out".to_owned());
    }
    if test.icmp.is_some() && !matches!(test.protocol, 1 | 58) {
        return Err("an ICMP type needs the protocol icmp or icmpv6".to_owned());
    }
    match (&test.from, &test.to) {
        (End::Here, End::Here) => return Err("both ends are `here`: one of them is somewhere else".to_owned()),
        (End::Net(from), End::Net(to)) if from.addr().is_ipv4() != to.addr().is_ipv4() => {
            return Err("the ends are of different families".to_owned());
        }
        _ => {}
    }
    let family = [&test.from, &test.to].into_iter().find_map(|end| match end {
        End::Net(net) => Some(net.addr().is_ipv4()),
        _ => None,
    });
    if let (Some(v4), 1 | 58) = (family, test.protocol)
        && v4 != (test.protocol == 1)
    {
        return Err("icmp is IPv4's, icmpv6 is IPv6's: the addresses are of the other family".to_owned());
    }
    Ok(test)
}

fn of_table(reader: &mut Reader<'_>, value: Value<'_>, defaults: &Defaults) -> Option<Test> {
    let table = value.table(reader, "a test", &KEYS, &habits)?;
    let before = reader.diagnostics.len();
    table.require_all(
        reader,
        &[
            ("protocol", "add the protocol, such as `protocol = \"tcp\"`"),
            ("expect", "add what is expected, such as `expect = \"allowed\"`"),
        ],
    );
    let read = |reader: &mut Reader<'_>, key: &str| {
        table.get(key).and_then(|value| Some((value.name(reader, key)?.to_owned(), value.span())))
    };
    macro_rules! parsed {
        ($key:literal, $parse:expr) => {
            read(reader, $key).and_then(|(text, span)| {
                $parse(text.as_str()).map_err(|message: String| reader.push(bad(span, message))).ok()
            })
        };
    }
    let from = parsed!("from", end);
    let to = parsed!("to", end);
    let protocol = match table.get("protocol") {
        Some(value) if value.as_integer().is_some() => {
            let number = value.as_integer().and_then(|number| u8::try_from(number).ok());
            if number.is_none() {
                reader.push(bad(value.span(), "a protocol's number is from 0 to 255"));
            }
            number
        }
        _ => parsed!("protocol", protocol_of),
    };
    let icmp = parsed!("icmp", icmp);
    let ports = match table.get("port") {
        None => Vec::new(),
        Some(value) => match value.as_array() {
            Some(array) => array.iter().filter_map(|item| port_of(reader, Value::new(item), "port")).collect(),
            None => port_of(reader, value, "port").into_iter().collect(),
        },
    };
    let kind = table.get("client").and_then(|value| client(reader, value, "client"));
    let these = table
        .get("client_port")
        .and_then(|value| port_of(reader, value, "client_port"))
        .map(|(first, last)| ClientPorts::These(first, last));
    if let (Some(value), true) = (table.get("client_port"), table.has("client")) {
        reader.push(
            bad(value.span(), "both `client` and `client_port` say which ports the client picks")
                .at("one too many")
                .help("leave one of them out"),
        );
    }
    let expect = table.get("expect").and_then(|value| value.choice(reader, "expect", &Expect::WORDS));
    let mut by = Vec::new();
    if let Some(value) = table.get("by") {
        let all = match value.as_str() {
            Some(text) => vec![(text, value.span())],
            None => value.strings(reader, "by").unwrap_or_default(),
        };
        for (text, span) in all {
            match By::parse(text) {
                Ok(one) => by.push(one),
                Err(message) => reader.push(bad(span, message)),
            }
        }
    }
    let mode = table.get("mode").and_then(|value| mode(reader, value)).or(defaults.mode);
    let layers = table.get("layers").and_then(|value| layers(reader, value)).or(defaults.layers);
    let at = read(reader, "at").map(|(text, _)| text).or_else(|| defaults.at.clone());
    let name = read(reader, "name").map(|(text, _)| text);
    if !table.has("from") && !table.has("to") {
        reader.push(
            Diagnostic::new(&codes::MISSING_KEY, table.span.clone(), "a test has neither `from` nor `to`")
                .at("who asks whom?")
                .help("add `from = \"198.51.100.7\"`; the end that is left out is the place that is asked at"),
        );
    }
    if reader.diagnostics.len() > before {
        return None;
    }
    let (protocol, expect) = (protocol?, expect?);
    let test = Test {
        name: String::new(),
        span: table.span.clone(),
        line: 0,
        at,
        from: from.unwrap_or(End::Here),
        to: to.unwrap_or(End::Here),
        protocol,
        ports,
        icmp,
        client: these.or(kind).or(defaults.client).unwrap_or(ClientPorts::Kind(Client::Any)),
        expect,
        by,
        mode,
        layers,
    };
    match complete(test) {
        Ok(test) => Some(Test { name: name.unwrap_or_else(|| test.sentence()), ..test }),
        Err(message) => {
            reader.push(bad(table.span.clone(), message).at("of this test"));
            None
        }
    }
}

/// Reads `tcp 198.51.100.7:windows to 10.0.1.10:443 at eth0: allowed, both legs by inbound 100`.
fn of_line(reader: &mut Reader<'_>, line: &str, span: Range<usize>, defaults: &Defaults) -> Option<Test> {
    match line_of(line, span.clone(), defaults).and_then(complete) {
        Ok(test) => Some(test),
        Err(message) => {
            reader.push(bad(span, message).at("this line").help(LINE));
            None
        }
    }
}

fn line_of(line: &str, span: Range<usize>, defaults: &Defaults) -> Result<Test, String> {
    let (flow, says) = line.split_once(": ").ok_or("nothing is expected: there is no colon with a blank behind it")?;
    let (flow, at) = match flow.rsplit_once(" at ") {
        Some((flow, at)) => (flow, Some(at.trim().to_owned())),
        None => (flow, None),
    };
    let (protocol, ends) = flow.trim().split_once(' ').ok_or("a line begins with a protocol and a client")?;
    let (from, to) = ends
        .split_once(" to ")
        .or_else(|| ends.split_once(" → "))
        .ok_or("between client and service stands the word \"to\"")?;
    let (protocol, icmp) = match protocol.split_once('/') {
        Some((name, kind)) => (protocol_of(name)?, Some(icmp(kind)?)),
        None => (protocol_of(protocol)?, None),
    };
    let ((from, picked), (to, port)) = (ported(from.trim()), ported(to.trim()));
    let (says, by) = match says.split_once(" by ") {
        Some((says, by)) => (says, by.split(", ").map(|by| By::parse(by.trim())).collect::<Result<_, _>>()?),
        None => (says, Vec::new()),
    };
    let (word, legs) = says.split_once(',').map_or((says, None), |(word, legs)| (word, Some(legs.trim())));
    let found = Expect::WORDS.into_iter().find(|(known, _)| *known == word.trim()).map(|(_, expect)| expect);
    let expect = found.ok_or_else(|| format!("{word:?} is neither \"allowed\" nor \"denied\" nor \"reply-denied\""))?;
    if let Some(legs) = legs
        && (legs != "both legs" || expect != Expect::Allowed)
    {
        return Err(format!(
            "{legs:?} cannot be expected: \"both legs\" may stand behind \"allowed\", and says the same"
        ));
    }
    Ok(Test {
        name: line.to_owned(),
        span,
        line: 0,
        at: at.or_else(|| defaults.at.clone()),
        from: end(from)?,
        to: end(to)?,
        protocol,
        ports: port.map(ports).transpose()?.into_iter().collect(),
        icmp,
        client: match picked {
            Some(text) => client_of(text)?,
            None => defaults.client.unwrap_or(ClientPorts::Kind(Client::Any)),
        },
        expect,
        by,
        mode: defaults.mode,
        layers: defaults.layers,
    })
}

/// An end of a line, and what stands behind its last colon where that can be a port.
fn ported(text: &str) -> (&str, Option<&str>) {
    let address = |text: &str| text.parse::<IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok();
    if address(text) {
        return (text, None);
    }
    if let Some((inside, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (inside, rest.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        // Whatever stands there cannot be part of an address.
        Some((before, port)) if before == "here" || address(before) => (before, Some(port)),
        // `eni:web` is a name.
        Some((before, port)) if !is_kind(before) && (ports(port).is_ok() || Client::from_name(port).is_some()) => {
            (before, Some(port))
        }
        _ => (text, None),
    }
}

fn is_kind(text: &str) -> bool {
    crate::resolve::place::Kind::ALL.into_iter().any(|kind| kind.prefix() == text)
}

impl Test {
    /// What it is about, in one line.
    pub fn sentence(&self) -> String {
        let protocol = policy::protocol_name(self.protocol).map_or_else(|| self.protocol.to_string(), str::to_owned);
        let end = |end: &End| match end {
            End::Here => "here".to_owned(),
            End::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            End::Net(net) => net.to_string(),
            End::Named(name) => name.clone(),
        };
        let ports = self.ports.iter().map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        );
        let ports = ports.collect::<Vec<_>>().join(", ");
        let port = if ports.is_empty() { String::new() } else { format!(" port {ports}") };
        format!("{protocol} {} to {}{port}: {}", end(&self.from), end(&self.to), self.expect.name())
    }
}
