//! Calls of libvirt that the `virt` crate does not wrap, or wraps in a way that leaks. Each takes
//! and gives safe values; no other file but `events` has unsafe code.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int, c_uint};
use std::ptr;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// `virDomainGetBlockJobInfo`.
#[derive(Debug, Clone, Copy)]
pub struct BlockJobInfo {
    /// `virDomainBlockJobType`.
    pub kind: c_int,
    pub done: u64,
    pub total: u64,
}

/// A guest's network interface as `virDomainInterfaceAddresses` tells it.
#[derive(Debug)]
pub struct Addresses {
    pub name: String,
    pub mac: Option<String>,
    /// Address and length of its prefix.
    pub addresses: Vec<(String, u32)>,
}

fn checked(result: c_int) -> Result<c_int, Error> {
    if result < 0 { Err(Error::last_error()) } else { Ok(result) }
}

/// `virDomainGetState`, whose errors the crate does not report. The state alone.
pub fn state(domain: &Domain) -> Result<sys::virDomainState, Error> {
    let mut state: c_int = 0;
    // SAFETY: the domain is alive while borrowed; libvirt writes one int and takes null for the reason.
    checked(unsafe { sys::virDomainGetState(domain.as_ptr(), &mut state, ptr::null_mut(), 0) })?;
    Ok(sys::virDomainState::try_from(state).unwrap_or(sys::virDomainState::MAX))
}

/// `virDomainBlockCommit` with unlimited bandwidth.
pub fn block_commit(
    domain: &Domain,
    disk: &str,
    base: Option<&str>,
    top: Option<&str>,
    flags: u32,
) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    let base = base.map(CString::new).transpose()?;
    let top = top.map(CString::new).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    let (base, top) = (pointer(&base), pointer(&top));
    // SAFETY: the domain and the strings, or nulls, are alive until the call returns.
    let result =
        unsafe { sys::virDomainBlockCommit(domain.as_ptr(), disk.as_ptr(), base, top, 0, flags as c_uint) };
    checked(result).map(drop)
}

/// `virDomainBlockCopy` with unlimited bandwidth.
pub fn block_copy(domain: &Domain, disk: &str, target: &str, flags: u32) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    let target = CString::new(target)?;
    // SAFETY: the domain and the strings are alive until the call returns; no parameters are passed.
    let result = unsafe {
        sys::virDomainBlockCopy(
            domain.as_ptr(),
            disk.as_ptr(),
            target.as_ptr(),
            ptr::null_mut(),
            0,
            flags as c_uint,
        )
    };
    checked(result).map(drop)
}

/// `None` if no job runs on the disk.
pub fn block_job(domain: &Domain, disk: &str) -> Result<Option<BlockJobInfo>, Error> {
    let disk = CString::new(disk)?;
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: the domain and the name are alive, and libvirt writes to `info` during the call only.
    let found =
        checked(unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &mut info, 0) })?;
    Ok((found > 0).then_some(BlockJobInfo { kind: info.type_, done: info.cur, total: info.end }))
}

/// `virDomainBlockJobAbort`; returns when the job has ended.
pub fn abort_block_job(domain: &Domain, disk: &str, flags: u32) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    // SAFETY: the domain and the name are alive until the call returns.
    checked(unsafe { sys::virDomainBlockJobAbort(domain.as_ptr(), disk.as_ptr(), flags as c_uint) }).map(drop)
}

/// `virDomainAbortJob`.
pub fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is alive while borrowed.
    checked(unsafe { sys::virDomainAbortJob(domain.as_ptr()) }).map(drop)
}

/// `virDomainDetachDeviceAlias`: asks for the device and does not wait for it.
pub fn detach_by_alias(domain: &Domain, alias: &str, flags: u32) -> Result<(), Error> {
    let alias = CString::new(alias)?;
    // SAFETY: the domain and the name are alive until the call returns.
    let asked = unsafe { sys::virDomainDetachDeviceAlias(domain.as_ptr(), alias.as_ptr(), flags as c_uint) };
    checked(asked).map(drop)
}

