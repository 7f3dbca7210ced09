use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const GOOD: &str = "# kept\nguid=g-1\nzone=1\nhost=a\nhost.reserved.mem.mb=4096\nlocal.storage.path=/a\n";

struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    fn with(text: &str) -> Scratch {
        let scratch = Scratch { directory: tempfile::tempdir().expect("scratch") };
        scratch.write(text);
        scratch
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("agent.properties")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).expect("written");
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("readable")
    }
}

fn set(key: &'static str, value: &str) -> Change {
    Change { key, value: Some(value.to_owned()) }
}

fn loaded(store: &ConfigStore) -> Arc<Config> {
    match &*store.current() {
        FileState::Loaded(config) => config.clone(),
        other => panic!("{other:?}"),
    }
}

fn invalid(store: &ConfigStore) -> Arc<ConfigError> {
    match &*store.current() {
        FileState::Invalid { error } => error.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_state_is_there_at_once() {
    let scratch = Scratch::with(GOOD);
    assert_eq!(loaded(&ConfigStore::spawn(scratch.path())).guid.as_deref(), Some("g-1"));
    let absent = ConfigStore::spawn(scratch.directory.path().join("absent"));
    assert!(matches!(&*absent.current(), FileState::Missing { path } if path.ends_with("absent")));
    assert!(absent.last_good().is_none());
    scratch.write("port=x\n");
    assert!(matches!(&*invalid(&ConfigStore::spawn(scratch.path())), ConfigError::Invalid { .. }));
    let directory = ConfigStore::spawn(scratch.directory.path().to_owned());
    assert!(matches!(&*invalid(&directory), ConfigError::Read { .. }));
    scratch.write(&"#".repeat(crate::config::properties::MAX_BYTES + 1));
    assert!(matches!(&*invalid(&ConfigStore::spawn(scratch.path())), ConfigError::Parse { .. }));
}

#[tokio::test]
async fn persist_keeps_the_rest_and_publishes_before_it_returns() {
    let scratch = Scratch::with(GOOD);
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o640)).expect("set");
    let store = ConfigStore::spawn(scratch.path());
    let changes = vec![
        set("LibvirtComputingResource.id", "42"),
        set("host", "a,b@shuffle"),
        Change { key: "zone", value: None },
    ];
    assert_eq!(store.persist(changes).await.expect("stored"), Persisted::Written);
    assert_eq!(
        scratch.text(),
        "# kept\nguid=g-1\nhost=a,b@shuffle\nhost.reserved.mem.mb=4096\nlocal.storage.path=/a\n\
         LibvirtComputingResource.id=42\n"
    );
    assert_eq!(fs::metadata(scratch.path()).expect("there").mode() & 0o777, 0o640);
    let config = loaded(&store);
    assert_eq!(
        (config.host_id, config.host.as_str(), config.zone.as_str()),
        (Some(42), "a,b@shuffle", "default")
    );
    assert_eq!(store.last_good(), Some(config));
}

#[tokio::test]
async fn persist_of_known_values_does_not_touch_the_file() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    let before = fs::metadata(scratch.path()).expect("there").ino();
    let changes = vec![set("host", "a"), Change { key: "pod", value: None }];
    assert_eq!(store.persist(changes).await.expect("stored"), Persisted::Unchanged);
    assert_eq!(fs::metadata(scratch.path()).expect("there").ino(), before);
}

#[tokio::test]
async fn persist_builds_on_what_others_have_just_written() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    scratch.write(&format!("{GOOD}keystore.passphrase=new\n"));
    store.persist(vec![set("LibvirtComputingResource.id", "7")]).await.expect("stored");
    assert_eq!(scratch.text(), format!("{GOOD}keystore.passphrase=new\nLibvirtComputingResource.id=7\n"));
    assert!(loaded(&store).keystore_passphrase.is_some());
}

