//! Steps of `CopyCommand` for snapshots.

use super::copy::{CopyCmdAnswer, Options};
use crate::commands::to::{Data, SnapshotObject};
use crate::commands::{Ctx, Fault, Reply};

pub(super) async fn copy(
    _ctx: &Ctx,
    _snapshot: &SnapshotObject,
    _dest: &Data,
    _options: &Options,
) -> Result<Reply<CopyCmdAnswer>, Fault> {
    Err(Fault::new("operation not supported"))
}
