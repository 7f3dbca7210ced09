//! Volumes: files in a pool, made, copied, looked at, resized, deleted.
//!
//! A new file appears under its name when it is complete, never before. Doing something twice gives the
//! same file: servers repeat commands. Images that refer to files outside their storage are not read: a
//! template is somebody's upload, and its header could name any file of this host.

mod copy;
mod error;
mod partial;
mod users;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub use partial::testing;

pub use copy::{Copied, Copy, Existing};
pub use error::VolumeError;
pub use partial::Partial;
pub use users::backing_file;

use super::disk::{DEADLINE, Disks};
use super::names::VolumeName;
use super::pools::Pool;
use super::qemu_img::{Access, ImageFormat, ImageInfo, Provisioning, QemuImg, Shrink, Source, Target};
use crate::config::Secret;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A scan reads a header of every image.
const SCAN: Duration = Duration::from_secs(120);
/// Where a pool has files of the agent below its directory.
const SNAPSHOTS: &str = "snapshots";

/// What is known of a volume; sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    pub path: PathBuf,
    pub format: ImageFormat,
    /// What a guest sees.
    pub virtual_size: u64,
    /// Length of the file.
    pub length: u64,
    /// What the file takes on its storage.
    pub allocated: u64,
    pub backing: Option<PathBuf>,
    pub backing_format: Option<String>,
    pub encrypted: bool,
    /// Whether it has snapshots inside, which may have the memory of a guest.
    pub has_snapshots: bool,
}

/// A volume to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    pub pool: &'a Pool,
    pub name: &'a VolumeName,
    pub format: ImageFormat,
    pub size: u64,
    pub provisioning: Provisioning,
    pub passphrase: Option<&'a Secret>,
}

impl NewVolume<'_> {
    fn path(&self) -> PathBuf {
        self.pool.volume(self.name)
    }

    /// What is said to `inspect`: a raw encrypted image shows its inside only if its format is found out.
    fn hint(&self) -> Option<ImageFormat> {
        self.passphrase.is_none().then_some(self.format)
    }

    fn target<'b>(&'b self, path: &'b Path) -> Target<'b> {
        Target { path, format: self.format, provisioning: self.provisioning, passphrase: self.passphrase }
    }
}

impl Pool {
    /// The file of a volume.
    pub fn volume(&self, name: &VolumeName) -> PathBuf {
        self.local_path.join(name.as_str())
    }
}

/// QEMU rounds sizes up.
fn sectors(size: u64) -> u64 {
    size.checked_next_multiple_of(512).unwrap_or(size)
}

/// Handle; without state.
#[derive(Debug, Clone)]
pub struct Volumes {
    images: QemuImg,
    disks: Disks,
}

impl Volumes {
    pub fn new(images: QemuImg, disks: Disks) -> Volumes {
        Volumes { images, disks }
    }

    /// An empty volume. One that is there already and looks the same is left as it is.
    pub async fn create_empty(&self, new: NewVolume<'_>) -> Result<VolumeFacts, VolumeError> {
        let path = new.path();
        if self.disks.exists(&path).await? {
            let size = sectors(new.target(&path).payload(new.size));
            let same = |old: &VolumeFacts| {
                (old.virtual_size, old.format) == (size, new.format) && old.backing.is_none()
            };
            return self.existing(&path, new.hint(), same).await;
        }
        if new.provisioning == Provisioning::Fat {
            self.need(&path, new.size).await?;
        }
        let partial = Partial::beside(&path, &self.disks).await?;
        self.images.create(new.target(partial.path()), new.size).await?;
        partial.commit(&self.disks, DEADLINE).await?;
        self.inspect(&path, new.hint()).await
    }

