//! Reads a capture: a record at a time, of a size that is checked before anything is kept. What a block consists of is the
//! crate's to know. Options it reads in the order of one machine only, or not at all, are read here.

use std::{
    io::{self, BufRead, Read},
    net::IpAddr,
    ops::Range,
};

use pcap_parser::{
    Block, OptionCode, PcapNGOption, parse_block_be, parse_block_le, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header,
};

use super::{CaptureError, Captured, Record, Wrong, link::link};

/// Most bytes of a record. The largest that anybody captures is a packet of BIG TCP with options: half a megabyte.
const MOST: u32 = 16 << 20;
/// Most interfaces of a section: each is remembered.
const INTERFACES: usize = 4096;
/// Most addresses of an interface that are remembered.
const ADDRESSES: usize = 64;

const SECOND: u64 = 1_000_000_000;
/// A pcapng block's type and length, and a section header's byte order.
const BLOCK_HEAD: u32 = 12;
/// A pcap file's header, and a packet's in it.
const FILE_HEAD: u32 = 24;
const PACKET_HEAD: u32 = 16;
/// A packet's in the form that says which interface it is of.
const MODIFIED_HEAD: u32 = 24;

/// A capture that is read from its beginning to its end.
pub struct Reader<R> {
    input: R,
    /// Bytes read.
    at: u64,
    /// Packets read.
    packets: u64,
    format: Format,
    /// The record at hand.
    record: Vec<u8>,
    /// Its frame, where its Ethernet header had to be made.
    frame: Vec<u8>,
}

enum Format {
    Pcap(Pcap),
    PcapNg(Section),
}

/// How a pcap file is written.
#[derive(Clone, Copy)]
struct Pcap {
    big_endian: bool,
    modified: bool,
    /// Nanoseconds of the second field of a time.
    unit: u64,
    link: u16,
}

/// What a section of a pcapng file has said so far.
#[derive(Default)]
struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

struct Interface {
    link: u16,
    /// Units of a second; `None`: none that a clock has.
    resolution: Option<u64>,
    /// Seconds to add.
    offset: i64,
    /// Bytes kept of a packet; 0: all.
    kept: u32,
    addresses: Vec<IpAddr>,
}

/// What a record was.
enum Step {
    Packet(Found),
    /// Nothing that is judged.
    Nothing,
    End,
}

/// Where the packet of a record stands in it, and what is said of it.
struct Found {
    data: Range<usize>,
    length: u32,
    time: Option<u64>,
    sent: Option<bool>,
    link: u16,
    interface: Option<usize>,
}

