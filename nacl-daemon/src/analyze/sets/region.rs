//! Cells that are marked alike → regions: few boxes of addresses and traffic, each with a packet to show.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

use nacl_common::{Direction, Packet, Verdict};

use super::{
    address::Addresses,
    space::{Space, is_in, key_of, usual},
    traffic::{Circumstance, Keys, Kind, Traffic},
};

/// What is made of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark<L> {
    /// It is in no region.
    Not,
    /// It may be in any region or in none, whichever is shorter to say: for what passes unjudged under every policy.
    Either,
    /// It is in the region of this label.
    In(L),
}

/// Packets that are marked alike.
#[derive(Clone, Debug)]
pub struct Region<L> {
    /// Their mark.
    pub label: L,
    /// The packets, as boxes that have nothing in common.
    pub boxes: Vec<Rectangle>,
}

/// Packets from or to some addresses that carry some traffic.
#[derive(Clone, Debug)]
pub struct Rectangle {
    /// Remote addresses.
    pub addresses: Addresses,
    /// What they carry.
    pub traffic: Traffic,
    /// One of them.
    pub example: Packet,
}

impl<L> Region<L> {
    /// Whether a packet that goes this way is in it; one that was marked [`Mark::Either`] may be.
    pub fn contains(&self, direction: Direction, packet: &Packet) -> bool {
        self.boxes.iter().any(|one| one.contains(direction, packet))
    }
}

impl Rectangle {
    /// Likewise.
    pub fn contains(&self, direction: Direction, packet: &Packet) -> bool {
        is_in(direction, packet, &self.addresses, &self.traffic)
    }
}

/// Numbers of marks: the first two, then labels.
const NOT: u32 = 0;
const EITHER: u32 = 1;
const LABELS: u32 = 2;

/// What is made of the packets of a cell, by their circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Profile {
    /// All alike.
    Uniform(u32),
    /// By circumstance of this kind.
    Mixed(Kind, Box<[u32]>),
}

/// The key space of one class of addresses, from 0: last key and profile.
type Row = Vec<(u32, u32)>;

/// Part of a row that has one label: first and last key, and the number of the circumstances.
type Part = (u32, u32, u32);

/// A number for each distinct value.
struct Numbers<T> {
    numbers: HashMap<T, u32>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn new() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }

    fn of(&mut self, value: T) -> u32 {
        *self.numbers.entry(value).or_insert_with_key(|value| {
            self.values.push(value.clone());
            self.values.len() as u32 - 1
        })
    }
}

/// Marks of all cells, as they become known.
struct Marking<'s, 'a, L, F> {
    space: &'s Space<'a>,
    mark: &'s F,
    labels: Numbers<L>,
    profiles: Numbers<Profile>,
}

impl<L: Clone + Eq + Hash, F: Fn(&Packet, &[Verdict]) -> Mark<L>> Marking<'_, '_, L, F> {
    fn row(&mut self, at: usize, verdicts: &mut Vec<Verdict>, marks: &mut Vec<u32>) -> Row {
        let space = self.space;
        let remote = usual(space.family, &space.addresses[at].ranges);
        // Keys are told apart only by entries that these addresses are in too: mostly a few, and most keys are alike.
        let own = &space.addresses[at].entries;
        let words: Vec<usize> = (0..own.len()).filter(|word| own[*word] != 0).collect();
        let mut alike: HashMap<(Kind, Vec<u64>), u32> = HashMap::new();
        let mut known: Vec<Option<u32>> = vec![None; space.keys.len()];
        let mut row: Row = Vec::new();
        for (last, class) in &space.atoms {
            let known = &mut known[*class as usize];
            let known = known.get_or_insert_with(|| {
                let key = &space.keys[*class as usize];
                let entries = words.iter().map(|word| own[*word] & key.entries[*word]).collect();
                let profile = || self.profile(at, *class as usize, remote, verdicts, marks);
                *alike.entry((key.kind, entries)).or_insert_with(profile)
            });
            match row.last_mut() {
                Some((end, same)) if *same == *known => *end = *last,
                _ => row.push((*last, *known)),
            }
        }
        row
    }

