//! Replacing a file so that a reader, a crash or a full disk sees the old content or the new, never a part.
//!
//! The Java agent truncates `agent.properties` and writes it anew (`PropertiesStorage.persist`); a full disk
//! or a crash in between loses the host's identity. Here: a new file in the same directory, written and
//! synced, then renamed over the old one, then the directory synced. Also used for keys, certificates and
//! snapshots. Blocks for the time of two disk syncs: call it from a blocking task.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Access rights of the replaced file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permissions {
    /// Mode and owner of the existing file; a new file gets this mode.
    KeepOr(u32),
    /// This mode in any case; the owner of the existing file is kept.
    Exactly(u32),
}

/// Which step of a replacement failed. The old content is untouched, except after `SyncDirectory`.
#[derive(Debug, thiserror::Error)]
pub enum AtomicError {
    #[error("{} cannot be written: it does not name a file", .0.display())]
    NoFileName(PathBuf),
    #[error("Cannot examine {} before replacing it: check the rights on its directory", path.display())]
    Examine { path: PathBuf, source: io::Error },
    #[error("Cannot create a new file next to {}: check free space and rights", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("Cannot give the new {} the owner and mode of the old one: run as root", path.display())]
    Rights { path: PathBuf, source: io::Error },
    #[error("Cannot write the new {}, the old one is kept: check free space", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("Cannot put the new {} in place, the old one is kept: check the directory", path.display())]
    Replace { path: PathBuf, source: io::Error },
    #[error("{} is replaced, but may be lost with the power: check the disk", path.display())]
    SyncDirectory { path: PathBuf, source: io::Error },
}

/// Replaces or creates the file at `path`. A symbolic link is followed, so that the link stays.
pub fn write_atomically(path: &Path, bytes: &[u8], permissions: Permissions) -> Result<(), AtomicError> {
    StagedFile::write(path, bytes, permissions)?.commit()
}

/// New content, complete and synced on disk, not yet in place. Dropped without `commit`, it is deleted.
#[derive(Debug)]
pub struct StagedFile {
    target: PathBuf,
    directory: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

impl StagedFile {
    /// Writes the new content next to the target.
    pub fn write(path: &Path, bytes: &[u8], permissions: Permissions) -> Result<StagedFile, AtomicError> {
        let target = resolve(path)?;
        let (Some(name), Some(parent)) = (target.file_name(), target.parent()) else {
            return Err(AtomicError::NoFileName(path.to_owned()));
        };
        let directory = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() };
        remove_leftovers(&directory, name);
        let existing = existing(&target)?;
        let (temporary, mut file) = create_beside(&directory, name)
            .map_err(|source| AtomicError::Create { path: target.clone(), source })?;
        let staged = StagedFile { target, directory, temporary, committed: false };
        let path = || staged.target.clone();
        // Rights before content: nobody reads a secret through rights that are narrowed later.
        set_rights(&file, existing.as_ref(), permissions)
            .map_err(|source| AtomicError::Rights { path: path(), source })?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|source| AtomicError::Write { path: path(), source })?;
        Ok(staged)
    }

    /// Puts the new content in place.
    pub fn commit(mut self) -> Result<(), AtomicError> {
        fs::rename(&self.temporary, &self.target)
            .map_err(|source| AtomicError::Replace { path: self.target.clone(), source })?;
        self.committed = true;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| AtomicError::SyncDirectory { path: self.target.clone(), source })
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done about a file that cannot be deleted; the next write tries again.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The file behind a symbolic link, else the path itself.
fn resolve(path: &Path) -> Result<PathBuf, AtomicError> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if !is_link {
        return Ok(path.to_owned());
    }
    fs::canonicalize(path).map_err(|source| AtomicError::Examine { path: path.to_owned(), source })
}

fn existing(target: &Path) -> Result<Option<Metadata>, AtomicError> {
    match fs::metadata(target) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(AtomicError::Examine { path: target.to_owned(), source }),
    }
}

