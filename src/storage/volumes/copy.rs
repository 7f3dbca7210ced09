//! Full copies of images: templates to a pool, volumes and snapshots to and from secondary storage.

use super::error::VolumeError;
use super::partial::Partial;
use super::{VolumeFacts, Volumes};
use crate::config::Secret;
use crate::host::exec::{Program, find_program};
use crate::storage::qemu_img::{ImageFormat, Provisioning, Shrink, Source, Target};
use std::path::Path;
use std::time::Duration;

/// Of the last words of `cp`.
const LONGEST_REASON: usize = 300;

/// What happens if the target exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// A complete image of at least the same size is taken for the copy: the server repeats itself.
    /// Anything else is replaced.
    #[default]
    KeepIfSame,
    /// It is replaced in one step, unless others are based on it.
    Replace,
}

/// A copy to be made.
#[derive(Debug, Clone, Copy)]
pub struct Copy<'a> {
    pub source: &'a Path,
    /// Directories that the backing files of the source may be in.
    pub roots: &'a [&'a Path],
    /// Of the source; its header decides if there is none.
    pub format: Option<ImageFormat>,
    pub source_passphrase: Option<&'a Secret>,
    /// A snapshot inside the source.
    pub snapshot: Option<&'a str>,
    /// Its directory is made if it is missing.
    pub target: &'a Path,
    pub target_format: ImageFormat,
    pub target_passphrase: Option<&'a Secret>,
    pub provisioning: Provisioning,
    /// The copy is made larger if it is smaller than this.
    pub size: Option<u64>,
    pub existing: Existing,
}

impl<'a> Copy<'a> {
    pub fn new(
        source: &'a Path,
        roots: &'a [&'a Path],
        target: &'a Path,
        target_format: ImageFormat,
    ) -> Copy<'a> {
        Copy {
            source,
            roots,
            format: None,
            source_passphrase: None,
            snapshot: None,
            target,
            target_format,
            target_passphrase: None,
            provisioning: Provisioning::Thin,
            size: None,
            existing: Existing::KeepIfSame,
        }
    }

    fn target_at<'b>(&'b self, path: &'b Path) -> Target<'b> {
        Target {
            path,
            format: self.target_format,
            provisioning: self.provisioning,
            passphrase: self.target_passphrase,
        }
    }
}

/// The outcome of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub facts: VolumeFacts,
    /// Whether the target was there already and was kept.
    pub kept: bool,
}

impl Volumes {
    /// Copies all that a reader of the source sees into a file without a backing file.
    pub async fn copy(&self, copy: Copy<'_>, deadline: Duration) -> Result<Copied, VolumeError> {
        let hint = copy.target_passphrase.is_none().then_some(copy.target_format);
        let source = self.inspect(copy.source, copy.format).await?;
        let size = source.virtual_size.max(copy.size.unwrap_or(0));
        // A plain copy keeps compression, and costs nothing where the file system can share blocks.
        let plain = source.format == copy.target_format
            && source.backing.is_none()
            && copy.snapshot.is_none()
            // The memory of a guest must not get into volumes and templates of others.
            && !source.has_snapshots
            && copy.provisioning == Provisioning::Thin
            && (copy.source_passphrase, copy.target_passphrase) == (None, None);
        if self.disks.exists(copy.target).await? {
            let same = |old: &VolumeFacts| {
                // The Java agent leaves beginnings of copies, with a header that says nothing of it.
                let complete = !plain || size > source.virtual_size || old.length >= source.length;
                old.virtual_size >= size && old.backing.is_none() && complete
            };
            if copy.existing == Existing::KeepIfSame
                && let Ok(facts) = self.existing(copy.target, hint, same).await
            {
                return Ok(Copied { facts, kept: true });
            }
            self.unused(copy.target.parent().unwrap_or(copy.target), copy.target).await?;
        }
        self.chain_within(copy.source, Some(source.format), copy.roots).await?;
        let partial = Partial::beside(copy.target, &self.disks).await?;
        let from = Source {
            path: copy.source,
            format: source.format,
            passphrase: copy.source_passphrase,
            snapshot: copy.snapshot,
        };
        if plain {
            self.need(copy.target, source.allocated).await?;
            self.copy_file(copy.source, partial.path(), deadline).await?;
        } else {
            let room = self.images.measure(from, copy.target_format).await?;
            let fat = copy.provisioning == Provisioning::Fat;
            self.need(copy.target, if fat { room.fully_allocated } else { room.required }).await?;
            self.images.convert(from, copy.target_at(partial.path()), deadline).await?;
        }
        if size > source.virtual_size {
            let image = Source {
                passphrase: copy.target_passphrase,
                ..Source::new(partial.path(), copy.target_format)
            };
            self.images.resize(image, size, Shrink::Refuse).await?;
        }
        partial.commit(&self.disks, deadline).await?;
        Ok(Copied { facts: self.inspect(copy.target, hint).await?, kept: false })
    }

    pub(super) async fn copy_file(
        &self,
        from: &Path,
        to: &Path,
        deadline: Duration,
    ) -> Result<(), VolumeError> {
        let program = find_program("cp").ok_or(VolumeError::NoCopyProgram)?;
        let program = Program::new(program)
            .args(["--reflink=auto", "--sparse=auto", "--"])
            .args([from, to])
            .deadline(deadline);
        let run = program.run().await;
        let output = run.map_err(|source| VolumeError::RunCopy { from: from.to_owned(), source })?;
        if output.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let reason: String =
            text.lines().next_back().unwrap_or("no reason given").chars().take(LONGEST_REASON).collect();
        if reason.contains("No space left on device") || reason.contains("Disk quota exceeded") {
            return Err(VolumeError::Full { path: to.to_owned() });
        }
        Err(VolumeError::Copy { from: from.to_owned(), to: to.to_owned(), reason })
    }
}
