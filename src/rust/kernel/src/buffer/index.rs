//! Where each trace is: waiting, or decided and remembered. One open-addressed table answers both with one look.

use std::hash::{BuildHasher, RandomState};

use crate::batch::TraceId;

/// The place of a trace: an index into the waiting traces, or into one of the two memories of decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Waiting(u32),
    Kept(u32),
    Dropped(u32),
}

/// Indices take 30 bits; the two above say which place it is.
pub const MAX_INDEX: u32 = (1 << 30) - 1;

impl Place {
    fn pack(self) -> u32 {
        let (kind, index) = match self {
            Place::Waiting(index) => (1, index),
            Place::Kept(index) => (2, index),
            Place::Dropped(index) => (3, index),
        };
        debug_assert!(index <= MAX_INDEX);
        kind << 30 | index
    }

    fn unpack(cell: u64) -> Place {
        let index = cell as u32 & MAX_INDEX;
        match cell as u32 >> 30 {
            1 => Place::Waiting(index),
            2 => Place::Kept(index),
            _ => Place::Dropped(index),
        }
    }
}

/// 32 bits of keyed hash of a trace id. A cell keeps them all, so the table grows and shrinks without the ids.
pub type Tag = u32;

const EMPTY: u64 = 0;

/// A cell is `tag << 32 | place`; 0 is empty. Linear probing from `tag & mask`; no tombstones.
///
/// The hash is keyed at random, so that hostile ids cannot be made to collide; nothing is ever listed in its order.
pub struct Index {
    cells: Vec<u64>,
    len: usize,
    key: [u64; 2],
}

impl Index {
    pub fn new() -> Self {
        let (first, second) = (RandomState::new(), RandomState::new());
        Self {
            cells: vec![EMPTY; 1024],
            len: 0,
            key: [first.hash_one(1), second.hash_one(2)],
        }
    }

    #[inline]
    pub fn tag(&self, id: &TraceId) -> Tag {
        let id = u128::from_le_bytes(*id);
        let folded =
            u128::from(id as u64 ^ self.key[0]) * u128::from((id >> 64) as u64 ^ self.key[1]);
        let mixed = (folded as u64 ^ (folded >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as u32
    }

    #[inline]
    fn mask(&self) -> usize {
        self.cells.len() - 1
    }

    /// Brings the cells of ids into the processor's cache, all at once: looked for one after the other, each would be waited for.
    pub fn warm<'i>(&self, ids: impl Iterator<Item = &'i TraceId>) {
        let homes = ids.map(|id| self.cells[self.tag(id) as usize & self.mask()]);
        std::hint::black_box(homes.fold(0, std::ops::BitXor::bitxor));
    }

    /// The place under `tag` for which `is_it` says yes.
    #[inline]
    pub fn find(&self, tag: Tag, mut is_it: impl FnMut(Place) -> bool) -> Option<Place> {
        let mut at = tag as usize & self.mask();
        loop {
            let cell = self.cells[at];
            if cell == EMPTY {
                return None;
            }
            if (cell >> 32) as u32 == tag && is_it(Place::unpack(cell)) {
                return Some(Place::unpack(cell));
            }
            at = (at + 1) & self.mask();
        }
    }

    pub fn insert(&mut self, tag: Tag, place: Place) {
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            let cells = vec![EMPTY; self.cells.len() * 2];
            for cell in std::mem::replace(&mut self.cells, cells) {
                if cell != EMPTY {
                    self.settle(cell);
                }
            }
        }
        self.settle(u64::from(tag) << 32 | u64::from(place.pack()));
        self.len += 1;
    }

    #[inline]
    fn settle(&mut self, cell: u64) {
        let mut at = (cell >> 32) as usize & self.mask();
        while self.cells[at] != EMPTY {
            at = (at + 1) & self.mask();
        }
        self.cells[at] = cell;
    }

    /// The cell that holds exactly this.
    #[inline]
    fn cell_of(&self, tag: Tag, place: Place) -> Option<usize> {
        let wanted = u64::from(tag) << 32 | u64::from(place.pack());
        let mut at = tag as usize & self.mask();
        loop {
            match self.cells[at] {
                EMPTY => return None,
                cell if cell == wanted => return Some(at),
                _ => at = (at + 1) & self.mask(),
            }
        }
    }

    /// Moves an entry to another place.
    pub fn replace(&mut self, tag: Tag, from: Place, to: Place) {
        if let Some(at) = self.cell_of(tag, from) {
            self.cells[at] = u64::from(tag) << 32 | u64::from(to.pack());
        }
    }

    /// Takes an entry out, and closes the gap.
    pub fn remove(&mut self, tag: Tag, place: Place) {
        let Some(mut gap) = self.cell_of(tag, place) else {
            return;
        };
        let mask = self.mask();
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell == EMPTY {
                break;
            }
            let home = (cell >> 32) as usize & mask;
            // the cell may move into the gap unless its home lies after the gap
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.cells[gap] = cell;
                gap = at;
            }
        }
        self.cells[gap] = EMPTY;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is inserted, moved and removed, the table answers as a map does.
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((0u32..3, 0u32..400, 0u32..1000), 0..4000)) {
            let mut index = Index::new();
            let mut model = BTreeMap::<u32, Place>::new();
            for (step, id, place) in steps {
                let tag = index.tag(&u128::from(id % 300).to_le_bytes()) & !0xff; // crowded: many share a home
                let place = Place::Waiting(id << 16 | place);
                let known = model.get(&id).copied();
                match (step, known) {
                    (0, None) => {
                        index.insert(tag, place);
                        model.insert(id, place);
                    }
                    (1, Some(old)) => {
                        index.replace(tag, old, place);
                        model.insert(id, place);
                    }
                    (2, Some(old)) => {
                        index.remove(tag, old);
                        model.remove(&id);
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(index.len, model.len());
            for id in 0..400u32 {
                let tag = index.tag(&u128::from(id % 300).to_le_bytes()) & !0xff;
                let found = index.find(tag, |place| matches!(place, Place::Waiting(at) if at >> 16 == id));
                prop_assert_eq!(found, model.get(&id).copied());
            }
        }
    }

    #[test]
    fn places_survive_packing() {
        for place in [
            Place::Waiting(0),
            Place::Kept(MAX_INDEX),
            Place::Dropped(12_345),
        ] {
            assert_eq!(Place::unpack(u64::from(place.pack())), place);
            assert_ne!(place.pack(), 0);
        }
    }
}
