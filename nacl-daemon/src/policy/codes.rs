//! Every diagnostic's code, severity, one-line description and story: the one table of them. The stories stand in `codes.md`
//! beside this file. Codes are never renumbered or reused: E050 stood for what the first versions did not do. Nothing here says when a
//! diagnostic is made.

use super::Severity;

/// A diagnostic's identity.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `E…` errors, `W…` warnings, `I…` notes, all about what is written; `N…` what the rules come to, warnings and notes.
    pub id: &'static str,
    /// What it does to the outcome.
    pub severity: Severity,
    /// What it means, in one line.
    pub summary: &'static str,
}

/// A code's story, in the three parts of its chapter in `codes.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Story {
    /// What it means.
    pub meaning: &'static str,
    /// Why AWS, or this program, has it so.
    pub why: &'static str,
    /// A part of a policy that earns it.
    pub example: &'static str,
    /// What to do.
    pub advice: &'static str,
}

const STORIES: &str = include_str!("codes.md");

impl Code {
    /// The code of this name, in either case.
    pub fn of(id: &str) -> Option<&'static Self> {
        ALL.iter().find(|code| code.id.eq_ignore_ascii_case(id)).copied()
    }

    /// Its story.
    ///
    /// # Panics
    /// Where `codes.md` has none, which a test excludes.
    pub fn story(&self) -> Story {
        story(self.id).unwrap_or_else(|| panic!("codes.md has no story for {}", self.id))
    }
}

fn story(id: &str) -> Option<Story> {
    let mut chapters = STORIES.split("\n## ").skip(1);
    let chapter = chapters.find_map(|chapter| chapter.strip_prefix(id)?.strip_prefix("\n\n"))?;
    let (meaning, rest) = chapter.split_once("\n\nWhy: ")?;
    let (why, rest) = rest.split_once("\n\n```toml\n")?;
    let (example, rest) = rest.split_once("\n```\n\n")?;
    let advice = rest.strip_prefix("Do: ")?.trim_end();
    Some(Story { meaning, why, example, advice })
}

macro_rules! codes {
    ($($name:ident = $id:literal $severity:ident $summary:literal;)+) => {
        $(#[doc = $summary] pub static $name: Code =
            Code { id: $id, severity: Severity::$severity, summary: $summary };)+
        /// All of them, in order.
        pub static ALL: &[&Code] = &[$(&$name),+];
    };
}