    fn profile(
        &mut self,
        at: usize,
        class: usize,
        remote: u128,
        verdicts: &mut Vec<Verdict>,
        marks: &mut Vec<u32>,
    ) -> u32 {
        let key = &self.space.keys[class];
        if key.kind == Kind::Void {
            return self.profiles.of(Profile::Uniform(NOT));
        }
        marks.clear();
        for circumstance in self.space.circumstances(at, class) {
            let packet = self.space.packet(remote, key.key, circumstance);
            self.space.judge_into(&packet, verdicts);
            marks.push(match (self.mark)(&packet, verdicts) {
                Mark::Not => NOT,
                Mark::Either => EITHER,
                Mark::In(label) => LABELS + self.labels.of(label),
            });
        }
        let mut said = marks.iter().copied().filter(|mark| *mark != EITHER);
        let first = said.next();
        let profile = match first {
            None => Profile::Uniform(EITHER),
            Some(first) if said.all(|mark| mark == first) => Profile::Uniform(first),
            Some(_) => Profile::Mixed(key.kind, marks.as_slice().into()),
        };
        self.profiles.of(profile)
    }
}

/// A row whose open cells are as those of the addresses around it.
fn filled(row: Row, around: &Row, open: u32) -> Row {
    if row.iter().all(|(_, profile)| *profile != open) {
        return row;
    }
    let mut filled: Row = Vec::with_capacity(row.len());
    let mut push = |last: u32, profile: u32| match filled.last_mut() {
        Some((end, same)) if *same == profile => *end = last,
        _ => filled.push((last, profile)),
    };
    let mut start = 0;
    for (last, profile) in row {
        if profile == open {
            let from = around.partition_point(|(end, _)| *end < start);
            for (end, profile) in &around[from..] {
                push(last.min(*end), *profile);
                if *end >= last {
                    break;
                }
            }
        } else {
            push(last, profile);
        }
        start = last + 1;
    }
    filled
}

/// Classes of addresses, and what of them is marked alike.
struct Shape {
    rows: Vec<u32>,
    parts: Vec<Part>,
}

impl Space<'_> {
    /// The regions of the packets that are marked alike, in the order in which their labels are met first. `mark`: of a
    /// packet and what the policies say of it; it must say the same of packets that no policy tells apart.
    pub fn regions<L: Clone + Eq + Hash>(&self, mark: impl Fn(&Packet, &[Verdict]) -> Mark<L>) -> Vec<Region<L>> {
        let mut marking = Marking { space: self, mark: &mark, labels: Numbers::new(), profiles: Numbers::new() };
        let open = marking.profiles.of(Profile::Uniform(EITHER));
        let (mut verdicts, mut marks) = (Vec::new(), Vec::new());
        let mut rows: Vec<Row> = Vec::with_capacity(self.addresses.len());
        for (at, class) in self.addresses.iter().enumerate() {
            let mut row = marking.row(at, &mut verdicts, &mut marks);
            if let Some(around) = class.around {
                row = filled(row, &rows[around], open);
            }
            rows.push(row);
        }
        // Of each profile: its labels, and in which circumstances it has them.
        let mut whens: Numbers<Option<(Kind, Vec<u32>)>> = Numbers::new();
        let always = whens.of(None);
        let profiles: Vec<Vec<(u32, u32)>> = marking
            .profiles
            .values
            .iter()
            .map(|profile| match profile {
                Profile::Uniform(mark) => mark.checked_sub(LABELS).map(|label| (label, always)).into_iter().collect(),
                Profile::Mixed(kind, marks) => {
                    let mut by_label: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
                    for (at, mark) in marks.iter().enumerate() {
                        if let Some(label) = mark.checked_sub(LABELS) {
                            by_label.entry(label).or_default().push(at as u32);
                        }
                    }
                    by_label.into_iter().map(|(label, when)| (label, whens.of(Some((*kind, when))))).collect()
                }
            })
            .collect();
        let mut by_label: Vec<Vec<(u32, Vec<Part>)>> = vec![Vec::new(); marking.labels.values.len()];
        for (at, row) in rows.iter().enumerate() {
            let mut first = 0;
            for (last, profile) in row {
                for (label, when) in &profiles[*profile as usize] {
                    let own = &mut by_label[*label as usize];
                    let part = (first, *last, *when);
                    match own.last_mut() {
                        Some((row, parts)) if *row == at as u32 => parts.push(part),
                        _ => own.push((at as u32, vec![part])),
                    }
                }
                first = last + 1;
            }
        }
        drop(rows);
        let labels = marking.labels.values;
        let when = |number: u32| -> Option<Vec<Circumstance>> {
            let (kind, places) = whens.values[number as usize].as_ref()?;
            Some(places.iter().map(|at| self.circumstances[kind][*at as usize].clone()).collect())
        };
        let regions = labels.into_iter().zip(by_label).map(|(label, rows)| {
            let boxes = shapes(rows).into_iter().filter_map(|shape| {
                let ranges = shape.rows.iter().flat_map(|row| self.addresses[*row as usize].ranges.iter().copied());
                let addresses = Addresses::new(self.family, ranges);
                let keys = shape.parts.iter().map(|(first, last, number)| Keys {
                    first: *first,
                    last: *last,
                    when: when(*number),
                });
                let traffic = Traffic::new(self.family, keys.collect());
                let is = |packet: &Packet| mark(packet, &self.judge(packet)) == Mark::In(label.clone());
                // Without one the box is made of what was open alone.
                let example = self.example(&addresses, &traffic, &shape.rows, is)?;
                Some(Rectangle { addresses, traffic, example })
            });
            Region { boxes: boxes.collect(), label: label.clone() }
        });
        regions.collect()
    }

    /// A packet of a box that is one of those meant and not only surrounded by them; one that people meet, if there is any.
    fn example(
        &self,
        addresses: &Addresses,
        traffic: &Traffic,
        rows: &[u32],
        is: impl Fn(&Packet) -> bool,
    ) -> Option<Packet> {
        let within = |key: &u32| traffic.keys().iter().any(|keys| (keys.first..=keys.last).contains(key));
        let known = Traffic::well_known(self.family).into_iter();
        let edges = traffic.keys().iter().flat_map(|keys| [keys.first, keys.last]);
        // Where those pass unjudged: one of each class of keys.
        let starts = self.atoms.iter().scan(0, |start, (last, _)| Some(std::mem::replace(start, last + 1)));
        let keys: Vec<u32> = known.chain(edges).chain(starts).filter(within).collect();
        let of_rows = rows.iter().map(|row| usual(self.family, &self.addresses[*row as usize].ranges));
        for remote in [usual(self.family, addresses.numbers())].into_iter().chain(of_rows) {
            for key in &keys {
                let packets = self.all_circumstances(*key).iter().map(|one| self.packet(remote, *key, one));
                // There are places in the key space that no packet has.
                let mut own = packets.filter(|packet| key_of(packet) == *key && traffic.has(*key, packet));
                if let Some(packet) = own.find(&is) {
                    return Some(packet);
                }
            }
        }
        None
    }

    fn all_circumstances(&self, key: u32) -> &[Circumstance] {
        let atom = self.atoms.partition_point(|(last, _)| *last < key);
        &self.circumstances[&self.keys[self.atoms[atom].1 as usize].kind]
    }
}

