//! The meaning of `agent.properties`: one immutable, typed value per version of the file.

use super::error::ConfigError;
use super::keys;
use super::properties::Properties;
use super::reader::{Pins, Reader};
use super::secret::Secret;
use super::servers::ServerList;
use super::storage::{self, LocalStorage};
use super::value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Last part of the Java class; also the suffix by which the server tells apart resources of one host.
const RESOURCE: &str = "LibvirtComputingResource";

const INT_MAX: i64 = i32::MAX as i64;

/// A checked configuration. Fields are named after their keys; [`keys::KEYS`] documents them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file that this was read from.
    pub path: PathBuf,
    pub guid: Option<String>,
    pub zone: String,
    pub pod: String,
    pub cluster: String,
    /// The value of `host` as it stands in the file, `@algorithm` included; the server wants it back so.
    pub host: String,
    pub servers: ServerList,
    pub port: u16,
    /// `None`: the server's word counts. Zero: never check.
    pub host_lb_check_interval: Option<Duration>,
    pub workers: usize,
    pub public_network_device: String,
    pub private_network_device: String,
    pub guest_network_device: String,
    pub private_bridge: String,
    pub control_cidr: String,
    pub local_storage: Vec<LocalStorage>,
    pub mount_path: PathBuf,
    pub hypervisor_type: String,
    pub hypervisor_uri: String,
    pub libvirt_events_enabled: bool,
    pub host_reserved_mem_mb: u64,
    pub host_overcommit_mem_mb: u64,
    pub host_reserved_cpu_count: u32,
    /// Zero: find out.
    pub host_cpu_manual_speed_mhz: u64,
    pub host_tags: Vec<String>,
    pub health_check_script: Option<PathBuf>,
    pub ping_retries: u32,
    pub ssl_handshake_timeout: Duration,
    pub backoff_seconds: Option<u64>,
    pub keystore_passphrase: Option<Secret>,
    pub rolling_maintenance_hooks_dir: Option<PathBuf>,
    pub rolling_maintenance_executor_disabled: bool,
    pub cmds_timeout: Duration,
    pub agent_script_timeout: Duration,
    pub stop_script_timeout: Duration,
    /// `None`: no limit.
    pub vm_migrate_wait: Option<Duration>,
    pub router_aggregation_timeout: Option<Duration>,
    pub resource: String,
    pub pool: Option<String>,
    /// Id of an earlier registration. The Java agent also stores 0, which means none.
    pub host_id: Option<i64>,
    pub host_uuid: Option<String>,
    pub host_name: Option<String>,
    /// Oddities that do no harm, one sentence each, with line and key.
    pub warnings: Vec<String>,
    values: BTreeMap<&'static str, String>,
}

impl Config {
    /// Checks a file. Missing and blank values mean the default.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with **all** values that cannot be used.
    pub fn from_properties(path: &Path, file: &Properties) -> Result<Config, ConfigError> {
        Config::read(path, file, None)
    }

    /// Like [`Config::from_properties`], with the values that only a restart may change held fast.
    pub(super) fn with_pins(path: &Path, file: &Properties, pins: &Pins) -> Result<Config, ConfigError> {
        Config::read(path, file, Some(pins))
    }

