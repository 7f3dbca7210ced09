# The package as a file, and on a system that does not run. Sourced by tests/package/run.
# shellcheck shell=bash

has_its_files() {
    local list path
    list=$(dpkg-deb --contents "$DEB" | awk '{ print $6 }')
    for path in /etc/cloudstack/agent/agent.properties /etc/logrotate.d/cloudstack-agent \
        /lib/systemd/system/cloudstack-agent.service '/lib/systemd/system/cloudstack-rolling-maintenance@.service' \
        /usr/bin/{agent,cloudstack-agent,cloudstack-agent-upgrade,cloudstack-guest-tool,cloudstack-setup-agent,cloudstack-ssh} \
        /usr/share/cloudstack-common/scripts/util/{keystore-setup,keystore-cert-import} \
        /usr/share/bash-completion/completions/{agent,cloudstack-agent} \
        /usr/share/zsh/vendor-completions/{_agent,_cloudstack-agent} \
        /usr/share/fish/vendor_completions.d/{agent,cloudstack-agent}.fish \
        /usr/share/cloudstack-agent/status.schema.json \
        /usr/share/cloudstack-agent/prometheus/cloudstack-agent.rules.yml \
        /usr/share/man/man8/{agent,cloudstack-agent,cloudstack-agent-run,cloudstack-setup-agent}.8.gz \
        /usr/share/doc/cloudstack-agent-rs/{install.md.gz,observability.md.gz,copyright,changelog.gz}; do
        grep --quiet --line-regexp --fixed-strings ".$path" <<<"$list" || { echo "missing: $path"; return 1; }
    done
    # Nothing of the simulator and the benchmark is shipped.
    not grep --quiet --extended-regexp 'mgmt-sim|agent-bench' <<<"$list"
    list=$(dpkg-deb --contents "$DEB" | awk '$2 != "root/root"')
    same "what is not root's" "" "$list"
}

gate_complains() {
    not env ABI_GLIBC=2.17 scripts/abi-gate "$DEB"
    not env ABI_LIBVIRT=0.1.0 scripts/abi-gate "$DEB"
}

sizes() {
    local installed
    installed=$(dpkg-deb --field "$DEB" Installed-Size)
    figure ".deb" "$(stat --format=%s "$DEB" | awk '{ printf "%.1f MB", $1 / 1e6 }')"
    figure "installed" "$(awk -v kib="$installed" 'BEGIN { printf "%.1f MB", kib * 1024 / 1e6 }')"
}

# What can be tried without a booted system.
without_systemd() {
    try "installs with valid units, and is purged without a trace" installs_offline
}

offline() { chroot "$MACHINE_DIR/root" env DEBIAN_FRONTEND=noninteractive "$@"; }

installs_offline() {
    local before after units
    before=$(offline find / -xdev -not -path '/var/*' | sort)
    cp "$DEB" "$MACHINE_DIR/root/new.deb"
    offline dpkg --install /new.deb
    offline agent --version
    # Warnings about other units are theirs.
    units=$(systemd-analyze verify --man=no --recursive-errors=no --root="$MACHINE_DIR/root" \
        cloudstack-agent.service 'cloudstack-rolling-maintenance@a.service' 2>&1 | grep cloudstack) || true
    same "complaints about the units" "" "$units"
    offline dpkg --purge cloudstack-agent-rs
    rm "$MACHINE_DIR/root/new.deb"
    after=$(offline find / -xdev -not -path '/var/*' | sort)
    same "what is there" "$before" "$after"
}
