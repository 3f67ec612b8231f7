//! Strings of a request, numbered. Attributes come in the same order in span after span, so each string remembers which
//! few came after it last (kinds of spans take turns): a right guess costs a comparison and no hash.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::wire::is_same;

/// "The string before the first."
pub const START: u32 = 0;

const NONE: u32 = u32::MAX;

/// How many followers a string remembers.
const GUESSES: usize = 4;

struct Entry<'a> {
    string: Cow<'a, [u8]>,
    /// The latest first.
    next: [u32; GUESSES],
}

/// Numbers from 1; 0 is [`START`]. The map is std's, whose hash is keyed: hostile keys cannot be made to collide.
pub struct Interner<'a> {
    entries: Vec<Entry<'a>>,
    numbers: HashMap<Cow<'a, [u8]>, u32>,
}

impl<'a> Interner<'a> {
    pub fn new() -> Self {
        Self {
            entries: vec![Entry {
                string: Cow::Borrowed(&[]),
                next: [NONE; GUESSES],
            }],
            numbers: HashMap::new(),
        }
    }

    /// The number of `string`, which came after `previous`.
    #[inline]
    pub fn find(
        &mut self,
        previous: u32,
        string: &[u8],
        own: impl FnOnce() -> Cow<'a, [u8]>,
    ) -> u32 {
        let [first, others @ ..] = self.entries[previous as usize].next;
        if self.is(first, string) {
            return first;
        }
        let mut next = [NONE; GUESSES];
        let mut kept = 1;
        let mut number = NONE;
        for guess in [first].into_iter().chain(others) {
            if number == NONE && self.is(guess, string) {
                number = guess;
            } else if kept < GUESSES {
                next[kept] = guess;
                kept += 1;
            }
        }
        if number == NONE {
            number = self.find_slowly(string, own);
        }
        next[0] = number;
        self.entries[previous as usize].next = next;
        number
    }

    /// The string that came after `previous` last; of no number where there was none.
    #[inline]
    pub fn likely(&self, previous: u32) -> u32 {
        self.entries[previous as usize].next[0]
    }

    #[inline]
    fn is(&self, number: u32, string: &[u8]) -> bool {
        self.entries
            .get(number as usize)
            .is_some_and(|entry| is_same(&entry.string, string))
    }

    fn find_slowly(&mut self, string: &[u8], own: impl FnOnce() -> Cow<'a, [u8]>) -> u32 {
        if let Some(&number) = self.numbers.get(string) {
            return number;
        }
        let (number, string) = (self.entries.len() as u32, own());
        self.entries.push(Entry {
            string: string.clone(),
            next: [NONE; GUESSES],
        });
        self.numbers.insert(string, number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_keeps_its_number_in_any_order() {
        let mut interner = Interner::new();
        let mut find = |previous, string: &'static str| {
            interner.find(previous, string.as_bytes(), || {
                Cow::Borrowed(string.as_bytes())
            })
        };
        let a = find(START, "a");
        let b = find(a, "b");
        assert_eq!((a, b), (1, 2));
        assert_eq!(find(START, "b"), b);
        assert_eq!(find(b, "a"), a);
        assert_eq!(find(START, ""), 3);
        assert_eq!(find(START, ""), 3);
        assert_eq!(find(START, "c"), 4);
    }
}
