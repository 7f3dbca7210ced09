//! The migration itself, watched: it may be slowed, hastened or ended by the clock.

use crate::commands::{Ctx, Fault};
use crate::config::Config;
use crate::errors::chain;
use crate::hypervisor::{Hypervisor, HypervisorError, Migration};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Earlier there is no job whose downtime could be set.
const DOWNTIME_AT: Duration = Duration::from_secs(1);
/// What libvirt may take to end a migration that was aborted; also the pause between two attempts.
const ABORTING: Duration = Duration::from_secs(5);
/// What is left of the command's time for everything after the migration.
const RESERVE: Duration = Duration::from_secs(30);

/// What happens at a certain time after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Allow the guest to stand still for that long at the end.
    Downtime(Duration),
    /// Pause the guest, so that it writes no more and the rest can be sent.
    Pause,
    Abort,
}

/// Marks with their times.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Timetable {
    marks: Vec<(Duration, Mark)>,
    limit: Duration,
}

impl Timetable {
    /// From the settings of this host; the migration ends before the command's own deadline.
    pub(super) fn new(config: &Config, deadline: Duration) -> Timetable {
        let milliseconds = |key: &str| {
            let number = config.number(key).and_then(|number| u64::try_from(number).ok());
            number.filter(|number| *number > 0).map(Duration::from_millis)
        };
        let own = deadline.saturating_sub(RESERVE).max(deadline / 2);
        let limit = config.vm_migrate_wait.unwrap_or(own).min(own);
        let mut marks = vec![(limit, Mark::Abort)];
        marks.extend(milliseconds("vm.migrate.downtime").map(|time| (DOWNTIME_AT, Mark::Downtime(time))));
        marks.extend(milliseconds("vm.migrate.pauseafter").map(|after| (after, Mark::Pause)));
        marks.retain(|(after, mark)| *after < limit || *mark == Mark::Abort);
        marks.sort_by_key(|(after, _)| *after);
        Timetable { marks, limit }
    }
}

/// Migrates, and returns when the guest runs on the destination.
pub(super) async fn travel(
    ctx: &Ctx,
    guest: &str,
    migration: Migration,
    timetable: Timetable,
) -> Result<(), Fault> {
    let hypervisor = &ctx.services.hypervisor;
    let Timetable { mut marks, limit } = timetable;
    let started = Instant::now();
    let mut aborted = false;
    let mut journey = pin!(hypervisor.migrate(guest, migration, limit + RESERVE));
    loop {
        let next = marks.first().copied();
        let at = started + next.map_or(limit, |(after, _)| after);
        tokio::select! {
            result = &mut journey => return result.map_err(|error| told(guest, &error, aborted.then_some(limit))),
            () = sleep_until(at), if next.is_some() => {
                marks.remove(0);
                let Some((after, mark)) = next else { continue };
                aborted |= mark == Mark::Abort;
                if let Err(error) = act(hypervisor, guest, mark).await {
                    tracing::warn!(guest, ?mark, "A migration goes on as it is: {}", chain(&error));
                }
                if mark == Mark::Abort {
                    marks.push((after + ABORTING, Mark::Abort));
                }
            }
        }
    }
}

async fn act(hypervisor: &Hypervisor, guest: &str, mark: Mark) -> Result<(), HypervisorError> {
    match mark {
        Mark::Downtime(downtime) => hypervisor.set_max_downtime(guest, downtime).await,
        Mark::Pause => {
            tracing::info!(guest, "Guest is paused until it has been migrated");
            hypervisor.suspend(guest).await
        }
        Mark::Abort => hypervisor.abort_job(guest).await,
    }
}

fn told(guest: &str, error: &HypervisorError, aborted_after: Option<Duration>) -> Fault {
    match (error, aborted_after) {
        (HypervisorError::Deadline { .. }, _) => Fault::from_error(error),
        (_, Some(limit)) => Fault::new(format!(
            "Migration of VM [{guest}] was cancelled by CloudStack due to time out after {} seconds.",
            limit.as_secs()
        )),
        (_, None) => Fault::from_error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::testing::Bench;

    async fn timetable(lines: &str, deadline: u64) -> Timetable {
        let bench = Bench::with_properties(lines).await;
        Timetable::new(&bench.config(), Duration::from_secs(deadline))
    }

    #[tokio::test]
    async fn without_settings_only_the_command_limits_a_migration() {
        let abort = |seconds| (Duration::from_secs(seconds), Mark::Abort);
        for (deadline, limit) in [(3600, 3570), (40, 20), (2, 1)] {
            let found = timetable("vm.migrate.wait=-1\nvm.migrate.pauseafter=-1\n", deadline).await;
            assert_eq!(found, Timetable { marks: vec![abort(limit)], limit: Duration::from_secs(limit) });
        }
    }

    #[tokio::test]
    async fn settings_are_marks_in_order() {
        let lines = "vm.migrate.wait=60\nvm.migrate.pauseafter=20000\nvm.migrate.downtime=300\n";
        let found = timetable(lines, 3600).await;
        let expected = vec![
            (DOWNTIME_AT, Mark::Downtime(Duration::from_millis(300))),
            (Duration::from_secs(20), Mark::Pause),
            (Duration::from_secs(60), Mark::Abort),
        ];
        assert_eq!(found.marks, expected);
        // A pause after the end would be one of a guest that is not migrated any more.
        let found = timetable("vm.migrate.wait=10\nvm.migrate.pauseafter=20000\n", 3600).await;
        assert_eq!(found.marks, [(Duration::from_secs(10), Mark::Abort)]);
    }
}
