//! What the command line needs without a running agent: facts for the static checks, the unit's
//! state, the table of commands, the inventory.

use super::commands::{CommandRow, CommandState};
use super::inventory::InventoryReport;
use crate::app::LAST_SENT;
use crate::app::feeds::certificate;
use crate::commands::Support;
use crate::commands::agent::startup::Registration;
use crate::commands::registry::UNSUPPORTED_ANSWER;
use crate::commands::table;
use crate::config::{Config, Properties};
use crate::errors::chain;
use crate::host::exec::{Program, find_program};
use crate::host::inventory::{self, ConstantFacts};
use crate::hypervisor::Hypervisor;
use crate::session::facts;
use crate::status::checks::{ConfigFacts, ServerAddress};
use crate::status::snapshot::UnitSection;
use crate::status::timestamp::Timestamp;
use crate::status::unit;
use crate::tls::Material;
use serde_json::{Map, Value};
use std::path::Path;
use std::time::Duration;

/// Time for libvirt to answer `agent inventory`.
const INVENTORY_LIMIT: Duration = Duration::from_secs(20);

/// Reads and checks a configuration file once.
pub fn read_config(path: &Path) -> Result<Config, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let properties =
        Properties::parse(&bytes).map_err(|error| format!("{}: {}", path.display(), chain(&error)))?;
    Config::from_properties(path, &properties).map_err(|error| chain(&error))
}

/// What the static checks need of the configuration; errors are part of the value.
pub fn config_facts(path: &Path, runtime_dir: &Path) -> ConfigFacts {
    let mut known = ConfigFacts {
        path: path.to_owned(),
        runtime_dir: runtime_dir.to_owned(),
        certificate_dir: path.parent().map(Path::to_owned).unwrap_or_default(),
        ..ConfigFacts::default()
    };
    let config = match read_config(path) {
        Ok(config) => config,
        Err(error) => {
            known.errors.push(error);
            return known;
        }
    };
    let address = |host: &String| ServerAddress { host: host.clone(), port: config.port };
    known.servers = config.servers.hosts.iter().map(address).collect();
    known.nics = vec![config.private_network_device.clone(), config.public_network_device.clone()];
    if !known.nics.contains(&config.guest_network_device) {
        known.nics.push(config.guest_network_device.clone());
    }
    known.nics.dedup();
    known.storage_paths = config.local_storage.iter().map(|storage| storage.path.clone()).collect();
    known.certificate_dir = config.dir().to_owned();
    known.guid = config.guid.clone();
    known.hypervisor_uri = config.hypervisor_uri.clone();
    match Material::load(config.dir()) {
        Ok(material) => known.certificate = material.summary().map(|summary| certificate(&summary)),
        Err(error) => known.certificate_error = Some(chain(&error)),
    }
    known
}

/// What the service manager says of the unit.
pub async fn unit_state() -> Option<UnitSection> {
    let output = Program::new(find_program("systemctl")?)
        .args(unit::SHOW_ARGS)
        .deadline(Duration::from_secs(1))
        .run()
        .await
        .ok()
        .filter(crate::host::exec::Output::success)?;
    let uptime = unit::uptime(&std::fs::read_to_string("/proc/uptime").ok()?)?;
    unit::parse(&output.text(), uptime, Timestamp::now())
}

/// The registry as rows: what is handled first, then what servers could send besides.
pub fn command_rows() -> Vec<CommandRow> {
    let handled = table::TABLE.iter().map(|entry| {
        let (state, note) = match entry.support {
            Support::Done => (CommandState::Done, None),
            Support::Partial(missing) => (CommandState::Done, Some(missing.to_owned())),
            Support::Refused(why) => (CommandState::Unsupported, Some(why.to_owned())),
        };
        CommandRow {
            class: entry.class.to_owned(),
            answer: entry.answer.to_owned(),
            domain: entry.domain.name().to_owned(),
            since: Some(entry.since().to_owned()),
            state,
            note,
        }
    });
    let rest = table::unsupported().map(|(class, since)| CommandRow {
        class: class.to_owned(),
        answer: UNSUPPORTED_ANSWER.to_owned(),
        domain: "-".to_owned(),
        since: Some(since.to_owned()),
        state: CommandState::Unsupported,
        note: None,
    });
    handled.chain(rest).collect()
}

/// The inventory as it would be sent, and as it last was. Prepares the local pools as a
/// registration does, sends nothing.
pub fn inventory(path: &Path, runtime_dir: &Path) -> Result<InventoryReport, String> {
    let config = read_config(path)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let current = runtime.block_on(async {
        tokio::time::timeout(INVENTORY_LIMIT, gather(&config)).await.map_err(|_| {
            format!(
                "libvirt at {} did not answer within {} s",
                config.hypervisor_uri,
                INVENTORY_LIMIT.as_secs()
            )
        })?
    })?;
    // Background probes may still wait for a slow tool.
    runtime.shutdown_background();
    let last_sent =
        std::fs::read(runtime_dir.join(LAST_SENT)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(InventoryReport { current, last_sent })
}

async fn gather(config: &Config) -> Result<Value, String> {
    let settings = facts::settings(config);
    let constants = ConstantFacts::collect(&settings);
    let hypervisor = Hypervisor::spawn(&config.hypervisor_uri);
    hypervisor.connected().await;
    constants.capabilities.known().await;
    let inventory =
        inventory::gather(&settings, &hypervisor, &constants).await.map_err(|error| chain(&error))?;
    let registration =
        Registration { config, inventory: &inventory, host_id: config.host_id, transferred: false };
    as_json(&registration.elements().map_err(|error| error.to_string())?)
}

/// Startup commands as one JSON value, as they are on the wire.
pub fn as_json(elements: &[crate::wire::Element]) -> Result<Value, String> {
    let object = |element: &crate::wire::Element| -> Result<Value, String> {
        let fields = element.read::<Value>().map_err(|error| error.to_string())?;
        Ok(Value::Object(Map::from_iter([(element.class.clone(), fields)])))
    };
    elements.iter().map(object).collect::<Result<Vec<_>, _>>().map(Value::Array)
}
