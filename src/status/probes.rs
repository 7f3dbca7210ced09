//! The single static checks. Each looks at one thing, read-only, and says in one sentence what it
//! found and what to do. Callers add deadlines ([`super::checks::run`]).
//!
//! Nothing here connects to libvirt: a connection would start it through socket activation.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use tokio::net::TcpStream;

use super::PROGRAM;
use super::checks::{Check, ConfigFacts, ServerAddress};
use super::human;
use super::timestamp::Timestamp;

/// A little under the probe's own deadline, so that the answer can still name the cause.
const CONNECT: Duration = Duration::from_millis(1_400);

/// Days before expiry from which on a certificate is worth a warning.
pub const CERTIFICATE_WARN_DAYS: i64 = 15;

/// agent.properties: read, understood, and complete enough to register.
pub fn config(facts: &ConfigFacts) -> Check {
    let path = facts.path.display();
    if let Some(first) = facts.errors.first() {
        let more = match facts.errors.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        return Check::fail(
            "config",
            format!("{path}: {first}{more}"),
            "correct the file, then: systemctl restart cloudstack-agent",
        );
    }
    if facts.guid.is_none() {
        return Check::warn(
            "config",
            format!("{path}: no guid, this host was never added"),
            "add the host in the management server, or set guid",
        );
    }
    Check::ok("config", format!("{path}: {}", human::count(facts.servers.len() as u64, "server")))
}

/// Without a server in the configuration there is nobody to connect to.
pub fn no_server() -> Check {
    Check::fail("net", "no management server configured", "set host in agent.properties")
}

/// The runtime directory takes the socket, the lock and the snapshot.
pub fn runtime_dir(dir: &Path) -> Check {
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Check::skip("runtime", format!("{shown} does not exist; starting the agent creates it"))
        }
        Err(error) => Check::skip("runtime", format!("{shown}: {error}")),
        Ok(meta) if !meta.is_dir() => {
            Check::fail("runtime", format!("{shown} is not a directory"), "remove it, or use --runtime-dir")
        }
        Ok(_) if !rustix::process::geteuid().is_root() => {
            Check::skip("runtime", format!("{shown}: only root can tell whether the agent can write"))
        }
        Ok(_) => match rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Check::ok("runtime", format!("{shown} is writable")),
            Err(error) => Check::fail(
                "runtime",
                format!("{shown} is not writable: {error}"),
                "check that the file system is mounted read-write",
            ),
        },
    }
}

/// `/dev/kvm` and, on x86, the processor flag: the node may exist and not work.
pub fn kvm() -> Check {
    let emulated =
        "enable virtualisation in the firmware (or nested virtualisation), load kvm_intel or kvm_amd";
    match std::fs::metadata("/dev/kvm") {
        Ok(meta) if meta.file_type().is_char_device() => {}
        Ok(_) => return Check::fail("kvm", "/dev/kvm is not a device", emulated),
        Err(_) => return Check::warn("kvm", "no /dev/kvm: guests run in software emulation", emulated),
    }
    if cfg!(target_arch = "x86_64") && !cpu_can_virtualise() {
        return Check::warn("kvm", "/dev/kvm exists, but the processor shows neither vmx nor svm", emulated);
    }
    Check::ok("kvm", "/dev/kvm is there")
}

fn cpu_can_virtualise() -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// The QEMU binary where Debian and Red Hat families put it.
pub fn qemu() -> Check {
    let native = PathBuf::from(format!("/usr/bin/qemu-system-{}", std::env::consts::ARCH));
    let known = [native, PathBuf::from("/usr/bin/kvm"), PathBuf::from("/usr/libexec/qemu-kvm")];
    match known.iter().find(|path| path.exists()) {
        Some(path) => Check::ok("qemu", path.display().to_string()),
        None => Check::fail("qemu", "no QEMU binary found", "apt install qemu-system-x86"),
    }
}

/// libvirt's socket; existence only.
pub fn libvirt(uri: &str) -> Check {
    if uri.starts_with("test:") {
        return Check::ok("libvirt", format!("{uri} needs no daemon"));
    }
    if uri.contains("+tcp:") || uri.contains("+tls:") || uri.contains("+ssh:") {
        return Check::skip("libvirt", format!("{uri} is remote; not probed"));
    }
    let sockets = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];
    let is_socket = |path: &&str| std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    match sockets.iter().find(|path| is_socket(path)) {
        Some(path) => Check::ok("libvirt", format!("{path} is there")),
        None => Check::fail(
            "libvirt",
            "libvirt's socket /run/libvirt/libvirt-sock is missing",
            "systemctl enable --now libvirtd (apt install libvirt-daemon-system)",
        ),
    }
}

