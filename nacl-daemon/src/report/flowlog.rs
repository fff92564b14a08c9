//! Records of a flow log → lines: AWS's fields with blanks between them, JSON, and the journal's fields; and whole files of them.

#[cfg(feature = "parquet")]
mod parquet;

use std::{
    fmt::{Display, Write as _},
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value};

use crate::{
    observe::FlowRecord,
    resolve::flowlog::{Field, FileFormat, Format, Style},
};

/// One field; nothing where it does not apply (F2).
fn field(record: &FlowRecord, field: Field, format: &Format) -> Option<Value> {
    fn text(value: Option<&impl Display>) -> Option<Value> {
        value.map(|value| Value::from(value.to_string()))
    }
    match field {
        Field::Version => Some(format.version().into()),
        Field::AccountId => text(record.account_id.as_ref()),
        Field::InterfaceId => text(Some(&record.interface_id)),
        Field::SrcAddr => text(record.srcaddr.as_ref()),
        Field::DstAddr => text(record.dstaddr.as_ref()),
        Field::SrcPort => record.srcport.map(Value::from),
        Field::DstPort => record.dstport.map(Value::from),
        Field::Protocol => record.protocol.map(Value::from),
        Field::Packets => record.packets.map(Value::from),
        Field::Bytes => record.bytes.map(Value::from),
        Field::Start => Some(record.start.into()),
        Field::End => Some(record.end.into()),
        Field::Action => text(record.action.as_ref()),
        Field::LogStatus => Some(record.log_status.name().into()),
        Field::VpcId => text(record.vpc_id.as_ref()),
        Field::SubnetId => text(record.subnet_id.as_ref()),
        Field::InstanceId => text(record.instance_id.as_ref()),
        Field::TcpFlags => record.tcp_flags.map(Value::from),
        Field::Type => text(record.kind.as_ref()),
        Field::PktSrcAddr => text(record.pkt_srcaddr.as_ref()),
        Field::PktDstAddr => text(record.pkt_dstaddr.as_ref()),
        Field::Region => text(record.region.as_ref()),
        Field::AzId => text(record.az_id.as_ref()),
        Field::SublocationType => text(record.sublocation_type.as_ref()),
        Field::SublocationId => text(record.sublocation_id.as_ref()),
        Field::FlowDirection => text(record.flow_direction.as_ref()),
        Field::TrafficPath => record.traffic_path.map(Value::from),
        // What stands there are AWS's own ranges of addresses.
        Field::PktSrcAwsService | Field::PktDstAwsService => None,
    }
}

/// A line as AWS writes it, without its end.
pub fn line(record: &FlowRecord, format: &Format) -> String {
    let mut line = String::with_capacity(128);
    for one in format.fields() {
        if !line.is_empty() {
            line.push(' ');
        }
        match field(record, *one, format) {
            Some(Value::String(text)) => line.push_str(&text),
            Some(value) => {
                let _ = write!(line, "{value}");
            }
            None => line.push('-'),
        }
    }
    line
}

/// AWS's name of a field, as it has it where a name may hold no dash: `log_status`.
fn underscored(field: Field) -> String {
    field.name().replace('-', "_")
}

/// What nacld knows more.
fn extras(record: &FlowRecord) -> impl Iterator<Item = (&'static str, Value)> {
    let text = |value: &Option<String>| value.clone().map(Value::from);
    [
        ("nacld_interface", Some(record.interface.clone().into())),
        ("nacld_layer", text(&record.nacld_layer)),
        ("nacld_rule", text(&record.nacld_rule)),
        ("nacld_line", record.nacld_line.map(Value::from)),
        ("nacld_policy", text(&record.nacld_policy)),
        ("nacld_lost", record.nacld_lost.map(Value::from)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}

/// A JSON object with the fields of a format, and with what nacld knows more. What does not apply is left out.
pub fn object(record: &FlowRecord, format: &Format) -> Value {
    let fields = format.fields().iter().filter_map(|one| Some((underscored(*one), field(record, *one, format)?)));
    let extras = extras(record).map(|(name, value)| (name.to_owned(), value));
    Value::Object(fields.chain(extras).collect::<Map<_, _>>())
}

/// A line in a style, with its end.
pub fn styled(record: &FlowRecord, format: &Format, style: Style) -> String {
    match style {
        Style::Aws => line(record, format) + "\n",
        Style::Json => object(record, format).to_string() + "\n",
    }
}

/// What a file of lines begins with: the names of the fields, as in AWS's (F15). Nothing where each line says them.
pub fn head(format: &Format, style: Style) -> String {
    match style {
        Style::Aws => names(format) + "\n",
        Style::Json => String::new(),
    }
}

fn names(format: &Format) -> String {
    format.fields().iter().map(|field| field.name()).collect::<Vec<_>>().join(" ")
}

/// A file that holds these records and nothing else.
///
/// # Errors
/// This nacld has no Parquet.
pub fn file(records: &[&FlowRecord], format: &Format, style: Style, file_format: FileFormat) -> io::Result<Vec<u8>> {
    match file_format {
        FileFormat::PlainText => {
            let mut file = GzEncoder::new(Vec::new(), Compression::default());
            file.write_all(head(format, style).as_bytes())?;
            for record in records {
                file.write_all(styled(record, format, style).as_bytes())?;
            }
            file.finish()
        }
        #[cfg(feature = "parquet")]
        FileFormat::Parquet => parquet::file(records, format),
        // Of a policy that another build has put in force.
        #[cfg(not(feature = "parquet"))]
        FileFormat::Parquet => Err(io::Error::new(io::ErrorKind::Unsupported, "this nacld was built without Parquet")),
    }
}

/// How the name of such a file ends.
pub const fn extension(style: Style, file_format: FileFormat) -> &'static str {
    match (file_format, style) {
        (FileFormat::Parquet, _) => "log.parquet",
        (FileFormat::PlainText, Style::Aws) => "log.gz",
        (FileFormat::PlainText, Style::Json) => "json.gz",
    }
}

/// A datagram for the journal: the record as a message, and each of its fields as one of the journal's own,
/// `NACLD_FLOW_SRCADDR=…`.
pub fn journal(record: &FlowRecord, format: &Format, style: Style) -> Vec<u8> {
    let mut text = String::new();
    let mut put = |name: &str, value: &str| {
        // A value with a line's end would need the binary form; none has one, whatever a policy names.
        let value = value.replace('\n', " ");
        let _ = writeln!(text, "{name}={value}");
    };
    put("MESSAGE", styled(record, format, style).trim_end());
    put("PRIORITY", "6");
    put("SYSLOG_IDENTIFIER", "nacld");
    let fields = format.fields().iter().filter_map(|one| Some((underscored(*one), field(record, *one, format)?)));
    for (name, value) in fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        put(&format!("NACLD_FLOW_{}", name.to_uppercase()), &text);
    }
    for (name, value) in extras(record) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        put(&name.to_uppercase(), &text);
    }
    text.into_bytes()
}

/// What is said where no interface has a flow log.
pub const OFF: &str = "\
error: no flow log is on, so nothing is recorded
hint: define one in the policy and name it on the interface, then `nacld reload`:
  [flow_log.flows]
  destination = \"/var/log/nacld/flows.log\"

  [interface.eth0]
  flow_log = \"flows\"
";

/// Records as a person reads them, one line each; `with_names`: under the names of the fields.
pub fn table(records: &[FlowRecord], format: &Format, with_names: bool) -> String {
    let mut text = String::new();
    if with_names {
        text.push_str(&names(format));
        text.push('\n');
    }
    for record in records {
        text.push_str(&line(record, format));
        text.push('\n');
    }
    text
}