    /// Keys that registration still needs.
    pub fn missing(&self) -> Vec<&'static str> {
        if self.guid.is_none() { vec!["guid"] } else { Vec::new() }
    }

    /// The directory of the file, where `cloud.key` and the certificates live too.
    pub fn dir(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The guid as it goes over the wire.
    pub fn resource_guid(&self) -> Option<String> {
        self.guid.as_ref().map(|guid| format!("{guid}-{RESOURCE}"))
    }

    /// The value or default of any key of [`keys::KEYS`] that is not secret, for keys without a field.
    pub fn text(&self, key: &str) -> Option<&str> {
        let given = self.values.get(key).map(String::as_str);
        given.or_else(|| keys::find(key).and_then(|key| key.default))
    }

    /// Like [`Config::text`], as number.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.text(key)?.parse().ok()
    }

    /// Like [`Config::text`], as boolean.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.text(key).and_then(value::boolean)
    }

    /// Where metrics are served besides the unix socket. A value that cannot be used is only a warning:
    /// monitoring must not keep the agent from its work.
    pub fn metrics_listen(&self) -> Option<SocketAddr> {
        self.text("metrics.listen").and_then(value::socket)
    }

    fn read(path: &Path, file: &Properties, pins: Option<&Pins>) -> Result<Config, ConfigError> {
        let mut reader = Reader::new(file, pins);
        let mut config = Config::read_fields(path, &mut reader);
        let findings = reader.finish();
        if !findings.invalid.is_empty() {
            return Err(ConfigError::Invalid { path: path.to_owned(), values: findings.invalid });
        }
        config.warnings = findings.warnings;
        config.values = findings.values;
        Ok(config)
    }

    /// Fields of values that turn out invalid are filled with anything: the caller drops the result.
    fn read_fields(path: &Path, reader: &mut Reader<'_>) -> Config {
        let (host, servers) = servers(reader);
        let private_network_device = device(reader, "private.network.device").unwrap_or_default();
        let guest = device(reader, "guest.network.device");
        Config {
            path: path.to_owned(),
            guid: guid(reader),
            zone: placement(reader, "zone"),
            pod: placement(reader, "pod"),
            cluster: placement(reader, "cluster"),
            host,
            servers,
            port: reader.number("port", 1..=65535).unwrap_or_default(),
            host_lb_check_interval: reader
                .number("host.lb.check.interval", 0..=INT_MAX)
                .map(Duration::from_secs),
            workers: workers(reader),
            public_network_device: device(reader, "public.network.device").unwrap_or_default(),
            guest_network_device: guest.unwrap_or_else(|| private_network_device.clone()),
            private_network_device,
            private_bridge: device(reader, "private.bridge.name").unwrap_or_default(),
            control_cidr: control_cidr(reader),
            local_storage: storage::read(reader),
            mount_path: path_of(reader, "mount.path").unwrap_or_default(),
            hypervisor_type: hypervisor_type(reader),
            hypervisor_uri: reader.text("hypervisor.uri").unwrap_or_default(),
            libvirt_events_enabled: reader.boolean("libvirt.events.enabled"),
            host_reserved_mem_mb: reader.number("host.reserved.mem.mb", 0..=INT_MAX).unwrap_or_default(),
            host_overcommit_mem_mb: reader.number("host.overcommit.mem.mb", 0..=INT_MAX).unwrap_or_default(),
            host_reserved_cpu_count: reader
                .number("host.reserved.cpu.count", 0..=INT_MAX)
                .unwrap_or_default(),
            host_cpu_manual_speed_mhz: reader
                .number("host.cpu.manual.speed.mhz", 0..=INT_MAX)
                .unwrap_or_default(),
            host_tags: host_tags(reader),
            health_check_script: path_of(reader, "agent.health.check.script.path"),
            ping_retries: reader.number("ping.retries", 1..=1000).unwrap_or_default(),
            ssl_handshake_timeout: seconds(reader, "ssl.handshake.timeout"),
            backoff_seconds: reader.number("backoff.seconds", 0..=86400),
            keystore_passphrase: reader.secret("keystore.passphrase").map(Secret::new),
            rolling_maintenance_hooks_dir: path_of(reader, "rolling.maintenance.hooks.dir"),
            rolling_maintenance_executor_disabled: reader
                .boolean("rolling.maintenance.service.executor.disabled"),
            cmds_timeout: seconds(reader, "cmds.timeout"),
            agent_script_timeout: seconds(reader, "agent.script.timeout"),
            stop_script_timeout: seconds(reader, "stop.script.timeout"),
            vm_migrate_wait: limit(reader, "vm.migrate.wait"),
            router_aggregation_timeout: limit(reader, "router.aggregation.command.each.timeout"),
            resource: resource(reader),
            pool: reader.text("pool"),
            host_id: host_id(reader),
            host_uuid: reader.text("LibvirtComputingResource.uuid"),
            host_name: reader.text("LibvirtComputingResource.name"),
            warnings: Vec::new(),
            values: BTreeMap::new(),
        }
    }
}

fn guid(reader: &mut Reader<'_>) -> Option<String> {
    let expected = "the host's identity: 1 to 255 characters without blanks";
    reader.read_expecting("guid", expected, |text| {
        let sane = |c: char| !c.is_whitespace() && !c.is_control();
        let usable = text.len() <= 255 && text.chars().all(sane) && !value::is_template(text);
        usable.then(|| text.to_owned())
    })
}

