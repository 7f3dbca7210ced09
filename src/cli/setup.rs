//! `agent setup`, also called `cloudstack-setup-agent`: makes this machine a host of a zone.
//!
//! The options are those that management servers send over ssh. Whatever is done is said on stdout and in
//! setup.log, since a server that calls this shows the operator neither.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use clap::Args;

use super::out;
use crate::config::Properties;
use crate::errors::chain;
use crate::service::exit;
use crate::setup::Root;
use crate::setup::apply::{ApplyError, apply};
use crate::setup::gather::gather;
use crate::setup::planning::{Certificates, Facts, Placement, Plan, Task, plan};
use crate::setup::undo::{Restored, undo_last};
use crate::status::Timestamp;

const LOG: &str = "/var/log/cloudstack/agent/setup.log";
/// What scripts have always seen at the end of a set-up that went well.
const DONE: &str = "CloudStack Agent setup is done!";

#[derive(Debug, Args)]
pub struct SetupArgs {
    #[command(flatten)]
    pub root: RootArg,
    /// Ask nothing: all that is needed is given
    #[arg(short = 'a')]
    auto: bool,
    /// Management servers, separated by commas, with @algorithm behind
    #[arg(short = 'm', long = "host", value_name = "HOSTS")]
    servers: Option<String>,
    /// Zone, by id or name
    #[arg(short, long)]
    zone: Option<String>,
    /// Pod, by id or name
    #[arg(short, long)]
    pod: Option<String>,
    /// Cluster, by id or name
    #[arg(short, long)]
    cluster: Option<String>,
    /// Hypervisor
    #[arg(short = 't', long, default_value = "kvm")]
    hypervisor: String,
    /// Identity of this host
    #[arg(short, long)]
    guid: Option<String>,
    /// Let libvirt listen with TLS; without -a this is all that is done
    #[arg(short)]
    secure: bool,
    /// Interface of public traffic
    #[arg(long = "pubNic", value_name = "NIC")]
    public_nic: Option<String>,
    /// Interface with the management address
    #[arg(long = "prvNic", value_name = "NIC")]
    private_nic: Option<String>,
    /// Interface of guest traffic
    #[arg(long = "guestNic", value_name = "NIC")]
    guest_nic: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Take back what the last set-up has done
    #[arg(long, conflicts_with_all = ["auto", "secure", "dry_run"])]
    undo: bool,
}

/// Where the files of the host are.
#[derive(Debug, Args)]
pub struct RootArg {
    /// Directory that stands for / (for images and tests)
    #[arg(long = "root", value_name = "DIR", env = "AGENT_ROOT", default_value = "/")]
    directory: PathBuf,
}

impl RootArg {
    pub fn root(&self) -> Root {
        Root::new(&self.directory)
    }
}

/// Does what the arguments say and returns the exit code.
pub async fn run(args: SetupArgs) -> u8 {
    let root = args.root.root();
    let mut report = Report { log: if args.dry_run { None } else { open_log(&root) } };
    if args.undo {
        return undo(&root, &mut report).await;
    }
    let facts = match gather(&root).await {
        Ok(facts) => facts,
        Err(error) => return report.failed(&chain(&error)),
    };
    let task = match task(&args, &facts) {
        Ok(task) => task,
        Err(missing) => return report.failed(&missing),
    };
    let plan = plan(&task, &facts);
    report.plan(&plan, args.dry_run);
    if !plan.problems.is_empty() {
        return report.failed("Nothing was changed");
    }
    if args.dry_run {
        return exit::OK;
    }
    match apply(&root, &plan).await {
        Ok(applied) => {
            if let Some(record) = applied.record {
                report.line(&format!("Recorded in {}; `agent setup --undo` takes it back", record.display()));
            }
            report.line(if matches!(task, Task::AddHost(_)) { DONE } else { "libvirt listens with TLS" });
            exit::OK
        }
        Err(error) => {
            if let ApplyError::Step { restored, .. } = &error {
                report.restored(restored);
            }
            report.failed(&chain(&error))
        }
    }
}

