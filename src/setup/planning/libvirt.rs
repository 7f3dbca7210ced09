//! libvirt's daemon, which has to listen for migrations; QEMU's user; VNC with TLS; the links by which
//! both find the host's certificate.

use super::conf::{self, unquoted};
use super::{Certificates, Edit, Facts, Plan, Topic, Undo, apparmor};
use std::path::Path;

const DAEMON_CONF: &str = "/etc/libvirt/libvirtd.conf";
const QEMU_CONF: &str = "/etc/libvirt/qemu.conf";
const DEFAULTS: &str = "/etc/default/libvirtd";

pub const DAEMON: &str = "libvirtd.service";

/// Sockets of the one daemon; with them it does not listen by itself.
const OWN_SOCKETS: [&str; 5] = [
    "libvirtd.socket",
    "libvirtd-ro.socket",
    "libvirtd-admin.socket",
    "libvirtd-tls.socket",
    "libvirtd-tcp.socket",
];

/// All sockets that are looked at; after the first five those of the split daemons, which would take the
/// guests from under it.
pub const SOCKETS: [&str; 14] = [
    "libvirtd.socket",
    "libvirtd-ro.socket",
    "libvirtd-admin.socket",
    "libvirtd-tls.socket",
    "libvirtd-tcp.socket",
    "virtqemud.socket",
    "virtqemud-ro.socket",
    "virtqemud-admin.socket",
    "virtnetworkd.socket",
    "virtnetworkd-ro.socket",
    "virtnetworkd-admin.socket",
    "virtstoraged.socket",
    "virtstoraged-ro.socket",
    "virtstoraged-admin.socket",
];

/// Where libvirt and QEMU look, and which file of the agent's directory they find.
pub const LINKS: [(&str, &str); 8] = [
    ("/etc/pki/CA/cacert.pem", "cloud.ca.crt"),
    ("/etc/pki/libvirt/clientcert.pem", "cloud.crt"),
    ("/etc/pki/libvirt/servercert.pem", "cloud.crt"),
    ("/etc/pki/libvirt/private/clientkey.pem", "cloud.key"),
    ("/etc/pki/libvirt/private/serverkey.pem", "cloud.key"),
    ("/etc/pki/libvirt-vnc/ca-cert.pem", "cloud.ca.crt"),
    ("/etc/pki/libvirt-vnc/server-cert.pem", "cloud.crt"),
    ("/etc/pki/libvirt-vnc/server-key.pem", "cloud.key"),
];

/// A setting, and whether a file that does not mention it means the same.
struct Setting(&'static str, &'static str, WhenAbsent);

#[derive(PartialEq, Eq)]
enum WhenAbsent {
    Add,
    IsDefault,
}

use WhenAbsent::{Add, IsDefault};

pub(super) fn links(plan: &mut Plan, secure: bool, facts: &Facts) {
    if !secure {
        return;
    }
    if !facts.has_certificates {
        plan.problems.push(format!(
            "There is no certificate in {}, and libvirt cannot listen with TLS without one: let the \
             management server provision this host, or leave -s out",
            crate::setup::AGENT_DIR
        ));
        return;
    }
    for (path, file) in LINKS {
        let target = Path::new(crate::setup::AGENT_DIR).join(file);
        if facts.links.get(Path::new(path)) != Some(&target) {
            let what = format!("link {path} to {}", target.display());
            plan.step(Topic::Certificates, what, Edit::Link { path: path.into(), target });
        }
    }
}

/// QEMU as root, as CloudStack's storage needs it.
pub(super) fn qemu(plan: &mut Plan, _secure: bool, facts: &Facts) {
    let mut settings = vec![Setting("user", "\"root\"", Add), Setting("group", "\"root\"", Add)];
    if !apparmor::is_kept(facts) {
        settings.insert(0, Setting("security_driver", "\"none\"", Add));
    }
    edit(plan, Topic::Qemu, QEMU_CONF, facts.qemu_conf.as_deref(), &settings);
}

/// Consoles with TLS if the host is secured.
pub(super) fn vnc(plan: &mut Plan, secure: bool, facts: &Facts) {
    let settings = if secure {
        vec![
            Setting("vnc_tls", "1", Add),
            Setting("vnc_tls_x509_verify", "1", Add),
            Setting("vnc_tls_x509_cert_dir", "\"/etc/pki/libvirt-vnc\"", Add),
        ]
    } else {
        vec![Setting("vnc_tls", "0", IsDefault)]
    };
    edit(plan, Topic::Qemu, QEMU_CONF, facts.qemu_conf.as_deref(), &settings);
}

