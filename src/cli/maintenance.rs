//! `agent rolling-maintenance INSTANCE`: for `cloudstack-rolling-maintenance@.service` only.

use super::out;
use crate::commands::host::maintenance_unit;
use crate::service::exit;

/// Runs the stage. The exit code tells whether there are results, not what they are.
pub async fn run(instance: String) -> u8 {
    match maintenance_unit::run(&instance).await {
        Ok(()) => exit::OK,
        Err(fault) => {
            out::complain(fault.text());
            exit::FAILURE
        }
    }
}
