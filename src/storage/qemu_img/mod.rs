//! `qemu-img` with types: what the storage commands ask of it, one method per purpose.
//!
//! Arguments go in as a vector, paths are absolute (a relative one with a colon would be a network
//! protocol to QEMU), and a passphrase goes in through standard input, so that it is never in a file or
//! in the process list. The format is always said where it is known: an image whose format is guessed
//! can be made to say what its writer wants.
//! A new file that could not be finished is deleted.

mod error;
mod output;
mod progress;
mod types;

#[cfg(test)]
mod tests;

pub use error::QemuImgError;
pub use output::{CheckReport, ImageInfo, ImageSnapshot, Requirement};
pub use types::{Access, ImageFormat, Provisioning, Repair, Shrink, Source, Target};

use super::disk::{DeleteUnlessComplete, Disks};
use crate::config::Secret;
use crate::host::exec::{ExecError, Output, Program, find_program};
use error::{Operation, failed, reason};
use progress::Progress;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For what reads or writes a header only.
pub const QUICK: Duration = Duration::from_secs(60);

/// To encrypt a new image on a busy host: QEMU measures how fast it derives keys, and gives up if the
/// kernel, which samples, has seen nothing of that. Together up to 10 s.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Handle to the program.
#[derive(Debug, Clone)]
pub struct QemuImg {
    /// `None`: not installed.
    program: Option<PathBuf>,
    disks: Disks,
}

impl QemuImg {
    /// Finds the program once.
    pub fn find(disks: Disks) -> QemuImg {
        QemuImg { program: find_program("qemu-img"), disks }
    }

    /// A program in another place.
    pub fn at(program: PathBuf, disks: Disks) -> QemuImg {
        QemuImg { program: Some(program), disks }
    }

    /// An empty image of `size` bytes.
    pub async fn create(&self, target: Target<'_>, size: u64) -> Result<(), QemuImgError> {
        // Writing everything takes as long as the disks take.
        let deadline = if target.provisioning == Provisioning::Fat { 60 * QUICK } else { QUICK };
        let program = || {
            Ok(with_secret(self.program("create")?.arg("-q"), target.passphrase)
                .args(["-o", &target.options(), "-f", target.driver()])
                .arg(absolute(target.path)?)
                .arg(target.payload(size).to_string())
                .deadline(deadline))
        };
        self.make(Operation::Create, target.path, program).await
    }

    /// A qcow2 image over `backing`, of `size` bytes or of the size of its backing image.
    pub async fn create_over(
        &self,
        target: Target<'_>,
        backing: Source<'_>,
        size: Option<u64>,
    ) -> Result<(), QemuImgError> {
        let program = || {
            Ok(with_secret(self.program("create")?.arg("-q"), target.passphrase)
                .args(["-o", &target.options(), "-f", ImageFormat::Qcow2.as_str()])
                .args(["-F", backing.format.as_str(), "-b"])
                .arg(absolute(backing.path)?)
                .arg(absolute(target.path)?)
                .args(size.map(|size| size.to_string()))
                .deadline(QUICK))
        };
        self.make(Operation::Create, target.path, program).await
    }

    /// Copies all that a reader of `source` sees into a new image without a backing file. Logs its
    /// progress if it takes long.
    pub async fn convert(
        &self,
        source: Source<'_>,
        target: Target<'_>,
        deadline: Duration,
    ) -> Result<(), QemuImgError> {
        let snapshot = source.snapshot.map(|name| format!("snapshot.name={name}"));
        let program = || {
            let mut progress = Progress::start(target.path);
            Ok(with_secret(self.program("convert")?.arg("-p"), one_secret(source, target)?)
                .args(["-O", target.driver(), "-o", &target.options()])
                .args(snapshot.iter().flat_map(|snapshot| ["-l", snapshot]))
                .args(["-U", "--image-opts"])
                .arg(image_options(source)?)
                .arg(absolute(target.path)?)
                .on_stdout(move |piece| progress.feed(piece))
                .deadline(deadline))
        };
        self.make(Operation::Convert, target.path, program).await
    }

    /// What the header says. Without a format it is guessed.
    pub async fn info(
        &self,
        path: &Path,
        format: Option<ImageFormat>,
        access: Access,
    ) -> Result<ImageInfo, QemuImgError> {
        let program = self.information(path, format, access)?;
        output::info(path, &self.run(Operation::Info, path, program).await?.stdout)
    }