#[test]
fn an_edit_by_others_during_a_write_is_not_undone() {
    let scratch = Scratch::with(GOOD);
    let (mut owner, _states, _good) = FileOwner::open(scratch.path());
    let mut edits = ["pool=1\n", "pool=22\n"].into_iter();
    let edit = || edits.next().into_iter().for_each(|line| scratch.write(&format!("{GOOD}{line}")));
    let outcome = owner.persist_with(&[set("zone", "2")], edit).expect("third attempt");
    assert_eq!(outcome, Persisted::Written);
    assert_eq!(scratch.text(), format!("{GOOD}pool=22\n").replace("zone=1", "zone=2"));

    let mut length = 0;
    let edit = || {
        length += 1;
        scratch.write(&format!("{GOOD}pool={}\n", "x".repeat(length)));
    };
    let error = owner.persist_with(&[set("zone", "3")], edit).expect_err("never at rest");
    assert!(matches!(error, ConfigError::Contended { .. }), "{error:?}");
    assert_eq!(scratch.text(), format!("{GOOD}pool=xxx\n"));
    assert_eq!(fs::read_dir(scratch.directory.path()).expect("readable").count(), 1);
}

#[tokio::test]
async fn persist_never_makes_a_file_out_of_parts() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    let change = || vec![set("LibvirtComputingResource.id", "7")];
    for (damaged, matches) in [
        ("", (|error| matches!(error, ConfigError::IdentityLost { .. })) as fn(&ConfigError) -> bool),
        ("# kept\ngui", |error| matches!(error, ConfigError::IdentityLost { .. })),
        ("guid=g-1\nport=x\n", |error| matches!(error, ConfigError::Invalid { .. })),
    ] {
        scratch.write(damaged);
        let error = store.persist(change()).await.expect_err("damaged");
        assert!(matches(&error), "{damaged:?}: {error:?}");
        assert_eq!(scratch.text(), damaged);
    }
    fs::remove_file(scratch.path()).expect("removed");
    let error = store.persist(change()).await.expect_err("gone");
    assert!(matches!(error, ConfigError::Vanished { .. }), "{error:?}");
    assert!(!scratch.path().exists());
    assert_eq!(store.last_good().and_then(|config| config.guid.clone()).as_deref(), Some("g-1"));
}

#[tokio::test]
async fn values_that_would_break_the_file_are_refused() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    for change in [set("vm.migrate.wait", "soon"), set("host", "@HOST@"), Change { key: "guid", value: None }]
    {
        let error = store.persist(vec![change.clone()]).await.expect_err("refused");
        assert!(matches!(&error, ConfigError::Refused { keys, .. } if *keys == [change.key]), "{error:?}");
    }
    let error = store.persist(vec![set("pool", &"x".repeat(1 << 20))]).await.expect_err("too large");
    assert!(matches!(error, ConfigError::Refused { .. }), "{error:?}");
    assert_eq!(scratch.text(), GOOD);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_stays_as_it_is() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    // The name of the new file would be longer than 255 bytes.
    let long = scratch.directory.path().join("p".repeat(250));
    fs::write(&long, GOOD).expect("written");
    let unwritable = ConfigStore::spawn(long.clone());
    let error = unwritable.persist(vec![set("zone", "2")]).await.expect_err("name too long");
    assert!(matches!(error, ConfigError::Write { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(long).expect("there"), GOOD);
    assert_eq!(loaded(&unwritable).zone, "1");
    drop(store);
}

#[tokio::test]
async fn reload_names_changed_keys_and_holds_back_what_needs_a_restart() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    store.persist(vec![set("LibvirtComputingResource.id", "7")]).await.expect("stored");
    let outcome = store.reload().await;
    assert_eq!((outcome.changed.len(), outcome.restart_needed.len()), (0, 0), "{outcome:?}");

    scratch.write(&scratch.text().replace("guid=g-1", "guid=g-2").replace("zone=1", "zone=2"));
    let outcome = store.reload().await;
    assert_eq!(
        (outcome.changed, outcome.restart_needed),
        (vec!["guid".into(), "zone".into()], vec!["guid".to_owned()])
    );
    let config = loaded(&store);
    assert_eq!((config.guid.as_deref(), config.zone.as_str()), (Some("g-1"), "2"));

    let outcome = store.reload().await;
    assert_eq!((outcome.changed.len(), outcome.restart_needed), (0, vec!["guid".to_owned()]));
    scratch.write(GOOD);
    assert!(store.reload().await.restart_needed.is_empty());
}

