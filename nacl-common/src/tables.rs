//! Looking a packet up in a compiled generation. The compiler (`nacl-daemon/src/compile`) writes what this reads;
//! nothing here knows of rules, only of classes, pages and slots.
//!
//! Destination port or ICMP type and code, together with the protocol, is one dimension; the remote address is the
//! other. So the exact first match of an ordered list is two class look-ups and one read of a table
//! (Gupta and McKeown's recursive flow classification, reduced to two dimensions).

use crate::{
    border::{ALLOW, Generation, Header, LINK, Large, List, NODE_WORDS, OPEN, l4},
    packet::{Family, Fragment, Packet},
};

/// Where the kernel's verifier is helped to forget.
pub trait Settle {
    /// The same value. In the kernel it goes through memory of which the verifier knows nothing: all the ways that may have
    /// led to it become one, and what follows is walked once and not again for every exit of every loop before it.
    #[inline(always)]
    fn settle(&self, value: u32) -> u32 {
        value
    }
}

/// A compiled generation, wherever it lies. Reads never fault: an index out of range is masked.
pub trait Image: Settle {
    /// Whether lists of [`List::ROWS`] can occur. Only where they can is the loop over their words compiled, which is most of
    /// what the kernel's verifier has to walk.
    const ROWS: bool;

    /// What stands first in it.
    fn header(&self) -> &Header;
    /// One entry of the heap.
    fn half(&self, index: u32) -> u32;
    /// One 64-bit word.
    fn word(&self, index: u32) -> u64;
}

impl<const WORDS: usize, const HEAP: usize> Settle for Generation<WORDS, HEAP> {}

impl<const WORDS: usize, const HEAP: usize> Image for Generation<WORDS, HEAP> {
    const ROWS: bool = HEAP >= Large::HEAP;

    #[inline(always)]
    fn header(&self) -> &Header {
        &self.header
    }

    #[inline(always)]
    fn half(&self, index: u32) -> u32 {
        const { assert!(HEAP.is_power_of_two()) };
        u32::from(self.heap[index as usize & (HEAP - 1)])
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        const { assert!(WORDS.is_power_of_two()) };
        self.words[index as usize & (WORDS - 1)]
    }
}

/// IPv6 address nodes on a path: at most one for each byte of the address, and one more that compares the rest.
const MAX_NODES: u32 = 17;

/// Longest row of rule bits, in words: 8192 rules. The kernel's verifier walks each word on several ways, in the one tier that
/// has rows.
pub const MAX_ROW_WORDS: u32 = 128;

/// The class of an IPv4 address: a directory of four bytes, the first two always, the others where a longer prefix asks.
#[inline(always)]
fn class4<I: Image>(image: &I, list: &List, address: u32) -> u32 {
    let page = image.half(list.address + (address >> 24));
    let entry = image.half(page << 8 | (address >> 16 & 0xff));
    if entry & LINK == 0 {
        return entry;
    }
    let entry = image.half((entry & !LINK) << 8 | (address >> 8 & 0xff));
    if entry & LINK == 0 {
        return entry;
    }
    image.half((entry & !LINK) << 8 | (address & 0xff))
}

/// The class of an IPv6 address: a path-compressed trie of bytes. A node compares what all prefixes below it share,
/// then branches on one byte, so its depth follows the prefixes that are there and not the 128 bits.
#[inline(always)]
fn class6<I: Image>(image: &I, list: &List, address: [u64; 2]) -> u32 {
    let mut entry = list.address;
    let mut depth = 0;
    while entry & LINK != 0 && depth < MAX_NODES {
        let node = list.nodes + (entry & !LINK) * NODE_WORDS;
        let differs = (address[0] ^ image.word(node)) & image.word(node + 2)
            | (address[1] ^ image.word(node + 1)) & image.word(node + 3);
        let links = image.word(node + 4);
        entry = if differs == 0 {
            let low = image.word(node + 5);
            let half = address[0] & !low | address[1] & low;
            let byte = (half >> (links >> 16 & 0x3f)) & (links >> 24 & 0xff);
            image.half((links >> 32) as u32 + byte as u32)
        } else {
            (links & 0xffff) as u32
        };
        depth += 1;
    }
    entry & !LINK
}