/// A template that no script has filled in means the default, as in Java.
fn placement(reader: &mut Reader<'_>, key: &'static str) -> String {
    let text = reader.text(key).unwrap_or_default();
    if value::is_template(&text) { "default".to_owned() } else { text }
}

fn servers(reader: &mut Reader<'_>) -> (String, ServerList) {
    reader
        .read("host", |text| Some((text.to_owned(), ServerList::parse(text)?)))
        .unwrap_or_else(|| (String::new(), ServerList { hosts: Vec::new(), algorithm: None }))
}

/// Java defines what zero and less mean (the default), so that is no error.
fn workers(reader: &mut Reader<'_>) -> usize {
    let most: i64 = 1000;
    let expected = format!("a whole number from 1 to {most}");
    let number = reader.read_expecting("workers", &expected, |text| {
        text.parse::<i64>().ok().filter(|number| *number <= most)
    });
    match number {
        Some(number @ 1..) => usize::try_from(number).unwrap_or_default(),
        Some(_) => {
            reader.warn("workers", "is less than 1: the default (5) is used");
            5
        }
        None => 0,
    }
}

fn device(reader: &mut Reader<'_>, key: &'static str) -> Option<String> {
    reader.read(key, |text| value::is_device_name(text).then(|| text.to_owned()))
}

fn control_cidr(reader: &mut Reader<'_>) -> String {
    let parse = |text: &str| keys::Kind::Cidr.accepts(text).then(|| text.to_owned());
    reader.read("control.cidr", parse).unwrap_or_default()
}

fn path_of(reader: &mut Reader<'_>, key: &'static str) -> Option<PathBuf> {
    reader.read(key, |text| keys::Kind::Path.accepts(text).then(|| PathBuf::from(text)))
}

/// `qemu` is this agent's own: KVM for the server, computed in software by QEMU. LXC is known to the
/// server, but not to this agent: to run as KVM instead would lie about the host.
fn hypervisor_type(reader: &mut Reader<'_>) -> String {
    let expected = "kvm, or qemu for software emulation";
    let parse = |text: &str| {
        ["kvm", "qemu"].into_iter().find(|name| text.eq_ignore_ascii_case(name)).map(str::to_owned)
    };
    reader.read_expecting("hypervisor.type", expected, parse).unwrap_or_default()
}

fn host_tags(reader: &mut Reader<'_>) -> Vec<String> {
    let parse = |text: &str| Some(value::list(text).into_iter().map(str::to_owned).collect::<Vec<_>>());
    let mut tags = reader.read("host.tags", parse).unwrap_or_default();
    tags.retain(|tag| !tag.is_empty());
    tags
}

fn seconds(reader: &mut Reader<'_>, key: &'static str) -> Duration {
    Duration::from_secs(reader.number(key, 1..=INT_MAX).unwrap_or_default())
}

/// Seconds where less than one means no limit. The server sets these values.
fn limit(reader: &mut Reader<'_>, key: &'static str) -> Option<Duration> {
    let parse = |text: &str| text.parse::<i64>().ok().filter(|number| *number <= INT_MAX);
    let number = reader.read_expecting(key, "a whole number up to 2147483647", parse)?;
    u64::try_from(number).ok().filter(|number| *number > 0).map(Duration::from_secs)
}

/// The Java agent starts classes by this name; here it only tells that the file is for another agent.
fn resource(reader: &mut Reader<'_>) -> String {
    let text = reader.text("resource").unwrap_or_default();
    if !text.split('|').any(|class| class.trim().ends_with(RESOURCE)) {
        reader.warn("resource", "does not name LibvirtComputingResource, the only one that this agent is");
    }
    text
}

fn host_id(reader: &mut Reader<'_>) -> Option<i64> {
    let key = "LibvirtComputingResource.id";
    // Only a cache of what the server knows: never a reason not to start.
    let text = reader.text(key)?;
    match text.parse::<i64>() {
        Ok(id) => Some(id).filter(|id| *id > 0),
        Err(_) => {
            reader.warn(key, "is not a number and is ignored: the server gives the id anew");
            None
        }
    }
}

#[cfg(test)]
mod tests;
