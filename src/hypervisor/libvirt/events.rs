//! libvirt's event loop and the domain lifecycle events, which the `virt` crate does not wrap.
//!
//! The loop also drives the keep-alive of remote connections, so it must be registered before the
//! first connection is opened. Callbacks run on the loop's thread: they must not block, and must
//! not unwind into C.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::raw::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::broadcast;
use virt::connect::Connect;
use virt::error::Error;
use virt::sys;

use crate::hypervisor::types::{DomainEvent, DomainEventKind, StopReason};

/// Registers libvirt's default event loop and starts the thread that runs it, once per process.
pub fn ensure_loop() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        // libvirt would print every error to stderr, the expected ones too; callers log them.
        virt::error::clear_error_callback();
        if let Err(error) = virt::event::event_register_default_impl() {
            tracing::warn!(%error, "No libvirt event loop: no keep-alive and no guest events");
            return;
        }
        let thread = std::thread::Builder::new().name("libvirt-events".to_owned());
        if let Err(error) = thread.spawn(run_loop) {
            tracing::warn!(%error, "No thread for libvirt events: no keep-alive and no guest events");
        }
    });
}

fn run_loop() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::debug!(%error, "The libvirt event loop reported an error");
            // A failing poll must not become a busy loop.
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// A lifecycle callback on one connection. libvirt keeps the connection open while it exists:
/// `deregister` it before closing.
#[derive(Debug)]
pub struct Registration {
    callback: c_int,
}

type Sender = broadcast::Sender<DomainEvent>;

type LifecycleCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

impl Registration {
    /// Sends the lifecycle events of all guests of `connect` to `events`
    /// (`virConnectDomainEventRegisterAny`).
    pub fn register(connect: &Connect, events: Sender) -> Result<Self, Error> {
        let opaque = Box::into_raw(Box::new(events)).cast::<c_void>();
        // SAFETY: libvirt takes every kind of callback as the generic type and calls it with the
        // signature that belongs to the event id, which for LIFECYCLE is LifecycleCallback.
        let callback = unsafe { std::mem::transmute::<LifecycleCallback, GenericCallback>(on_lifecycle) };
        // SAFETY: the connection is open for as long as `connect` is borrowed, a null domain means
        // all domains, and `opaque` stays valid until libvirt hands it to `free_sender`.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connect.as_ptr(),
                std::ptr::null_mut(),
                sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE as c_int,
                Some(callback),
                opaque,
                Some(free_sender),
            )
        };
        if id < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt calls the free function only for a registered callback.
            unsafe { free_sender(opaque) };
            return Err(error);
        }
        Ok(Self { callback: id })
    }

    pub fn deregister(self, connect: &Connect) {
        // SAFETY: the connection is open and the id came from it. The result is of no interest: on
        // a dead connection the daemon cannot be told, but the local callback is removed.
        unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), self.callback) };
    }
}

unsafe extern "C" fn free_sender(opaque: *mut c_void) {
    // SAFETY: `opaque` came from Box::into_raw in `register` and is freed exactly once.
    drop(unsafe { Box::from_raw(opaque.cast::<Sender>()) });
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: libvirt passes a live domain; the name belongs to it and is copied at once.
        let name = unsafe { sys::virDomainGetName(domain) };
        if name.is_null() || opaque.is_null() {
            return;
        }
        // SAFETY: not null, terminated by libvirt.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        // SAFETY: the box of `register`, alive until `free_sender`, which libvirt does not call
        // while a callback runs.
        let events = unsafe { &*opaque.cast::<Sender>() };
        // Without a listener the event is of no use to anybody.
        let _ = events.send(DomainEvent { name, kind: kind_of(event, detail) });
    }));
    0
}

fn kind_of(event: c_int, detail: c_int) -> DomainEventKind {
    match u32::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_STARTED) => DomainEventKind::Started,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => DomainEventKind::Stopped { reason: reason_of(detail) },
        _ => DomainEventKind::Other,
    }
}

fn reason_of(detail: c_int) -> StopReason {
    match u32::try_from(detail) {
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN) => StopReason::Shutdown,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED) => StopReason::Destroyed,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED) => StopReason::Crashed,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED_FAILED) => StopReason::Failed,
        _ => StopReason::Other,
    }
}
