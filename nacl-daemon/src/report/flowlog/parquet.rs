//! Records of a flow log → a Parquet file, with AWS's names and types of columns. Knows no path.

use std::{io, sync::Arc};

use parquet::{
    basic::{Compression, GzipLevel, LogicalType, Repetition, Type as Physical},
    data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::Type,
};
use serde_json::Value;

use super::underscored;
use crate::{
    observe::FlowRecord,
    resolve::flowlog::{Field, Format},
};

/// Records of a row group: what a reader takes at once.
const GROUP: usize = 1 << 20;

/// AWS's type of a field: INT_32, INT_64 or STRING (F15).
const fn physical(field: Field) -> Physical {
    match field {
        Field::Version | Field::SrcPort | Field::DstPort | Field::Protocol | Field::TcpFlags | Field::TrafficPath => {
            Physical::INT32
        }
        Field::Packets | Field::Bytes | Field::Start | Field::End => Physical::INT64,
        _ => Physical::BYTE_ARRAY,
    }
}

/// A column. What a line has `-` for is null in it.
fn column(field: Field) -> Result<Type, ParquetError> {
    let physical = physical(field);
    let logical = match physical {
        Physical::INT32 => LogicalType::integer(32, true),
        Physical::INT64 => LogicalType::integer(64, true),
        _ => LogicalType::String,
    };
    Type::primitive_type_builder(&underscored(field), physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(Some(logical))
        .build()
}

/// A file of these records.
pub fn file(records: &[&FlowRecord], format: &Format) -> io::Result<Vec<u8>> {
    written(records, format).map_err(io::Error::other)
}

fn written(records: &[&FlowRecord], format: &Format) -> Result<Vec<u8>, ParquetError> {
    let columns = format.fields().iter().map(|field| column(*field).map(Arc::new)).collect::<Result<_, _>>()?;
    let schema = Type::group_type_builder("flow_log").with_fields(columns).build()?;
    // AWS's own are compressed by gzip too.
    let properties = WriterProperties::builder()
        .set_compression(Compression::GZIP(GzipLevel::default()))
        .set_created_by(concat!("nacld ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(properties))?;
    for records in records.chunks(GROUP) {
        let mut group = file.next_row_group()?;
        for field in format.fields() {
            let values = records.iter().map(|record| super::field(record, *field, format));
            match physical(*field) {
                Physical::INT32 => put::<Int32Type>(&mut group, values, |value| {
                    value.as_u64().and_then(|number| i32::try_from(number).ok())
                })?,
                Physical::INT64 => put::<Int64Type>(&mut group, values, |value| {
                    value.as_u64().and_then(|number| i64::try_from(number).ok())
                })?,
                _ => put::<ByteArrayType>(&mut group, values, |value| value.as_str().map(ByteArray::from))?,
            }
        }
        group.close()?;
    }
    file.close()?;
    Ok(bytes)
}

/// Writes the next column of a row group.
fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: impl Iterator<Item = Option<Value>>,
    of: impl Fn(&Value) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let values: Vec<Option<T::T>> = values.map(|value| of(&value?)).collect();
    let there: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("more fields than columns".to_owned()));
    };
    column.typed::<T>().write_batch(&values, Some(&there), None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::Field as Cell;

    use super::*;
    use crate::{
        observe::{Eni, LogStatus, Place},
        report::flowlog::line,
        resolve::{
            Interface, Nacl,
            flowlog::{Destination, FlowLog, Identity},
        },
    };

    /// A cell as a line has it.
    fn text(cell: &Cell) -> String {
        match cell {
            Cell::Null => "-".to_owned(),
            Cell::Str(text) => text.clone(),
            Cell::Int(number) => number.to_string(),
            Cell::Long(number) => number.to_string(),
            other => panic!("{other:?} is no type of AWS's"),
        }
    }

    #[test]
    fn columns_say_what_lines_say() {
        let nacl = Nacl { name: "web".into(), id: None, inbound: Vec::new(), outbound: Vec::new() };
        let interface = Interface::new("eth0", Arc::new(nacl));
        let place = Place { interface: "eth0".into(), device: "eth0".into(), netns: None };
        let identity = Identity { account: Some("1".into()), az: Some("az".into()), ..Identity::default() };
        let log = FlowLog { identity, ..FlowLog::new("flows", Destination::Stdout) };
        let empty = Eni::new(place, &interface, &log, "").without_packets(LogStatus::NoData, (60, 120));
        let full = FlowRecord {
            srcaddr: Some("10.0.0.1".parse().unwrap()),
            pkt_dstaddr: Some("2001:db8::1".parse().unwrap()),
            srcport: Some(65535),
            protocol: Some(255),
            packets: Some(1 << 40),
            bytes: Some(i64::MAX as u64),
            tcp_flags: Some(19),
            traffic_path: Some(1),
            action: Some("REJECT".into()),
            start: 1 << 33,
            log_status: LogStatus::Ok,
            ..empty.clone()
        };
        let all = Field::ALL.iter().map(|field| format!("${{{}}}", field.name())).collect::<Vec<_>>().join(" ");
        for format in [Format::default(), Format::read(&all).unwrap()] {
            let records = [&empty, &full, &empty];
            let bytes = file(&records, &format).unwrap();
            let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
            let rows: Vec<String> = reader
                .get_row_iter(None)
                .unwrap()
                .map(|row| row.unwrap().get_column_iter().map(|(_, cell)| text(cell)).collect::<Vec<_>>().join(" "))
                .collect();
            assert_eq!(rows, records.map(|record| line(record, &format)));
            let schema = reader.metadata().file_metadata().schema();
            let names: Vec<_> = schema.get_fields().iter().map(|column| column.name().replace('_', "-")).collect();
            assert_eq!(names, format.fields().iter().map(|field| field.name()).collect::<Vec<_>>());
        }
    }
}
