//! Strings of a request, numbered. Attributes come in the same order in span after span, so each string remembers which
//! came after it last time: a right guess costs one comparison and no hash.

use std::borrow::Cow;
use std::collections::HashMap;

/// "The string before the first."
pub const START: u32 = 0;

const NONE: u32 = u32::MAX;

struct Entry<'a> {
    string: Cow<'a, [u8]>,
    next: u32,
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
                next: NONE,
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
        let guess = self.entries[previous as usize].next;
        match self.entries.get(guess as usize) {
            Some(entry) if *entry.string == *string => guess,
            _ => self.find_slowly(previous, string, own),
        }
    }

    fn find_slowly(
        &mut self,
        previous: u32,
        string: &[u8],
        own: impl FnOnce() -> Cow<'a, [u8]>,
    ) -> u32 {
        let number = match self.numbers.get(string) {
            Some(&number) => number,
            None => {
                let (number, string) = (self.entries.len() as u32, own());
                self.entries.push(Entry {
                    string: string.clone(),
                    next: NONE,
                });
                self.numbers.insert(string, number);
                number
            }
        };
        self.entries[previous as usize].next = number;
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
