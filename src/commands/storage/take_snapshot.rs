//! Steps of `CreateObjectCommand` for snapshots.

use super::create_object::CreateObjectAnswer;
use crate::commands::to::SnapshotObject;
use crate::commands::{Ctx, Fault, Reply};

pub(super) async fn take(_ctx: &Ctx, _snapshot: &SnapshotObject) -> Result<Reply<CreateObjectAnswer>, Fault> {
    Err(Fault::new("operation not supported"))
}
