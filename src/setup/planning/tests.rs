use super::*;
use std::collections::BTreeMap;

const SHIPPED: &str = include_str!("../../../tests/data/setup/agent.properties");

fn placement(secure: bool) -> Placement {
    Placement {
        servers: "10.0.0.5,10.0.0.6@roundrobin".to_owned(),
        zone: "1".to_owned(),
        pod: "2".to_owned(),
        cluster: "3".to_owned(),
        hypervisor: "kvm".to_owned(),
        guid: "8f337c97-3339-3d70-9388-3bd28ddb6588".to_owned(),
        private_nic: "cloudbr1".to_owned(),
        public_nic: "cloudbr0".to_owned(),
        guest_nic: "cloudbr0".to_owned(),
        secure,
    }
}

fn unit(active: bool, state: &str) -> Unit {
    Unit { active, file_state: state.to_owned() }
}

/// A host on which everything is installed and nothing is set up.
fn fresh() -> Facts {
    let units = [
        (DAEMON, unit(true, "enabled")),
        ("libvirtd.socket", unit(true, "enabled")),
        ("libvirtd-tls.socket", unit(false, "disabled")),
        ("virtqemud.socket", unit(false, "disabled")),
        (AGENT_UNIT, unit(false, "disabled")),
    ];
    Facts {
        is_root: true,
        has_systemd: true,
        properties: Some(SHIPPED.into()),
        fresh_ids: vec!["2f8a0f51-5d6c-4d7b-8a68-1d2f6c1e9b10".to_owned()],
        memory_mib: 16_000,
        has_kvm: true,
        interfaces: ["cloudbr0", "cloudbr1", "ens3"].map(str::to_owned).into(),
        default_nic: Some("ens3".to_owned()),
        module_configured: true,
        module_loaded: true,
        libvirtd_conf: Some(include_str!("../../../tests/data/setup/libvirtd.conf").to_owned()),
        qemu_conf: Some(include_str!("../../../tests/data/setup/qemu.conf").to_owned()),
        libvirtd_unit: Some(include_str!("../../../tests/data/setup/libvirtd.service").to_owned()),
        units: units.into_iter().map(|(name, unit)| (name.to_owned(), unit)).collect::<BTreeMap<_, _>>(),
        has_certificates: true,
        ..Facts::default()
    }
}

fn add(facts: &Facts, secure: bool) -> Plan {
    plan(&Task::AddHost(placement(secure)), facts)
}

fn written<'a>(plan: &'a Plan, path: &str) -> Option<&'a str> {
    plan.steps.iter().find_map(|step| match &step.edit {
        Edit::Write { path: written, content, .. } if written == std::path::Path::new(path) => {
            Some(content.as_str())
        }
        _ => None,
    })
}

fn commands(plan: &Plan) -> Vec<String> {
    let command = |step: &Step| match &step.edit {
        Edit::Run { program, arguments, .. } => Some(format!("{program} {}", arguments.join(" "))),
        _ => None,
    };
    plan.steps.iter().filter_map(command).collect()
}

fn values(plan: &Plan) -> BTreeMap<String, String> {
    let values = plan.steps.iter().find_map(|step| match &step.edit {
        Edit::Properties { values, .. } => Some(values.clone()),
        _ => None,
    });
    values.unwrap_or_default().into_iter().collect()
}

#[test]
fn a_secured_host_listens_with_tls_only() {
    let plan = add(&fresh(), true);
    assert_eq!(plan.problems, Vec::<String>::new());
    let daemon = written(&plan, "/etc/libvirt/libvirtd.conf").unwrap();
    assert_eq!(conf::get(daemon, "listen_tls"), Some("1"));
    assert_eq!(conf::get(daemon, "listen_tcp"), None, "off unless it is asked for");
    assert_eq!(conf::get(daemon, "auth_tcp"), None);
    let qemu = written(&plan, "/etc/libvirt/qemu.conf").unwrap();
    for (key, value) in [
        ("security_driver", "\"none\""),
        ("user", "\"root\""),
        ("group", "\"root\""),
        ("vnc_tls", "1"),
        ("vnc_tls_x509_verify", "1"),
        ("vnc_tls_x509_cert_dir", "\"/etc/pki/libvirt-vnc\""),
        ("dynamic_ownership", "1"),
    ] {
        assert_eq!(conf::get(qemu, key), Some(value), "{key}");
    }
    assert_eq!(written(&plan, "/etc/default/libvirtd"), Some("LIBVIRTD_ARGS=\"--listen\"\n"));
    let links = plan.steps.iter().filter(|step| matches!(step.edit, Edit::Link { .. })).count();
    assert_eq!(links, LINKS.len());
    assert_eq!(
        commands(&plan),
        [
            "systemctl stop libvirtd.service",
            "systemctl mask libvirtd.socket",
            "systemctl stop libvirtd.socket",
            "systemctl mask libvirtd-tls.socket",
            "systemctl restart libvirtd.service",
            "systemctl enable cloudstack-agent.service",
            "systemctl restart cloudstack-agent.service",
        ]
    );
}