impl<R: BufRead> Reader<R> {
    /// Reads what kind of capture it is.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub fn new(mut input: R) -> Result<Self, CaptureError> {
        let wrong = |what| CaptureError { packet: 1, offset: 0, what };
        let mut magic = Vec::new();
        // The magic is looked at before the rest is asked for: what is something else may be short.
        take(&mut input, &mut magic, 4, "its first four bytes").map_err(wrong)?;
        let big_endian = match *magic.as_slice() {
            // A section header reads the same in both orders.
            [0x0a, 0x0d, 0x0d, 0x0a] => {
                let format = Format::PcapNg(Section::default());
                return Ok(Self { input, at: 0, packets: 0, format, record: magic, frame: Vec::new() });
            }
            [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => true,
            [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] | [0x34, 0xcd, 0xb2, 0xa1] => false,
            ref other => return Err(wrong(Wrong::NotACapture(packed(other)))),
        };
        take(&mut input, &mut magic, FILE_HEAD - 4, "the file header").map_err(wrong)?;
        let Ok((_, header)) = parse_pcap_header(&magic) else {
            return Err(wrong(Wrong::NotACapture(None)));
        };
        let format = Format::Pcap(Pcap {
            big_endian,
            modified: header.is_modified_format(),
            unit: if header.is_nanosecond_precision() { 1 } else { 1000 },
            // Above the link type stands how many bytes of a checksum follow each packet.
            link: header.network.0.cast_unsigned() as u16,
        });
        Ok(Self { input, at: FILE_HEAD.into(), packets: 0, format, record: Vec::new(), frame: Vec::new() })
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// What is wrong, and where. Nothing behind it can be read.
    #[expect(clippy::should_implement_trait, reason = "what is returned lives until the next call")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        let (offset, found) = loop {
            let offset = self.at;
            match self.read() {
                Ok(Step::Packet(found)) => break (offset, found),
                Ok(Step::Nothing) => {}
                Ok(Step::End) => return Ok(None),
                Err(what) => return Err(CaptureError { packet: self.packets + 1, offset, what }),
            }
        };
        self.packets += 1;
        let local = match (&self.format, found.interface) {
            (Format::PcapNg(section), Some(interface)) => section.interfaces[interface].addresses.as_slice(),
            _ => &[],
        };
        let data = &self.record[found.data];
        let record = Record {
            number: self.packets,
            offset,
            time: found.time,
            frame: Captured { bytes: &[], length: 0 },
            unreadable: None,
            sent: found.sent,
            local,
        };
        let Some(linked) = link(found.link, data) else {
            return Ok(Some(Record { unreadable: Some(found.link), ..record }));
        };
        let length = u64::from(found.length).max(data.len() as u64);
        let Some(ethernet) = linked.ethernet else {
            return Ok(Some(Record { frame: Captured { bytes: data, length }, ..record }));
        };
        self.frame.clear();
        // Of a header that is not all there nothing can be made.
        if let Some(behind) = data.get(linked.header..) {
            self.frame.extend(ethernet);
            self.frame.extend(behind);
        }
        let length = length.saturating_sub(linked.header as u64) + ethernet.len() as u64;
        let frame = Captured { bytes: &self.frame, length };
        Ok(Some(Record { frame, sent: found.sent.or(linked.sent), ..record }))
    }

    /// Reads one record.
    fn read(&mut self) -> Result<Step, Wrong> {
        // Of the first block the type was read already, to know the format.
        if self.at != 0 {
            self.record.clear();
            if at_end(&mut self.input)? {
                return Ok(Step::End);
            }
        }
        match self.format {
            Format::Pcap(pcap) => self.pcap(pcap).map(Step::Packet),
            Format::PcapNg(_) => self.block().map(|found| found.map_or(Step::Nothing, Step::Packet)),
        }
    }

    fn pcap(&mut self, pcap: Pcap) -> Result<Found, Wrong> {
        let head = if pcap.modified { MODIFIED_HEAD } else { PACKET_HEAD };
        take(&mut self.input, &mut self.record, head, "the header of a packet")?;
        let kept = word(&self.record, 8, pcap.big_endian);
        check("a packet", kept)?;
        take(&mut self.input, &mut self.record, kept, "a packet")?;
        self.at += u64::from(head) + u64::from(kept);
        let parse = match (pcap.modified, pcap.big_endian) {
            (true, _) => parse_pcap_frame_modified,
            (false, true) => parse_pcap_frame_be,
            (false, false) => parse_pcap_frame,
        };
        let Ok((_, frame)) = parse(&self.record) else {
            return Err(Wrong::Malformed("the record of a packet contradicts itself"));
        };
        let time = u64::from(frame.ts_sec) * SECOND + u64::from(frame.ts_usec) * pcap.unit;
        let data = head as usize..self.record.len();
        Ok(Found { data, length: frame.origlen, time: Some(time), sent: None, link: pcap.link, interface: None })
    }

    /// Reads a block of a pcapng file; a packet if it is one.
    fn block(&mut self) -> Result<Option<Found>, Wrong> {
        const SECTION: u32 = 0x0a0d_0d0a;
        const INTERFACE: u32 = 1;
        const OBSOLETE: u32 = 2;
        const SIMPLE: u32 = 3;
        const ENHANCED: u32 = 6;
        let Format::PcapNg(section) = &mut self.format else { return Ok(None) };
        let already = self.record.len() as u32;
        take(&mut self.input, &mut self.record, BLOCK_HEAD.saturating_sub(already), "the header of a block")?;
        if word(&self.record, 0, false) == SECTION {
            let big_endian = match word(&self.record, 8, false) {
                0x1a2b_3c4d => false,
                0x4d3c_2b1a => true,
                _ => return Err(Wrong::Malformed("a section header says no byte order")),
            };
            *section = Section { big_endian, interfaces: Vec::new() };
        } else if self.at == 0 {
            return Err(Wrong::NotACapture(None));
        }
        let (kind, length) = (word(&self.record, 0, section.big_endian), word(&self.record, 4, section.big_endian));
        if length < BLOCK_HEAD || !length.is_multiple_of(4) {
            return Err(Wrong::Malformed("a block has a length that no block can have"));
        }
        if !matches!(kind, SECTION | INTERFACE | OBSOLETE | SIMPLE | ENHANCED) {
            // Statistics, names, comments: of any length, and passed over.
            skip(&mut self.input, length - BLOCK_HEAD)?;
            self.at += u64::from(length);
            return Ok(None);
        }
        check("a block", length)?;
        take(&mut self.input, &mut self.record, length - BLOCK_HEAD, "a block")?;
        self.at += u64::from(length);
        if kind == OBSOLETE {
            return Err(Wrong::Malformed(
                "a packet block of the kind that was given up in 2009; editcap writes the file anew",
            ));
        }
        let parse = if section.big_endian { parse_block_be } else { parse_block_le };
        // All of it is here, so what seems to be missing is a length that is wrong.
        let Ok((_, block)) = parse(&self.record) else {
            return Err(Wrong::Malformed("a block contradicts itself"));
        };
        let start = self.record.as_ptr() as usize;
        match block {
            Block::InterfaceDescription(block) => {
                if section.interfaces.len() == INTERFACES {
                    return Err(Wrong::Malformed("more than 4096 interfaces in one section"));
                }
                let interface = Interface {
                    link: block.linktype.0.cast_unsigned() as u16,
                    resolution: resolution(option(&block.options, OptionCode::IfTsresol)),
                    offset: offset(option(&block.options, OptionCode::IfTsoffset), section.big_endian),
                    kept: block.snaplen,
                    addresses: addresses(&block.options),
                };
                section.interfaces.push(interface);
                Ok(None)
            }
            Block::EnhancedPacket(block) => {
                let number = block.if_id as usize;
                let interface = section.interfaces.get(number).ok_or(Wrong::NoInterface(block.if_id))?;
                let at = block.data.as_ptr() as usize - start;
                let units = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                Ok(Some(Found {
                    data: at..at + (block.caplen as usize).min(block.data.len()),
                    length: block.origlen,
                    time: interface.resolution.map(|resolution| nanoseconds(units, resolution, interface.offset)),
                    sent: sent(option(&block.options, FLAGS), section.big_endian),
                    link: interface.link,
                    interface: Some(number),
                }))
            }
            Block::SimplePacket(block) => {
                let interface = section.interfaces.first().ok_or(Wrong::NoInterface(0))?;
                let at = block.data.as_ptr() as usize - start;
                let most = if interface.kept == 0 { usize::MAX } else { interface.kept as usize };
                let kept = block.data.len().min(block.origlen as usize).min(most);
                let link = interface.link;
                let data = at..at + kept;
                Ok(Some(Found { data, length: block.origlen, time: None, sent: None, link, interface: Some(0) }))
            }
            _ => Ok(None),
        }
    }
}

