use super::faults::Fault;
use super::*;
use std::sync::Mutex;

/// Does what concerns files and notes everything.
#[derive(Default, Clone)]
struct Files(Arc<Mutex<Vec<String>>>);

impl Execute for Files {
    fn execute<'a>(
        &'a self,
        action: &'a Action,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async move {
            self.0.lock().unwrap().push(action.to_string());
            match action {
                Action::RemoveFile { path } => match std::fs::remove_file(path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                    _ => Ok(()),
                },
                Action::MoveBack { from, to } => match std::fs::rename(from, to) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                    _ => Ok(()),
                },
                other => Err(format!("not for this test: {other}")),
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
    let journal = journal(directory.path(), Fault::None);
    let mut work = journal.begin("start", "i-2-3-VM", "").await;
    work.before(Action::DestroyGuest { guest: "i-2-3-VM".into() }).await.unwrap();
    let result = work.settle(Err::<(), _>(JournalError::Injected { step: 0 })).await;
    assert!(result.is_err());
    assert_eq!(*journal.unfinished().borrow(), 1);
    let left = record::read_all(&directory.path().join("journal"));
    assert_eq!(left[0].1.undo, [Action::DestroyGuest { guest: "i-2-3-VM".into() }]);
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