#[test]
fn an_unsecured_host_listens_without() {
    let plan = add(&fresh(), false);
    let daemon = written(&plan, "/etc/libvirt/libvirtd.conf").unwrap();
    let settings = ["listen_tls", "listen_tcp", "auth_tcp"].map(|key| conf::get(daemon, key).unwrap());
    assert_eq!(settings, ["0", "1", "\"none\""]);
    let qemu = written(&plan, "/etc/libvirt/qemu.conf").unwrap();
    assert_eq!(conf::get(qemu, "vnc_tls"), None);
    assert!(!plan.steps.iter().any(|step| step.topic == Topic::Certificates));
}

#[test]
fn properties_get_the_place_and_keep_the_rest() {
    let values = values(&add(&fresh(), true));
    for (key, value) in [
        ("host", "10.0.0.5,10.0.0.6@roundrobin"),
        ("zone", "1"),
        ("pod", "2"),
        ("cluster", "3"),
        ("guid", "8f337c97-3339-3d70-9388-3bd28ddb6588"),
        ("private.network.device", "cloudbr1"),
        ("public.network.device", "cloudbr0"),
        ("guest.network.device", "cloudbr0"),
        ("hypervisor.type", "kvm"),
        ("local.storage.uuid", "2f8a0f51-5d6c-4d7b-8a68-1d2f6c1e9b10"),
    ] {
        assert_eq!(values[key], value, "{key}");
    }
    assert!(!values.contains_key("port") && !values.contains_key("host.reserved.mem.mb"));
}

#[test]
fn what_is_as_it_has_to_be_is_left_alone() {
    let mut facts = fresh();
    let first = add(&facts, true);
    facts.libvirtd_conf = written(&first, "/etc/libvirt/libvirtd.conf").map(str::to_owned);
    facts.qemu_conf = written(&first, "/etc/libvirt/qemu.conf").map(str::to_owned);
    facts.libvirtd_default = written(&first, "/etc/default/libvirtd").map(str::to_owned);
    let link = |(path, file): &(&str, &str)| (path.into(), format!("/etc/cloudstack/agent/{file}").into());
    facts.links = LINKS.iter().map(link).collect();
    let mut file = crate::config::Properties::parse(SHIPPED.as_bytes()).unwrap();
    for (key, value) in values(&first) {
        file.set(&key, &value);
    }
    facts.properties = Some(file.to_bytes());
    for (name, state) in [
        (DAEMON, unit(true, "enabled")),
        ("libvirtd.socket", unit(false, "masked")),
        ("libvirtd-tls.socket", unit(false, "masked")),
        (AGENT_UNIT, unit(true, "enabled")),
    ] {
        facts.units.insert(name.to_owned(), state);
    }
    facts.agent = AgentState::Registered;
    assert_eq!(add(&facts, true), Plan::default());

    // Alone, each of these is a reason to act again.
    facts.agent = AgentState::NotRegistered;
    assert_eq!(commands(&add(&facts, true)), ["systemctl restart cloudstack-agent.service"]);
    facts.agent = AgentState::Registered;
    let renewed = plan(&Task::SecureLibvirt(Certificates::Renewed), &facts);
    assert_eq!(commands(&renewed), ["systemctl restart libvirtd.service"]);
    assert_eq!(plan(&Task::SecureLibvirt(Certificates::Known), &facts), Plan::default());
}

#[test]
fn securing_alone_touches_neither_agent_nor_qemus_user() {
    let plan = plan(&Task::SecureLibvirt(Certificates::Known), &fresh());
    assert!(plan.problems.is_empty());
    let qemu = written(&plan, "/etc/libvirt/qemu.conf").unwrap();
    assert_eq!((conf::get(qemu, "vnc_tls"), conf::get(qemu, "user")), (Some("1"), None));
    assert!(plan.steps.iter().all(|step| step.topic != Topic::Agent && step.topic != Topic::AppArmor));
}

#[test]
fn problems_come_with_what_to_do() {
    type Spoil = fn(&mut Facts);
    let cases: [(Spoil, &str); 6] = [
        (|facts| facts.is_root = false, "run it with sudo"),
        (|facts| facts.interfaces.retain(|name| name != "cloudbr1"), "cloudbr1:\n      interfaces: [ens3]"),
        (|facts| facts.has_certificates = false, "leave -s out"),
        (|facts| facts.libvirtd_conf = None, "apt install libvirt-daemon-system"),
        (|facts| facts.memory_mib = 500, "lower it"),
        (|facts| facts.properties = Some(b"workers=many\n".to_vec()), "workers"),
    ];
    for (spoil, text) in cases {
        let mut facts = fresh();
        spoil(&mut facts);
        let plan = add(&facts, true);
        assert_eq!(plan.problems.len(), 1, "{text}: {:?}", plan.problems);
        assert!(plan.problems[0].contains(text), "{}", plan.problems[0]);
    }
}