    /// A root disk: an overlay over the template, or a copy of it if `full_clone` or the provisioning
    /// says so. It is at least as large as the template.
    pub async fn clone_from_template(
        &self,
        template: &VolumeName,
        new: NewVolume<'_>,
        full_clone: bool,
        deadline: Duration,
    ) -> Result<VolumeFacts, VolumeError> {
        let (path, base) = (new.path(), new.pool.volume(template));
        let template = self.inspect(&base, None).await?;
        let size = new.size.max(template.virtual_size);
        let overlay = new.provisioning == Provisioning::Thin
            && !full_clone
            && (new.format, template.format) == (ImageFormat::Qcow2, ImageFormat::Qcow2);
        if self.disks.exists(&path).await? {
            let backing = overlay.then_some(base.as_path());
            let same =
                |old: &VolumeFacts| old.virtual_size == sectors(size) && old.backing.as_deref() == backing;
            return self.existing(&path, new.hint(), same).await;
        }
        let roots = [new.pool.local_path.as_path()];
        self.chain_within(&base, Some(template.format), &roots).await?;
        if overlay {
            let partial = Partial::beside(&path, &self.disks).await?;
            let source = Source::new(&base, template.format);
            self.images.create_over(new.target(partial.path()), source, Some(size)).await?;
            partial.commit(&self.disks, DEADLINE).await?;
        } else {
            let copy = Copy {
                format: Some(template.format),
                provisioning: new.provisioning,
                target_passphrase: new.passphrase,
                size: Some(size),
                ..Copy::new(&base, &roots, &path, new.format)
            };
            self.copy(copy, deadline).await?;
        }
        self.inspect(&path, new.hint()).await
    }

