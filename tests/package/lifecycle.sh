# Upgrade, takeover from the Java agent's package, and the way back. Sourced by tests/package/run.
# shellcheck shell=bash

readonly SCRIPTS=/usr/share/cloudstack-common/scripts/util
readonly STATE=(agent.properties cloud.ca.crt cloud.crt cloud.key)

lifecycle_tests() {
    try "is upgraded while a command is in flight: answered before the good-bye" is_upgraded
    try "leaves nothing of that" start_afresh
    try "takes over from the Java agent: no question, same identity, guests untouched" takes_over
    try "the Java package's purge deletes no live file" java_is_purged
    try "the way back: no question with the old file kept" goes_back
    try "takes over once more, and goes back while the Java package's settings are still there" goes_back_again
    try "its own purge deletes no live file of the Java agent" purged_under_java
    try "an interrupted takeover is finished by the next attempt" interrupted_takeover
}

# shellcheck disable=SC2016
version_of() { m dpkg-query --show --showformat='${Version}' "$1"; }
# shellcheck disable=SC2016
status_of() { m dpkg-query --show --showformat='${Status}' "$1"; }
apt() { m apt-get "$1" -y -q --no-install-recommends "${@:2}"; }

is_upgraded() {
    local pid guest
    guest=$(guest_pid)
    apt install /exchange/cloudstack-agent-rs_0.0.1.deb
    server upgrade --script-commands /exchange/commands
    set_up
    hook 'touch /exchange/hook-runs; sleep 3; echo finished'
    registered
    pid=$(agent_pid)
    until_true 20 test -e "$MACHINE_DIR/exchange/hook-runs"
    apt install /exchange/new.deb
    same "version" "$(dpkg-deb --field "$DEB" Version)" "$(version_of cloudstack-agent-rs)"
    until_true 30 restarted "$pid"
    registered
    # On the first connection: the command was sent, answered, and only then came the good-bye.
    sed -n 's/.* #1 *\(sent .*RollingMaintenanceCommand\|answer .*RollingMaintenanceAnswer: true.*\|agent shuts down\).*/\1/p' \
        "$MACHINE_DIR/exchange/upgrade.log" | sed 's/ .*//' >"$MACHINE_DIR/order"
    same "order of events" "sent answer agent" "$(xargs <"$MACHINE_DIR/order")"
    same "guest" "$guest" "$(guest_pid)"
    m grep --quiet "guid=$GUID" "$PROPERTIES"
    end_server upgrade
}

start_afresh() {
    m rm -rf /exchange/hooks /exchange/commands
    apt purge cloudstack-agent-rs
    m rm -rf /etc/cloudstack
    not m systemctl cat "$UNIT"
}

# keep_state: what identifies this host, as it is now.
keep_state() {
    local file
    mkdir -p "$MACHINE_DIR/state"
    for file in "${STATE[@]}"; do
        m cat "/etc/cloudstack/agent/$file" >"$MACHINE_DIR/state/$file"
    done
    guest_pid >"$MACHINE_DIR/state/guest"
    m virsh pool-list --uuid | sort >"$MACHINE_DIR/state/pools"
}

# state_is_kept: the same now. In agent.properties the agent may have added what a server told it to.
state_is_kept() {
    local file
    for file in "${STATE[@]:1}"; do
        m cat "/etc/cloudstack/agent/$file" | cmp - "$MACHINE_DIR/state/$file"
    done
    m cat "$PROPERTIES" >"$MACHINE_DIR/now"
    # Every line that was there is there, in its order.
    same "lines of agent.properties that are gone or changed" "" \
        "$(diff "$MACHINE_DIR/state/agent.properties" "$MACHINE_DIR/now" | grep '^<' | grep --invert-match --extended-regexp '^< (LibvirtComputingResource.id|host)=')"
    same "guest" "$(cat "$MACHINE_DIR/state/guest")" "$(guest_pid)"
    same "pools" "$(cat "$MACHINE_DIR/state/pools")" "$(m virsh pool-list --uuid | sort)"
    guest_runs
}

