# The service on a running system. Sourced by tests/package/run.
# shellcheck shell=bash

readonly GUID=5e1f0c9d-6c1e-4f5b-9a55-0d1f2a3b4c5d
readonly POOL=3f0c1d2e-0000-4a4a-8b8b-123456789abc
readonly PROPERTIES=/etc/cloudstack/agent/agent.properties
readonly UNIT=cloudstack-agent.service

starts_a_guest() {
    cat >"$MACHINE_DIR/exchange/guest.xml" <<'END'
<domain type='qemu'>
  <name>i-2-3-VM</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
</domain>
END
    until_true 20 m virsh create /exchange/guest.xml
    m virsh list
    guest_runs
}

guest_pid() { m pidof qemu-system-x86_64; }

guest_runs() {
    [[ $(m virsh domstate i-2-3-VM) == running* ]]
}

property() { m systemctl show --property="$1" --value "$UNIT"; }
agent_pid() { property MainPID; }
status_text() { property StatusText; }

# server NAME [OPTION...]: starts the simulated management server, which writes to NAME.log. Each run has
# a CA of its own and gives this host new certificates.
server() {
    local name=$1
    shift
    rm -f "$MACHINE_DIR/exchange/$name.log"
    # That of a test that failed.
    m systemctl stop --quiet mgmt-sim 2>/dev/null || true
    m systemd-run --quiet --collect --unit=mgmt-sim --property="StandardOutput=append:/exchange/$name.log" \
        mgmt-sim --traffic-label lo --no-ssh-keys --ping-interval 2 --provision-dir /etc/cloudstack/agent "$@"
    until_true 10 told "$name" 'listening on'
}

# told NAME PATTERN: whether the server has written such a line.
told() { grep --quiet --extended-regexp -- "$2" "$MACHINE_DIR/exchange/$1.log"; }

end_server() {
    m systemctl stop mgmt-sim
    until_true 10 told "$1" 'no rule of the protocol was broken'
}

registered() {
    m agent --status --wait registered --timeout 30 || {
        m agent --status
        return 1
    }
}

service_tests() {
    try "installs with apt, is enabled, starts and waits for its guid" installs
    try "the units are valid" units_are_valid
    try "registers when it is set up; systemctl reload; agent --status is 0" registers
    try "metrics on the socket, command and logid in the journal" is_observable
    try "shares its mounts with QEMU, spares its children" surroundings
    try "is back after a restart of the server, by the same process" server_restarts
    try "kill -9: systemd brings it back, registered, without what it had started" is_killed
    try "frozen: the watchdog ends it, and it is back, registered" is_frozen
    try "libvirtd restarts: the agent stays" libvirtd_restarts
    try "a stage of rolling maintenance runs in its unit" rolling_maintenance
    try "is added by a server's programs: dry run, set-up, nothing the second time, undo" is_added
    try "starts quickly" starts_quickly
    try "stops with a good-bye, and leaves nothing running" stops
    try "is removed and purged: nothing left but what the operator made" is_purged
}

installs() {
    m apt-get install -y -q --no-install-recommends /exchange/new.deb
    same "state" active "$(property ActiveState)"
    same "enabled" enabled "$(m systemctl is-enabled "$UNIT")"
    same "type" notify "$(property Type)"
    until_true 10 status_says guid
    local code=0
    m agent --status || code=$?
    same "exit code of agent --status" 2 "$code"
}

status_says() { [[ $(status_text) == *"$1"* ]]; }

units_are_valid() {
    # Warnings about other units are theirs.
    m systemd-analyze verify --man=no --recursive-errors=no \
        "$UNIT" 'cloudstack-rolling-maintenance@a.service' 2>&1 | tee "$MACHINE_DIR/verify"
    not grep --quiet cloudstack "$MACHINE_DIR/verify"
    figure "systemd-analyze security" "$(m systemd-analyze security --no-pager "$UNIT" | awk '/Overall exposure/ { print $(NF-2), $(NF-1) }')"
}

# What the management server writes when it adds a host.
set_up() {
    m sed -i -e "s/^guid=.*/guid=$GUID/" -e 's/^host=.*/host=127.0.0.1/' -e 's/^\(zone\|pod\|cluster\)=.*/\1=1/' \
        -e "s/^local.storage.uuid=.*/local.storage.uuid=$POOL/" "$PROPERTIES"
    m sh -c "printf '# of the operator\nprivate.network.device=lo\npublic.network.device=lo\nguest.network.device=lo\n' >>$PROPERTIES"
}

