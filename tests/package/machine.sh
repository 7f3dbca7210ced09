# A Debian 12 system with systemd as its first process, in the namespaces of systemd-nspawn, on an
# overlay over a root directory that is kept between runs. Sourced by tests/package/run.
# shellcheck shell=bash

readonly RELEASE=bookworm
readonly MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# The package's dependencies, and what the tests look with.
readonly CONTENTS=(dbus iproute2 kmod libvirt-clients libvirt-daemon-system logrotate openssh-client procps
    qemu-system-x86 qemu-utils systemd systemd-sysv udev)
readonly CACHE=${PACKAGE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cloudstack-agent-rs}

MACHINE_DIR='' NSPAWN='' LEADER=''

# Path of the root directory; made when it is missing. Delete it to have it made anew.
base_root() {
    local key root
    key=$(printf '%s\n' "$RELEASE" "${CONTENTS[@]}" | sha256sum | cut -c -12)
    root=$CACHE/root-$RELEASE-$key
    if [[ ! -d $root ]]; then
        echo "   (making the root directory $root; once, about two minutes)" >&2
        mkdir -p "$CACHE"
        rm -rf "$root.new"
        {
            debootstrap --variant=minbase "$RELEASE" "$root.new" "$MIRROR" &&
                chroot "$root.new" env DEBIAN_FRONTEND=noninteractive \
                    apt-get install -y -q --no-install-recommends "${CONTENTS[@]}" &&
                chroot "$root.new" apt-get clean
        } >"$CACHE/log" 2>&1 || { tail -n 20 "$CACHE/log" >&2; return 1; }
        mv "$root.new" "$root"
    fi
    printf '%s\n' "$root"
}

# The root directory of the machine, before it runs: changes go to a layer of their own.
prepare_machine() {
    local base
    base=$(base_root) || return 1
    MACHINE_DIR=$(mktemp -d /var/tmp/agent-package.XXXXXX)
    mkdir "$MACHINE_DIR"/{upper,work,root,exchange}
    mount -t overlay agent-package -o "lowerdir=$base,upperdir=$MACHINE_DIR/upper,workdir=$MACHINE_DIR/work" \
        "$MACHINE_DIR/root" 2>/dev/null || cp -a "$base/." "$MACHINE_DIR/root"
}

# Boots it; fails if this machine cannot, and boot.log has the reason.
boot() {
    # cgroup v2, as Ubuntu 22.04 and Debian 12 have it, whatever this machine has. No network but lo.
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --boot --register=no --keep-unit \
        --private-network --machine="agent-package-$$" --hostname=kvm1 --directory="$MACHINE_DIR/root" \
        --bind="$MACHINE_DIR/exchange:/exchange" --bind-ro="$SIM:/usr/local/bin/mgmt-sim" \
        --bind-ro="$REPOSITORY/tests/package:/tests" \
        </dev/null >"$MACHINE_DIR/boot.log" 2>&1 &
    NSPAWN=$!
    local end=$((SECONDS + 60)) state
    while [[ $SECONDS -lt $end ]]; do
        kill -0 "$NSPAWN" 2>/dev/null || break
        LEADER=$(pgrep -P "$NSPAWN" | head -n 1)
        if [[ -n $LEADER ]]; then
            state=$(m systemctl is-system-running 2>/dev/null)
            [[ $state == running || $state == degraded ]] && return 0
        fi
        sleep 0.2
    done
    LEADER=''
    return 1
}

# m COMMAND...: runs it in the machine, as root.
m() {
    nsenter --target "$LEADER" --mount --uts --ipc --net --pid --cgroup -- env --ignore-environment \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 NO_COLOR=1 \
        DEBIAN_FRONTEND=noninteractive "$@" </dev/null
}

# Everything that was started or mounted goes, whatever happened before.
end_machine() {
    local tries
    if [[ -n $NSPAWN ]] && kill -0 "$NSPAWN" 2>/dev/null; then
        # SIGTERM is an orderly power-off.
        kill "$NSPAWN"
        for ((tries = 0; tries < 150; tries++)); do
            kill -0 "$NSPAWN" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$NSPAWN" 2>/dev/null
        wait "$NSPAWN" 2>/dev/null
    fi
    NSPAWN='' LEADER=''
    [[ -n $MACHINE_DIR ]] || return 0
    umount "$MACHINE_DIR/root" 2>/dev/null
    mountpoint --quiet "$MACHINE_DIR/root" || rm -rf "$MACHINE_DIR"
    MACHINE_DIR=''
}