    /// The image and everything below it, topmost first.
    pub async fn backing_chain(&self, path: &Path) -> Result<Vec<ImageInfo>, QemuImgError> {
        let program = self.information(path, None, Access::Shared)?.arg("--backing-chain");
        output::chain(path, &self.run(Operation::Info, path, program).await?.stdout)
    }

    fn information(
        &self,
        path: &Path,
        format: Option<ImageFormat>,
        access: Access,
    ) -> Result<Program, QemuImgError> {
        let mut program = self.program("info")?.arg("--output=json");
        if access == Access::Shared {
            program = program.arg("--force-share");
        }
        if let Some(format) = format {
            program = program.args(["-f", format.as_str()]);
        }
        Ok(program.arg(absolute(path)?).deadline(QUICK))
    }

    /// Whether some process, a guest as a rule, writes to the image.
    pub async fn is_locked(&self, path: &Path) -> Result<bool, QemuImgError> {
        match self.info(path, None, Access::Exclusive).await {
            Ok(_) => Ok(false),
            Err(QemuImgError::Locked { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Bytes that a copy of `source` in `format` needs.
    pub async fn measure(
        &self,
        source: Source<'_>,
        format: ImageFormat,
    ) -> Result<Requirement, QemuImgError> {
        let program = with_secret(self.program("measure")?.arg("--output=json"), source.passphrase)
            .args(["-O", format.as_str(), "-U", "--image-opts"])
            .arg(image_options(source)?)
            .deadline(QUICK);
        output::requirement(source.path, &self.run(Operation::Measure, source.path, program).await?.stdout)
    }

    /// Gives an image that no guest has open another size.
    pub async fn resize(&self, image: Source<'_>, size: u64, shrink: Shrink) -> Result<(), QemuImgError> {
        let mut program = with_secret(self.program("resize")?.arg("-q"), image.passphrase);
        if shrink == Shrink::Allow {
            program = program.arg("--shrink");
        }
        let program = program.arg("--image-opts").arg(image_options(image)?).arg(size.to_string());
        self.run(Operation::Resize, image.path, program.deadline(QUICK)).await.map(drop)
    }

    /// Writes another backing file into the header; the content of both must be the same.
    pub async fn rebase_unsafe(
        &self,
        path: &Path,
        backing: &Path,
        format: ImageFormat,
    ) -> Result<(), QemuImgError> {
        let program = self
            .program("rebase")?
            .args(["-q", "-u", "-f", "qcow2", "-F", format.as_str(), "-b"])
            .arg(absolute(backing)?)
            .arg(absolute(path)?)
            .deadline(QUICK);
        self.run(Operation::Rebase, path, program).await.map(drop)
    }

    /// Writes what `top` has on top of `base` into `base`. `top` keeps its content.
    pub async fn commit(&self, top: &Path, base: &Path, deadline: Duration) -> Result<(), QemuImgError> {
        let mut progress = Progress::start(base);
        let program = self
            .program("commit")?
            .args(["-p", "-d", "-f", "qcow2", "-b"])
            .arg(absolute(base)?)
            .arg(absolute(top)?)
            .on_stdout(move |piece| progress.feed(piece))
            .deadline(deadline);
        self.run(Operation::Commit, top, program).await.map(drop)
    }

    /// Looks for errors in a qcow2 image, and repairs some if told to.
    pub async fn check(
        &self,
        image: Source<'_>,
        repair: Option<Repair>,
        deadline: Duration,
    ) -> Result<CheckReport, QemuImgError> {
        let mut program = with_secret(self.program("check")?.arg("--output=json"), image.passphrase);
        if let Some(repair) = repair {
            program = program.args(["-r", if repair == Repair::All { "all" } else { "leaks" }]);
        }
        let program = program.arg("--image-opts").arg(image_options(image)?).deadline(deadline);
        let output = self.start(Operation::Check, image.path, program).await?;
        // 2: damaged, 3: leaked clusters; both with a report.
        match output.code {
            Some(0 | 2 | 3) => output::check(image.path, &output.stdout),
            _ => Err(failed(Operation::Check, image.path, reason(&output))),
        }
    }

    /// The snapshots inside a qcow2 image.
    pub async fn snapshots(&self, path: &Path) -> Result<Vec<ImageSnapshot>, QemuImgError> {
        Ok(self.info(path, Some(ImageFormat::Qcow2), Access::Shared).await?.snapshots)
    }

    /// Makes a snapshot inside an image that no guest has open.
    pub async fn create_snapshot(&self, path: &Path, name: &str) -> Result<(), QemuImgError> {
        let program = self.program("snapshot")?.args(["-q", "-c", name]).arg(absolute(path)?).deadline(QUICK);
        self.run(Operation::Snapshot, path, program).await.map(drop)
    }

    /// Deletes a snapshot inside an image that no guest has open. Says whether there was one.
    pub async fn delete_snapshot(
        &self,
        path: &Path,
        name: &str,
        deadline: Duration,
    ) -> Result<bool, QemuImgError> {
        if !self.snapshots(path).await?.iter().any(|snapshot| snapshot.name == name) {
            return Ok(false);
        }
        let program =
            self.program("snapshot")?.args(["-q", "-d", name]).arg(absolute(path)?).deadline(deadline);
        self.run(Operation::Snapshot, path, program).await.map(|_| true)
    }

    /// Removes a bitmap of an image that no guest has open. Says whether there was one.
    pub async fn remove_bitmap(&self, path: &Path, name: &str) -> Result<bool, QemuImgError> {
        let program = self.program("bitmap")?.args(["--remove", "-f", "qcow2"]);
        let program = program.arg(absolute(path)?).arg(name).deadline(QUICK);
        match self.run(Operation::Bitmap, path, program).await {
            Ok(_) => Ok(true),
            Err(QemuImgError::Bitmap { reason, .. }) if reason.contains("not found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn program(&self, subcommand: &str) -> Result<Program, QemuImgError> {
        let program = self.program.as_ref().ok_or(QemuImgError::Missing)?;
        Ok(Program::new(program).arg(subcommand))
    }

    /// Like `run`, for what writes to `path`: an unfinished new file is deleted, also if the caller
    /// goes away.
    async fn make(
        &self,
        operation: Operation,
        path: &Path,
        program: impl Fn() -> Result<Program, QemuImgError>,
    ) -> Result<(), QemuImgError> {
        let existed = self.disks.exists(path).await?;
        let unfinished = (!existed).then(|| DeleteUnlessComplete::new(path.to_owned()));
        let mut outcome = self.run(operation, path, program()?).await;
        for attempt in 1..ATTEMPTS {
            if !outcome.as_ref().is_err_and(QemuImgError::is_passing) {
                break;
            }
            tokio::time::sleep(PAUSE * attempt).await;
            outcome = self.run(operation, path, program()?).await;
        }
        if let Some(file) = unfinished {
            // Before the caller may try again under the same name.
            if outcome.is_ok() || self.disks.delete(path).await.is_ok() {
                file.complete();
            }
        }
        outcome.map(drop)
    }

    async fn run(&self, operation: Operation, path: &Path, program: Program) -> Result<Output, QemuImgError> {
        let output = self.start(operation, path, program).await?;
        if output.success() { Ok(output) } else { Err(failed(operation, path, reason(&output))) }
    }

    async fn start(
        &self,
        operation: Operation,
        path: &Path,
        program: Program,
    ) -> Result<Output, QemuImgError> {
        program.run().await.map_err(|source: ExecError| QemuImgError::Run {
            operation: operation.verb(),
            path: path.to_owned(),
            source,
        })
    }
}

/// The passphrase of both sides; `qemu-img` reads it from its standard input, and has only one.
fn one_secret<'a>(source: Source<'a>, target: Target<'a>) -> Result<Option<&'a Secret>, QemuImgError> {
    match (source.passphrase, target.passphrase) {
        (Some(old), Some(new)) if old != new => {
            Err(QemuImgError::TwoSecrets { path: target.path.to_owned() })
        }
        (old, new) => Ok(old.or(new)),
    }
}

fn with_secret(program: Program, passphrase: Option<&Secret>) -> Program {
    match passphrase {
        None => program,
        Some(secret) => program.args(["--object", "secret,id=sec0,file=/dev/stdin"]).stdin(secret.expose()),
    }
}

/// `driver=qcow2,file.filename=/path`, in which commas are doubled.
fn image_options(image: Source<'_>) -> Result<OsString, QemuImgError> {
    let path = absolute(image.path)?.to_str();
    let path = path.ok_or_else(|| QemuImgError::Path { path: image.path.to_owned() })?;
    let encrypted = image.passphrase.is_some();
    let mut options =
        format!("driver={},file.filename={}", image.format.driver(encrypted), path.replace(',', ",,"));
    if encrypted {
        options.push_str(&format!(",{}=sec0", image.format.key_option()));
    }
    Ok(options.into())
}

fn absolute(path: &Path) -> Result<&Path, QemuImgError> {
    if path.is_absolute() { Ok(path) } else { Err(QemuImgError::Path { path: path.to_owned() }) }
}
