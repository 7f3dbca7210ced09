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
  /run/cloudstack-agent/                    socket, lock and snapshot

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

/// After `agent commands --help`.
pub const COMMANDS: &str = "\
Lists every command of the management server, the answer it gets, and whether this agent handles it.

Exit codes:
  0   shown
  64  wrong usage";
