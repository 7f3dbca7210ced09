//! Guests from start to end: their life, their description, their devices.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout_at};

use super::error::{HypervisorError, Object, Result};
use super::libvirt::guests;
use super::xml::DomainDescription;
use super::{
    DomainEvent, DomainEventKind, DomainState, Existence, Hypervisor, POWER_DEADLINE, PowerState,
    QUERY_DEADLINE, Waited, checked, plain,
};

/// How often is looked whether a guest has stopped, in case an event got lost.
const STOP_POLL: Duration = Duration::from_secs(2);
/// How often is looked whether a device has gone: at first soon, then more seldom.
const DEVICE_POLL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// A guest as libvirt has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    pub state: DomainState,
    /// Whether its definition outlasts its run.
    pub persistent: bool,
    pub description: DomainDescription,
}

/// Which of a guest's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// As it runs.
    Live,
    /// As it runs, with passwords.
    Secure,
    /// As another host takes it, with passwords.
    Migratable,
    /// As it would start next.
    Inactive,
}

/// Whether a description has the VNC password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passwords {
    Included,
    LeftOut,
}

/// A guest with its document.
#[derive(Clone, PartialEq, Eq)]
pub struct GuestDocument {
    pub name: String,
    pub state: DomainState,
    pub persistent: bool,
    pub xml: String,
}

