//! A frame's bytes in the kernel: between data and data_end, and beyond the linear part of an skb by a helper.
//! Knows no protocol.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use nacl_common::{
    Frame, Packet, Reason,
    packet::{Extent, Quote, parse_into, quote},
};

/// A frame as a hook hands it over.
pub trait Parse {
    /// Parses it into places, and returns where the packet ends, as its header says.
    fn parse(&self, packet: &mut Packet, extent: &mut Extent) -> Result<u32, Reason>;

    /// Bytes on the wire; `end`: where the packet in it ends, as its header says.
    fn bytes(&self, end: u32) -> u32;

    /// Packets on the wire.
    fn packets(&self) -> u32;

    /// Bytes of the IP packets on the wire, of a frame that was parsed.
    fn ip_bytes(&self, extent: &Extent) -> u32;

    /// What an ICMP error quotes. Asked of few packets, long after they were parsed, so the frame is looked up anew: pointers that are
    /// kept until then make the verifier walk more.
    fn quote(&self, extent: &Extent, packet: &Packet) -> Option<Quote>;
}

/// The first part of an XDP frame. `PARTS`: there may be more.
pub struct XdpFrame<const PARTS: bool> {
    context: *mut xdp_md,
    data: usize,
    end: usize,
    length: usize,
}

impl<const PARTS: bool> XdpFrame<PARTS> {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        let (data, end) = (ctx.data(), ctx.data_end());
        // Now: computed later, it keeps packet pointers alive through the look-up and doubles the verifier's work.
        let mut length = end - data;
        // Otherwise LLVM makes both pointers short before it subtracts them, which the verifier forbids.
        // SAFETY: the instruction does nothing.
        unsafe { asm!("{0} = {0}", inout(reg) length) };
        Self { context: ctx.ctx, data, end, length }
    }
}

impl<const PARTS: bool> Parse for XdpFrame<PARTS> {
    #[inline(always)]
    fn parse(&self, packet: &mut Packet, extent: &mut Extent) -> Result<u32, Reason> {
        parse_into(self, 0, packet, extent)
    }

    /// A packet that ends in the first part has no other. Asking costs as much as an eighth of a verdict, so only the
    /// frames are asked for whose packet does not.
    #[inline(always)]
    fn bytes(&self, end: u32) -> u32 {
        if !PARTS || end as usize <= self.length {
            return self.length as u32;
        }
        // SAFETY: the context this program was called with.
        unsafe { bpf_xdp_get_buff_len(self.context) as u32 }
    }

    #[inline(always)]
    fn packets(&self) -> u32 {
        1
    }

    #[inline(always)]
    fn ip_bytes(&self, extent: &Extent) -> u32 {
        extent.length()
    }

    #[inline(always)]
    fn quote(&self, extent: &Extent, packet: &Packet) -> Option<Quote> {
        quote(&Self::new(&XdpContext::new(self.context)), extent, packet)
    }
}

impl<const PARTS: bool> Frame for XdpFrame<PARTS> {
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
    fn parse(&self, packet: &mut Packet, extent: &mut Extent) -> Result<u32, Reason> {
        let tags = self.tags();
        let parsed = parse_into(self, tags, packet, extent);
        // Not both ways at every read: the verifier would walk each pair of them. Whatever is wrong with bytes that were
        // seen stays wrong, so only a frame that seemed too short is looked at again.
        match parsed {
            Err(Reason::EthernetShort | Reason::IpShort | Reason::TransportShort | Reason::FirstFragmentShort) => {
                parse_into(&PagedFrame(self.skb), tags, packet, extent)
            }
            _ => parsed,
        }
    }

    /// Every segment with its headers and the tag in metadata with them.
    #[inline(always)]
    fn bytes(&self, _end: u32) -> u32 {
        // SAFETY: the context this program was called with.
        let wire = unsafe { (*self.skb).wire_len };
        let length = length(self.skb);
        (if wire > length { wire } else { length }) + 4 * self.tags()
    }

    /// A segmentation-offload skb is as many as its segments.
    #[inline(always)]
    fn packets(&self) -> u32 {
        // SAFETY: as above.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    /// What is cut into segments has its headers once, and each segment has them again. Its own length field may not be able to
    /// say how long it is.
    #[inline(always)]
    fn ip_bytes(&self, extent: &Extent) -> u32 {
        let more = self.packets() - 1;
        if more == 0 && !oversized(self.skb) {
            return extent.length();
        }
        length(self.skb) - extent.start + more * extent.headers()
    }

    #[inline(always)]
    fn quote(&self, extent: &Extent, packet: &Packet) -> Option<Quote> {
        quote(&PagedFrame(self.skb), extent, packet)
    }
}

/// A whole skb, linear or not: six times as slow, so only where the linear part was too short, and for what is seldom asked.
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