#[tokio::test]
async fn reload_of_a_damaged_file_keeps_the_last_good_values() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    scratch.write("");
    let outcome = store.reload().await;
    assert!(matches!(outcome.error.as_deref(), Some(ConfigError::IdentityLost { .. })), "{outcome:?}");
    assert!(matches!(&*invalid(&store), ConfigError::IdentityLost { .. }));
    assert_eq!(store.last_good().map(|config| config.zone.clone()).as_deref(), Some("1"));
    fs::remove_file(scratch.path()).expect("removed");
    assert!(matches!(store.reload().await.error.as_deref(), Some(ConfigError::Vanished { .. })));
    assert!(matches!(&*store.current(), FileState::Missing { .. }));
    scratch.write(GOOD);
    assert!(store.reload().await.error.is_none());
    assert_eq!(loaded(&store).zone, "1");
}

#[tokio::test]
async fn values_that_the_agent_stores_itself_need_no_restart() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    let uuid = "11111111-2222-4333-8444-555555555555";
    store.persist(vec![set("local.storage.uuid", uuid)]).await.expect("stored");
    assert_eq!(loaded(&store).local_storage[0].uuid.map(|uuid| uuid.to_string()).as_deref(), Some(uuid));
    assert!(store.reload().await.restart_needed.is_empty());
}

#[tokio::test]
async fn a_host_that_is_set_up_while_the_agent_runs_gets_its_guid() {
    let scratch = Scratch::with("# fresh\nguid=\n");
    let store = ConfigStore::spawn(scratch.path());
    assert_eq!(loaded(&store).missing(), ["guid"]);
    scratch.write(GOOD);
    assert!(store.reload().await.restart_needed.is_empty());
    assert_eq!(loaded(&store).guid.as_deref(), Some("g-1"));
}

#[tokio::test(start_paused = true)]
async fn changes_by_others_are_noticed() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    let mut states = store.subscribe();
    scratch.write(&GOOD.replace("zone=1", "zone=22"));
    states.changed().await.expect("published");
    assert_eq!(loaded(&store).zone, "22");
    fs::remove_file(scratch.path()).expect("removed");
    states.changed().await.expect("published");
    assert!(matches!(&*store.current(), FileState::Missing { .. }));
    scratch.write(GOOD);
    states.changed().await.expect("published");
    assert_eq!(loaded(&store).zone, "1");
}

#[tokio::test]
async fn half_written_files_are_left_alone_until_they_rest() {
    let scratch = Scratch::with(GOOD);
    let (mut owner, states, _good) = FileOwner::open(scratch.path());
    assert!(!owner.has_settled_change());
    scratch.write("");
    assert!(!owner.has_settled_change());
    scratch.write(&GOOD.replace("zone=1", "zone=22"));
    assert!(!owner.has_settled_change());
    assert!(owner.has_settled_change());
    owner.refresh();
    assert!(!owner.has_settled_change());
    assert!(matches!(&**states.borrow(), FileState::Loaded(config) if config.zone == "22"));
}

#[tokio::test]
async fn the_owner_ends_with_its_last_handle() {
    let scratch = Scratch::with(GOOD);
    let store = ConfigStore::spawn(scratch.path());
    let mut states = store.subscribe();
    drop(store);
    assert!(states.changed().await.is_err());
}
