//! Makes a chosen step of the process fail or be its last, so that tests can try each in turn. Not in
//! shipped builds: without tests and simulator there is no way to ask for it.
//!
//! Steps are counted over the life of the process. `AGENT_FAULT=error:3` lets the third step fail,
//! `AGENT_FAULT=kill:3` ends the process there as `kill -9` does.

use super::JournalError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// The step fails; the work is undone at once.
    Error { at: u64 },
    /// The step fails and nothing is undone, as if the process had ended.
    Crash { at: u64 },
    /// The process ends.
    Kill { at: u64 },
}

#[derive(Debug, Clone, Default)]
pub struct Faults {
    fault: Fault,
    steps: Arc<AtomicU64>,
}

impl Faults {
    pub fn new(fault: Fault) -> Faults {
        Faults { fault, steps: Arc::default() }
    }

    #[cfg(not(feature = "sim"))]
    pub fn from_environment() -> Faults {
        Faults::default()
    }

    #[cfg(feature = "sim")]
    pub fn from_environment() -> Faults {
        let wish = std::env::var("AGENT_FAULT").unwrap_or_default();
        let fault = match wish.split_once(':').map(|(kind, at)| (kind, at.parse())) {
            Some(("error", Ok(at))) => Fault::Error { at },
            Some(("kill", Ok(at))) => Fault::Kill { at },
            _ => Fault::None,
        };
        Faults::new(fault)
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(super) fn crashes(&self) -> bool {
        matches!(self.fault, Fault::Crash { .. })
    }

    /// Counts a step.
    pub(super) fn hit(&self) -> Result<(), JournalError> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        match self.fault {
            Fault::Error { at } | Fault::Crash { at } if at == step => Err(JournalError::Injected { step }),
            Fault::Kill { at } if at == step => {
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                Err(JournalError::Injected { step })
            }
            Fault::None | Fault::Error { .. } | Fault::Crash { .. } | Fault::Kill { .. } => Ok(()),
        }
    }
}