registers() {
    server first
    set_up
    m systemctl reload "$UNIT"
    registered
    told first "startup .* of $GUID.* with 1 pools"
    until_true 10 status_says egistered
    m agent --status
    guest_runs
}

is_observable() {
    local logid entry
    same "metrics socket" "660 root" "$(m stat --format='%a %U' /run/cloudstack-agent/metrics.sock)"
    m agent metrics >"$MACHINE_DIR/metrics"
    grep --line-regexp 'cloudstack_agent_session_state{state="registered"} 1' "$MACHINE_DIR/metrics"
    grep --line-regexp 'cloudstack_agent_commands_total{command="ReadyCommand",result="done"} [1-9][0-9]*' "$MACHINE_DIR/metrics"
    same "a port without metrics.listen" "" "$(m sh -c "ss -Hltnp | grep cloudstack" || true)"
    until_true 10 in_journal COMMAND=ReadyCommand
    logid=$(m journalctl --unit="$UNIT" --output=cat --output-fields=LOGID --lines=1 COMMAND=ReadyCommand)
    [[ -n $logid ]]
    entry=$(m journalctl --unit="$UNIT" --output=json --lines=1 LOGID="$logid" COMMAND=ReadyCommand)
    echo "$entry"
    for field in '"SYSLOG_IDENTIFIER":"cloudstack-agent"' '"PRIORITY":"6"' '"SEQ":"' 'Command done command=ReadyCommand'; do
        grep --quiet --fixed-strings -- "$field" <<<"$entry"
    done
    m journalctl --no-pager --unit="$UNIT" LOGID="$logid" | grep "logid=$logid"
    same "upgrade" "nothing to upgrade" "$(m cloudstack-agent-upgrade)"
}

in_journal() { m journalctl --quiet --unit="$UNIT" --output=cat "$@" | grep --quiet .; }

surroundings() {
    local pid
    pid=$(agent_pid)
    same "mount namespace" "$(m readlink /proc/1/ns/mnt)" "$(m readlink "/proc/$pid/ns/mnt")"
    same "OOM adjustment, as the unit wants it" -900 "$(property OOMScoreAdjust)"
    same "core limit" 0 "$(m awk '/Max core/ { print $5 }' "/proc/$pid/limits")"
    same "runtime directory" "750 root" "$(m stat --format='%a %U' /run/cloudstack-agent)"
    same "state directory" "750 root" "$(m stat --format='%a %U' /var/lib/cloudstack-agent)"
    # A container may not be allowed to lower it; that programs do not inherit it shows as well above 0.
    drop_in 'OOMScoreAdjust=300'
    same "OOM adjustment of the agent" 300 "$(m cat "/proc/$(agent_pid)/oom_score_adj")"
    hook 'sleep 1; cat /proc/self/oom_score_adj >/exchange/oom'
    end_server first
    server hooks --script-commands /exchange/commands
    until_true 30 told hooks 'answer .*RollingMaintenanceAnswer: true'
    same "OOM adjustment of a program that it runs" 0 "$(cat "$MACHINE_DIR/exchange/oom")"
    end_server hooks
    no_drop_in
    server first
}

# drop_in SETTING: restarts the agent with another setting of its unit, until the system is booted anew.
drop_in() {
    m mkdir -p "/run/systemd/system/$UNIT.d"
    m sh -c "printf '[Service]\n$1\n' >/run/systemd/system/$UNIT.d/test.conf"
    m systemctl daemon-reload
    m systemctl restart "$UNIT"
}

no_drop_in() {
    m rm -r "/run/systemd/system/$UNIT.d"
    m systemctl daemon-reload
    m systemctl restart "$UNIT"
}

# hook BODY: a maintenance script that the agent runs itself, and a server's command to run it.
hook() {
    mkdir -p "$MACHINE_DIR/exchange/hooks"
    rm -f "$MACHINE_DIR/exchange/hook-runs"
    printf '#!/bin/sh\n%s\n' "$1" >"$MACHINE_DIR/exchange/hooks/PreFlight"
    chmod 755 "$MACHINE_DIR/exchange/hooks/PreFlight"
    echo '{"com.cloud.agent.api.RollingMaintenanceCommand":{"stage":"PreFlight","payload":"","started":false,"checkMaintenanceScript":false,"wait":60}}' \
        >"$MACHINE_DIR/exchange/commands"
    m grep --quiet hooks.dir "$PROPERTIES" ||
        m sh -c "printf 'rolling.maintenance.hooks.dir=/exchange/hooks\nrolling.maintenance.service.executor.disabled=true\n' >>$PROPERTIES"
    m systemctl reload "$UNIT"
}