#[test]
fn hostile_values_are_problems() {
    type Spoil = fn(&mut Placement);
    let cases: [Spoil; 4] = [
        |placement| placement.guid = "a b".to_owned(),
        |placement| placement.guest_nic = "../net".to_owned(),
        |placement| placement.hypervisor = "xen".to_owned(),
        |placement| placement.servers = "10.0.0.5@nonsense,,".to_owned(),
    ];
    for spoil in cases {
        let mut placement = placement(true);
        spoil(&mut placement);
        let mut facts = fresh();
        facts.interfaces.insert("../net".to_owned());
        assert!(!plan(&Task::AddHost(placement.clone()), &facts).problems.is_empty(), "{placement:?}");
    }
}

#[test]
fn apparmor_is_switched_off_unless_a_property_says_no() {
    let mut facts = fresh();
    let profile = |file: &str, disabled| Profile { file: file.to_owned(), disabled };
    let profiles = vec![profile("usr.sbin.libvirtd", false), profile("usr.lib.libvirt.virt-aa-helper", true)];
    facts.confinement = Some(Confinement { profiles });
    let plan = add(&facts, true);
    assert!(commands(&plan).contains(&"apparmor_parser -R /etc/apparmor.d/usr.sbin.libvirtd".to_owned()));
    assert_eq!(plan.steps.iter().filter(|step| step.topic == Topic::AppArmor).count(), 2);

    facts.properties = Some(format!("{SHIPPED}setup.apparmor.disable=no\n").into_bytes());
    let kept = add(&facts, true);
    assert!(kept.steps.iter().all(|step| step.topic != Topic::AppArmor));
    let qemu = written(&kept, "/etc/libvirt/qemu.conf").unwrap();
    assert_eq!(conf::get(qemu, "security_driver"), None);
    assert!(kept.notes[0].contains("stays on"), "{:?}", kept.notes);
}

#[test]
fn the_firewall_opens_what_the_mode_needs() {
    let mut facts = fresh();
    facts.ufw_rules = Some(vec!["allow 22/tcp".to_owned(), "allow 5900:6100/tcp".to_owned()]);
    let opened = |plan: &Plan| -> Vec<String> {
        commands(plan).into_iter().filter(|command| command.starts_with("ufw")).collect()
    };
    assert_eq!(opened(&add(&facts, true)), ["ufw allow 16514/tcp", "ufw allow 49152:49216/tcp"]);
    assert_eq!(opened(&add(&facts, false)), ["ufw allow 16509/tcp", "ufw allow 49152:49216/tcp"]);
    facts.ufw_rules = None;
    assert!(opened(&add(&facts, true)).is_empty());
}

#[test]
fn arguments_of_the_daemon_follow_its_unit() {
    let mut facts = fresh();
    let defaults = |facts: &Facts| written(&add(facts, true), "/etc/default/libvirtd").map(str::to_owned);
    for (default, expected) in [
        ("", Some("LIBVIRTD_ARGS=\"--listen\"\n")),
        ("LIBVIRTD_ARGS=\"--timeout 120 -v\"\n", Some("LIBVIRTD_ARGS=\"-v --listen\"\n")),
        ("#LIBVIRTD_ARGS=\"--listen\"\n", Some("#LIBVIRTD_ARGS=\"--listen\"\nLIBVIRTD_ARGS=\"--listen\"\n")),
        ("LIBVIRTD_ARGS='-l'\n", None),
    ] {
        facts.libvirtd_default = Some(default.to_owned());
        assert_eq!(defaults(&facts).as_deref(), expected, "{default:?}");
    }
    facts.libvirtd_unit = Some("ExecStart=/usr/sbin/libvirtd $libvirtd_opts\n".to_owned());
    facts.libvirtd_default = None;
    assert_eq!(defaults(&facts).as_deref(), Some("libvirtd_opts=\"--listen\"\n"));
}

#[test]
fn the_algorithm_that_the_agent_has_learnt_stays_with_the_same_servers() {
    let mut facts = fresh();
    facts.properties = Some(b"host=10.0.0.5,10.0.0.6@shuffle\n".to_vec());
    let host = |servers: &str| {
        let placement = Placement { servers: servers.to_owned(), ..placement(true) };
        values(&plan(&Task::AddHost(placement), &facts)).remove("host")
    };
    assert_eq!(host("10.0.0.5,10.0.0.6"), None);
    assert_eq!(host("10.0.0.5,10.0.0.6@static").as_deref(), Some("10.0.0.5,10.0.0.6@static"));
    assert_eq!(host("10.0.0.5").as_deref(), Some("10.0.0.5"));
}
