//! A flow log as a policy asks for it: the fields of a line by AWS's names, how often, of what, and where to. Reads no file and
//! writes none.

use std::{fmt, ops::Range, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

macro_rules! fields {
    ($($variant:ident = $version:literal $name:literal;)+) => {
        /// A field of a flow log's line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Field { $(#[doc = concat!("`", $name, "`")] $variant,)+ }

        impl Field {
            /// All of them, in the order of AWS's documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// AWS's name of it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The version of flow logs it came with (F1).
            pub const fn version(self) -> u8 {
                match self { $(Self::$variant => $version,)+ }
            }
        }
    };
}

fields! {
    Version = 2 "version";
    AccountId = 2 "account-id";
    InterfaceId = 2 "interface-id";
    SrcAddr = 2 "srcaddr";
    DstAddr = 2 "dstaddr";
    SrcPort = 2 "srcport";
    DstPort = 2 "dstport";
    Protocol = 2 "protocol";
    Packets = 2 "packets";
    Bytes = 2 "bytes";
    Start = 2 "start";
    End = 2 "end";
    Action = 2 "action";
    LogStatus = 2 "log-status";
    VpcId = 3 "vpc-id";
    SubnetId = 3 "subnet-id";
    InstanceId = 3 "instance-id";
    TcpFlags = 3 "tcp-flags";
    Type = 3 "type";
    PktSrcAddr = 3 "pkt-srcaddr";
    PktDstAddr = 3 "pkt-dstaddr";
    Region = 4 "region";
    AzId = 4 "az-id";
    SublocationType = 4 "sublocation-type";
    SublocationId = 4 "sublocation-id";
    PktSrcAwsService = 5 "pkt-src-aws-service";
    PktDstAwsService = 5 "pkt-dst-aws-service";
    FlowDirection = 5 "flow-direction";
    TrafficPath = 5 "traffic-path";
}

/// Fields that AWS has and nacld has not, with the version they came with: what they tell is of AWS's own (tasks of ECS, tags, next
/// hops, encryption).
const LATER: &[(&str, u8)] = &[
    ("ecs-cluster-arn", 7),
    ("ecs-cluster-name", 7),
    ("ecs-container-instance-arn", 7),
    ("ecs-container-instance-id", 7),
    ("ecs-container-id", 7),
    ("ecs-second-container-id", 7),
    ("ecs-service-name", 7),
    ("ecs-task-definition-arn", 7),
    ("ecs-task-arn", 7),
    ("ecs-task-id", 7),
    ("reject-reason", 8),
    ("resource-id", 9),
    ("encryption-status", 10),
    ("instance-tag", 11),
    ("instance-tag-2", 11),
    ("interface-tag", 11),
    ("interface-tag-2", 11),
    ("asg-tag", 11),
    ("asg-tag-2", 11),
    ("interface-type", 11),
    ("next-hop-interface-id", 11),
    ("next-hop-subnet-id", 11),
    ("next-hop-az-id", 11),
    ("next-hop-vpc-id", 11),
    ("next-hop-interface-type", 11),
];

impl Field {
    /// The field of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.name() == name)
    }
}

/// Which fields a line has, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Vec<Field>);

impl Default for Format {
    /// AWS's default: the fields of version 2.
    fn default() -> Self {
        Self(Field::ALL.iter().copied().filter(|field| field.version() == 2).collect())
    }
}

impl Format {
    /// The fields.
    pub fn fields(&self) -> &[Field] {
        &self.0
    }

    /// What stands in the field `version`: the highest version among the fields (F1).
    pub fn version(&self) -> u8 {
        self.0.iter().map(|field| field.version()).max().unwrap_or(2)
    }

    /// Reads a format as AWS writes it, `${srcaddr} ${dstaddr}`. Everything that is wrong with it is said at once.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(text: &str) -> Result<Self, Vec<FormatError>> {
        let mut fields: Vec<Field> = Vec::new();
        let mut errors = Vec::new();
        for (at, word) in words(text) {
            match one(word) {
                Ok(field) if fields.contains(&field) => errors.push((at, FormatFault::Twice(field))),
                Ok(field) => fields.push(field),
                Err(fault) => errors.push((at, fault)),
            }
        }
        if fields.is_empty() && errors.is_empty() {
            errors.push((0..text.len(), FormatFault::Empty));
        }
        if errors.is_empty() {
            return Ok(Self(fields));
        }
        Err(errors.into_iter().map(|(span, fault)| FormatError { span, fault }).collect())
    }
}

/// Words with where they stand.
fn words(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    text.split_whitespace().map(move |word| {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        (start..start + word.len(), word)
    })
}

fn one(word: &str) -> Result<Field, FormatFault> {
    let Some(name) = word.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
        let bare = word.trim_matches(['$', '{', '}', ',']);
        return Err(FormatFault::NoField { text: word.to_owned(), meant: Field::from_name(bare) });
    };
    if let Some(field) = Field::from_name(name) {
        return Ok(field);
    }
    if let Some((_, version)) = LATER.iter().find(|(later, _)| *later == name) {
        return Err(FormatFault::Later { name: name.to_owned(), version: *version });
    }
    Err(FormatFault::Unknown { name: name.to_owned() })
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, field) in self.0.iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            write!(f, "{gap}${{{}}}", field.name())?;
        }
        Ok(())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text).map_err(|errors| {
            let texts: Vec<_> = errors.iter().map(|error| error.fault.to_string()).collect();
            texts.join("; ")
        })
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Something wrong with a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// Bytes of the format's text.
    pub span: Range<usize>,
    /// What.
    pub fault: FormatFault,
}

