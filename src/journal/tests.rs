use super::faults::Fault;
use super::*;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

/// Does what concerns files and notes everything.
#[derive(Default, Clone)]
struct Files {
    noted: Arc<Mutex<Vec<String>>>,
    /// While it is set, everything fails.
    broken: Arc<AtomicBool>,
}

impl Files {
    fn broken(broken: bool) -> Files {
        let files = Files::default();
        files.breaks(broken);
        files
    }

    fn breaks(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// What was tried since the last look.
    fn tried(&self) -> Vec<String> {
        std::mem::take(&mut *self.noted.lock().unwrap())
    }

    fn journal(&self, directory: &Path) -> Journal {
        Journal::with_faults(&directory.join("journal"), Box::new(self.clone()), Faults::default())
    }
}

impl Execute for Files {
    fn execute<'a>(
        &'a self,
        action: &'a Action,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async move {
            self.noted.lock().unwrap().push(action.to_string());
            if self.broken.load(Ordering::Relaxed) {
                return Err("nothing works".to_owned());
            }
            match action {
                Action::RemoveFile { path } => match std::fs::remove_file(path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                    _ => Ok(()),
                },
                Action::MoveBack { from, to } => match std::fs::rename(from, to) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                    _ => Ok(()),
                },
                _ => Ok(()),
            }
        })
    }
}

fn journal(directory: &Path, fault: Fault) -> Journal {
    Journal::with_faults(&directory.join("journal"), Box::new(Files::default()), Faults::new(fault))
}

fn write(path: &Path, text: &str) -> Result<(), JournalError> {
    std::fs::write(path, text).map_err(|source| JournalError::Write { path: path.to_owned(), source })
}

/// Replaces `volume` by a new version, in four steps, as real commands do.
async fn replace(journal: &Journal, directory: &Path) -> Result<(), JournalError> {
    let at = |name: &str| directory.join(name);
    let mut work = journal.begin("replace", "volume", "logid").await;
    let steps = async {
        work.before(Action::RemoveFile { path: at("partial") }).await?;
        write(&at("partial"), "new")?;
        work.before(Action::MoveBack { from: at("old"), to: at("volume") }).await?;
        std::fs::rename(at("volume"), at("old")).unwrap();
        work.before(Action::RemoveFile { path: at("volume") }).await?;
        // Undone first: the new version goes, then the old one comes back.
        std::fs::rename(at("partial"), at("volume")).unwrap();
        work.after_commit(Action::RemoveFile { path: at("old") }).await
    };
    let result = steps.await;
    work.settle(result).await
}

fn state(directory: &Path) -> (String, Vec<String>) {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    (std::fs::read_to_string(directory.join("volume")).unwrap(), names)
}

/// Fails or crashes at each step in turn, until there is no further step.
async fn each_step(fault: fn(u64) -> Fault) {
    let mut seen = Vec::new();
    for at in 1..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        write(&path.join("volume"), "old").unwrap();
        let interrupted = journal(path, fault(at));
        let result = replace(&interrupted, path).await;
        drop(interrupted);
        // The next start.
        let next = journal(path, Fault::None);
        next.recover().await;
        let (content, names) = state(path);
        assert_eq!(names, ["journal", "volume"], "debris after step {at}");
        assert_eq!(std::fs::read_dir(path.join("journal")).unwrap().count(), 0, "a record after step {at}");
        assert_eq!(*next.unfinished().borrow(), 0);
        if result.is_ok() {
            assert_eq!(content, "new");
            assert_eq!(seen.len() as u64, at - 1);
            assert!(seen.iter().any(|content| content == "old"), "no step was undone");
            return;
        }
        seen.push(content);
    }
    panic!("the work never ended");
}