server_restarts() {
    local pid
    registered
    pid=$(agent_pid)
    end_server first
    until_true 20 not m agent --status
    server second
    registered
    same "process" "$pid" "$(agent_pid)"
}

is_killed() {
    local pid child
    # shellcheck disable=SC2016
    hook 'echo $$ >/exchange/hook-runs; exec sleep 4321'
    end_server second
    server killing --script-commands /exchange/commands
    until_true 30 test -s "$MACHINE_DIR/exchange/hook-runs"
    child=$(cat "$MACHINE_DIR/exchange/hook-runs")
    # The server commands it again, and the next agent shall have nothing to run.
    m rm /exchange/hooks/PreFlight
    pid=$(agent_pid)
    m test -d "/proc/$child"
    m kill -KILL "$pid"
    # What it had started must be gone before the next run repairs anything.
    until_true 30 restarted "$pid"
    not m test -d "/proc/$child"
    end_server killing
    server third
    registered
    guest_runs
}

# Whether another process than PID is the agent now.
restarted() {
    local now
    now=$(agent_pid)
    [[ $now != 0 && $now != "$1" && $(property ActiveState) == active ]]
}

is_frozen() {
    local pid
    # As long as the least that the agent feeds for.
    drop_in WatchdogSec=20s
    registered
    pid=$(agent_pid)
    # Fed: it survives longer than the limit while nothing else happens.
    m sleep 25
    same "process" "$pid" "$(agent_pid)"
    m kill -STOP "$pid"
    until_true 60 restarted "$pid"
    m journalctl --no-pager --unit="$UNIT" | grep "Watchdog timeout"
    no_drop_in
    registered
}

libvirtd_restarts() {
    local pid guest
    pid=$(agent_pid) guest=$(guest_pid)
    m systemctl restart libvirtd
    until_true 20 guest_runs
    registered
    same "process" "$pid" "$(agent_pid)"
    same "guest" "$guest" "$(guest_pid)"
}

rolling_maintenance() {
    local instance
    # shellcheck disable=SC2016
    m sh -c 'printf "#!/bin/sh\necho \"\$# \$1\"\nexit 70\n" >/exchange/hooks/Maintenance.sh; chmod 755 /exchange/hooks/Maintenance.sh'
    # shellcheck disable=SC2016
    instance=$(m systemd-escape 'Maintenance,/exchange/hooks/Maintenance.sh,60,/exchange/hooks/results,/exchange/hooks/output,a $HOME, b')
    m systemctl start "cloudstack-rolling-maintenance@$instance.service"
    until_true 10 test -s "$MACHINE_DIR/exchange/hooks/results"
    same "results" Maintenance,True,True "$(cat "$MACHINE_DIR/exchange/hooks/results")"
    # shellcheck disable=SC2016
    same "output" '1 a $HOME, b' "$(cat "$MACHINE_DIR/exchange/hooks/output")"
}

# set_up_agent [OPTION...]: as a server calls it, by the name in the path.
set_up_agent() {
    m cloudstack-setup-agent -m 127.0.0.1 -z 1 -p 1 -c 1 -g "$GUID" -a --pubNic=lo --prvNic=lo --guestNic=lo \
        --hypervisor=kvm "$@"
}

# What set-up may change, but for the marks of the agent and libvirt at work.
configuration() {
    m sh -c 'for f in /etc/libvirt/libvirtd.conf /etc/libvirt/qemu.conf /etc/default/libvirtd; do md5sum $f; done
        ls -R /etc/modules-load.d; find /etc/systemd/system -name "libvirt*"; find /etc/pki -type l 2>/dev/null || true'
}