/// `virDomainInterfaceAddresses`; the crate leaks what libvirt allocates for it.
pub fn addresses(domain: &Domain, source: u32) -> Result<Vec<Addresses>, Error> {
    let mut list: *mut sys::virDomainInterfacePtr = ptr::null_mut();
    // SAFETY: the domain is alive; libvirt puts an array of its own into `list`.
    let count = checked(unsafe {
        sys::virDomainInterfaceAddresses(domain.as_ptr(), &mut list, source as c_uint, 0)
    })?;
    let mut all = Vec::new();
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt returned `count` entries, each a valid interface until it is freed below.
        let interface = unsafe { *list.add(at) };
        // SAFETY: the same.
        all.push(unsafe { read_interface(&*interface) });
        // SAFETY: each entry is freed once and not used any more.
        unsafe { sys::virDomainInterfaceFree(interface) };
    }
    if !list.is_null() {
        // SAFETY: the array itself is from malloc and the caller's to free.
        unsafe { free(list.cast()) };
    }
    Ok(all)
}

unsafe extern "C" {
    fn free(pointer: *mut std::ffi::c_void);
}

/// The strings and addresses must be those of a live interface.
unsafe fn read_interface(interface: &sys::virDomainInterface) -> Addresses {
    let mut addresses = Vec::new();
    if !interface.addrs.is_null() {
        // SAFETY: libvirt has `naddrs` addresses there.
        let listed = unsafe { std::slice::from_raw_parts(interface.addrs, interface.naddrs as usize) };
        for one in listed {
            // SAFETY: a string of libvirt's, or null.
            if let Some(address) = unsafe { text(one.addr) } {
                addresses.push((address, one.prefix));
            }
        }
    }
    // SAFETY: strings of libvirt's, or null.
    let (name, mac) = unsafe { (text(interface.name), text(interface.hwaddr)) };
    Addresses { name: name.unwrap_or_default(), mac, addresses }
}

/// `pointer` must be null or a C string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, so a terminated string by contract.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// Typed parameters that libvirt allocated; freed when dropped.
struct Parameters {
    list: sys::virTypedParameterPtr,
    length: c_int,
    room: c_int,
}

impl Parameters {
    fn new() -> Self {
        Self { list: ptr::null_mut(), length: 0, room: 0 }
    }

    fn add_text(&mut self, name: &CStr, value: &str) -> Result<(), Error> {
        let value = CString::new(value)?;
        let Self { list, length, room } = self;
        // SAFETY: libvirt grows the list that it allocated itself, and copies both strings.
        checked(unsafe { sys::virTypedParamsAddString(list, length, room, name.as_ptr(), value.as_ptr()) })
            .map(drop)
    }

    fn add_number(&mut self, name: &CStr, value: u64) -> Result<(), Error> {
        let Self { list, length, room } = self;
        // SAFETY: libvirt grows the list that it allocated itself, and copies the name.
        checked(unsafe { sys::virTypedParamsAddULLong(list, length, room, name.as_ptr(), value) }).map(drop)
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        // SAFETY: the list is libvirt's own or null, and nobody uses it any more.
        unsafe { sys::virTypedParamsFree(self.list, self.length) };
    }
}

/// What `virDomainMigrate3` takes.
#[derive(Debug)]
pub struct MigrationCall<'a> {
    pub name: &'a str,
    pub xml: Option<&'a str>,
    pub uri: Option<&'a str>,
    pub disks_uri: Option<&'a str>,
    /// MiB/s; 0 for unlimited.
    pub bandwidth: u64,
    pub disks: &'a [String],
    pub flags: u32,
}

/// `virDomainMigrate3`, whose strings the crate leaks. Returns when the guest runs there.
pub fn migrate(domain: &Domain, destination: &Connect, call: &MigrationCall<'_>) -> Result<(), Error> {
    let mut parameters = Parameters::new();
    parameters.add_text(sys::VIR_MIGRATE_PARAM_DEST_NAME, call.name)?;
    for (name, value) in [
        (sys::VIR_MIGRATE_PARAM_DEST_XML, call.xml),
        (sys::VIR_MIGRATE_PARAM_URI, call.uri),
        (sys::VIR_MIGRATE_PARAM_DISKS_URI, call.disks_uri),
    ] {
        if let Some(value) = value {
            parameters.add_text(name, value)?;
        }
    }
    if call.bandwidth > 0 {
        parameters.add_number(sys::VIR_MIGRATE_PARAM_BANDWIDTH, call.bandwidth)?;
    }
    for disk in call.disks {
        parameters.add_text(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, disk)?;
    }
    // SAFETY: domain, connection and parameters are alive until the call returns.
    let moved = unsafe {
        sys::virDomainMigrate3(
            domain.as_ptr(),
            destination.as_ptr(),
            parameters.list,
            c_uint::try_from(parameters.length).unwrap_or(0),
            call.flags as c_uint,
        )
    };
    if moved.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt gave a reference to the new domain, which the wrapper takes over and releases.
    drop(unsafe { Domain::from_ptr(moved) });
    Ok(())
}