/// A bridge or network card named in the configuration.
pub fn nic(name: &str) -> Check {
    let id = format!("network:{name}");
    // The name comes from a file and becomes a path: no separators, no dots.
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Check::fail(id, "not a device name", "correct the *.network.device properties");
    }
    let device = Path::new("/sys/class/net").join(name);
    if !device.exists() {
        return Check::fail(
            id,
            format!("no network device {name}"),
            "create the bridge (netplan), or correct the *.network.device properties",
        );
    }
    let state = std::fs::read_to_string(device.join("operstate")).unwrap_or_default();
    let kind = if device.join("bridge").exists() { "bridge" } else { "device" };
    match state.trim() {
        "down" => Check::warn(id, format!("{kind} {name} is down"), format!("ip link set {name} up")),
        "" => Check::ok(id, format!("{kind} {name} exists")),
        state => Check::ok(id, format!("{kind} {name}, state {state}")),
    }
}

/// A TCP connection to one management server, closed at once. The cause is named: refused, no
/// route, no answer, unknown name.
pub async fn reach(server: ServerAddress) -> Check {
    let id = format!("net:{server}");
    let ServerAddress { host, port } = &server;
    let looked_up = async {
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(Reach::Name)?;
        let addresses: Vec<_> = addresses.take(8).collect();
        TcpStream::connect(addresses.as_slice()).await.map_err(Reach::Connect)
    };
    let firewall = format!("check that {port}/tcp is open between this host and {host}");
    match tokio::time::timeout(CONNECT, looked_up).await {
        Ok(Ok(_)) => Check::ok(id, format!("{server} accepts connections")),
        Ok(Err(Reach::Name(error))) => Check::fail(
            id,
            format!("the name {host} cannot be resolved: {error}"),
            "correct host in agent.properties, or /etc/resolv.conf",
        ),
        Ok(Err(Reach::Connect(error))) if error.kind() == ErrorKind::ConnectionRefused => Check::fail(
            id,
            format!("{server} refuses connections"),
            "start the management server there, or correct host and port in agent.properties",
        ),
        Ok(Err(Reach::Connect(error))) => Check::fail(id, format!("{server}: {error}"), firewall),
        Err(_) => Check::timeout(id, format!("{server} does not answer"), firewall),
    }
}

enum Reach {
    Name(std::io::Error),
    Connect(std::io::Error),
}

/// This host's certificate, from values the caller read.
pub fn certificate(facts: &ConfigFacts, now: Timestamp) -> Check {
    let again = "provision this host again from the management server (provisionCertificate)";
    if let Some(error) = &facts.certificate_error {
        return Check::fail("certificate", format!("cloud.crt cannot be used: {error}"), again);
    }
    let Some(certificate) = &facts.certificate else {
        return Check::warn(
            "certificate",
            format!("no cloud.crt in {}: this host was never provisioned", facts.certificate_dir.display()),
            "provision it from the management server (provisionCertificate)",
        );
    };
    let days = days_left(certificate.not_after, now);
    expiry(&certificate.subject, certificate.not_after, days)
}

/// Whole days from `now` to `not_after`; negative once it has passed.
pub fn days_left(not_after: Timestamp, now: Timestamp) -> i64 {
    (not_after.unix() - now.unix()).div_euclid(86_400)
}

/// The certificate check proper, shared with the live agent's health.
pub fn expiry(subject: &str, not_after: Timestamp, days_left: i64) -> Check {
    let again = "provision this host again from the management server (provisionCertificate)";
    let date = not_after.date();
    if days_left < 0 {
        Check::fail("certificate", format!("{subject} expired on {date}"), again)
    } else if days_left < CERTIFICATE_WARN_DAYS {
        Check::warn("certificate", format!("{subject} expires on {date}, in {days_left} d"), again)
    } else {
        Check::ok("certificate", format!("{subject} expires on {date} ({days_left} d)"))
    }
}

/// Whether something keeps the clock. Certificates and server-side time-outs depend on it.
pub fn time_sync() -> Check {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Check::ok("time", "synchronised by systemd-timesyncd");
    }
    let others =
        ["/run/chrony/chronyd.pid", "/run/chrony/chronyd.sock", "/run/ntpd.pid", "/run/openntpd.pid"];
    if let Some(path) = others.iter().find(|path| Path::new(path).exists()) {
        return Check::ok("time", format!("a time daemon is running ({path})"));
    }
    Check::warn(
        "time",
        "no sign of clock synchronisation",
        "apt install chrony, or: timedatectl set-ntp true",
    )
}