/// Whether there is nothing more.
fn at_end(input: &mut impl BufRead) -> Result<bool, Wrong> {
    loop {
        match input.fill_buf() {
            Ok(more) => return Ok(more.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Wrong::Io(error)),
        }
    }
}

/// Reads exactly so many bytes more. A length is only believed as far as there are bytes: memory grows with what was read.
fn take(input: &mut impl Read, into: &mut Vec<u8>, bytes: u32, what: &'static str) -> Result<(), Wrong> {
    let read = input.by_ref().take(bytes.into()).read_to_end(into).map_err(Wrong::Io)?;
    if read < bytes as usize { Err(Wrong::Ends(what)) } else { Ok(()) }
}

fn skip(input: &mut impl Read, bytes: u32) -> Result<(), Wrong> {
    let passed = io::copy(&mut input.by_ref().take(bytes.into()), &mut io::sink()).map_err(Wrong::Io)?;
    if passed < u64::from(bytes) { Err(Wrong::Ends("a block")) } else { Ok(()) }
}

const fn check(what: &'static str, length: u32) -> Result<(), Wrong> {
    if length > MOST { Err(Wrong::TooLong { what, length, most: MOST }) } else { Ok(()) }
}

/// A number of a header that was read.
fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    if big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
}

/// What a file that is no capture was packed by.
fn packed(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("zstd"),
        [0xfd, b'7', b'z', b'X'] => Some("xz"),
        [b'B', b'Z', b'h', _] => Some("bzip2"),
        [0x04, 0x22, 0x4d, 0x18] => Some("lz4"),
        _ => None,
    }
}

/// Which way a packet went, of an enhanced packet block.
const FLAGS: OptionCode = OptionCode(2);
const IPV6_ADDRESS: OptionCode = OptionCode(5);

fn option<'a>(options: &'a [PcapNGOption<'_>], code: OptionCode) -> Option<&'a [u8]> {
    options.iter().find(|option| option.code == code).and_then(|option| option.as_bytes().ok())
}

/// Units of a second: a power of ten, or of two where the highest bit is set; microseconds where nothing is said.
fn resolution(option: Option<&[u8]>) -> Option<u64> {
    let Some(&[exponent]) = option else { return Some(1_000_000) };
    if exponent & 0x80 == 0 { 10_u64.checked_pow(exponent.into()) } else { 1_u64.checked_shl((exponent & 0x7f).into()) }
}

fn offset(option: Option<&[u8]>, big_endian: bool) -> i64 {
    let eight = option.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).unwrap_or_default();
    if big_endian { i64::from_be_bytes(eight) } else { i64::from_le_bytes(eight) }
}

/// Nanoseconds since 1970, as near as they can be said.
fn nanoseconds(units: u64, resolution: u64, offset: i64) -> u64 {
    let second = i128::from(SECOND);
    let time = i128::from(units) * second / i128::from(resolution) + i128::from(offset) * second;
    u64::try_from(time.max(0)).unwrap_or(u64::MAX)
}

fn sent(option: Option<&[u8]>, big_endian: bool) -> Option<bool> {
    match word(option?, 0, big_endian) & 3 {
        1 => Some(false),
        2 => Some(true),
        _ => None,
    }
}

fn addresses(options: &[PcapNGOption<'_>]) -> Vec<IpAddr> {
    let address = |option: &PcapNGOption<'_>| {
        let bytes = option.as_bytes().ok()?;
        match option.code {
            // Each with a mask behind it.
            OptionCode::IfIpv4Addr => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
            IPV6_ADDRESS => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
            _ => None,
        }
    };
    options.iter().filter_map(address).take(ADDRESSES).collect()
}
