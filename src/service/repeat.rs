//! Says when a repeated failure is worth another log line: the first time, then at powers of two.

/// Counts repetitions of one failure.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    count: u64,
}

impl Repeat {
    /// Counts one more. Returns the count when it deserves a line (1, 2, 4, 8, ...).
    pub fn seen(&mut self) -> Option<u64> {
        self.count = self.count.saturating_add(1);
        self.count.is_power_of_two().then_some(self.count)
    }

    /// Forgets everything: the failure is over.
    pub fn reset(&mut self) {
        self.count = 0;
    }

    /// How often it was seen since the last reset.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_at_powers_of_two_and_again_after_a_reset() {
        let mut repeat = Repeat::default();
        let spoken: Vec<u64> = (0..20).filter_map(|_| repeat.seen()).collect();
        assert_eq!(spoken, [1, 2, 4, 8, 16]);
        assert_eq!(repeat.count(), 20);
        repeat.reset();
        assert_eq!(repeat.seen(), Some(1));
    }
}
