//! The memory of decisions, for spans that come late: bounded, oldest out first.

use std::sync::Arc;

use crate::batch::TraceId;

/// The words of a decision. Shared by all decisions that say the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    pub sampling: Box<str>,
    pub policy: Box<str>,
    pub plan_revision: u32,
}

/// What was decided of a trace.
#[derive(Debug, Clone)]
pub struct Decision {
    pub keep: bool,
    /// The `th` to emit; 2^56 and above: none.
    pub threshold: u64,
    /// The adjusted count; NaN: unknown.
    pub weight: f64,
    pub verdict: Arc<Verdict>,
}

/// What a late span needs of a kept trace. Of a dropped one the verdict is enough.
#[derive(Debug, Clone)]
pub struct Kept {
    pub threshold: u64,
    pub weight: f64,
    pub verdict: Arc<Verdict>,
}

/// The last `capacity` entries, first in, first out. Grows as it fills.
pub struct Ring<T> {
    entries: Vec<(TraceId, T)>,
    capacity: usize,
    next: usize,
}

impl<T> Ring<T> {
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::new(),
            capacity,
            next: 0,
        }
    }

    #[inline]
    pub fn get(&self, at: u32) -> &(TraceId, T) {
        &self.entries[at as usize]
    }

    /// The entry that the next push pushes out, and where it is.
    #[inline]
    pub fn oldest(&self) -> Option<(u32, &TraceId)> {
        let full = self.entries.len() == self.capacity;
        full.then(|| self.entries.get(self.next))
            .flatten()
            .map(|(id, _)| (self.next as u32, id))
    }

    /// Puts an entry in and says where it is; `None` where the capacity is 0.
    pub fn push(&mut self, id: TraceId, value: T) -> Option<u32> {
        let at = self.next;
        match self.entries.get_mut(at) {
            Some(entry) => *entry = (id, value),
            None if at < self.capacity => self.entries.push((id, value)),
            None => return None,
        }
        self.next = if at + 1 == self.capacity { 0 } else { at + 1 };
        Some(at as u32)
    }
}

/// How many verdicts are looked through for an equal one before a new one is made.
const RECENT: usize = 64;

/// The verdicts of the last decisions. A plan has a few dozen at most, so equal ones are nearly always shared.
#[derive(Default)]
pub struct Verdicts {
    recent: Vec<Arc<Verdict>>,
    next: usize,
}

impl Verdicts {
    pub fn get(&mut self, sampling: &str, policy: &str, plan_revision: u32) -> Arc<Verdict> {
        let same = |verdict: &&Arc<Verdict>| {
            verdict.plan_revision == plan_revision
                && *verdict.policy == *policy
                && *verdict.sampling == *sampling
        };
        if let Some(verdict) = self.recent.iter().find(same) {
            return verdict.clone();
        }
        let verdict = Arc::new(Verdict {
            sampling: sampling.into(),
            policy: policy.into(),
            plan_revision,
        });
        match self.recent.get_mut(self.next) {
            Some(entry) => *entry = verdict.clone(),
            None => self.recent.push(verdict.clone()),
        }
        self.next = (self.next + 1) % RECENT;
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_pushes_the_oldest_out() {
        let mut ring = Ring::new(3);
        for number in 0..3u8 {
            assert_eq!(ring.oldest(), None);
            assert_eq!(ring.push([number; 16], number), Some(u32::from(number)));
        }
        assert_eq!(ring.oldest(), Some((0, &[0; 16])));
        assert_eq!(ring.push([3; 16], 3), Some(0));
        assert_eq!(ring.oldest(), Some((1, &[1; 16])));
        assert_eq!(ring.get(0), &([3; 16], 3));
    }

    #[test]
    fn a_ring_of_nothing_takes_nothing() {
        let mut ring = Ring::new(0);
        assert_eq!(ring.oldest(), None);
        assert_eq!(ring.push([1; 16], ()), None);
    }

    #[test]
    fn equal_verdicts_are_one() {
        let mut verdicts = Verdicts::default();
        let first = verdicts.get("kept", "error", 7);
        for revision in 8..8 + RECENT as u32 - 1 {
            verdicts.get("kept", "error", revision);
        }
        assert!(Arc::ptr_eq(&first, &verdicts.get("kept", "error", 7)));
        verdicts.get("dropped", "", 7);
        assert!(!Arc::ptr_eq(&first, &verdicts.get("kept", "error", 7)));
    }
}
