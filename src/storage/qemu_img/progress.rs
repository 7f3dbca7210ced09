//! How far a long copy is, in the log at growing intervals.

use std::path::Path;
use std::time::{Duration, Instant};

/// Shorter work is not worth a line.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(600);
/// `    (100.00/100%)\r` is 18 bytes.
const LONGEST_TAIL: usize = 64;

#[derive(Debug)]
pub(super) struct Progress {
    target: String,
    started: Instant,
    schedule: Schedule,
    tail: String,
}

impl Progress {
    pub(super) fn start(target: &Path) -> Progress {
        let target = target.display().to_string();
        Progress { target, started: Instant::now(), schedule: Schedule::default(), tail: String::new() }
    }

    /// Takes a piece of what `qemu-img -p` prints.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.tail.push_str(&String::from_utf8_lossy(piece));
        let excess = self.tail.chars().count().saturating_sub(LONGEST_TAIL);
        self.tail = self.tail.chars().skip(excess).collect();
        let elapsed = self.started.elapsed();
        if let Some(percent) = percent(&self.tail)
            && self.schedule.is_due(elapsed)
        {
            let seconds = elapsed.as_secs();
            tracing::info!(target_file = self.target, percent, seconds, "Copying an image");
        }
    }
}

/// When the next line is due: after 10 s, then each time after twice the interval.
#[derive(Debug)]
struct Schedule {
    next: Duration,
    interval: Duration,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule { next: FIRST, interval: FIRST }
    }
}

impl Schedule {
    fn is_due(&mut self, elapsed: Duration) -> bool {
        if elapsed < self.next {
            return false;
        }
        self.interval = (self.interval * 2).min(LONGEST_INTERVAL);
        self.next = elapsed + self.interval;
        true
    }
}

/// The last complete `(12.34/100%)`.
fn percent(text: &str) -> Option<f32> {
    let (before, _) = text.rsplit_once("/100%)")?;
    before.rsplit_once('(')?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complete_figure_counts() {
        assert_eq!(percent("    (0.00/100%)\r    (12.50/100%)\r    (13.1"), Some(12.5));
        assert_eq!(percent("   (1"), None);
        assert_eq!(percent("/100%)"), None);
    }

    #[test]
    fn figures_split_between_pieces_are_put_together_and_nothing_piles_up() {
        let mut progress = Progress::start(Path::new("/x"));
        for _ in 0..1000 {
            progress.feed(b"    (42.0");
            progress.feed(b"1/100%)\r\xff");
        }
        assert_eq!(percent(&progress.tail), Some(42.01));
        assert!(progress.tail.len() < 4 * LONGEST_TAIL);
    }

    #[test]
    fn lines_come_at_growing_intervals_and_not_for_short_work() {
        let mut schedule = Schedule::default();
        let due: Vec<u64> = (0..4000).filter(|s| schedule.is_due(Duration::from_secs(*s))).collect();
        assert_eq!(due, [10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030, 3630]);
    }
}
