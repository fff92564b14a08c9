//! A frame's bytes in the kernel: between data and data_end, and beyond the linear part of an skb by a helper.
//! Knows no protocol.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::bpf_skb_load_bytes,
    programs::{TcContext, XdpContext},
};
use nacl_common::{Frame, Packet, Reason, packet::parse};

/// A frame as a hook hands it over.
pub trait Parse {
    /// Parses it; `tags` stand in metadata.
    fn parse(&self, tags: u32) -> Result<Packet, Reason>;
}

/// The first part of an XDP frame.
pub struct XdpFrame {
    data: usize,
    end: usize,
}

impl XdpFrame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { data: ctx.data(), end: ctx.data_end() }
    }
}

impl Parse for XdpFrame {
    #[inline(always)]
    fn parse(&self, tags: u32) -> Result<Packet, Reason> {
        parse(self, tags)
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        direct(self.data, self.end, offset)
    }
}

/// The linear part of an skb.
pub struct SkbFrame {
    skb: *mut __sk_buff,
    data: usize,
    end: usize,
}

impl SkbFrame {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb, data: ctx.data(), end: ctx.data_end() }
    }

    /// VLAN tags that stand in metadata: the network card or the kernel took one off, or has yet to put it on.
    #[inline(always)]
    pub fn tags(&self) -> u32 {
        // SAFETY: the context this program was called with.
        u32::from(unsafe { (*self.skb).vlan_present } != 0)
    }

    /// Packets on the wire: a segmentation-offload skb is as many as its segments.
    #[inline(always)]
    pub fn packets(&self) -> u32 {
        // SAFETY: as above.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    /// Bytes on the wire, every segment with its headers and the tag in metadata with them.
    #[inline(always)]
    pub fn bytes(&self) -> u32 {
        // SAFETY: as above.
        let wire = unsafe { (*self.skb).wire_len };
        let length = length(self.skb);
        (if wire > length { wire } else { length }) + 4 * self.tags()
    }
}

impl Frame for SkbFrame {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        direct(self.data, self.end, offset)
    }

    #[inline(always)]
    fn oversized(&self) -> bool {
        oversized(self.skb)
    }
}

impl Parse for SkbFrame {
    #[inline(always)]
    fn parse(&self, tags: u32) -> Result<Packet, Reason> {
        let parsed = parse(self, tags);
        // Not both ways at every read: the verifier would walk each pair of them. Whatever is wrong with bytes that were
        // seen stays wrong, so only a frame that seemed too short is looked at again.
        match parsed {
            Err(Reason::EthernetShort | Reason::IpShort | Reason::TransportShort | Reason::FirstFragmentShort) => {
                parse(&PagedFrame(self.skb), tags)
            }
            _ => parsed,
        }
    }
}

/// A whole skb, linear or not: six times as slow, so only where the linear part was too short.
struct PagedFrame(*mut __sk_buff);

impl Frame for PagedFrame {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes all N bytes or fails.
        unsafe {
            let failed = bpf_skb_load_bytes(self.0.cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32);
            (failed == 0).then(|| bytes.assume_init())
        }
    }

    #[inline(always)]
    fn oversized(&self) -> bool {
        oversized(self.0)
    }
}

#[inline(always)]
fn length(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context this program was called with.
    unsafe { (*skb).len }
}

/// More than an Ethernet header and what an IPv4 packet or an IPv6 payload can be by its length field.
#[inline(always)]
fn oversized(skb: *mut __sk_buff) -> bool {
    length(skb) > 14 + 0xffff
}

#[inline(always)]
fn direct<const N: usize>(data: usize, end: usize, offset: usize) -> Option<[u8; N]> {
    let at = data + offset;
    if at + N > end {
        return None;
    }
    // SAFETY: the verifier has seen the comparison; packets are not aligned.
    Some(unsafe { (at as *const [u8; N]).read_unaligned() })
}