codes! {
    SYNTAX = "E001" Error "the file is not valid TOML";
    NOT_UTF8 = "E002" Error "the file is not UTF-8 text";
    UNKNOWN_KEY = "E003" Error "a key the policy language does not have";
    WRONG_TYPE = "E004" Error "a value of the wrong TOML type";
    MISSING_KEY = "E005" Error "a key that must be there is missing";
    VERSION = "E006" Error "`version` is missing, or names a language this program does not speak";
    UNKNOWN_VALUE = "E007" Error "a value that is none of those the key takes";
    BAD_NAME = "E008" Error "a name no interface or network namespace can have";
    RULE_NUMBER = "E010" Error "a rule number outside 1 to 32766 (N1, N2)";
    DUPLICATE_NUMBER = "E011" Error "a rule number used twice in one direction; IPv4 and IPv6 share the numbers (N4, N5)";
    STAR = "E012" Error "a `*` rule that is more than the implied deny of everything (N2, N3)";
    PROTOCOL = "E013" Error "a protocol that has neither a known name nor a number from 0 to 255 (N25)";
    PORTS = "E014" Error "ports that are reversed, out of range, or not a port range at all";
    ICMP = "E015" Error "an ICMP type or code outside 0 to 255 (-1 means all)";
    CIDR = "E016" Error "not a CIDR or an IP address";
    NO_PREFIX = "E017" Error "an address without a prefix length where a CIDR is wanted";
    WRONG_SIDE = "E018" Error "`source` in an outbound rule or `destination` in an inbound one (N22)";
    NO_SUCH_MATCH = "E019" Error "something AWS's rules cannot match on (N21, S13)";
    NO_SUCH_REFERENCE = "E020" Error "a security group or prefix list where only addresses may stand (N21, N36)";
    ONE_VALUE = "E021" Error "a list where an AWS rule holds one value";
    ONLY_ALLOW = "E022" Error "an action or a number in a security group rule: groups only allow, without order (S1)";
    FAILSAFE_ENDS = "E023" Error "a failsafe entry with `source` and `destination`";
    TRACKING = "E024" Error "a time or size of connection tracking that is not taken (S29, S35)";
    UNKNOWN_SUBNET = "E030" Error "a subnet the policy does not define";
    UNKNOWN_NACL = "E031" Error "a network ACL the policy does not define";
    UNKNOWN_VPC = "E032" Error "a VPC the policy does not define, or one that must be named and is not";
    SUBNET_NOT_ONE_CIDR = "E033" Error "`subnet:NAME` that does not stand for exactly one CIDR";
    NACL_DISAGREES = "E034" Error "an interface whose `nacl` is not that of its `subnet` (N14)";
    OUTSIDE_VPC = "E035" Error "a subnet's CIDR that lies outside its VPC";
    OVERLAP = "E036" Error "CIDRs of subnets in one VPC that overlap";
    OUTSIDE_SUBNET = "E037" Error "an elsewhere interface's address that lies outside its subnet";
    MIXED_VPC = "E038" Error "`[vpc]` and `[vpc.NAME]` in one policy";
    UNKNOWN_GROUP = "E039" Error "an interface's security group that the policy does not define";
    UNKNOWN_PREFIX_LIST = "E040" Error "a prefix list the policy does not define";
    MIXED_FAMILIES = "E041" Error "a prefix list with IPv4 and IPv6 entries (S22)";
    TOO_MANY_ENTRIES = "E042" Error "a prefix list with more entries than its `max_entries`";
    DUPLICATE_RULE = "E043" Error "the same rule twice in one direction of a security group (S16)";
    NO_SUCH_LAYER = "E044" Error "`layers` names one the interface does not have";
    DEVICE_TWICE = "E045" Error "one device of one network namespace in two interfaces";
    GROUP_TWICE = "E046" Error "a security group twice on one interface";
    FLOW_LOG = "E047" Error "a format, a window, a destination or a number that a flow log cannot have (F1, F2, F13)";
    UNKNOWN_FLOW_LOG = "E048" Error "a flow log the policy does not define";
    SHARED_FILE = "E049" Error "two flow logs that write one file";
    EXTERNAL = "E051" Error "something marked `external` that has content, or whose content is needed";
    DEFAULT_TWICE = "E052" Error "two default network ACLs in one VPC (N9)";
    HOST_BITS = "W001" Warning "a CIDR with host bits set; AWS zeroes them (N35)";
    PORTS_IGNORED = "W002" Warning "ports on a protocol without ports; AWS ignores them (N27, N34)";
    ICMP_IGNORED = "W003" Warning "an ICMP type or code that AWS ignores (N27, N28, N31)";
    ICMP_ON_IPV6 = "W004" Warning "protocol 1 with an IPv6 CIDR matches no real packet (N33)";
    ICMPV6_ON_IPV4 = "W005" Warning "protocol 58 with an IPv4 CIDR matches all types and codes, and no real packet (N28)";
    OVER_DEFAULT_QUOTA = "W006" Warning "more rules than AWS allows unless the quota is raised: 20, `*` included (N38 to N40)";
    OVER_MAXIMUM_QUOTA = "W007" Warning "more rules than AWS allows at all: 40, `*` included (N38 to N40)";
    ADDRESS_OUTSIDE = "W008" Warning "an interface's address that lies outside its subnet";
    EXTENSION_HEADER = "W009" Warning "an IPv6 extension header as a protocol: it is looked behind, so the rule matches next to nothing";
    INSIDE_SUBNET = "W010" Warning "a rule for traffic inside the subnet, which never meets the network ACL (N42)";
    STALE_REFERENCE = "W011" Warning "a reference to a security group nobody defines or has: it matches nothing (S20)";
    NO_MEMBERS = "W012" Warning "a reference that matches nothing: a security group without members, or an empty prefix list (S17)";
    OVER_GROUP_QUOTA = "W013" Warning "more rules in a security group than AWS allows unless the quota is raised: 60 (S25, S26)";
    OVER_DEFAULT_GROUPS = "W014" Warning "more security groups on an interface than AWS allows unless the quota is raised: 5 (S25)";
    OVER_MAXIMUM_GROUPS = "W015" Warning "more security groups on an interface than AWS allows at all: 16 (S25)";
    OVER_PRODUCT = "W016" Warning "rules in a group times groups on an interface are more than AWS allows at all: 1000 (S25)";
    OVER_LIST_QUOTA = "W017" Warning "a prefix list larger than AWS allows: 1000 entries (S27)";
    NO_GROUPS = "W018" Warning "an empty list of security groups lets nothing pass (S2, S9)";
    NEVER_FILTERED = "W019" Warning "a rule that denies what AWS never filters (N43)";
    WIDE_FAILSAFE = "W020" Warning "a failsafe entry for everybody and every port: nothing is filtered";
    ENTRY_TWICE = "W021" Warning "an entry twice in a prefix list";
    PORTS_UNWRITTEN = "I001" Note "a TCP or UDP rule without ports matches all; AWS wants them written (N29)";
    ICMP_UNWRITTEN = "I002" Note "an ICMP rule without type and code matches all; AWS wants them written (N30)";
    STAR_IMPLIED = "I003" Note "a `*` rule is implied and need not be written (N2)";
    UNUSED_NACL = "I004" Note "a network ACL that no subnet and no interface uses";
    UNUSED_SUBNET = "I005" Note "a subnet that no interface and no rule names";
    ALLOW_EVERYTHING = "I006" Note "a written rule that allows every protocol from or to everywhere";
    DIRECTION_ABSENT = "I007" Note "a network ACL without one of its lists: that direction is `*` only and denies everything";
    NO_INTERFACE = "I008" Note "a policy without an interface enforces nothing";
    DEFAULT_NACL = "I009" Note "a subnet without `nacl` has AWS's default one, which allows everything (N9, N14)";
    OUTBOUND_ABSENT = "I010" Note "a security group without `outbound` lets everything out, as AWS makes it (S4)";
    MEMBERS_UNKNOWN = "I011" Note "members of a referenced group have no addresses in the policy; only their machine knows them";
    UNUSED_GROUP = "I012" Note "a security group nobody has and no rule names";
    UNUSED_PREFIX_LIST = "I013" Note "a prefix list no rule names";
    SIZE_UNWRITTEN = "I014" Note "a prefix list without `max_entries`; AWS wants it written (S26)";
    UNUSED_FLOW_LOG = "I015" Note "a flow log no interface names";
    NEVER_MATCHES = "N001" Warning "a rule that can never match: rules before it take every packet it means (N6)";
    DENY_TOO_LATE = "N002" Warning "a deny after the allow it was meant to cut: it can never match (N6, N48)";
    DENY_CUT = "N003" Warning "a deny that an earlier allow cuts in part (N6, N48)";
    REDUNDANT = "N004" Note "a rule that changes nothing: without it every packet has the same verdict (N6)";
    REPLIES_DENIED = "N005" Warning "requests are let in, and their replies reach nobody (N8, N23)";
    REPLIES_CUT = "N006" Warning "requests from everybody are let in, and usual clients get replies on a part of their ports only (N8, N23)";
    REPLIES_RARE = "N007" Note "replies do not reach every port of rarer clients: NAT gateways, load balancers, FreeBSD, Windows XP";
    ANSWERS_DENIED = "N008" Warning "what is opened outward gets no answers (N8, N23)";
    ANSWERS_CUT = "N009" Warning "what is opened outward gets answers on a part of the ports only (N8, N23)";
    PING_DENIED = "N010" Warning "pings are let through one way, and their answers are not let back (N8)";
    ONE_PROTOCOL = "N011" Note "one of TCP and UDP is open for a service that uses both";
    ONE_FAMILY = "N012" Note "a service is open to everybody on one of IPv4 and IPv6 and closed on the other (N24)";
    TOO_WIDE = "N013" Note "a rule opens every port to everybody; for replies 1024-65535 would do";
    MTU_BLOCKED = "N014" Note "\"packet too big\" is not let in: connections over smaller links hang (N47, S40)";
    NEVER_DECIDES = "N015" Note "a rule of a security group that never decides: another lets the same packets pass (S2, S30)";
    CUT_BY_NACL = "N016" Note "a rule of a security group that lets nothing pass: the network ACL denies all of it (O4)";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_lettered_by_severity() {
        for (at, code) in ALL.iter().enumerate() {
            assert!(ALL[at + 1..].iter().all(|other| other.id != code.id), "{} twice", code.id);
            let letters = match code.severity {
                Severity::Error => ['E', 'E'],
                Severity::Warning => ['W', 'N'],
                Severity::Note => ['I', 'N'],
            };
            assert!(code.id.starts_with(letters) && code.id.len() == 4, "{}", code.id);
        }
    }

    #[test]
    fn every_code_has_its_story_and_no_story_is_of_none() {
        for code in ALL {
            let story = code.story();
            for part in [story.meaning, story.why, story.example, story.advice] {
                assert!(!part.trim().is_empty() && !part.contains("```"), "{}: {story:?}", code.id);
            }
            for sentences in [story.meaning, story.why, story.advice] {
                assert!(sentences.trim_end().ends_with(['.', '?', '`']), "{}: {sentences:?}", code.id);
            }
        }
        let told: Vec<_> = STORIES.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(told, ALL.iter().map(|code| code.id).collect::<Vec<_>>());
    }
}
