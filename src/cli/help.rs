//! The long texts of `--help`.

/// After `agent --help`.
pub const TOP: &str = "\
Examples:
  agent run                                    run in the foreground (what the service does)
  agent --status                               is this host registered, and if not, why
  agent --status --json | jq .session          the same for programs
  agent --status --wait registered --timeout 120
                                               wait in a script until the host is registered
  agent check net                              can the management servers be reached

Environment:
  AGENT_CONFIG        same as --config
  AGENT_RUNTIME_DIR   same as --runtime-dir
  NO_COLOR            no colours, whatever the terminal
  NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM
                      set by systemd for `agent run`

Files:
  /etc/cloudstack/agent/agent.properties       configuration
  /run/cloudstack-agent/agent.sock             the running agent answers --status here
  /run/cloudstack-agent/metrics.sock           the running agent serves its metrics here (HTTP)
  /run/cloudstack-agent/status.json            last snapshot, for when it does not run
  /run/cloudstack-agent/agent.lock             held by the running agent

Exit codes:
  0    status: registered, no warning            check: nothing found
  1    status: registered, with warnings         check: warnings
  2    status: not registered, or a check failed check: failures
  3    status: the agent is not running
  4    status: cannot tell (no answer in time, or no permission)
  64   wrong usage
  run: 0 stopped on request, 67 cannot start or already running";

/// After `agent orphans --help`.
pub const ORPHANS: &str = "\
Lists domains, volumes, snapshots, config drives, UEFI variables, bridges, mounts and secrets that look
like CloudStack's and that no guest of this host, no process and no request since the agent started uses
or names. The volume of a stopped guest looks the same: ask the server before removing anything. Works
with the agent running or not; libvirt must answer. Shared pools are left out.

--remove looks again before each removal and refuses what is not listed then. It asks first, and without a
terminal it refuses unless --yes is given. Each removal is logged in the system's journal.

Examples:
  agent orphans
  agent orphans --json
  agent orphans --remove volume:0b3d1f5e-8a35-4c11-9d6b-3f0d8a1f2c11
  agent orphans --yes --remove config-drive:i-2-7-VM bridge:breth0-100

Exit codes:
  0   none found; --remove: all removed
  1   some found; --remove: at least one was refused
  2   it is not known what is in use, or nobody said yes
  64  wrong usage";

/// After `agent status --help`.
pub const STATUS: &str = "\
Looks in three depths: the running agent answers on its socket; if it does not, the last snapshot
it wrote is shown; if there is none, only what can be seen without an agent. The first line says
which. Starts, stops and changes nothing, and ends within 2 seconds whatever hangs. Times are UTC.

Examples:
  agent --status
  agent --status --json
  agent --status --watch
  agent --status --wait registered --timeout 120 && echo up

Environment:
  AGENT_CONFIG, AGENT_RUNTIME_DIR, NO_COLOR

Files:
  <runtime-dir>/agent.sock     asked first; root and the agent's user only
  <runtime-dir>/status.json    shown when the agent does not answer
  status.schema.json           the schema of --json, in the package's documentation directory

Exit codes:
  0   registered, no warning
  1   registered, at least one warning
  2   not registered, or a check failed
  3   the agent is not running
  4   cannot tell: no answer within 2 seconds, or no permission
  64  wrong usage";

/// After `agent run --help`.
pub const RUN: &str = "\
Runs in the foreground. SIGTERM drains and ends, SIGHUP reads the configuration again, SIGUSR1
writes one line of status to the log.

Examples:
  agent run
  agent run --config ./agent.properties --runtime-dir ./run --log-level debug

Environment:
  AGENT_CONFIG, AGENT_RUNTIME_DIR, NO_COLOR, NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM

Files:
  /etc/cloudstack/agent/agent.properties    read at the start, and written when the server says so
  /run/cloudstack-agent/                    sockets, lock and snapshot

Exit codes:
  0   stopped on request
  64  wrong usage
  67  another error, or an agent is already running with this runtime directory";

/// After `agent check --help`.
pub const CHECK: &str = "\
Needs no running agent and changes nothing. Every line is one fact; each problem ends with what to
do. All checks run at once and end within 2 seconds.

Examples:
  agent check
  agent check net
  agent check --json disk

Environment:
  AGENT_CONFIG, AGENT_RUNTIME_DIR, NO_COLOR

Exit codes:
  0   nothing found
  1   at least one warning, or a check without an answer
  2   at least one failure
  64  wrong usage";

/// After `agent inventory --help`.
pub const INVENTORY: &str = "\
Shows what would be sent to the management server at registration, without sending it.

Examples:
  agent inventory --json
  agent inventory --diff      what changed since the last registration