#[tokio::test]
async fn an_error_at_any_step_leaves_the_old_state() {
    each_step(|at| Fault::Error { at }).await;
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_the_old_or_the_new_state() {
    each_step(|at| Fault::Crash { at }).await;
}

#[tokio::test]
async fn work_that_is_dropped_is_undone_before_the_subject_is_touched_again() {
    let directory = tempfile::tempdir().unwrap();
    let journal = journal(directory.path(), Fault::None);
    let file = directory.path().join("volume");
    let mut work = journal.begin("make", "volume", "").await;
    work.before(Action::RemoveFile { path: file.clone() }).await.unwrap();
    write(&file, "half").unwrap();
    drop(work);
    let again = journal.begin("make", "volume", "").await;
    assert!(!file.exists(), "work began on what was not undone yet");
    again.settle(Ok::<(), JournalError>(())).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_undone_stays_on_record() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::broken(true);
    let journal = files.journal(directory.path());
    fails(&journal, GUEST, &[end(GUEST)]).await;
    assert_eq!(*journal.unfinished().borrow(), 1);
    assert_eq!(left(directory.path()), [end(GUEST)]);
    assert_eq!(files.tried(), ["end guest i-2-3-VM"]);
    // The next start tries it once more.
    let next = files.journal(directory.path());
    next.recover().await;
    assert_eq!(files.tried(), ["end guest i-2-3-VM"]);
    assert_eq!(*next.unfinished().borrow(), 1);
    files.breaks(false);
    let next = files.journal(directory.path());
    next.recover().await;
    assert_eq!((left(directory.path()), *next.unfinished().borrow()), (vec![], 0));
}

const GUEST: &str = "i-2-3-VM";

fn end(guest: &str) -> Action {
    Action::DestroyGuest { guest: guest.into() }
}

fn remove(directory: &Path, name: &str) -> Action {
    Action::RemoveFile { path: directory.join(name) }
}

fn merge() -> Action {
    let (base, overlay) = ("/pool/base".into(), "/pool/overlay".into());
    Action::MergeOverlay { guest: GUEST.into(), device: "vda".into(), base, overlay }
}

/// Work that takes some steps and then fails.
async fn fails(journal: &Journal, subject: &str, steps: &[Action]) {
    let mut work = journal.begin("fail", subject, "").await;
    for step in steps {
        work.before(step.clone()).await.unwrap();
    }
    assert!(work.settle(Err::<(), _>(JournalError::Injected { step: 0 })).await.is_err());
}

/// The same with success.
async fn succeeds(journal: &Journal, subject: &str, steps: &[Action]) {
    let mut work = journal.begin("succeed", subject, "").await;
    for step in steps {
        work.before(step.clone()).await.unwrap();
    }
    work.settle(Ok::<(), JournalError>(())).await.unwrap();
}

/// Everything that is left to undo.
fn left(directory: &Path) -> Vec<Action> {
    record::read_all(&directory.join("journal")).into_iter().flat_map(|(_, record)| record.undo).collect()
}

#[tokio::test]
async fn what_is_left_is_tried_again_before_the_next_work_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::broken(true);
    let journal = files.journal(directory.path());
    fails(&journal, GUEST, &[end(GUEST)]).await;
    files.tried();
    let other = journal.begin("look", "i-2-4-VM", "").await;
    assert!(files.tried().is_empty(), "the work is on another guest");
    files.breaks(false);
    let again = journal.begin("start", GUEST, "").await;
    assert_eq!(files.tried(), ["end guest i-2-3-VM"]);
    assert!(left(directory.path()).is_empty());
    assert_eq!(*journal.unfinished().borrow(), 0);
    for work in [other, again] {
        work.settle(Ok::<(), JournalError>(())).await.unwrap();
    }
    assert!(files.tried().is_empty());
}

#[tokio::test]
async fn what_a_guest_uses_stays_until_the_guest_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::broken(true);
    let journal = files.journal(directory.path());
    let secret = Action::UndefineSecret { uuid: "7".to_owned() };
    fails(&journal, GUEST, &[secret.clone(), end(GUEST)]).await;
    assert_eq!(files.tried(), ["end guest i-2-3-VM"]);
    assert_eq!(left(directory.path()), [secret, end(GUEST)]);
    files.breaks(false);
    journal.retry().await;
    assert_eq!(files.tried(), ["end guest i-2-3-VM", "undefine secret 7"]);
    assert!(left(directory.path()).is_empty());
}

#[tokio::test]
async fn what_is_left_is_tried_again_unless_somebody_works_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::broken(true);
    let journal = files.journal(directory.path());
    fails(&journal, GUEST, &[end(GUEST)]).await;
    let again = journal.begin("start", GUEST, "").await;
    files.breaks(false);
    files.tried();
    journal.retry().await;
    assert!(files.tried().is_empty(), "the guest is ended that is being started");
    drop(again);
    journal.retry().await;
    assert_eq!(files.tried(), ["end guest i-2-3-VM"]);
    assert!(left(directory.path()).is_empty());
    journal.retry().await;
    assert!(files.tried().is_empty());
}

#[tokio::test]
async fn a_guest_that_a_later_command_started_is_not_ended_for_an_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::broken(true);
    let journal = files.journal(directory.path());
    fails(&journal, GUEST, &[end(GUEST)]).await;
    // Fails again, which must not stop the command; that one fails as well, so all stays as it is.
    fails(&journal, GUEST, &[]).await;
    assert_eq!(left(directory.path()), [end(GUEST)]);
    succeeds(&journal, GUEST, &[end(GUEST)]).await;
    assert!(left(directory.path()).is_empty());
    files.breaks(false);
    files.tried();
    let next = files.journal(directory.path());
    next.recover().await;
    assert!(files.tried().is_empty(), "the guest is ended");
}

#[tokio::test]
async fn a_file_that_later_work_made_is_not_removed_for_an_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let files = Files::broken(true);
    let journal = files.journal(path);
    // A template that came along with one volume, and then with another.
    fails(&journal, "volume 1", &[remove(path, "template"), remove(path, "volume 1")]).await;
    fails(&journal, "volume 3", &[remove(path, "volume 3")]).await;
    succeeds(&journal, "volume 2", &[remove(path, "template"), remove(path, "volume 2")]).await;
    assert_eq!(left(path), [remove(path, "volume 1"), remove(path, "volume 3")]);
    // One that is there already takes no step.
    succeeds(&journal, "volume 3", &[]).await;
    assert_eq!(left(path), [remove(path, "volume 1")]);
    assert_eq!(*journal.unfinished().borrow(), 1);
}

#[tokio::test]
async fn what_a_guest_has_written_is_merged_until_it_was_started_without() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::broken(true);
    let journal = files.journal(directory.path());
    fails(&journal, GUEST, &[merge(), Action::ResumeGuest { guest: GUEST.into() }]).await;
    succeeds(&journal, GUEST, &[]).await;
    assert_eq!(left(directory.path()), [merge()]);
    succeeds(&journal, GUEST, &[end(GUEST)]).await;
    assert!(left(directory.path()).is_empty());
}

#[tokio::test]
async fn a_torn_record_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("journal");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("00000007.json"), r#"{"operation":"x","#).unwrap();
    let journal = journal(directory.path(), Fault::None);
    journal.recover().await;
    assert!(place.join("00000007.unreadable").exists());
    assert_eq!(*journal.unfinished().borrow(), 0);
}
