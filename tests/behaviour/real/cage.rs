//! The namespaces around one libvirtd, and the handle to it.

use crate::harness::LIMIT;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/behaviour/real/launch.sh");
/// Everything needed, with what to install for it.
const PROGRAMS: [(&str, &str); 7] = [
    ("libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
];
const LOG: &str = "/run/libvirtd.log";

/// What libvirt finds of KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kvm {
    Absent,
    /// A device that opens and does nothing: each question about capabilities probes QEMU anew.
    Broken,
}

pub struct Cage {
    /// `unshare`, whose child is the cage's init; the cage ends when its stdin is closed.
    _holder: Child,
    init: Pid,
    libvirtd: Mutex<Option<Child>>,
    /// Of libvirtd's command line.
    options: &'static [&'static str],
}

impl Cage {
    /// A cage without libvirtd; the error is a reason in words why there can be none.
    pub fn new(kvm: Kvm) -> Result<Cage, String> {
        if !geteuid().is_root() {
            return Err("only root may make namespaces".to_owned());
        }
        for (program, package) in PROGRAMS {
            if find(program).is_none() {
                return Err(format!("{program} is not installed (apt install {package})"));
            }
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", SCRIPT]);
        if kvm == Kvm::Broken {
            unshare.env("CAGE_BROKEN_KVM", "1");
        }
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = unshare.spawn().map_err(|error| format!("unshare does not start: {error}"))?;
        let mut line = String::new();
        let told = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
        if told.is_err() || line != "ready\n" {
            let mut error = String::new();
            // Nothing to read is no reason to hide that it failed.
            let _ = holder.stderr.take().unwrap().read_to_string(&mut error);
            let _ = holder.wait();
            return Err(format!("namespaces cannot be made here: {}", error.trim()));
        }
        let init = only_child(holder.id())?;
        Ok(Cage { _holder: holder, init, libvirtd: Mutex::default(), options: &[] })
    }

    /// A cage whose libvirtd answers.
    pub fn with_libvirtd() -> Result<Cage, String> {
        Cage::new(Kvm::Absent)?.started()
    }

    /// The same for a libvirtd to which others may send guests.
    pub fn open_to_others() -> Result<Cage, String> {
        let mut cage = Cage::new(Kvm::Absent)?;
        let mut settings =
            File::options().append(true).open(cage.file("/etc/libvirt/libvirtd.conf")).unwrap();
        writeln!(settings, "listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"").unwrap();
        cage.options = &["--listen"];
        cage.started()
    }

    fn started(self) -> Result<Cage, String> {
        let cage = self;
        cage.enter();
        runtime().block_on(async {
            cage.start_libvirtd();
            timeout(LIMIT, cage.answers())
                .await
                .map_err(|_| format!("libvirtd does not start: {}", cage.libvirtd_log()))
        })?;
        Ok(cage)
    }

    /// Moves this thread in: its sockets are the cage's, and so are its children.
    pub fn enter(&self) {
        for (name, kind) in
            [("net", LinkNameSpaceType::Network), ("pid_for_children", LinkNameSpaceType::ProcessID)]
        {
            let link = File::open(format!("/proc/{}/ns/{name}", self.init.as_raw_nonzero())).unwrap();
            move_into_link_name_space(link.as_fd(), Some(kind)).unwrap();
        }
    }

    /// Runs a test on this thread, which from then on belongs to the cage.
    pub fn play(&self, test: impl AsyncFnOnce(&Cage)) {
        self.enter();
        runtime().block_on(test(self));
    }

    /// Runs a test that stays outside.
    pub fn watch(&self, test: impl AsyncFnOnce(&Cage)) {
        runtime().block_on(test(self));
    }

    /// The process that holds the cage's namespaces.
    pub fn init(&self) -> String {
        self.init.as_raw_nonzero().to_string()
    }

    /// What to put before a command line so that it sees the cage's files and network. The process keeps
    /// its id.
    pub fn launcher(&self) -> Vec<String> {
        let namespaces = format!("/proc/{}/ns", self.init());
        vec![
            "nsenter".to_owned(),
            format!("--mount={namespaces}/mnt"),
            format!("--net={namespaces}/net"),
            "--".to_owned(),
        ]
    }

    /// A file of the cage, as this process sees it.
    pub fn file(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init.as_raw_nonzero())).join(path.trim_start_matches('/'))
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.libvirtd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts libvirtd and returns at once.
    pub fn start_libvirtd(&self) {
        let log = File::options().create(true).append(true).open(self.file(LOG)).unwrap();
        let launcher = self.launcher();
        let mut command = Command::new(&launcher[0]);
        command
            .args(&launcher[1..])
            .arg(find("libvirtd").unwrap())
            .args(self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let before = self.daemon().replace(command.spawn().unwrap());
        assert!(before.is_none(), "libvirtd runs already");
    }

    fn signal_libvirtd(&self, signal: Signal) {
        let pid = self.daemon().as_ref().expect("libvirtd runs").id();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Ends libvirtd as a crash does; guests go on.
    pub fn kill_libvirtd(&self) {
        self.signal_libvirtd(Signal::KILL);
        let mut process = self.daemon().take().unwrap();
        process.wait().unwrap();
    }

    /// libvirtd keeps its sockets and does nothing any more.
    pub fn hang_libvirtd(&self) {
        self.signal_libvirtd(Signal::STOP);
    }

    pub fn resume_libvirtd(&self) {
        self.signal_libvirtd(Signal::CONT);
    }

    /// Does `work`; a libvirtd that ends by itself meanwhile is started again, as systemd would. That
    /// has been seen on a busy machine when it woke up to a crowd of clients that had given up.
    pub async fn with_service_manager<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(Duration::from_millis(200)) => self.revive_libvirtd(),
            }
        }
    }

