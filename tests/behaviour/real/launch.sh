#!/bin/bash
# The inside of a cage: run as init of new mount, pid and network namespaces. Hides the machine's
# own libvirt behind empty directories, then waits until its stdin is closed; its end ends
# everything that was started in the cage, QEMU processes included.
set -eu
PATH=$PATH:/usr/sbin:/sbin

# Sockets and state; without the D-Bus socket libvirt cannot reach systemd or a firewall daemon.
mount -t tmpfs -o mode=755 none /run
for directory in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    mount -t tmpfs -o mode=755 none "$directory"
done
mkdir -p /run/libvirt /var/lib/libvirt/images

# Of this network namespace, and without the machine's control groups.
mount -t sysfs -o ro none /sys

# Only harmless devices. No /dev/kvm: where it exists but does not work, libvirt probes QEMU anew
# for each question about capabilities.
mkdir /run/dev
mount -t tmpfs -o mode=755 none /run/dev
mkdir /run/dev/net /run/dev/pts /run/dev/shm
for device in null zero full random urandom tty net/tun; do
    touch "/run/dev/$device"
    mount --bind "/dev/$device" "/run/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666 none /run/dev/pts
ln -s pts/ptmx /run/dev/ptmx
ln -s /proc/self/fd /run/dev/fd
ln -s fd/0 /run/dev/stdin
mount --move /run/dev /dev
# On request KVM that is there and does not work, and a QEMU that takes as long as /run/slow exists.
if [ "${CAGE_BROKEN_KVM:-}" ]; then
    touch /dev/kvm /run/qemu
    mount --bind /dev/null /dev/kvm
    qemu=$(readlink -f "$(command -v qemu-system-x86_64)")
    mount --bind "$qemu" /run/qemu
    cat >/run/slow-qemu <<'END'
#!/bin/bash
while [ -e /run/slow ]; do sleep 0.1; done
exec /run/qemu "$@"
END
    chmod +x /run/slow-qemu
    mount --bind /run/slow-qemu "$qemu"
fi

ip link set lo up

mkdir /etc/libvirt/qemu
cat >/etc/libvirt/qemu.conf <<END
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
END
cat >/etc/libvirt/libvirtd.conf <<END
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
END

echo ready
while read -r _; do :; done