impl std::fmt::Debug for GuestDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The XML may have passwords.
        f.debug_struct("GuestDocument").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Hypervisor {
    /// Starts a transient guest. A definition of that name that does not run gives way; a guest
    /// that runs is `AlreadyRunning`. The deadline is the caller's: after it the start may still
    /// succeed.
    pub async fn start_domain(&self, name: &str, xml: &str, deadline: Duration) -> Result<()> {
        let (name, xml) = (checked(Object::Guest, name)?, xml.to_owned());
        let start = move |link: &_| guests::start(link, &name, &xml);
        self.change_within("starting a guest", deadline, start).await
    }

    /// Defines a guest persistently, running or not.
    pub async fn define_domain(&self, xml: &str) -> Result<()> {
        let xml = xml.to_owned();
        self.change("defining a guest", move |link| guests::define(link, &xml)).await
    }

    /// Removes a definition with what belongs to it, but for UEFI variables. A running guest goes
    /// on as a transient one.
    pub async fn undefine(&self, name: &str) -> Result<Existence> {
        let name = checked(Object::Guest, name)?;
        self.change("undefining a guest", move |link| guests::undefine(link, &name)).await
    }

    /// Asks the guest to shut down and returns at once.
    pub async fn shutdown(&self, name: &str) -> Result<Existence> {
        let name = checked(Object::Guest, name)?;
        self.change("shutting a guest down", move |link| guests::shutdown(link, &name)).await
    }

    /// Ends the guest as pulling its plug would.
    pub async fn destroy(&self, name: &str) -> Result<Existence> {
        let name = checked(Object::Guest, name)?;
        self.change("destroying a guest", move |link| guests::destroy(link, &name)).await
    }

    /// Presses the guest's power button for a reboot and returns at once.
    pub async fn reboot(&self, name: &str) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        self.change("rebooting a guest", move |link| guests::reboot(link, &name)).await
    }

    /// Stops the guest's CPUs. Nothing to do for one that is paused.
    pub async fn suspend(&self, name: &str) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        self.change("suspending a guest", move |link| guests::suspend(link, &name)).await
    }

    /// Lets a paused guest go on. Nothing to do for one that runs.
    pub async fn resume(&self, name: &str) -> Result<()> {
        let name = checked(Object::Guest, name)?;
        self.change("resuming a guest", move |link| guests::resume(link, &name)).await
    }

    /// State and persistence; `None` if there is no such guest.
    pub async fn state(&self, name: &str) -> Result<Option<(DomainState, bool)>> {
        let name = checked(Object::Guest, name)?;
        self.call("reading the state of a guest", QUERY_DEADLINE, move |link| guests::state(link, &name))
            .await
    }

    /// Returns when the guest does not run any more. Interruptions of the connection to libvirt are
    /// waited out.
    pub async fn wait_until_stopped(&self, name: &str, deadline: Duration) -> Result<Waited> {
        let name = checked(Object::Guest, name)?;
        let end = Instant::now() + deadline;
        let mut events = self.events();
        loop {
            let last = match self.state(&name).await {
                Ok(None) => return Ok(Waited::Reached),
                Ok(Some((state, _))) if state.power() == PowerState::Off => return Ok(Waited::Reached),
                Ok(Some((DomainState::Crashed, _))) => return Ok(Waited::Reached),
                Ok(Some(_)) => None,
                Err(error) => Some(error),
            };
            let look_again = (Instant::now() + STOP_POLL).min(end);
            let stopped = |event: &DomainEvent| {
                event.name == name && matches!(event.kind, DomainEventKind::Stopped { .. })
            };
            let told = async {
                loop {
                    match events.recv().await {
                        Ok(event) if !stopped(&event) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => return,
                        // Without events the polls do it.
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            if timeout_at(look_again, told).await.is_err() && Instant::now() >= end {
                return last.map_or(Ok(Waited::TimedOut), Err);
            }
        }
    }

    /// `None` if there is no such guest.
    pub async fn describe(&self, name: &str, passwords: Passwords) -> Result<Option<Guest>> {
        let name = checked(Object::Guest, name)?;
        let describe = move |link: &_| guests::describe(link, &name, passwords);
        self.call("describing a guest", QUERY_DEADLINE, describe).await
    }

    /// The XML document of a guest; `None` if there is no such guest.
    pub async fn domain_xml(&self, name: &str, flavour: Flavour) -> Result<Option<String>> {
        let name = checked(Object::Guest, name)?;
        let read = move |link: &_| guests::xml(link, &name, flavour);
        self.call("reading the XML of a guest", QUERY_DEADLINE, read).await
    }

    /// All guests, running or only defined. Those that go away meanwhile are left out.
    pub async fn documents(&self, flavour: Flavour) -> Result<Vec<GuestDocument>> {
        let read = move |link: &_| guests::documents(link, flavour);
        self.call("reading the XML of all guests", POWER_DEADLINE, read).await
    }

    /// Returns when no disk of the guest has that source, or the guest is gone.
    pub async fn wait_disk_gone(&self, name: &str, source: &str, deadline: Duration) -> Result<Waited> {
        let source = plain("The source of a disk", source)?;
        let gone = |guest: &DomainDescription| {
            guest.disks.iter().all(|disk| disk.source.as_deref() != Some(source.as_str()))
        };
        self.wait_device(name, deadline, gone).await
    }

    /// Returns when no interface of the guest has that MAC address, or the guest is gone.
    pub async fn wait_interface_gone(&self, name: &str, mac: &str, deadline: Duration) -> Result<Waited> {
        let mac = mac.to_ascii_lowercase();
        let gone = |guest: &DomainDescription| guest.interfaces.iter().all(|nic| nic.mac != mac);
        self.wait_device(name, deadline, gone).await
    }

    async fn wait_device(
        &self,
        name: &str,
        deadline: Duration,
        gone: impl Fn(&DomainDescription) -> bool,
    ) -> Result<Waited> {
        let end = Instant::now() + deadline;
        let mut pause = DEVICE_POLL.0;
        loop {
            let found = self.describe(name, Passwords::LeftOut).await;
            match found {
                Ok(None) => return Ok(Waited::Reached),
                Ok(Some(guest)) if gone(&guest.description) => return Ok(Waited::Reached),
                Ok(Some(_)) if Instant::now() >= end => return Ok(Waited::TimedOut),
                // A connection that comes back within the deadline is no failure.
                Err(error @ (HypervisorError::InvalidName { .. } | HypervisorError::Xml { .. })) => {
                    return Err(error);
                }
                Err(error) if Instant::now() >= end => return Err(error),
                Ok(Some(_)) | Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(DEVICE_POLL.1);
        }
    }
}
