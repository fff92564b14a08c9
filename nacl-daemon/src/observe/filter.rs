//! Which verdicts somebody wants to see, as an expression: `denied and tcp and dport 443 and remote 198.51.100.0/24`. Words and precedence
//! are tcpdump's; what is wrong is told with its place. Knows records, and no kernel.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    net::IpAddr,
    str::FromStr,
};

use ipnet::IpNet;
use nacl_common::{Direction, Layer, Reason};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use winnow::{
    ModalResult, Parser,
    ascii::multispace0,
    combinator::{opt, preceded},
    error::{ContextError, ErrMode, StrContext, StrContextValue},
    token::take_while,
};

use super::{Number, Record};
use crate::{
    compile::SlotTable,
    policy::{self, names},
    resolve::{Interface, listed},
};

/// An expression about verdicts. Its text form is the one it was written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    text: String,
    term: Term,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Or(Vec<Term>),
    And(Vec<Term>),
    Not(Box<Term>),
    /// A test, and how many bytes there are from its value to the end of the text.
    Is(Test, usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Action(&'static str),
    Direction(Direction),
    Protocol(u8),
    V6(bool),
    Address(End, IpNet),
    Port(End, u16, u16),
    Interface(String),
    Reason(Reason),
    Rule(Number),
    Line(usize),
    Layer(Layer),
    Nacl(String),
    Group(String),
    Flag(&'static str),
    Tracked,
    Fragment,
}

/// Which end of a packet is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Either,
    Source,
    Destination,
    /// The other one, whichever way the packet goes.
    Remote,
    /// This one.
    Local,
}

/// An expression that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}\n  {text}\n  {:>place$}", "^", place = .place + 1)]
pub struct BadExpression {
    /// What was expected, and perhaps what was meant.
    what: String,
    text: String,
    /// Characters before the place.
    place: usize,
}

impl BadExpression {
    fn new(what: String, text: &str, offset: usize) -> Self {
        Self { what, text: text.to_owned(), place: text[..offset].chars().count() }
    }
}

/// What there is in a policy that expressions name. What it does not have, nothing will ever be true of.
#[derive(Clone, Debug, Default)]
pub struct Known {
    interfaces: BTreeSet<String>,
    nacls: BTreeSet<String>,
    groups: BTreeSet<String>,
    rules: BTreeSet<u16>,
    lines: BTreeSet<usize>,
}

impl Known {
    /// Adds an interface, by its name in the policy, and what judges there.
    pub fn add(&mut self, name: &str, interface: &Interface, slots: &SlotTable) {
        self.interfaces.extend([name.to_owned(), interface.name.clone()]);
        self.nacls.insert(interface.nacl.name.clone());
        self.groups.extend(interface.groups.iter().flatten().map(|group| group.name.clone()));
        self.rules.extend(slots.slots.values().filter_map(|slot| slot.rule));
        self.lines.extend(slots.slots.values().map(|slot| slot.line).filter(|line| *line > 0));
    }
}

/// Words that begin a test.
const WORDS: &[&str] = &[
    "not",
    "denied",
    "deny",
    "dropped",
    "allowed",
    "allow",
    "inbound",
    "in",
    "outbound",
    "out",
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "icmp6",
    "proto",
    "ip",
    "ipv4",
    "ip6",
    "ipv6",
    "src",
    "dst",
    "remote",
    "local",
    "host",
    "net",
    "port",
    "sport",
    "dport",
    "interface",
    "reason",
    "rule",
    "line",
    "layer",
    "nacl",
    "group",
    "sg",
    "flag",
    "tracked",
    "fragment",
];

/// TCP flags by name.
const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

impl FromStr for Expression {
    type Err = BadExpression;

    fn from_str(text: &str) -> Result<Self, BadExpression> {
        let text = text.trim();
        whole.parse(text).map(|term| Self { text: text.to_owned(), term }).map_err(|error| {
            let offset = error.offset();
            let mut what = "this cannot be read".to_owned();
            for context in error.inner().context() {
                if let StrContext::Expected(StrContextValue::Description(expected)) = context {
                    what = format!("expected {expected}");
                }
            }
            let word: String = text[offset..].chars().take_while(|sign| is_of_a_word(*sign)).collect();
            let near = |known: &&&str| strsim::damerau_levenshtein(known, &word.to_lowercase());
            let meant = WORDS.iter().min_by_key(near).filter(|known| word.len() > 2 && near(known) == 1);
            if let Some(meant) = meant {
                let _ = write!(what, "; did you mean `{meant}`?");
            }
            BadExpression::new(what, text, offset)
        })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How deep parentheses and `not` may go: whoever asks must not exhaust the daemon's stack.
const DEPTH: usize = 64;

const fn is_of_a_word(sign: char) -> bool {
    !sign.is_ascii_whitespace() && !matches!(sign, '(' | ')' | '!' | '&' | '|')
}

/// What comes after blanks.
fn look<'i>(input: &mut &'i str) -> &'i str {
    let _: ModalResult<&str> = multispace0.parse_next(input);
    input
}

fn expected<'i>(input: &mut &'i str, at: &'i str, what: &'static str) -> ErrMode<ContextError> {
    *input = at;
    let mut error = ContextError::new();
    error.push(StrContext::Expected(StrContextValue::Description(what)));
    ErrMode::Cut(error)
}