fn set_rights(file: &File, existing: Option<&Metadata>, permissions: Permissions) -> io::Result<()> {
    if let Some(old) = existing {
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(file, Some(old.uid()), Some(old.gid()))?;
        }
    }
    let mode = match (permissions, existing) {
        (Permissions::KeepOr(_), Some(old)) => old.mode() & 0o7777,
        (Permissions::KeepOr(mode) | Permissions::Exactly(mode), _) => mode,
    };
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// `.NAME.` + process id + `.` + random + `.tmp`; the process id tells leftovers from files in work.
fn create_beside(directory: &Path, name: &std::ffi::OsStr) -> io::Result<(PathBuf, File)> {
    let mut attempts = 0;
    loop {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.{:016x}.tmp", std::process::id(), fastrand::u64(..)));
        let path = directory.join(temporary);
        // O_EXCL: never writes through a link or into a file that somebody else placed there.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < 16 => attempts += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Deletes new files of this target that a killed process left behind; they may hold secrets.
fn remove_leftovers(directory: &Path, name: &std::ffi::OsStr) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if leftover_of_dead_process(&entry.file_name(), name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn leftover_of_dead_process(candidate: &std::ffi::OsStr, name: &std::ffi::OsStr) -> bool {
    let (Some(candidate), Some(name)) = (candidate.to_str(), name.to_str()) else { return false };
    let middle = candidate
        .strip_prefix('.')
        .and_then(|rest| rest.strip_prefix(name))
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(".tmp"));
    let Some((process, random)) = middle.and_then(|middle| middle.split_once('.')) else { return false };
    let ours = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    match process.parse::<u32>() {
        Ok(process) => ours && !Path::new("/proc").join(process.to_string()).exists(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").mode() & 0o7777
    }

    fn names_in(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("readable");
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn new_files_get_the_mode_asked_for_and_old_ones_keep_theirs() {
        let directory = tempfile::tempdir().expect("scratch");
        let path = directory.path().join("f");
        write_atomically(&path, b"one", Permissions::KeepOr(0o600)).expect("written");
        assert_eq!((fs::read(&path).expect("there"), mode_of(&path)), (b"one".to_vec(), 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        write_atomically(&path, b"two", Permissions::KeepOr(0o600)).expect("written");
        assert_eq!((fs::read(&path).expect("there"), mode_of(&path)), (b"two".to_vec(), 0o640));
        write_atomically(&path, b"", Permissions::Exactly(0o600)).expect("written");
        assert_eq!((fs::read(&path).expect("there"), mode_of(&path)), (Vec::new(), 0o600));
        assert_eq!(names_in(directory.path()), ["f"]);
    }

    #[test]
    fn a_symbolic_link_stays_a_link() {
        let directory = tempfile::tempdir().expect("scratch");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, b"old").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        write_atomically(&link, b"new", Permissions::KeepOr(0o600)).expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read(&real).expect("there"), b"new");
    }

    #[test]
    fn a_failure_leaves_no_new_file_behind() {
        let directory = tempfile::tempdir().expect("scratch");
        let occupied = directory.path().join("occupied");
        fs::create_dir(&occupied).expect("created");
        fs::write(occupied.join("inside"), b"x").expect("written");
        let error = write_atomically(&occupied, b"new", Permissions::KeepOr(0o600)).expect_err("a directory");
        assert!(matches!(error, AtomicError::Replace { .. }), "{error:?}");
        assert_eq!(names_in(directory.path()), ["occupied"]);
        let nowhere = directory.path().join("absent/file");
        let error = write_atomically(&nowhere, b"new", Permissions::KeepOr(0o600)).expect_err("no directory");
        assert!(matches!(error, AtomicError::Create { .. }), "{error:?}");
        let error = write_atomically(Path::new("/"), b"", Permissions::KeepOr(0o600)).expect_err("root");
        assert!(matches!(error, AtomicError::NoFileName(_)), "{error:?}");
    }

    #[test]
    fn dropping_staged_content_keeps_the_old_file() {
        let directory = tempfile::tempdir().expect("scratch");
        let path = directory.path().join("f");
        fs::write(&path, b"old").expect("written");
        drop(StagedFile::write(&path, b"new", Permissions::KeepOr(0o600)).expect("staged"));
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(names_in(directory.path()), ["f"]);
    }

    #[test]
    fn only_leftovers_of_dead_processes_are_deleted() {
        let directory = tempfile::tempdir().expect("scratch");
        let mine = format!(".f.{}.00000000000000aa.tmp", std::process::id());
        // Process ids end at 2^22 on Linux.
        let dead = ".f.99999999.00000000000000aa.tmp";
        let strange =
            [".f.99999999.short.tmp", ".f.x.00000000000000aa.tmp", ".g.99999999.00000000000000aa.tmp"];
        for name in strange.into_iter().chain([mine.as_str(), dead]) {
            fs::write(directory.path().join(name), b"").expect("written");
        }
        write_atomically(&directory.path().join("f"), b"", Permissions::KeepOr(0o600)).expect("written");
        let mut wanted: Vec<_> = strange.iter().map(|name| (*name).to_owned()).collect();
        wanted.extend([mine, "f".to_owned()]);
        wanted.sort();
        assert_eq!(names_in(directory.path()), wanted);
    }

    const TARGET_VARIABLE: &str = "CLOUDSTACK_AGENT_TEST_REWRITE";

    /// Content number `generation`: lines that all name it, with a last line that closes it.
    fn content(generation: u64) -> Vec<u8> {
        let lines = 200 + (generation % 7) * 400;
        let mut text: String = (0..lines).map(|line| format!("{generation} {line} of {lines}\n")).collect();
        text.push_str(&format!("end {generation}\n"));
        text.into_bytes()
    }

    fn generation_of(bytes: &[u8]) -> Option<u64> {
        std::str::from_utf8(bytes).ok()?.split_once(' ')?.0.parse().ok()
    }

    /// Body of the child process of the next test; does nothing when run as a test of its own.
    #[test]
    fn rewrite_until_killed() {
        let Some(target) = std::env::var_os(TARGET_VARIABLE) else { return };
        let target = PathBuf::from(target);
        let start = generation_of(&fs::read(&target).expect("there")).expect("complete");
        // Ends by itself should the parent die before it kills.
        for generation in start + 1..start + 3000 {
            write_atomically(&target, &content(generation), Permissions::KeepOr(0o600)).expect("written");
        }
    }

    #[test]
    fn a_killed_writer_leaves_the_old_content_or_the_new() {
        let directory = tempfile::tempdir().expect("scratch");
        let target = directory.path().join("agent.properties");
        write_atomically(&target, &content(0), Permissions::KeepOr(0o600)).expect("written");
        let name = "files::tests::rewrite_until_killed";
        let mut last = 0;
        for round in 0..25 {
            #[allow(clippy::disallowed_methods)] // a test process that is killed, not a helper of the agent
            let mut child = std::process::Command::new(std::env::current_exe().expect("own path"))
                .args(["--exact", name])
                .env(TARGET_VARIABLE, &target)
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("started");
            let before = last;
            // Waits for the first rewrite, so that the kill hits one of the next.
            for _ in 0..2000 {
                last = generation_of(&fs::read(&target).expect("there")).expect("complete");
                if last > before {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_micros(fastrand::u64(0..8000)));
            child.kill().expect("killed");
            child.wait().expect("reaped");
            let bytes = fs::read(&target).expect("there");
            last = generation_of(&bytes).expect("complete");
            assert!(last > before, "round {round}: the child wrote nothing");
            assert!(bytes == content(last), "round {round}: generation {last} is not complete");
            assert_eq!(mode_of(&target), 0o600);
        }
        write_atomically(&target, b"done", Permissions::KeepOr(0o600)).expect("written");
        assert_eq!(names_in(directory.path()), ["agent.properties"]);
    }
}