/// What a packet is looked up by in one list.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// 1 for IPv6, else 0.
    pub v6: u32,
    /// The remote address.
    pub remote: [u64; 2],
    /// Place in the L4 key space, as of [`l4_key`].
    pub l4: u32,
}

/// Where a packet stands in the L4 key space: page, and in the low byte the entry inside the page. `port`: its destination
/// port, or that of the service where a list is keyed by that.
#[inline(always)]
pub fn l4_key(packet: &Packet, port: u16) -> u32 {
    let protocol = u32::from(packet.protocol);
    if packet.fragment == Fragment::Later {
        return l4::FRAGMENT << 8 | protocol;
    }
    let base = match (packet.protocol, packet.family) {
        (6, _) => l4::TCP,
        (17, _) => l4::UDP,
        (1, Family::V4) | (58, Family::V6) => l4::ICMP,
        _ => return l4::PROTOCOL << 8 | protocol,
    };
    (base << 8) + u32::from(port)
}

/// The decision of one list: [`ALLOW`] and [`OPEN`] or not, and the slot of the rule that matched first.
#[inline(always)]
pub fn first_match<I: Image>(image: &I, list: &List, key: &Key) -> u16 {
    let (address, service) = classes(image, list, key);
    if !I::ROWS || list.form == List::TABLE {
        return image.half(list.decisions + address * list.stride + service) as u16;
    }
    let first = list.address_rows + address * list.stride;
    let offset = (list.l4_rows + service * list.stride).wrapping_sub(first);
    let end = first + list.stride;
    let mut row = first;
    let mut bit = 0;
    let mut left = MAX_ROW_WORDS;
    while left > 0 && row != end {
        let common = image.word(row) & image.word(row.wrapping_add(offset));
        if common != 0 {
            bit = lowest_bit(common);
            break;
        }
        row += 1;
        left -= 1;
    }
    // From `row`, whose value the kernel's verifier does not know, and not counted up in the loop: with a rank it knew it
    // would walk all that follows once for each of 2048 ranks.
    let rank = (row - first) * 64 + bit;
    image.half(list.decisions + image.settle(rank)) as u16
}

/// As [`first_match`], for lists that the compiler never lays out as rows: those of security groups and of exemptions.
#[inline(always)]
pub fn decide_in_table<I: Image>(image: &I, list: &List, key: &Key) -> u16 {
    let (address, service) = classes(image, list, key);
    image.half(list.decisions + address * list.stride + service) as u16
}

#[inline(always)]
fn classes<I: Image>(image: &I, list: &List, key: &Key) -> (u32, u32) {
    let address = match key.v6 {
        0 => class4(image, list, key.remote[1] as u32),
        _ => class6(image, list, key.remote),
    };
    let page = image.half(list.l4 + (key.l4 >> 8));
    (image.settle(address), image.half(page << 8 | key.l4 & 0xff))
}

/// Index of the lowest set bit of a non-zero word, by a de Bruijn sequence: BPF has no instruction for it before version
/// 4, and halving by branches gives the verifier 64 ways to walk on.
#[inline(always)]
fn lowest_bit(word: u64) -> u32 {
    u32::from(DE_BRUIJN_INDEX[((word & word.wrapping_neg()).wrapping_mul(DE_BRUIJN) >> 58) as usize])
}

/// Every run of six bits in it is another number.
const DE_BRUIJN: u64 = 0x03f7_9d71_b4cb_0a89;

static DE_BRUIJN_INDEX: [u8; 64] = {
    let mut index = [0; 64];
    let mut bit = 0_u8;
    while bit < 64 {
        index[((1_u64 << bit).wrapping_mul(DE_BRUIJN) >> 58) as usize] = bit;
        bit += 1;
    }
    index
};

/// Splits a decision into allow or not, and the slot.
#[inline(always)]
pub const fn split(decision: u16) -> (bool, u16) {
    (decision & ALLOW != 0, decision & !(ALLOW | OPEN))
}