fn word<'i>(input: &mut &'i str) -> ModalResult<&'i str> {
    preceded(multispace0, take_while(1.., is_of_a_word)).parse_next(input)
}

/// Whether one of these comes next, as a whole word where it is one.
fn follows(input: &mut &str, sign: &str, name: &str) -> bool {
    let before = *input;
    let signs: ModalResult<Option<&str>> = opt(preceded(multispace0, sign)).parse_next(input);
    if matches!(signs, Ok(Some(_))) {
        return true;
    }
    let named = word(input).is_ok_and(|word| word.eq_ignore_ascii_case(name));
    if !named {
        *input = before;
    }
    named
}

fn whole(input: &mut &str) -> ModalResult<Term> {
    let term = any_of(input, 0)?;
    let rest = look(input);
    if rest.is_empty() { Ok(term) } else { Err(expected(input, rest, "`and`, `or` or the end")) }
}

fn any_of(input: &mut &str, depth: usize) -> ModalResult<Term> {
    let mut terms = vec![all_of(input, depth)?];
    while follows(input, "||", "or") {
        terms.push(all_of(input, depth)?);
    }
    Ok(if terms.len() == 1 { terms.remove(0) } else { Term::Or(terms) })
}

fn all_of(input: &mut &str, depth: usize) -> ModalResult<Term> {
    let mut terms = vec![one(input, depth)?];
    while follows(input, "&&", "and") {
        terms.push(one(input, depth)?);
    }
    Ok(if terms.len() == 1 { terms.remove(0) } else { Term::And(terms) })
}

fn one(input: &mut &str, depth: usize) -> ModalResult<Term> {
    let at = look(input);
    if depth > DEPTH {
        return Err(expected(input, at, "an expression that is not nested so deeply"));
    }
    if follows(input, "!", "not") {
        return Ok(Term::Not(Box::new(one(input, depth + 1)?)));
    }
    let open: ModalResult<Option<&str>> = opt(preceded(multispace0, "(")).parse_next(input);
    if matches!(open, Ok(Some(_))) {
        let term = any_of(input, depth + 1)?;
        let rest = look(input);
        let closed: ModalResult<&str> = ")".parse_next(input);
        return closed.map(|_| term).map_err(|_| expected(input, rest, "`)`, `and` or `or`"));
    }
    let (test, place) = test(input)?;
    Ok(Term::Is(test, place))
}