# A host that a Java agent has served: stand-in packages, a configuration that was filled in, edited
# settings, keys and certificates, and its pool.
java_host() {
    m dpkg --install /exchange/cloudstack-common.deb /exchange/cloudstack-agent.deb
    same "state of the Java agent's unit" active "$(property ActiveState)"
    set_up
    m sed -i 's/workers=5/workers=7/' "$PROPERTIES"
    m sh -c 'echo "# edited" >>/etc/logrotate.d/cloudstack-agent; echo JAVA_OPTS=-Xmx4g >>/etc/default/cloudstack-agent'
    m virsh pool-list --uuid | grep --quiet "$POOL"
    server java
    keep_state
}

ours() {
    same "package" "install ok installed" "$(status_of cloudstack-agent-rs)"
    same "unit" "active enabled" "$(property ActiveState) $(m systemctl is-enabled "$UNIT")"
    same "program of the unit" /usr/bin/cloudstack-agent "$(m readlink "/proc/$(agent_pid)/exe")"
    same "keystore-setup" /usr/bin/cloudstack-agent "$(m readlink --canonicalize "$SCRIPTS/keystore-setup")"
    same "kept copies" "" "$(m find /etc -name '*-keep' -o -name '*.dpkg-*')"
    m grep --quiet 'workers=7' "$PROPERTIES"
    m grep --quiet '# edited' /etc/logrotate.d/cloudstack-agent
}

java() {
    same "package" "install ok installed" "$(status_of cloudstack-agent)"
    same "unit" "active enabled" "$(property ActiveState) $(m systemctl is-enabled "$UNIT")"
    same "program of the unit" /usr/bin/sleep "$(m readlink --canonicalize "/proc/$(agent_pid)/exe")"
    same "keystore-setup" "stock keystore-setup" "$(m "$SCRIPTS/keystore-setup")"
    same "keystore-cert-import" "stock keystore-cert-import" "$(m "$SCRIPTS/keystore-cert-import")"
    same "cloudstack-setup-agent" "stock cloudstack-setup-agent" "$(m cloudstack-setup-agent)"
    same "diversions" "" "$(m dpkg-divert --list '*keystore*')"
    m grep --quiet 'workers=7' "$PROPERTIES"
}

takes_over() {
    java_host
    apt install /exchange/new.deb
    ours
    registered
    told java "startup .* of $GUID.* with 1 pools"
    state_is_kept
    m agent --status
}

java_is_purged() {
    m dpkg --purge cloudstack-agent
    state_is_kept
    m test -e /etc/logrotate.d/cloudstack-agent
    same "state" active "$(property ActiveState)"
    same "enabled" enabled "$(m systemctl is-enabled "$UNIT")"
}

goes_back() {
    apt install --option Dpkg::Options::=--force-confold /exchange/cloudstack-agent.deb
    java
    state_is_kept
    # The texts that were not taken: dpkg leaves them for whoever wants to compare.
    m find /etc -name '*.dpkg-dist' -delete
}

goes_back_again() {
    apt install /exchange/new.deb
    ours
    registered
    state_is_kept
    goes_back
}

purged_under_java() {
    m dpkg --purge cloudstack-agent-rs
    java
    state_is_kept
    m test -e /etc/logrotate.d/cloudstack-agent
}

interrupted_takeover() {
    # As if the machine had lost its power between preinst and unpacking.
    m dpkg-deb --control /exchange/new.deb /run/control
    m env DPKG_MAINTSCRIPT_PACKAGE=cloudstack-agent-rs /run/control/preinst install
    not m grep --quiet 'workers=7' "$PROPERTIES"
    apt install /exchange/new.deb
    ours
    registered
    state_is_kept
    end_server java
}
