//! Devices of running guests: to plug one in, to ask the guest for one back, to change one.
//!
//! To give a device up takes the guest's operating system, which may need seconds or never do it. While
//! that is waited for no call into libvirt is under way, so that one guest cannot hold up others.

use std::time::Duration;

use super::error::{HypervisorError, Object, Result};
use super::libvirt::guests;
use super::xml::{DiskDescription, DomainDescription, InterfaceDescription};
use super::{Existence, Hypervisor, Passwords, PowerState, Waited, checked, plain};

/// What became of a device that a guest was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Detached<T> {
    /// It had none.
    Absent,
    Gone(T),
    /// The guest still has it. It may give it up later.
    Kept(T),
}

impl Hypervisor {
    /// A guest that runs; `NotFound` or `NotRunning` if it does not.
    pub async fn running(&self, name: &str) -> Result<DomainDescription> {
        match self.describe(name, Passwords::LeftOut).await? {
            Some(guest) if guest.state.power() == PowerState::On => Ok(guest.description),
            Some(_) => Err(HypervisorError::NotRunning { name: name.to_owned() }),
            None => Err(HypervisorError::NotFound { what: Object::Guest, name: name.to_owned() }),
        }
    }

    /// Plugs a device into a running guest.
    pub async fn attach_device(&self, name: &str, xml: &str) -> Result<()> {
        let (name, xml) = (checked(Object::Guest, name)?, xml.to_owned());
        self.change("attaching a device", move |link| guests::attach(link, &name, &xml)).await
    }

    /// Asks a running guest to give a device up. It is gone when a wait says so.
    pub async fn detach_device(&self, name: &str, xml: &str) -> Result<Existence> {
        let (name, xml) = (checked(Object::Guest, name)?, xml.to_owned());
        self.change("detaching a device", move |link| guests::detach(link, &name, &xml)).await
    }

    /// Changes a device of a running guest.
    pub async fn update_device(&self, name: &str, xml: &str) -> Result<()> {
        let (name, xml) = (checked(Object::Guest, name)?, xml.to_owned());
        self.change("changing a device", move |link| guests::update(link, &name, &xml)).await
    }

    /// Asks a running guest for the disk with that source and waits as long as `patience` says.
    pub async fn detach_disk(
        &self,
        name: &str,
        source: &str,
        patience: Duration,
    ) -> Result<Detached<DiskDescription>> {
        let guest = self.running(name).await?;
        let found = guest.disks.into_iter().find(|disk| disk.source.as_deref() == Some(source));
        let Some(disk) = found else { return Ok(Detached::Absent) };
        if self.ask_for(name, disk.alias.as_deref()).await? == Existence::Absent {
            return Ok(Detached::Gone(disk));
        }
        Ok(match self.wait_disk_gone(name, source, patience).await? {
            Waited::Reached => Detached::Gone(disk),
            Waited::TimedOut => Detached::Kept(disk),
        })
    }

    /// The same for the interface with that MAC address.
    pub async fn detach_interface(
        &self,
        name: &str,
        mac: &str,
        patience: Duration,
    ) -> Result<Detached<InterfaceDescription>> {
        let guest = self.running(name).await?;
        let found = guest.interfaces.into_iter().find(|nic| nic.mac.eq_ignore_ascii_case(mac));
        let Some(nic) = found else { return Ok(Detached::Absent) };
        if self.ask_for(name, nic.alias.as_deref()).await? == Existence::Absent {
            return Ok(Detached::Gone(nic));
        }
        Ok(match self.wait_interface_gone(name, mac, patience).await? {
            Waited::Reached => Detached::Gone(nic),
            Waited::TimedOut => Detached::Kept(nic),
        })
    }

    /// Without waiting: the call that takes XML waits for five seconds on a thread of libvirt's and ours.
    async fn ask_for(&self, name: &str, alias: Option<&str>) -> Result<Existence> {
        let name = checked(Object::Guest, name)?;
        // Every device of a running guest has one.
        let alias = alias.unwrap_or_default().to_owned();
        self.change("detaching a device", move |link| guests::detach_by_alias(link, &name, &alias)).await
    }

    /// Puts a medium into a drive of a running guest, or takes it out. `force` opens a drive that the
    /// guest has locked. `Absent` if it has no such drive.
    pub async fn change_medium(
        &self,
        name: &str,
        target: &str,
        medium: Option<&str>,
        force: bool,
    ) -> Result<Existence> {
        let (name, target) = (checked(Object::Guest, name)?, target.to_owned());
        let medium = medium.map(|path| plain("The path of a medium", path)).transpose()?;
        let change = move |link: &_| guests::change_medium(link, &name, &target, medium.as_deref(), force);
        self.change("changing a medium", change).await
    }

    /// Moves an interface of a running guest to another bridge, which the guest does not notice. `Absent`
    /// if it has no such interface on a bridge.
    pub async fn move_interface(&self, name: &str, mac: &str, bridge: &str) -> Result<Existence> {
        let (name, mac, bridge) = (checked(Object::Guest, name)?, mac.to_owned(), bridge.to_owned());
        let change = move |link: &_| guests::move_interface(link, &name, &mac, &bridge);
        self.change("moving an interface", change).await
    }
}