/// A word that says something, and what it needs; and how many bytes there are from there to the end.
fn test(input: &mut &str) -> ModalResult<(Test, usize)> {
    const WHAT: &str = "a test such as denied, tcp, dport 443 or remote 198.51.100.0/24";
    let at = look(input);
    let Ok(first) = word(input) else { return Err(expected(input, at, WHAT)) };
    let place = look(input).len();
    let test = match first.to_ascii_lowercase().as_str() {
        "denied" | "deny" | "dropped" => Test::Action("deny"),
        "allowed" | "allow" => Test::Action("allow"),
        "inbound" | "in" => Test::Direction(Direction::Inbound),
        "outbound" | "out" => Test::Direction(Direction::Outbound),
        "tcp" => Test::Protocol(6),
        "udp" => Test::Protocol(17),
        "icmp" => Test::Protocol(1),
        "icmpv6" | "icmp6" => Test::Protocol(58),
        "ip" | "ipv4" => Test::V6(false),
        "ip6" | "ipv6" => Test::V6(true),
        "tracked" => Test::Tracked,
        "fragment" => Test::Fragment,
        "proto" => {
            let number = |word: &str| policy::protocol_number(word).or_else(|| word.parse().ok());
            Test::Protocol(value(input, "a protocol by its name or number", number)?)
        }
        "src" => end(input, End::Source)?,
        "dst" => end(input, End::Destination)?,
        "remote" => end(input, End::Remote)?,
        "local" => end(input, End::Local)?,
        "host" | "net" => Test::Address(End::Either, value(input, ADDRESS, net)?),
        "port" => ports(input, End::Either)?,
        "sport" => ports(input, End::Source)?,
        "dport" => ports(input, End::Destination)?,
        "interface" => Test::Interface(value(input, "the name of an interface", owned)?),
        "nacl" => Test::Nacl(value(input, "the name of a network ACL", owned)?),
        "group" | "sg" => Test::Group(value(input, "the name of a security group", owned)?),
        "line" => Test::Line(value(input, "a line of the policy file", |word| word.parse().ok())?),
        "rule" => {
            let number = |word: &str| match word {
                "*" => Some(Number::Implied),
                _ => word.parse().ok().map(Number::Rule),
            };
            Test::Rule(value(input, "the number of a rule, or *", number)?)
        }
        "reason" => {
            let known = |word: &str| Reason::ALL.iter().copied().find(|reason| reason.name() == word);
            Test::Reason(value(input, "the name of a reason, such as nacl-rule", known)?)
        }
        "layer" => {
            let known = |word: &str| match word {
                "nacl" => Some(Layer::Nacl),
                "sg" | "security-group" => Some(Layer::SecurityGroup),
                "none" => Some(Layer::None),
                _ => None,
            };
            Test::Layer(value(input, "nacl, sg or none", known)?)
        }
        "flag" => {
            let known = |word: &str| FLAGS.into_iter().find(|flag| flag.eq_ignore_ascii_case(word));
            Test::Flag(value(input, "a TCP flag, such as syn", known)?)
        }
        _ => return Err(expected(input, at, WHAT)),
    };
    Ok((test, place))
}

const ADDRESS: &str = "an address, or a CIDR such as 198.51.100.0/24";

/// What an end must be: a port, or an address.
fn end(input: &mut &str, end: End) -> ModalResult<Test> {
    if follows_word(input, "port") {
        return ports(input, end);
    }
    // `src host 192.0.2.1`, as tcpdump has it.
    let _ = follows_word(input, "host") || follows_word(input, "net");
    Ok(Test::Address(end, value(input, "an address, a CIDR such as 198.51.100.0/24, or `port` and a port", net)?))
}

fn follows_word(input: &mut &str, name: &str) -> bool {
    let before = *input;
    let named = word(input).is_ok_and(|word| word.eq_ignore_ascii_case(name));
    if !named {
        *input = before;
    }
    named
}

fn ports(input: &mut &str, end: End) -> ModalResult<Test> {
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let port = |name: &str| name.parse().ok().or_else(|| names::service(name));
        let range: (u16, u16) = (port(first)?, port(last)?);
        (range.0 <= range.1).then_some(range)
    };
    let (first, last) = value(input, "a port, or a range such as 1024-65535", range)?;
    Ok(Test::Port(end, first, last))
}

#[expect(clippy::unnecessary_wraps, reason = "it is one of the readers of a value")]
fn owned(word: &str) -> Option<String> {
    Some(word.to_owned())
}

fn net(word: &str) -> Option<IpNet> {
    word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The next word as a value.
fn value<T>(input: &mut &str, what: &'static str, read: impl Fn(&str) -> Option<T>) -> ModalResult<T> {
    let at = look(input);
    // A name that is opened has to be closed: as a word it would be another name, which nothing has.
    let opened = at.starts_with('"');
    let said: ModalResult<&str> = if opened { quoted.parse_next(input) } else { word.parse_next(input) };
    let what = if said.is_err() && opened { "a closing quote" } else { what };
    said.ok().and_then(read).ok_or_else(|| expected(input, at, what))
}

/// A name with blanks in it: `group "the web servers"`.
fn quoted<'i>(input: &mut &'i str) -> ModalResult<&'i str> {
    let ('"', inside, '"') = ('"', take_while(1.., |sign| sign != '"'), '"').parse_next(input)? else {
        return Err(ErrMode::Backtrack(ContextError::new()));
    };
    Ok(inside)
}

impl Expression {
    /// Holds the names in it to those of a policy.
    ///
    /// # Errors
    /// The first that the policy does not have.
    pub fn check(&self, known: &Known) -> Result<(), BadExpression> {
        self.term.unknown(known).map_or(Ok(()), |(what, left)| {
            Err(BadExpression::new(what, &self.text, self.text.len().saturating_sub(left)))
        })
    }

    /// Whether it is true of a verdict.
    pub fn admits(&self, record: &Record) -> bool {
        self.term.holds(record)
    }

