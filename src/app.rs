//! Wiring: builds every task and connects them.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::RunOptions;
use crate::cli::commands::CommandRow;
use crate::cli::inventory::InventoryReport;
use crate::status::checks::ConfigFacts;
use crate::status::snapshot::UnitSection;

/// Runs the agent until it is told to end.
pub fn run(_options: RunOptions) -> ExitCode {
    ExitCode::from(67)
}

/// What the static checks need of the configuration; errors are part of the value.
pub fn config_facts(config: &Path, runtime_dir: &Path) -> ConfigFacts {
    ConfigFacts { path: config.to_owned(), runtime_dir: runtime_dir.to_owned(), ..ConfigFacts::default() }
}

/// What the service manager says of the unit, via `systemctl` and [`crate::status::unit::parse`].
pub async fn unit_state() -> Option<UnitSection> {
    None
}

/// The registry as rows.
pub fn command_rows() -> Vec<CommandRow> {
    Vec::new()
}

/// The inventory as it would be sent, and as it last was.
pub fn inventory(_config: &Path, _runtime_dir: &Path) -> Result<InventoryReport, String> {
    Err("the inventory is not available".into())
}
