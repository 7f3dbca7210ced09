//! Tells systemd how the service is doing (`sd_notify`). Does nothing without `NOTIFY_SOCKET`.
//!
//! The watchdog must be fed from proof of progress of the session and the dispatcher, never from
//! libvirt or the network: a restart cures neither.

use std::time::Duration;

use sd_notify::NotifyState;

/// Sends to the service manager; remembers the last status text so that it is sent once.
#[derive(Debug, Default)]
pub struct Notifier {
    last_status: String,
}

impl Notifier {
    /// `READY=1`: configuration valid, socket bound, TLS material loaded. Not: registered.
    pub fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    /// `STATUS=`: one line for `systemctl status`; repeated texts are not sent again.
    pub fn status(&mut self, text: &str) {
        // A newline would start another assignment in the datagram.
        let line = crate::status::human::clean(text);
        if line != self.last_status {
            send(&[NotifyState::Status(&line)]);
            self.last_status = line;
        }
    }

    /// `WATCHDOG=1`: the process made progress.
    pub fn watchdog(&self) {
        send(&[NotifyState::Watchdog]);
    }

    /// `RELOADING=1` with the time that systemd wants beside it; follow with [`Notifier::ready`].
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(_) => send(&[NotifyState::Reloading]),
        }
    }

    /// `STOPPING=1`: draining has begun.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }
}

/// How often to feed the watchdog: half of what the unit allows. `None` when it has none.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(state: &[NotifyState<'_>]) {
    // The service manager may be restarting; the next state says it again.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "The service manager could not be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_text_cannot_smuggle_another_assignment() {
        let mut notifier = Notifier::default();
        notifier.status("Backing off\nREADY=1");
        assert_eq!(notifier.last_status, "Backing off READY=1");
    }
}