async fn undo(root: &Root, report: &mut Report) -> u8 {
    match undo_last(root).await {
        Ok(Some(restored)) => {
            report.restored(&restored);
            if restored.failures.is_empty() { exit::OK } else { exit::WARNINGS }
        }
        Ok(None) => {
            report.line("Nothing to take back");
            exit::OK
        }
        Err(error) => report.failed(&chain(&error)),
    }
}

/// What is asked for, with the answers to what was not said.
fn task(args: &SetupArgs, facts: &Facts) -> Result<Task, String> {
    if args.secure && !args.auto {
        return Ok(Task::SecureLibvirt(Certificates::Known));
    }
    let placement = if args.auto {
        given(args)?
    } else {
        asked(args, facts, &mut io::stdin().lock(), &mut |question| {
            out::show(question);
        })
    };
    Ok(Task::AddHost(placement))
}

/// All from the command line.
fn given(args: &SetupArgs) -> Result<Placement, String> {
    let needed = [
        ("-m", &args.servers),
        ("-z", &args.zone),
        ("-p", &args.pod),
        ("-c", &args.cluster),
        ("-g", &args.guid),
        ("--pubNic", &args.public_nic),
        ("--prvNic", &args.private_nic),
        ("--guestNic", &args.guest_nic),
    ];
    let missing: Vec<&str> =
        needed.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return Err(format!("Missing operand: {} (with -a all of them are needed)", missing.join(", ")));
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(Placement {
        servers: text(&args.servers),
        zone: text(&args.zone),
        pod: text(&args.pod),
        cluster: text(&args.cluster),
        hypervisor: args.hypervisor.clone(),
        guid: text(&args.guid),
        private_nic: text(&args.private_nic),
        public_nic: text(&args.public_nic),
        guest_nic: text(&args.guest_nic),
        secure: args.secure,
    })
}

/// From the command line, else as the operator answers; no answer leaves what agent.properties has.
fn asked(
    args: &SetupArgs,
    facts: &Facts,
    answers: &mut dyn BufRead,
    show: &mut dyn FnMut(&str),
) -> Placement {
    let file = Properties::parse(facts.properties.as_deref().unwrap_or_default()).unwrap_or_default();
    let old = |key: &str| file.get(key).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned);
    let mut ask = |given: &Option<String>, question: &str, default: String| {
        given.clone().unwrap_or_else(|| {
            show(&format!("{question} [{default}]: "));
            let mut line = String::new();
            let read = answers.read_line(&mut line).unwrap_or_default();
            let answer = line.trim();
            if read == 0 || answer.is_empty() { default } else { answer.to_owned() }
        })
    };
    let or = |key: &str, default: &str| old(key).unwrap_or_else(|| default.to_owned());
    let servers = ask(&args.servers, "Management server, name or address", or("host", "localhost"));
    let zone = ask(&args.zone, "Zone, id or name", or("zone", "default"));
    let pod = ask(&args.pod, "Pod, id or name", or("pod", "default"));
    let cluster = ask(&args.cluster, "Cluster, id or name", or("cluster", "default"));
    let nic = facts.default_nic.clone().unwrap_or_default();
    let private_nic =
        ask(&args.private_nic, "Interface of the management network", or("private.network.device", &nic));
    let rest = |given: &Option<String>, key: &str| given.clone().or_else(|| old(key));
    let guid = args.guid.clone().or_else(|| old("guid"));
    Placement {
        servers,
        zone,
        pod,
        cluster,
        hypervisor: args.hypervisor.clone(),
        guid: guid.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        public_nic: rest(&args.public_nic, "public.network.device").unwrap_or_else(|| private_nic.clone()),
        guest_nic: rest(&args.guest_nic, "guest.network.device").unwrap_or_else(|| private_nic.clone()),
        private_nic,
        secure: args.secure,
    }
}

/// `None` where it cannot be opened: then stdout has to do.
fn open_log(root: &Root) -> Option<std::fs::File> {
    let path = root.at(LOG);
    DirBuilder::new().recursive(true).mode(0o755).create(path.parent()?).ok()?;
    OpenOptions::new().append(true).create(true).mode(0o640).open(path).ok()
}