/// What is wrong with a format.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatFault {
    /// No such field.
    #[error("flow logs have no field `{name}`")]
    Unknown {
        /// As it is written.
        name: String,
    },
    /// A field of a version that tells of what is AWS's own.
    #[error("the field `{name}` came with version {version} of flow logs, and nacld has those of versions 2 to 5")]
    Later {
        /// The field.
        name: String,
        /// Its version.
        version: u8,
    },
    /// Not `${name}`.
    #[error("`{text}` is no field")]
    NoField {
        /// As it is written.
        text: String,
        /// The field of that name.
        meant: Option<Field>,
    },
    /// A field that stands there already.
    #[error("the field `{}` stands in the format twice", .0.name())]
    Twice(Field),
    /// Nothing at all.
    #[error("a format needs at least one field")]
    Empty,
}

/// Which packets a flow log tells of (F14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// All.
    #[default]
    All,
    /// What is let pass.
    Accept,
    /// What is not.
    Reject,
}

impl Told {
    /// Whether it tells of packets that are let pass.
    pub const fn accepted(self) -> bool {
        matches!(self, Self::All | Self::Accept)
    }

    /// Whether it tells of packets that are not.
    pub const fn rejected(self) -> bool {
        matches!(self, Self::All | Self::Reject)
    }
}

/// Where a flow log goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Destination {
    /// A file.
    File(PathBuf),
    /// A directory in which each window of each interface has a file of its own, as in AWS's buckets (F15).
    Directory(Tree),
    /// The daemon's standard output.
    Stdout,
    /// The journal, as fields.
    Journal,
}

/// What AWS calls the options of a destination, below a directory that stands for its bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tree {
    /// The directory.
    pub root: PathBuf,
    /// What its files are.
    pub file_format: FileFormat,
    /// Whether directories are named `year=2026`, which engines read as columns, or `2026`.
    pub hive_compatible_partitions: bool,
    /// Whether hours have directories of their own.
    pub per_hour_partition: bool,
}

/// What a window's own file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileFormat {
    /// Lines, compressed.
    #[default]
    PlainText,
    /// Apache Parquet: columns, compressed. Needs the feature `parquet`.
    Parquet,
}

/// What a record looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// A line of fields with blanks between them, as AWS has it.
    #[default]
    Aws,
    /// One JSON object a line, with what nacld knows more.
    Json,
}

/// When a file gives way to a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// When it has so many MiB.
    pub mib: u32,
    /// When it is so many hours old; 0: never for that.
    pub hours: u32,
    /// How many old ones are kept.
    pub keep: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { mib: 100, hours: 24, keep: 14 }
    }
}

/// What AWS knows by itself and nacld has to be told; `-` where it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Account.
    pub account: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// VPC.
    pub vpc: Option<String>,
    /// Instance.
    pub instance: Option<String>,
    /// Availability zone.
    pub az: Option<String>,
    /// `wavelength`, `outpost` or `localzone`.
    pub sublocation_type: Option<String>,
    /// Of it.
    pub sublocation: Option<String>,
}

/// `[flow_log.NAME]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLog {
    /// Name in the policy.
    pub name: String,
    /// Fields of a line.
    pub format: Format,
    /// Seconds of a window: 60 or 600 (F13).
    pub interval: u32,
    /// Which packets.
    pub told: Told,
    /// Where to.
    pub destination: Destination,
    /// In which form.
    pub style: Style,
    /// Of a file.
    pub rotation: Rotation,
    /// What AWS knows.
    pub identity: Identity,
    /// Records an interface has room for in a window.
    pub entries: u32,
}

impl FlowLog {
    /// Seconds of a window unless the policy says otherwise (F13).
    pub const INTERVAL: u32 = 600;
    /// Records an interface has room for in a window, likewise.
    pub const ENTRIES: u32 = 65_536;

    /// A flow log of this name, with everything as it is where nothing is written.
    pub fn new(name: &str, destination: Destination) -> Self {
        Self {
            name: name.to_owned(),
            format: Format::default(),
            interval: Self::INTERVAL,
            told: Told::default(),
            destination,
            style: Style::default(),
            rotation: Rotation::default(),
            identity: Identity::default(),
            entries: Self::ENTRIES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_aws_own() {
        let text = "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${srcport} ${dstport} ${protocol} \
                    ${packets} ${bytes} ${start} ${end} ${action} ${log-status}";
        assert_eq!(Format::default().to_string(), text);
        assert_eq!(Format::read(text), Ok(Format::default()));
        assert_eq!(Format::default().version(), 2);
    }

    #[test]
    fn the_version_is_the_highest_of_the_fields() {
        for (text, version) in
            [("${srcaddr}", 2), ("${tcp-flags} ${version}", 3), ("${region} ${tcp-flags}", 4), ("${flow-direction}", 5)]
        {
            assert_eq!(Format::read(text).unwrap().version(), version, "{text}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_with_its_place() {
        let text = "${version} ${sourceaddr}  srcaddr ${ecs-task-id}, ${version} ${reject-reason}";
        let errors = Format::read(text).unwrap_err();
        let found: Vec<_> = errors.iter().map(|error| (&text[error.span.clone()], error.fault.to_string())).collect();
        assert_eq!(
            found,
            [
                ("${sourceaddr}", "flow logs have no field `sourceaddr`".to_owned()),
                ("srcaddr", "`srcaddr` is no field".to_owned()),
                ("${ecs-task-id},", "`${ecs-task-id},` is no field".to_owned()),
                ("${version}", "the field `version` stands in the format twice".to_owned()),
                (
                    "${reject-reason}",
                    "the field `reject-reason` came with version 8 of flow logs, and nacld has those of versions 2 to 5"
                        .to_owned()
                ),
            ]
        );
        assert_eq!(Format::read(" \t").unwrap_err()[0].fault, FormatFault::Empty);
    }
}
