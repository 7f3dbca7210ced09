//! Memory of the node, from /proc/meminfo.

use std::path::Path;

use serde::Serialize;

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryFacts {
    pub total: u64,
    pub free: u64,
    pub buffers: u64,
    pub cached: u64,
}

impl MemoryFacts {
    /// `None` if /proc/meminfo cannot be read or has no total.
    pub fn read(root: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(root.join("proc/meminfo")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = |key: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let kib: u64 = (name == key).then(|| value.split_whitespace().next()?.parse().ok())??;
                kib.checked_mul(1024)
            })
        };
        Some(Self {
            total: bytes("MemTotal")?,
            free: bytes("MemFree").unwrap_or(0),
            buffers: bytes("Buffers").unwrap_or(0),
            cached: bytes("Cached").unwrap_or(0),
        })
    }

    /// What guests may have: the total less what is kept back, plus what is given out twice.
    pub fn for_guests(&self, reserved: u64, overcommit: u64) -> u64 {
        self.total.saturating_sub(reserved).saturating_add(overcommit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes() {
        let text = "MemTotal:       24684204 kB\nMemFree:  1000 kB\nMemAvailable: 7 kB\nBuffers: 20 kB\nCached:   30 kB\nSwapCached: 9 kB\n";
        let facts = MemoryFacts::parse(text).unwrap();
        assert_eq!(
            facts,
            MemoryFacts { total: 25_276_624_896, free: 1_024_000, buffers: 20_480, cached: 30_720 }
        );
        assert_eq!(facts.for_guests(1024 * 1_048_576, 0), 24_202_883_072);
        assert_eq!(facts.for_guests(u64::MAX, 5), 5);
    }

    #[test]
    fn without_a_total_nothing_is_known() {
        assert_eq!(MemoryFacts::parse("MemFree: 1 kB\n"), None);
        assert_eq!(MemoryFacts::parse("MemTotal: many kB\n"), None);
    }

    #[test]
    fn this_node_has_memory() {
        let facts = MemoryFacts::read(Path::new("/")).unwrap();
        assert!(facts.total > facts.free && facts.free > 0);
    }
}