    /// Whether it can be true of a verdict with this action (`allow` or `deny`), whatever else that is.
    pub fn may_admit(&self, action: &str) -> bool {
        self.term.may_be(true, action)
    }
}

impl Term {
    fn holds(&self, record: &Record) -> bool {
        match self {
            Self::Or(terms) => terms.iter().any(|term| term.holds(record)),
            Self::And(terms) => terms.iter().all(|term| term.holds(record)),
            Self::Not(term) => !term.holds(record),
            Self::Is(test, _) => test.holds(record),
        }
    }

    /// The first name that a policy does not have: what is to be said of it, and its place.
    fn unknown(&self, known: &Known) -> Option<(String, usize)> {
        match self {
            Self::Or(terms) | Self::And(terms) => terms.iter().find_map(|term| term.unknown(known)),
            Self::Not(term) => term.unknown(known),
            Self::Is(test, place) => test.unknown(known).map(|what| (what, *place)),
        }
    }

    /// Whether it may come out so, where only the action is known.
    fn may_be(&self, outcome: bool, action: &str) -> bool {
        match self {
            Self::Not(term) => term.may_be(!outcome, action),
            Self::Is(Test::Action(wanted), _) => (*wanted == action) == outcome,
            Self::Is(..) => true,
            Self::And(terms) if outcome => terms.iter().all(|term| term.may_be(true, action)),
            Self::Or(terms) if !outcome => terms.iter().all(|term| term.may_be(false, action)),
            Self::And(terms) | Self::Or(terms) => terms.iter().any(|term| term.may_be(outcome, action)),
        }
    }
}

impl Test {
    /// What is to be said where it names what a policy does not have.
    fn unknown(&self, known: &Known) -> Option<String> {
        let numbers = |what: &str, asked: usize, known: &mut dyn Iterator<Item = usize>| {
            let known: Vec<_> = known.collect();
            let it_has = || listed(known.iter().map(ToString::to_string));
            (!known.contains(&asked))
                .then(|| format!("the policy in force has no rule {what}{asked}; it has {}", it_has()))
        };
        let (what, name, names) = match self {
            Self::Interface(name) => ("interface", name, &known.interfaces),
            Self::Nacl(name) => ("network ACL", name, &known.nacls),
            Self::Group(name) => ("security group", name, &known.groups),
            Self::Rule(Number::Rule(number)) => {
                return numbers("", usize::from(*number), &mut known.rules.iter().copied().map(usize::from));
            }
            Self::Line(line) => return numbers("in line ", *line, &mut known.lines.iter().copied()),
            _ => return None,
        };
        if names.contains(name) {
            return None;
        }
        Some(match names::closest(name, names.iter().map(String::as_str)) {
            Some(meant) => format!("the policy in force has no {what} {name:?}; did you mean `{meant}`?"),
            None => format!("the policy in force has no {what} {name:?}; it has {}", listed(names)),
        })
    }

    fn holds(&self, record: &Record) -> bool {
        let either = |end: End, is: &dyn Fn(bool) -> bool| {
            let inbound = record.direction == Direction::Inbound.name();
            match end {
                End::Either => is(true) || is(false),
                End::Source => is(true),
                End::Destination => is(false),
                End::Remote => is(inbound),
                End::Local => is(!inbound),
            }
        };
        match self {
            Self::Action(action) => record.action == *action,
            Self::Direction(direction) => record.direction == direction.name(),
            Self::Protocol(protocol) => record.protocol == Some(*protocol),
            Self::V6(v6) => record.src.is_some_and(|address| address.is_ipv6() == *v6),
            Self::Address(end, net) => either(*end, &|source| {
                let address = if source { record.src } else { record.dst };
                address.is_some_and(|address| net.contains(&address))
            }),
            Self::Port(end, first, last) => either(*end, &|source| {
                let port = if source { record.sport } else { record.dport };
                port.is_some_and(|port| (*first..=*last).contains(&port))
            }),
            Self::Interface(name) => record.interface == *name || record.device == *name,
            Self::Reason(reason) => record.reason == reason.name(),
            Self::Rule(number) => record.rule == Some(*number),
            Self::Line(line) => record.line == Some(*line),
            Self::Layer(layer) => record.layer == layer.name(),
            Self::Nacl(name) => record.nacl.as_ref() == Some(name),
            Self::Group(name) => record.group.as_ref() == Some(name) || record.groups.contains(name),
            Self::Flag(flag) => record.tcp_flags.as_ref().is_some_and(|flags| flags.split(',').any(|one| one == *flag)),
            Self::Tracked => record.tracked,
            Self::Fragment => record.fragment,
        }
    }
}