Exit codes:
  0   shown; with --diff: no difference
  1   with --diff: there are differences
  2   the inventory cannot be collected, or nothing was sent yet to compare with
  64  wrong usage";

/// After `agent metrics --help`.
pub const METRICS: &str = "\
Prints what Prometheus scrapes: the page that the running agent serves on its socket. The same comes over
TCP if agent.properties has metrics.listen=ADDRESS:PORT; without it no port is opened. Alert rules are in
/usr/share/cloudstack-agent/prometheus.

Examples:
  agent metrics
  agent metrics | sponge /var/lib/prometheus/node-exporter/cloudstack_agent.prom
                                               for node_exporter, from a timer
  curl --unix-socket /run/cloudstack-agent/metrics.sock http://localhost/metrics

Environment:
  AGENT_RUNTIME_DIR   same as --runtime-dir

Files:
  <runtime-dir>/metrics.sock     HTTP, GET /metrics; mode 0660

Exit codes:
  0   shown
  3   the agent is not running
  4   cannot tell: no answer within 2 seconds, or no permission
  64  wrong usage";

/// After `agent commands --help`.
pub const COMMANDS: &str = "\
Lists every command of the management server, the answer it gets, and whether this agent handles it.

Exit codes:
  0   shown
  64  wrong usage";

/// After `agent setup --help`.
pub const SETUP: &str = "\
Compares the host with what it has to be, shows the plan, and does only what is missing: kernel module,
AppArmor, links to the certificates, libvirtd.conf, qemu.conf, libvirt's sockets, ufw where it is active,
agent.properties, the agent's service. The network is only looked at. When a step fails, those before it
are taken back. Everything is recorded; a second run finds nothing to do. Without -a it asks.

Examples:
  cloudstack-setup-agent                       ask, then set up
  cloudstack-setup-agent -m 10.0.0.5 -z 1 -p 1 -c 1 -g GUID -a -s --pubNic=cloudbr0 --prvNic=cloudbr0 --guestNic=cloudbr0 --hypervisor=kvm
                                               what a management server calls when a host is added
  cloudstack-setup-agent -s                    let libvirt use the certificates, nothing else
  agent setup --undo                           take the last set-up back

Environment:
  AGENT_ROOT          same as --root

Files:
  /etc/cloudstack/agent/agent.properties       gets the place of this host; setup.apparmor.disable=false
                                               in it keeps AppArmor on
  /var/lib/cloudstack-agent/setup/run-NNNN/    what each set-up did, and the files as they were
  /var/log/cloudstack/agent/setup.log          what was said

Exit codes:
  0   set up, or nothing to do; --undo: all taken back
  1   --undo: something was changed since and is left as it is
  2   a problem that must be solved first, or a step failed and all was taken back
  64  wrong usage";

/// After `agent keystore-setup --help`.
pub const KEYSTORE_SETUP: &str = "\
Called by management servers over ssh. Makes a new RSA key and prints the request for its certificate. The
key in use stays until keystore-cert-import installs the certificate of the new one.

Examples:
  keystore-setup /etc/cloudstack/agent/agent.properties /etc/cloudstack/agent/cloud.jks PASSWORD 365 \
                 /etc/cloudstack/agent/cloud.csr

Exit codes:
  0   the request is on stdout
  1   failed
  64  wrong usage";

/// After `agent keystore-cert-import --help`.
pub const KEYSTORE_CERT_IMPORT: &str = "\
Called by management servers over ssh. Installs certificate, key, CA certificates and keystore beside
agent.properties, if they fit together, and lets libvirt and QEMU use them. Prints nothing.

Exit codes:
  0   installed; a warning on stderr says if libvirt could not be configured
  1   failed, nothing was replaced
  64  wrong usage";

/// After `agent ssh --help`.
pub const SSH: &str = "\
Examples:
  cloudstack-ssh 169.254.12.7
  cloudstack-ssh 169.254.12.7 cat /var/log/cloud.log

Files:
  /root/.ssh/id_rsa.cloud     the key, given by the management server

Exit codes:
  that of ssh, which is that of the command
  2   ssh could not be started
  64  wrong usage";

/// After `agent guest --help`.
pub const GUEST: &str = "\
Prints one JSON object, also about an error.

Examples:
  cloudstack-guest-tool i-2-3-VM
  cloudstack-guest-tool r-4-VM --command ping --timeout 10

Exit codes:
  0    answered
  1    the guest agent answered something else than expected
  64   wrong usage
  255  the guest agent could not be asked";

/// After `agent upgrade --help`.
pub const UPGRADE: &str = "\
The Java agent's program of this name renames bridges of guests (cloudVirBr and a VLAN), which releases
before 4.1 made. This one changes nothing: it says that there are none, or which there are and what to do.

Exit codes:
  0   nothing to upgrade
  1   there are such bridges
  64  wrong usage";