    /// What is known of the volume at `path`. Without a format, its header decides.
    pub async fn inspect(
        &self,
        path: &Path,
        format: Option<ImageFormat>,
    ) -> Result<VolumeFacts, VolumeError> {
        let facts = self.disks.run("looking at", path, DEADLINE, |path| path.metadata()).await;
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) if error.is_not_found() => {
                return Err(VolumeError::Missing { path: path.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let info = self.images.info(path, format, Access::Shared).await?;
        let known = match info.format.as_str() {
            // An encrypted image without a frame of its own.
            "luks" => Some(ImageFormat::Raw),
            other => ImageFormat::named(other),
        };
        let format = known
            .ok_or_else(|| VolumeError::Format { path: path.to_owned(), format: info.format.clone() })?;
        Ok(VolumeFacts {
            path: path.to_owned(),
            format,
            virtual_size: info.virtual_size,
            length: facts.len(),
            allocated: facts.blocks() * 512,
            backing: info.backing,
            backing_format: info.backing_format,
            encrypted: info.encrypted,
            has_snapshots: !info.snapshots.is_empty(),
        })
    }

    async fn existing(
        &self,
        path: &Path,
        format: Option<ImageFormat>,
        same: impl Fn(&VolumeFacts) -> bool,
    ) -> Result<VolumeFacts, VolumeError> {
        match self.inspect(path, format).await {
            Ok(old) if same(&old) => Ok(old),
            // Another format makes it unreadable in this one.
            Ok(_) | Err(VolumeError::Image(_)) => Err(VolumeError::Exists { path: path.to_owned() }),
            Err(error) => Err(error),
        }
    }

    /// Deletes a file of a pool. One that is not there is as good as deleted; one that others in the
    /// pool are based on is kept.
    pub async fn delete(&self, root: &Path, path: &Path) -> Result<(), VolumeError> {
        if !self.disks.exists(path).await? {
            return Ok(());
        }
        self.unused(root, path).await?;
        Ok(self.disks.delete(path).await?)
    }

    /// Fails if another image in the pool, or beside it, is based on this one.
    pub async fn unused(&self, root: &Path, path: &Path) -> Result<(), VolumeError> {
        match self.based_on(root, path).await?.into_iter().next() {
            Some(by) => Err(VolumeError::InUse { path: path.to_owned(), by }),
            None => Ok(()),
        }
    }

    /// Fails if the image refers to files outside of its directory.
    pub async fn contained(&self, image: Source<'_>) -> Result<(), VolumeError> {
        let hint = image.passphrase.is_none().then_some(image.format);
        let roots = [image.path.parent().unwrap_or(image.path)];
        self.chain_within(image.path, hint, &roots).await.map(drop)
    }

    /// The images in the pool, and beside it, that are based on this one.
    pub async fn based_on(&self, root: &Path, path: &Path) -> Result<Vec<PathBuf>, VolumeError> {
        let root = root.to_owned();
        let find = move |path: &Path| users::find(&root, path);
        Ok(self.disks.run("looking for users of", path, SCAN, find).await?)
    }

    /// Gives a volume that no guest has open another size.
    pub async fn resize(
        &self,
        image: Source<'_>,
        size: u64,
        shrink: Shrink,
    ) -> Result<VolumeFacts, VolumeError> {
        // The outside of an encrypted raw image has its header on top.
        let hint = image.passphrase.is_none().then_some(image.format);
        let now = self.inspect(image.path, hint).await?;
        if now.virtual_size == sectors(size) {
            return Ok(now);
        }
        if now.virtual_size > size && shrink == Shrink::Refuse {
            let path = image.path.to_owned();
            return Err(VolumeError::Shrink { path, now: now.virtual_size, wanted: size });
        }
        self.contained(image).await?;
        self.images.resize(image, size, shrink).await?;
        self.inspect(image.path, hint).await
    }

    /// Writes the format of the backing file into a qcow2 header that lacks it: QEMU refuses such
    /// images, and older servers made them. Says whether there was something to do.
    pub async fn fix_backing_format(&self, path: &Path) -> Result<bool, VolumeError> {
        if !self.disks.run("reading the header of", path, DEADLINE, users::lacks_backing_format).await? {
            return Ok(false);
        }
        let image = self.inspect(path, Some(ImageFormat::Qcow2)).await?;
        let (Some(backing), None) = (image.backing, image.backing_format) else { return Ok(false) };
        let below = self.inspect(&backing, None).await?;
        self.images.rebase_unsafe(path, &backing, below.format).await?;
        tracing::info!(volume = %path.display(), format = below.format.as_str(), "Noted the format of the backing file");
        Ok(true)
    }

    /// Deletes what earlier lives of the agent on this host have left unfinished in a pool.
    pub async fn sweep(&self, root: &Path) -> Result<usize, VolumeError> {
        let probe = root.join(SNAPSHOTS);
        let swept = self.disks.run("looking for unfinished files beside", &probe, SCAN, |snapshots| {
            let mut swept = 0;
            for directory in [snapshots.parent(), Some(snapshots)].into_iter().flatten() {
                let Ok(entries) = std::fs::read_dir(directory) else { continue };
                for entry in entries.flatten() {
                    let name = entry.file_name();
                    if partial::is_leftover(&name.to_string_lossy())
                        && std::fs::remove_file(entry.path()).is_ok()
                    {
                        swept += 1;
                    }
                }
            }
            Ok(swept)
        });
        let swept = swept.await?;
        if swept > 0 {
            tracing::info!(pool = %root.display(), files = swept, "Deleted what was left unfinished");
        }
        Ok(swept)
    }

    /// Fails unless `needed` bytes are free where `path` is to be.
    async fn need(&self, path: &Path, needed: u64) -> Result<(), VolumeError> {
        let free = self.disks.free(path.parent().unwrap_or(path)).await?;
        if free < needed {
            return Err(VolumeError::Space { path: path.to_owned(), needed, free });
        }
        Ok(())
    }

    /// The image and what is below it, each looked at only after its name was found to be in `roots`.
    async fn chain_within(
        &self,
        path: &Path,
        format: Option<ImageFormat>,
        roots: &[&Path],
    ) -> Result<Vec<ImageInfo>, VolumeError> {
        const DEEPEST: usize = 64;
        let (mut chain, mut next) = (Vec::new(), Some((path.to_owned(), format)));
        while let Some((path, format)) = next.take() {
            if chain.len() >= DEEPEST {
                return Err(VolumeError::Depth { path });
            }
            let info = self.images.info(&path, format, Access::Shared).await?;
            let outside = |reference: String| VolumeError::Outside { path: path.clone(), reference };
            if let Some(file) = &info.data_file {
                return Err(outside(file.clone()));
            }
            if let Some(backing) = &info.backing {
                if !self.is_within(backing, roots).await? {
                    return Err(outside(backing.to_string_lossy().chars().take(200).collect()));
                }
                let format = info.backing_format.as_deref().and_then(ImageFormat::named);
                next = Some((backing.clone(), format));
            }
            chain.push(info);
        }
        Ok(chain)
    }

    /// With links and `..` followed.
    async fn is_within(&self, path: &Path, roots: &[&Path]) -> Result<bool, VolumeError> {
        // Names such as "json:{..}" and "nbd://.." are not files.
        if !path.is_absolute() {
            return Ok(false);
        }
        let roots: Vec<PathBuf> = roots.iter().map(|root| (*root).to_owned()).collect();
        let within = self.disks.run("following", path, DEADLINE, move |path| {
            let path = path.canonicalize()?;
            Ok(roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| path.starts_with(root)))
        });
        Ok(within.await?)
    }
}
