//! Signals as a stream of values. Handlers are installed once, before anything may hang.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What the outside asks of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: drain and end.
    Terminate,
    /// SIGINT: end (Ctrl-C in a terminal).
    Interrupt,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: write the state of every task to the log.
    Dump,
}

/// The installed handlers.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    reload: Stream,
    dump: Stream,
}

impl Signals {
    /// Installs the handlers (sigaction); needs a tokio runtime with I/O.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            dump: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next signal; ending wins over reloading when both wait. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.reload.recv() => Signal::Reload,
            _ = self.dump.recv() => Signal::Dump,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal as Raw, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn hangup_and_usr1_are_told_apart() {
        let mut signals = Signals::install().unwrap();
        kill_process(getpid(), Raw::HUP).unwrap();
        assert_eq!(signals.next().await, Signal::Reload);
        kill_process(getpid(), Raw::USR1).unwrap();
        assert_eq!(signals.next().await, Signal::Dump);
    }
}
