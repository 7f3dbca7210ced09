//! The table of keys: `name: Kind since reload [= default], sentence`.

use super::{Key, Kind, Reload};

macro_rules! keys {
    ($($name:literal: $kind:ident $since:literal $reload:ident $(= $default:literal)?, $doc:literal;)*) => {
        /// Every key, by topic.
        pub static KEYS: &[Key] = &[$(Key {
            name: $name,
            kind: Kind::$kind,
            default: keys!(@default $($default)?),
            since: $since,
            reload: Reload::$reload,
            doc: $doc,
        }),*];
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}

keys! {
    // Identity and placement
    "guid": Text "4.19" Restart, "Identity of this host, given by the management server when the host is added.";
    "zone": Text "4.19" NextSession = "default", "Id or name of the zone.";
    "pod": Text "4.19" NextSession = "default", "Id or name of the pod.";
    "cluster": Text "4.19" NextSession = "default", "Id or name of the cluster.";
    "host.tags": Text "4.20" NextSession, "Comma-separated tags that the host reports for itself.";
    "resource": Text "4.19" Restart = "com.cloud.hypervisor.kvm.resource.LibvirtComputingResource",
        "Java class that the Java agent starts, only checked by this agent.";
    "pool": Text "4.19" NextSession, "Name of a pool that the host is to join.";
    "type": Text "4.19" Restart, "Kind of agent in old set-ups, not used any more.";
    "instance": Text "4.19" Restart, "Suffix of names when several agents share a developer's machine.";
    "developer": Boolean "4.19" Restart = "false", "Developer mode, which in the Java agent makes up a random guid.";

    // Connection to the management server
    "host": ServerList "4.19" Live = "localhost", "Management servers in order of preference, with the balancing algorithm.";
    "port": Integer "4.19" NextSession = "8250", "TCP port of the management server.";
    "host.lb.check.interval": Long "4.19" Live, "Seconds between checks for the preferred server, instead of what the server says.";
    "workers": Integer "4.19" Restart = "5", "Number of commands that run at the same time.";
    "ping.retries": Integer "4.19" Live = "5", "Ping intervals without any message after which the connection counts as dead.";
    "backoff.seconds": Long "4.20.2" Live, "Seconds between attempts to connect.";
    "ssl.handshake.timeout": Integer "4.20.2" NextSession = "30", "Seconds that a TLS handshake may take.";
    "keystore.passphrase": Secret "4.19" Live, "Password of the keystore cloud.jks.";
    "ipv6disabled": Boolean "4.19" Restart = "false", "Whether the Java agent avoids IPv6.";
    "ipv6prefer": Boolean "4.19" Restart = "false", "Whether the Java agent prefers IPv6 addresses.";
    "piddir": Path "4.19" Restart, "Directory of the Java agent's pid file.";

    // Network
    "public.network.device": Device "4.19" Restart = "cloudbr0", "Bridge of public traffic.";
    "private.network.device": Device "4.19" Restart = "cloudbr1", "Bridge that carries the management address.";
    "guest.network.device": Device "4.19" Restart, "Bridge of guest traffic, by default the private one.";
    "private.bridge.name": Device "4.19" Restart = "cloud0", "Bridge of the link-local control network.";
    "private.network.name": Text "4.19" Restart, "Name of the private libvirt network.";
    "control.cidr": Cidr "4.19" Restart = "169.254.0.0/16", "Link-local network over which system VMs are controlled.";
    "network.bridge.type": Text "4.19" Restart = "native", "Kind of bridges: native or openvswitch.";
    "libvirt.vif.driver": Text "4.19" Restart, "Java class that plugs guest interfaces, by default chosen by the bridge type.";
    "network.direct.source.mode": Text "4.19" Restart, "Mode of macvtap interfaces: private, bridge or vepa.";
    "network.direct.device": Device "4.19" Restart, "Device under macvtap interfaces.";
    "openvswitch.dpdk.enabled": Boolean "4.19" Restart = "false", "Whether Open vSwitch uses DPDK ports.";
    "openvswitch.dpdk.ovs.path": Path "4.19" Restart, "Directory of the DPDK port sockets.";
    "private.macaddr.start": Text "4.19" Restart = "00:16:3e:77:e2:a0", "First MAC address that developer mode hands out.";
    "private.ipaddr.start": Text "4.19" Restart = "192.168.166.128", "First IP address that developer mode hands out.";
    "consoleproxy.httpListenPort": Integer "4.19" Restart = "443", "Port on which a console proxy listens, unused on hosts.";

    // Storage
    "local.storage.path": PathList "4.19" Restart = "/var/lib/libvirt/images/", "Directories of the local storage pools.";
    "local.storage.uuid": UuidList "4.19" Restart, "UUIDs of the local storage pools, in the order of their paths.";
    "mount.path": Path "4.19" Live = "/mnt", "Directory below which NFS storage is mounted.";
    "host.cache.location": Path "4.19" Live = "/var/cache/cloud", "Directory in which config drives are kept.";
    "direct.download.temporary.download.location": Path "4.19" Live = "/var/lib/libvirt/images",
        "Directory for unfinished direct downloads.";
    "cmds.timeout": Integer "4.19" Live = "7200", "Seconds that a long storage operation may take.";
    "iscsi.session.cleanup.enabled": Boolean "4.19" Restart = "false", "Whether unused iSCSI sessions are logged out.";
    "create.full.clone": Boolean "4.21" Live = "false", "Whether root volumes become full copies instead of linked clones.";
    "incremental.snapshot.timeout": Integer "4.21" Live = "10800", "Seconds that an incremental snapshot may take.";
    "revert.snapshot.timeout": Integer "4.21" Live = "10800", "Seconds that going back to a snapshot may take.";
    "qcow2.delta.merge.timeout": Integer "4.21" Live = "259200", "Seconds that merging a snapshot into its base may take.";
    "heartbeat.update.timeout": Long "4.19" Live = "60000", "Milliseconds that writing one heartbeat may take.";
    "kvm.heartbeat.update.frequency": Long "4.19" Live = "60000", "Milliseconds between heartbeats on primary storage.";
    "kvm.heartbeat.update.max.tries": Long "4.19" Live = "5", "Attempts to write a heartbeat before it counts as failed.";
    "kvm.heartbeat.update.retry.sleep": Long "4.19" Live = "10000", "Milliseconds between attempts to write a heartbeat.";
    "kvm.heartbeat.checker.timeout": Long "4.19" Live = "360000", "Milliseconds that a check of another host's heartbeat may take.";
    "reboot.host.and.alert.management.on.heartbeat.timeout": Boolean "4.19" Live = "true",
        "Whether the host reboots when it cannot write its heartbeat.";
    "virtv2v.verbose.enabled": Boolean "4.19" Live = "false", "Whether virt-v2v reports details of a conversion.";
    "convert.instance.env.tmpdir": Path "4.22" Live, "Value of TMPDIR while a guest is converted.";
    "convert.instance.env.virtv2v.tmpdir": Path "4.22" Live, "Value of VIRT_V2V_TMPDIR while a guest is converted.";

    // Hypervisor and machine
    "hypervisor.type": Text "4.19" Restart = "kvm", "Hypervisor of this host: kvm, or qemu where KVM does not work.";
    "hypervisor.uri": Text "4.19" Restart = "qemu:///system", "Address of the libvirt daemon.";
    "libvirt.events.enabled": Boolean "4.19" Restart = "false", "Whether a stopped guest is reported at once instead of with the next ping.";
    "host.reserved.mem.mb": Integer "4.19" NextSession = "1024", "MiB of memory that are withheld from guests.";
    "host.overcommit.mem.mb": Integer "4.19" NextSession = "0", "MiB of memory that are reported beyond what the host has.";
    "host.reserved.cpu.count": Integer "4.19" NextSession = "0", "Logical CPUs that are withheld from guests.";
    "host.cpu.manual.speed.mhz": Integer "4.19" NextSession = "0", "CPU speed to report, 0 to find it out.";
    "agent.health.check.script.path": Path "4.19" Live, "Script whose exit code tells whether the host is healthy.";
    "qemu.sockets.path": Path "4.19" Live = "/var/lib/libvirt/qemu", "Directory of the sockets to guest agents.";
    "systemvm.iso.path": Path "4.19" Live, "ISO image that system VMs are patched from.";

    // Guests
    "guest.cpu.mode": Text "4.19" Live, "CPU mode of guests: custom, host-model or host-passthrough.";
    "guest.cpu.model": Text "4.19" Live, "CPU model of guests in mode custom.";
    "guest.cpu.arch": Text "4.19" Live, "Processor architecture of guests, instead of the host's.";
    "guest.cpu.features": Text "4.19" Live, "CPU features that guests require, separated by blanks.";
    "enable.manually.setting.cpu.topology.on.kvm.vm": Boolean "4.19" Live = "true", "Whether guests get a CPU topology.";
    "kvmclock.disable": Boolean "4.19" Live = "false", "Whether the KVM clock is hidden from guests.";
    "iothreads": Integer "4.19" Live = "1", "I/O threads of a guest that uses them.";
    "vm.memballoon.disable": Boolean "4.19" Live = "false", "Whether guests get no balloon device.";
    "vm.memballoon.stats.period": Integer "4.19" Live = "0", "Seconds between balloon statistics, 0 for none.";
    "vm.diskactivity.checkenabled": Boolean "4.19" Live = "false", "Whether a guest starts only when its disk is idle.";
    "vm.diskactivity.checktimeout_s": Integer "4.19" Live = "120", "Seconds to wait for a disk to become idle.";
    "vm.diskactivity.inactivetime_ms": Long "4.19" Live = "30000", "Milliseconds without change after which a disk is idle.";
    "vm.rng.enable": Boolean "4.19" Live = "false", "Whether guests get a random number device.";
    "vm.rng.model": Text "4.19" Live = "random", "Backend of the random number device.";
    "vm.rng.path": Path "4.19" Live = "/dev/random", "Source of the random number device.";
    "vm.rng.rate.bytes": Integer "4.19" Live = "2048", "Random bytes that a guest may draw per period.";
    "vm.rng.rate.period": Integer "4.19" Live = "1000", "Milliseconds of a period of the random number device.";
    "vm.watchdog.model": Text "4.19" Live = "i6300esb", "Model of the guests' watchdog, none for no watchdog since 4.20.2.";
    "vm.watchdog.action": Text "4.19" Live = "none", "What happens to a guest when its watchdog fires.";
    "vm.video.hardware": Text "4.19" Live, "Model of the guests' video card.";
    "vm.video.ram": Integer "4.19" Live = "0", "KiB of video memory of guests, 0 for the model's default.";
    "vm.migrate.speed": Integer "4.19" Live = "-1", "Bandwidth of migrations in MiB/s, below 1 for no limit.";
    "vm.migrate.downtime": Integer "4.19" Live = "-1", "Milliseconds that a migrating guest may stand still, below 1 for the hypervisor's default.";
    "vm.migrate.pauseafter": Integer "4.19" Live = "-1", "Milliseconds after which a migrating guest is paused, below 1 for never.";
    "vm.migrate.wait": Integer "4.19" Live = "-1", "Seconds that a migration may take, below 1 for no limit, set by the management server.";
    "vm.migrate.domain.retrieve.timeout": Integer "4.19" Live = "10", "Seconds to find a migrated guest on its new host.";
    "stop.script.timeout": Integer "4.19" Live = "120", "Seconds that a guest may take to shut down.";

    // Scripts and hooks
    "scripts.timeout": Integer "4.19" Live, "Seconds that a helper script may run.";
    "agent.script.timeout": Integer "4.19" Live = "60", "Seconds that a script of the agent itself may run.";
    "router.aggregation.command.each.timeout": Long "4.19" Live, "Seconds per command of a router aggregation, set by the management server.";
    "domr.scripts.dir": Path "4.19" Live = "scripts/network/domr", "Directory of the router scripts.";
    "hypervisor.scripts.dir": Path "4.19" Live = "scripts/vm/hypervisor", "Directory of the hypervisor scripts.";
    "kvm.scripts.dir": Path "4.19" Live = "scripts/vm/hypervisor/kvm", "Directory of the KVM scripts.";
    "network.scripts.dir": Path "4.19" Live = "scripts/vm/network/vnet", "Directory of the network scripts.";
    "storage.scripts.dir": Path "4.19" Live = "scripts/storage/qcow2", "Directory of the storage scripts.";
    "tungsten.scripts.dir": Path "4.19" Live, "Directory of the Tungsten Fabric scripts.";
    "rolling.maintenance.hooks.dir": Path "4.19" Live, "Directory of the scripts of rolling maintenance.";
    "rolling.maintenance.service.executor.disabled": Boolean "4.19" Live = "false",
        "Whether maintenance scripts run inside the agent instead of as a systemd unit.";
    "agent.hooks.basedir": Path "4.19" Live = "/etc/cloudstack/agent/hooks", "Directory of the guest hooks.";
    "agent.hooks.libvirt_vm_xml_transformer.script": Text "4.19" Live = "libvirt-vm-xml-transformer.groovy",
        "Groovy hook that changes the XML of a guest before it starts.";
    "agent.hooks.libvirt_vm_xml_transformer.method": Text "4.19" Live = "transform", "Method of the XML hook.";
    "agent.hooks.libvirt_vm_xml_transformer.shell_script": Text "4.21" Live = "libvirt-vm-xml-transformer.sh",
        "Shell hook that changes the XML of a guest before it starts.";
    "agent.hooks.libvirt_vm_on_start.script": Text "4.19" Live = "libvirt-vm-state-change.groovy",
        "Groovy hook that runs after a guest has started.";
    "agent.hooks.libvirt_vm_on_start.method": Text "4.19" Live = "onStart", "Method of the start hook.";
    "agent.hooks.libvirt_vm_on_start.shell_script": Text "4.21" Live = "libvirt-vm-state-change.sh",
        "Shell hook that runs after a guest has started.";
    "agent.hooks.libvirt_vm_on_stop.script": Text "4.19" Live = "libvirt-vm-state-change.groovy",
        "Groovy hook that runs after a guest has stopped.";
    "agent.hooks.libvirt_vm_on_stop.method": Text "4.19" Live = "onStop", "Method of the stop hook.";
    "agent.hooks.libvirt_vm_on_stop.shell_script": Text "4.21" Live = "libvirt-vm-state-change.sh",
        "Shell hook that runs after a guest has stopped.";

    // Set-up, known to this agent only
    "setup.apparmor.disable": Boolean "4.19" Live = "true",
        "Whether cloudstack-setup-agent takes AppArmor off libvirt and guests, as the Java agent's does.";

    // Monitoring, known to this agent only
    "metrics.listen": Socket "4.19" Live, "Address and port on which metrics are served besides the unix socket, by default none.";

    // Written by the agent itself
    "LibvirtComputingResource.id": Long "4.19" NextSession, "Id that the management server gave this host.";
    "LibvirtComputingResource.uuid": Text "4.20.2" NextSession, "UUID that the management server gave this host.";
    "LibvirtComputingResource.name": Text "4.20.2" NextSession, "Name under which the management server knows this host.";
}