    fn revive_libvirtd(&self) {
        let ended = self.daemon().as_mut().and_then(|process| process.try_wait().ok().flatten());
        if let Some(status) = ended {
            let _ = writeln!(
                std::io::stderr(),
                "libvirtd ended by itself ({status}), started again: {}",
                self.libvirtd_log()
            );
            self.daemon().take();
            self.start_libvirtd();
        }
    }

    /// Returns when libvirtd answers.
    pub async fn answers(&self) {
        while self.try_virsh(&["uri"]).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn libvirtd_log(&self) -> String {
        std::fs::read_to_string(self.file(LOG)).unwrap_or_default()
    }

    /// Runs a program in the cage; the error is what it wrote to stderr.
    pub async fn run(&self, words: &[&str]) -> Result<String, String> {
        let launcher = self.launcher();
        let mut command = tokio::process::Command::new(&launcher[0]);
        command.args(&launcher[1..]).args(words).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(LIMIT, command.output())
            .await
            .unwrap_or_else(|_| panic!("{words:?} does not end"))
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    async fn try_virsh(&self, words: &[&str]) -> Result<String, String> {
        self.run(&[&["virsh", "-q", "-c", "qemu:///system"], words].concat()).await
    }

    /// What virsh prints, without headings.
    pub async fn virsh(&self, words: &[&str]) -> String {
        let printed = self.try_virsh(words).await;
        printed.unwrap_or_else(|error| panic!("virsh {words:?}: {error}\n{}", self.libvirtd_log()))
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // With its init everything in the cage dies; so it does when this process is killed. Not
        // waited for: init lasts until all are reaped, some of them by this process at its end.
        let _ = kill_process(self.init, Signal::KILL);
        if let Some(mut libvirtd) = self.daemon().take() {
            let _ = libvirtd.wait();
        }
    }
}

/// Without threads of its own: a thread that gives its children to a cage cannot start any.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|file| file.exists())
}

/// `unshare` starts nothing but the cage's init.
fn only_child(parent: u32) -> Result<Pid, String> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let pid = children.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| format!("{path} is not one process: {children:?}"))
}
