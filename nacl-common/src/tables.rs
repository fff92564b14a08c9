//! Looking a packet up in a compiled generation. The compiler (`nacl-daemon/src/compile`) writes what this reads;
//! nothing here knows of rules, only of classes, pages and slots.
//!
//! Destination port or ICMP type and code, together with the protocol, is one dimension; the remote address is the
//! other. So the exact first match of an ordered list is two class look-ups and one read of a table
//! (Gupta and McKeown's recursive flow classification, reduced to two dimensions).

use crate::{
    border::{ALLOW, Generation, Header, LINK, Large, List, NODE_WORDS, OPEN, OPEN_TCP, OPEN_UDP, l4},
    packet::{Fragment, Packet},
};

/// An IPv6 address node, as [`NODE_WORDS`] says.
pub type Node = [u64; NODE_WORDS as usize];

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
    /// One IPv6 node.
    fn node(&self, index: u32) -> &Node;
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

    /// Checked once and not for each word: six comparisons a node are a third of what it costs.
    #[inline(always)]
    fn node(&self, index: u32) -> &Node {
        const { assert!(WORDS.is_multiple_of(NODE_WORDS as usize)) };
        &self.words.as_chunks::<{ NODE_WORDS as usize }>().0[index as usize & (WORDS / NODE_WORDS as usize - 1)]
    }
}

/// IPv6 address nodes on a path: each but the last branches on eight bits at least, but for one that stops in the middle of
/// the address, and one more compares the rest.
pub const MAX_NODES: u32 = 18;

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

/// The class of an IPv6 address: a trie whose paths and levels are compressed. A node compares what all prefixes below it
/// share, then branches on as many bits behind that as there are prefixes to tell apart, so its depth follows the prefixes that
/// are there and not the 128 bits.
#[inline(always)]
fn class6<I: Image>(image: &I, list: &List, address: [u64; 2]) -> u32 {
    let mut entry = list.address;
    let first = list.nodes / NODE_WORDS;
    let mut depth = 0;
    while entry & LINK != 0 && depth < MAX_NODES {
        let [value_high, value_low, mask_high, mask_low, links, low, values, _] = *image.node(first + (entry & !LINK));
        let differs = (address[0] ^ value_high) & mask_high | (address[1] ^ value_low) & mask_low;
        entry = if differs == 0 {
            let half = address[0] & !low | address[1] & low;
            let value = half >> (links >> 16 & 0x3f) & values;
            image.half((links >> 32) as u32 + value as u32)
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
    /// Place in the L4 key space.
    pub l4: u32,
}

/// What a protocol is to the lists, by [`kind`]: where it stands in the L4 key space, and bits.
pub mod kinds {
    /// The place in the L4 key space: page, and in the low byte the entry inside the page.
    pub const L4: u32 = 0x3_ffff;
    /// It has ports.
    pub const PORTS: u32 = 1 << 18;
    /// Some packets of it have no list that has a say in them.
    pub const MAY_BE_EXEMPT: u32 = 1 << 19;
    /// How far the bits of [`crate::border::Header::open`] are up, of which there are two.
    pub const OPENS: u32 = 20;
    /// Ports, or ICMP's type and code, are part of its place: the sign, so that a shift makes a mask of it.
    pub const KEYED: u32 = 1 << 31;
}

/// By protocol, IPv4 and then IPv6. A table, because a comparison is a branch: where the next packet is another's, the
/// processor guesses wrong, and the kernel's verifier walks all that follows once more.
static KINDS: [u32; 512] = {
    let mut kinds = [0; 512];
    let mut index = 0;
    while index < 512 {
        let (protocol, v6) = (index & 0xff, index >> 8 == 1);
        kinds[index as usize] = match (protocol, v6) {
            (6, _) => l4::TCP << 8 | kinds::KEYED | kinds::PORTS | OPEN_TCP << kinds::OPENS,
            // DHCP.
            (17, _) => l4::UDP << 8 | kinds::KEYED | kinds::PORTS | kinds::MAY_BE_EXEMPT | OPEN_UDP << kinds::OPENS,
            (1, false) => l4::ICMP << 8 | kinds::KEYED,
            // Neighbour discovery and MLD.
            (58, true) => l4::ICMP << 8 | kinds::KEYED | kinds::MAY_BE_EXEMPT,
            _ => l4::PROTOCOL << 8 | protocol,
        };
        index += 1;
    }
    kinds
};

/// What a packet's protocol is to the lists.
#[inline(always)]
pub fn kind(packet: &Packet) -> u32 {
    let kind = KINDS[(usize::from(packet.protocol) | (packet.family as usize & 2) << 7) & 511];
    if packet.fragment == Fragment::Later {
        // It has no ports.
        return kind & 3 << kinds::OPENS | l4::FRAGMENT << 8 | u32::from(packet.protocol);
    }
    kind
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
