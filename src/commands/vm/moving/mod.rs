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
mod discs;
mod journey;
pub mod migrate;
mod move_storage;
pub mod prepare_for_migration;
#[cfg(test)]
mod tests;

use crate::commands::Ctx;
use crate::errors::chain;
use std::path::Path;

/// Unmounts what a disc was on, unless others use it.
async fn give_back(ctx: &Ctx, disc: &Path) {
    if let Err(error) = ctx.services.storage.pools.give_back(disc).await {
        tracing::warn!(disc = %disc.display(), "Secondary storage stays mounted: {}", chain(&error));
    }
}
