//! Chance: everything that is left open is decided here, by one seed.
//!
//! Never here: what is decided. A run that asks in the same order gets the same answers.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// A generator that follows from its seed alone.
#[derive(Debug)]
pub(crate) struct Chance(SmallRng);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// True in so many of a thousand cases.
    pub(crate) fn permille(&mut self, share: u32) -> bool {
        self.0.random_range(0..1_000) < share
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most)
    }

    pub(crate) fn wait(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_micros(self.between(least.as_micros() as u64, most.as_micros() as u64))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.random()
    }

    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        self.0.random()
    }

    /// One of `weights`, each as likely as it is heavy; `None` when all are zero.
    pub(crate) fn weighted(&mut self, weights: impl Iterator<Item = u32> + Clone) -> Option<usize> {
        let total: u32 = weights.clone().sum();
        let mut left = if total == 0 { return None } else { self.0.random_range(0..total) };
        for (index, weight) in weights.enumerate() {
            if left < weight {
                return Some(index);
            }
            left -= weight;
        }
        unreachable!("what is left is below the sum")
    }
}