/// What is told, on stdout and in the log.
struct Report {
    log: Option<std::fs::File>,
}

impl Report {
    fn line(&mut self, text: &str) {
        out::show(&format!("{text}\n"));
        self.log(text);
    }

    fn log(&mut self, text: &str) {
        if let Some(log) = &mut self.log {
            // A full disk must not stop a set-up.
            let _ = writeln!(log, "{} {text}", Timestamp::now());
        }
    }

    fn failed(&mut self, text: &str) -> u8 {
        out::complain(text);
        self.log(text);
        exit::FAILURE
    }

    fn plan(&mut self, plan: &Plan, dry_run: bool) {
        for step in &plan.steps {
            self.line(&format!("{:<12}  {}", step.topic, step.what));
        }
        for note in &plan.notes {
            self.line(&format!("note          {note}"));
        }
        for problem in &plan.problems {
            self.line(&format!("problem       {problem}"));
        }
        if plan.steps.is_empty() && plan.problems.is_empty() {
            self.line("Nothing to do: this host is set up as asked");
        } else if dry_run {
            self.line("Nothing was changed (--dry-run)");
        }
    }

    fn restored(&mut self, restored: &Restored) {
        for step in &restored.steps {
            self.line(&format!("taken back    {step}"));
        }
        for failure in &restored.failures {
            self.line(&format!("left as is    {failure}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SetupArgs,
    }

    fn parsed(line: &str) -> SetupArgs {
        Line::try_parse_from(line.split_whitespace()).unwrap().args
    }

    #[test]
    fn the_line_of_a_management_server_is_understood() {
        let args = parsed(
            "cloudstack-setup-agent  -m 10.0.0.5,10.0.0.6@roundrobin -z 1 -p 2 -c 3 -g 8f33-x -a -s \
             --pubNic=cloudbr0 --prvNic=cloudbr1 --guestNic=cloudbr2 --hypervisor=kvm",
        );
        let Task::AddHost(placement) = task(&args, &Facts::default()).unwrap() else { panic!() };
        assert_eq!(placement.servers, "10.0.0.5,10.0.0.6@roundrobin");
        assert_eq!((placement.zone, placement.pod, placement.cluster), ("1".into(), "2".into(), "3".into()));
        assert_eq!((placement.guid.as_str(), placement.hypervisor.as_str()), ("8f33-x", "kvm"));
        assert_eq!(placement.public_nic, "cloudbr0");
        assert_eq!((placement.private_nic, placement.guest_nic), ("cloudbr1".into(), "cloudbr2".into()));
        assert!(placement.secure);
    }

    #[test]
    fn automatic_set_up_needs_everything() {
        let error = task(&parsed("x -a -m h -z 1 --pubNic b"), &Facts::default()).unwrap_err();
        assert!(error.starts_with("Missing operand: -p, -c, -g, --prvNic, --guestNic"), "{error}");
    }

    #[test]
    fn secure_alone_is_for_libvirt_only() {
        assert_eq!(task(&parsed("x -s"), &Facts::default()), Ok(Task::SecureLibvirt(Certificates::Known)));
    }

    #[test]
    fn questions_have_the_old_values_as_answers() {
        let facts = Facts {
            properties: Some(
                b"host=old\nzone=z\npod=p\ncluster=c\nguid=g\nguest.network.device=br2\n".to_vec(),
            ),
            default_nic: Some("ens3".to_owned()),
            ..Facts::default()
        };
        let mut questions = Vec::new();
        let answers = "new\n\n\n7\n";
        let placement = asked(&parsed("x -t kvm"), &facts, &mut answers.as_bytes(), &mut |question| {
            questions.push(question.to_owned());
        });
        assert_eq!(questions.len(), 5);
        assert_eq!(questions[2], "Pod, id or name [p]: ");
        assert_eq!((placement.servers.as_str(), placement.zone.as_str()), ("new", "z"));
        assert_eq!((placement.pod.as_str(), placement.cluster.as_str()), ("p", "7"));
        assert_eq!((placement.private_nic.as_str(), placement.guest_nic.as_str()), ("ens3", "br2"));
        assert_eq!(placement.guid, "g");
    }
}
