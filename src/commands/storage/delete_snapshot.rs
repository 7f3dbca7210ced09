//! Steps of `DeleteCommand` for snapshots.

use crate::commands::to::SnapshotObject;
use crate::commands::{Ctx, Fault, NoFields, Reply};

pub(super) async fn delete(_ctx: &Ctx, _snapshot: &SnapshotObject) -> Result<Reply<NoFields>, Fault> {
    Err(Fault::new("operation not supported"))
}