/// As few boxes as rows that are alike give, or columns.
fn shapes(rows: Vec<(u32, Vec<Part>)>) -> Vec<Shape> {
    if rows.len() == 1 {
        return rows.into_iter().map(|(row, parts)| Shape { rows: vec![row], parts }).collect();
    }
    let by_columns = columns(&rows);
    let mut groups: Numbers<Vec<Part>> = Numbers::new();
    let mut by_rows: Vec<Shape> = Vec::new();
    for (row, parts) in rows {
        let group = groups.of(parts) as usize;
        match by_rows.get_mut(group) {
            Some(shape) => shape.rows.push(row),
            None => by_rows.push(Shape { rows: vec![row], parts: groups.values[group].clone() }),
        }
    }
    match by_columns {
        Some(by_columns) if by_columns.len() <= by_rows.len() => by_columns,
        _ => by_rows,
    }
}

/// Columns are looked at up to so many cells: beyond that a list of regions is no list for people, and rows are as good.
const CELLS: usize = 4_000_000;

fn columns(rows: &[(u32, Vec<Part>)]) -> Option<Vec<Shape>> {
    let mut borders: Vec<u32> =
        rows.iter().flat_map(|(_, parts)| parts.iter().flat_map(|(first, last, _)| [*first, last + 1])).collect();
    borders.sort_unstable();
    borders.dedup();
    let mut by_column: BTreeMap<(usize, u32), Vec<u32>> = BTreeMap::new();
    let mut cells = 0;
    for (row, parts) in rows {
        for (first, last, when) in parts {
            let from = borders.partition_point(|border| border < first);
            let to = borders.partition_point(|border| border <= last);
            cells += to - from;
            if cells > CELLS {
                return None;
            }
            for column in from..to {
                by_column.entry((column, *when)).or_default().push(*row);
            }
        }
    }
    let mut groups: Numbers<Vec<u32>> = Numbers::new();
    let mut shapes: Vec<Shape> = Vec::new();
    for ((column, when), rows) in by_column {
        let part = (borders[column], borders[column + 1] - 1, when);
        let group = groups.of(rows) as usize;
        match shapes.get_mut(group) {
            Some(shape) => match shape.parts.last_mut() {
                Some((_, last, same)) if *last + 1 == part.0 && *same == when => *last = part.1,
                _ => shape.parts.push(part),
            },
            None => shapes.push(Shape { rows: groups.values[group].clone(), parts: vec![part] }),
        }
    }
    Some(shapes)
}