is_added() {
    local before guest csr
    guest=$(guest_pid)
    csr=$(m /usr/share/cloudstack-common/scripts/util/keystore-setup "$PROPERTIES" \
        /etc/cloudstack/agent/cloud.jks canary4711 365 /etc/cloudstack/agent/cloud.csr)
    [[ $csr == -----BEGIN* ]]
    m grep --quiet '^keystore.passphrase=' "$PROPERTIES"
    # No certificate of an authority that nobody knows: usage and refusal have the codes of the scripts.
    not m /usr/share/cloudstack-common/scripts/util/keystore-cert-import "$PROPERTIES" x \
        /etc/cloudstack/agent/cloud.jks ssh /etc/cloudstack/agent/cloud.crt 'not~PEM' \
        /etc/cloudstack/agent/cloud.ca.crt 'not~PEM' /etc/cloudstack/agent/cloud.key ''
    before=$(configuration)
    set_up_agent --dry-run
    same "configuration after a dry run" "$before" "$(configuration)"
    # A container loads no modules.
    m test -e /sys/module/br_netfilter || m sh -c 'ln -s /bin/true /usr/local/sbin/modprobe'
    set_up_agent
    m grep --quiet '^listen_tcp=1' /etc/libvirt/libvirtd.conf
    same "libvirtd" active "$(m systemctl is-active libvirtd.service)"
    same "libvirtd's socket" masked "$(m systemctl is-enabled libvirtd.socket || true)"
    until_true 20 m sh -c 'ss -Hltn sport = :16509 | grep -q .'
    # libvirtd was restarted: the agent finds it again by itself.
    until_true 30 m agent --status
    set_up_agent >"$MACHINE_DIR/again"
    cat "$MACHINE_DIR/again"
    same "steps of the second run" "" "$(grep --extended-regexp '^(apparmor|certificates|libvirt|qemu|firewall|agent) ' "$MACHINE_DIR/again")"
    # The second run has a record too where the module cannot be loaded.
    until m agent setup --undo | tee "$MACHINE_DIR/undone" | grep --quiet 'Nothing to take back'; do
        not grep 'left as is' "$MACHINE_DIR/undone"
    done
    same "configuration after all was taken back" "$before" "$(configuration)"
    until_true 20 m virsh list
    same "guest" "$guest" "$(guest_pid)"
    # libvirtd was restarted: the agent finds it again by itself.
    until_true 30 m agent --status
    m rm -f /usr/local/sbin/modprobe /etc/cloudstack/agent/cloud.csr /etc/cloudstack/agent/cloud.key.new
}

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

starts_quickly() {
    local begin ready=() there=()
    for _ in 1 2 3; do
        m systemctl stop "$UNIT"
        begin=$(milliseconds)
        m systemctl start "$UNIT"
        ready+=($(($(milliseconds) - begin)))
        m agent --status --wait registered --timeout 30 >/dev/null
        there+=($(($(milliseconds) - begin)))
    done
    figure "systemctl start to READY (3 times)" "${ready[*]} ms"
    figure "systemctl start to registered (3 times)" "${there[*]} ms"
}

stops() {
    local code=0
    m systemctl stop "$UNIT"
    until_true 5 told third 'agent shuts down'
    same "state" inactive "$(property ActiveState)"
    m agent --status || code=$?
    same "exit code of agent --status" 3 "$code"
    # The last snapshot is still shown.
    m agent --status --json >"$MACHINE_DIR/status.json" || true
    grep --quiet '"source": *"snapshot"' "$MACHINE_DIR/status.json"
    not m pgrep --exact cloudstack-agen
    guest_runs
    end_server third
}

is_purged() {
    m apt-get remove -y -q cloudstack-agent-rs
    m test -e "$PROPERTIES"
    m grep --quiet "guid=$GUID" "$PROPERTIES"
    not m test -e /usr/share/cloudstack-common/scripts/util/keystore-setup
    same "diversions" "" "$(m dpkg-divert --list '*keystore*')"
    m apt-get purge -y -q cloudstack-agent-rs
    m find / -xdev -path /exchange -prune -o -print | sort >"$MACHINE_DIR/after"
    # What dpkg, the journal, libvirt and other services of the system write is theirs.
    comm -13 "$MACHINE_DIR/before" "$MACHINE_DIR/after" |
        grep --invert-match --extended-regexp '^/(proc|sys|dev|tmp|run|var/(log/(journal|apt|libvirt)|cache|lib/(apt|dpkg|libvirt|systemd)|tmp|backups))(/|$)|^/etc/libvirt/' \
            >"$MACHINE_DIR/left" || true
    cat "$MACHINE_DIR/left"
    # The host's identity: keys and certificates beside agent.properties.
    same "what is left" "/etc/cloudstack
/etc/cloudstack/agent
/etc/cloudstack/agent/cloud.ca.crt
/etc/cloudstack/agent/cloud.crt
/etc/cloudstack/agent/cloud.key" "$(cat "$MACHINE_DIR/left")"
    guest_runs
    m rm -r /etc/cloudstack
}
