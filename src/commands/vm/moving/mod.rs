//! Guests that move to another host while they run.
//!
//! ```text
//!   server                        destination                source
//!     │ PrepareForMigrationCommand     │                        │
//!     ├───────────────────────────────▶│ bridges, secrets, ISO images
//!     │ MigrateCommand                 │                        │
//!     ├────────────────────────────────┼───────────────────────▶│
//!     │                                │◀════ memory, disks ════│ libvirt to libvirt
//!     │                                │ runs here              │ bridges, secrets, copied disks go
//! ```
//!
//! Until libvirt says that the guest runs there, nothing of the source is given up.

mod arrival;
mod departure;
mod journey;
pub mod migrate;
mod move_storage;
pub mod prepare_for_migration;
#[cfg(test)]
mod tests;