/// Free space of the file system under `path`.
pub fn disk(path: &Path) -> Check {
    let id = format!("disk:{}", path.display());
    match rustix::fs::statvfs(path) {
        Ok(stat) => {
            let unit = if stat.f_frsize == 0 { stat.f_bsize } else { stat.f_frsize };
            let total = stat.f_blocks.saturating_mul(unit);
            space(id, path, total, stat.f_bavail.saturating_mul(unit))
        }
        Err(rustix::io::Errno::NOENT) => Check::warn(
            id,
            format!("{} does not exist", path.display()),
            "create it, or correct local.storage.path in agent.properties",
        ),
        Err(error) => {
            Check::fail(id, format!("{}: {error}", path.display()), "check the mount (findmnt), then dmesg")
        }
    }
}

fn space(id: String, path: &Path, total: u64, free: u64) -> Check {
    let summary = format!("{}: {} of {} free", path.display(), human::bytes(free), human::bytes(total));
    let percent = free.saturating_mul(100).checked_div(total);
    match percent {
        None => Check::skip(id, format!("{} has no size", path.display())),
        Some(0..2) => Check::fail(id, summary, "free some space now: guests stop when it runs out"),
        Some(2..10) => Check::warn(id, summary, format!("free some space: {PROGRAM} check disk")),
        Some(_) => Check::ok(id, summary),
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::CheckResult;
    use super::*;

    #[test]
    fn free_space_has_two_thresholds() {
        let result = |free| space("disk:/x".into(), Path::new("/x"), 1_000, free).result;
        assert_eq!(result(10), CheckResult::Fail);
        assert_eq!(result(20), CheckResult::Warn);
        assert_eq!(result(99), CheckResult::Warn);
        assert_eq!(result(100), CheckResult::Ok);
        assert_eq!(space("disk:/proc".into(), Path::new("/proc"), 0, 0).result, CheckResult::Skip);
    }

    #[test]
    fn certificates_warn_before_they_fail() {
        let now = Timestamp::parse("2026-11-23T12:00:00Z").unwrap();
        let result = |days: i64| {
            let not_after = Timestamp::from_unix(now.unix() + days * 86_400 + 60);
            expiry("CN=a", not_after, days_left(not_after, now)).result
        };
        assert_eq!(result(-1), CheckResult::Fail);
        assert_eq!(result(0), CheckResult::Warn);
        assert_eq!(result(CERTIFICATE_WARN_DAYS), CheckResult::Ok);
        assert_eq!(days_left(Timestamp::from_unix(now.unix() - 1), now), -1);
    }

    #[test]
    fn a_device_name_never_leaves_its_directory() {
        for name in ["../../etc", "..", "", "a/b"] {
            assert_eq!(nic(name).result, CheckResult::Fail, "{name:?}");
        }
        assert_eq!(nic("lo").result, CheckResult::Ok);
    }

    #[test]
    fn the_test_driver_needs_no_daemon() {
        assert_eq!(libvirt("test:///default").result, CheckResult::Ok);
        assert_eq!(libvirt("qemu+tls://kvm-08/system").result, CheckResult::Skip);
    }

    #[test]
    fn config_errors_are_shown_first() {
        let mut facts = ConfigFacts { path: "/etc/a".into(), ..ConfigFacts::default() };
        assert_eq!(config(&facts).result, CheckResult::Warn);
        facts.guid = Some("g".into());
        assert_eq!(config(&facts).result, CheckResult::Ok);
        facts.errors = vec!["line 3: port is not a number".into(), "x".into()];
        let check = config(&facts);
        assert_eq!(check.result, CheckResult::Fail);
        assert_eq!(check.summary, "/etc/a: line 3: port is not a number (and 1 more)");
    }

    #[tokio::test]
    async fn a_closed_port_is_called_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = ServerAddress { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        assert_eq!(reach(server.clone()).await.result, CheckResult::Ok);
        drop(listener);
        let check = reach(server.clone()).await;
        assert_eq!(check.result, CheckResult::Fail);
        assert_eq!(check.summary, format!("{server} refuses connections"));
        assert_eq!(check.group(), "net");
    }
}