/// libvirtd: with TLS if the host is secured, without else, never with both.
pub(super) fn daemon(plan: &mut Plan, secure: bool, certificates: Certificates, facts: &Facts) {
    if facts.libvirtd_conf.is_none() {
        plan.problems.push(format!("There is no {DAEMON_CONF}: apt install libvirt-daemon-system"));
        return;
    }
    let mut settings = if secure {
        vec![
            Setting("listen_tls", "1", Add),
            Setting("listen_tcp", "0", IsDefault),
            Setting("key_file", "\"/etc/pki/libvirt/private/serverkey.pem\"", IsDefault),
            Setting("cert_file", "\"/etc/pki/libvirt/servercert.pem\"", IsDefault),
            Setting("ca_file", "\"/etc/pki/CA/cacert.pem\"", IsDefault),
            Setting("auth_tls", "\"none\"", IsDefault),
        ]
    } else {
        vec![
            Setting("listen_tls", "0", Add),
            Setting("listen_tcp", "1", Add),
            Setting("auth_tcp", "\"none\"", Add),
        ]
    };
    settings.push(Setting("tcp_port", "\"16509\"", IsDefault));
    settings.push(Setting("tls_port", "\"16514\"", IsDefault));
    edit(plan, Topic::Libvirt, DAEMON_CONF, facts.libvirtd_conf.as_deref(), &settings);
    arguments(plan, facts);
    if facts.has_systemd {
        sockets(plan, facts);
        restart(plan, certificates, facts);
    } else {
        plan.notes.push("systemd does not run here: restart libvirtd by hand".to_owned());
    }
}

/// One step for all settings of a file that differ, also when they come in parts.
fn edit(plan: &mut Plan, topic: Topic, path: &str, text: Option<&str>, settings: &[Setting]) {
    let planned = plan.steps.iter_mut().find_map(|step| match &mut step.edit {
        Edit::Write { path: planned, content, .. } if planned.as_path() == Path::new(path) => {
            Some((&mut step.what, content))
        }
        _ => None,
    });
    let mut content = planned
        .as_ref()
        .map_or_else(|| text.unwrap_or_default().to_owned(), |(_, content)| (**content).clone());
    let mut changed = Vec::new();
    for Setting(key, value, when_absent) in settings {
        let new = match when_absent {
            Add => conf::set(&content, key, value),
            IsDefault => conf::set_unless_default(&content, key, value),
        };
        if let Some(new) = new {
            content = new;
            changed.push(format!("{key}={value}"));
        }
    }
    if changed.is_empty() {
        return;
    }
    let changed = changed.join(", ");
    match planned {
        Some((what, old)) => {
            *what = what.replacen("set ", &format!("set {changed}, "), 1);
            *old = content;
        }
        None => {
            let what = format!("set {changed} in {path}");
            plan.step(topic, what, Edit::Write { path: path.into(), content, mode: 0o644 });
        }
    }
}

/// `--listen` where the unit takes its arguments from. The name of the variable differs by release.
fn arguments(plan: &mut Plan, facts: &Facts) {
    let unit = facts.libvirtd_unit.as_deref().unwrap_or_default();
    let variable = if unit.contains("$libvirtd_opts") { "libvirtd_opts" } else { "LIBVIRTD_ARGS" };
    let text = facts.libvirtd_default.as_deref().unwrap_or_default();
    let old = conf::get(text, variable).map(unquoted).unwrap_or_default();
    let mut words: Vec<&str> = Vec::new();
    let mut given = old.split_whitespace();
    while let Some(word) = given.next() {
        match word {
            "--listen" | "-l" => return,
            // A daemon that ends when idle does not listen.
            "--timeout" | "-t" => drop(given.next()),
            _ => words.push(word),
        }
    }
    words.push("--listen");
    let value = format!("\"{}\"", words.join(" "));
    if let Some(content) = conf::set(text, variable, &value) {
        let what = format!("set {variable}={value} in {DEFAULTS}");
        plan.step(Topic::Libvirt, what, Edit::Write { path: DEFAULTS.into(), content, mode: 0o644 });
    }
}

fn sockets(plan: &mut Plan, facts: &Facts) {
    if OWN_SOCKETS.iter().any(|name| facts.unit(name).is_some_and(|unit| unit.active)) {
        // On the way back too, since a socket does not start while its daemon runs without it.
        let again = ["systemctl", "stop", DAEMON].map(str::to_owned).to_vec();
        plan.run(Topic::Libvirt, &["systemctl", "stop", DAEMON], Undo::RunAtEnd(again));
    }
    for name in SOCKETS {
        let Some(unit) = facts.unit(name) else { continue };
        let disturbs = OWN_SOCKETS.contains(&name) || unit.active || unit.file_state == "enabled";
        if disturbs && !unit.file_state.starts_with("masked") {
            let undo = Undo::Run(["systemctl", "unmask", name].map(str::to_owned).to_vec());
            plan.run(Topic::Libvirt, &["systemctl", "mask", name], undo);
        }
        if disturbs && unit.active {
            let undo = Undo::RunAtEnd(["systemctl", "start", name].map(str::to_owned).to_vec());
            plan.run(Topic::Libvirt, &["systemctl", "stop", name], undo);
        }
    }
}

fn restart(plan: &mut Plan, certificates: Certificates, facts: &Facts) {
    let is_dead = facts.unit(DAEMON).is_some_and(|unit| !unit.active);
    if plan.touches(&[Topic::Libvirt, Topic::Qemu, Topic::AppArmor, Topic::Certificates])
        || certificates == Certificates::Renewed
        || is_dead
    {
        let again = ["systemctl", "restart", DAEMON].map(str::to_owned).to_vec();
        plan.run(Topic::Libvirt, &["systemctl", "restart", DAEMON], Undo::RunAtEnd(again));
    }
}
