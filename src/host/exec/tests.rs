use super::*;

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").arg("-c").arg(script)
}

fn is_alive(pid: &str) -> bool {
    // A zombie is dead: its parent has merely not looked yet.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

async fn until_dead(pid: &str) {
    let dies = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), dies).await.expect("the process lives on");
}

async fn pid_in(file: &Path) -> String {
    let appears = async {
        loop {
            match std::fs::read_to_string(file) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), appears).await.expect("no process id")
}

#[tokio::test]
async fn output_and_code_are_kept_apart() {
    let output = shell("echo out; echo err >&2; exit 3").run().await.unwrap();
    assert_eq!(output.code, Some(3));
    assert!(!output.success());
    assert_eq!((output.text().as_str(), output.stderr.as_slice()), ("out\n", b"err\n".as_slice()));
    assert!(!output.truncated);
}

#[tokio::test]
async fn input_larger_than_a_pipe_arrives() {
    let bytes = vec![b'x'; 300_000];
    let output = Program::new("/bin/cat").stdin(bytes.clone()).run().await.unwrap();
    assert!(output.success());
    assert_eq!(output.stdout, bytes);
}

#[tokio::test]
async fn unread_input_is_no_error() {
    let output = shell("exit 0").stdin(vec![0; 300_000]).run().await.unwrap();
    assert!(output.success());
}

#[tokio::test]
async fn output_is_bounded_and_does_not_block_the_program() {
    let output = shell("head -c 300000 /dev/zero").max_output(1000).run().await.unwrap();
    assert!(output.success());
    assert_eq!(output.stdout.len(), 1000);
    assert!(output.truncated);
}

#[tokio::test]
async fn output_is_seen_while_it_is_written_and_beyond_the_bound() {
    let (sender, mut pieces) = tokio::sync::mpsc::unbounded_channel();
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("go on");
    let script =
        format!("echo first; while ! test -e '{}'; do sleep 0.01; done; echo second", gate.display());
    let program = shell(&script).max_output(3).on_stdout(move |piece| sender.send(piece.to_vec()).unwrap());
    let running = tokio::spawn(program.run());
    // The program goes on only after its first line has been seen.
    assert_eq!(pieces.recv().await.unwrap(), b"first\n");
    std::fs::write(gate, "").unwrap();
    let output = running.await.unwrap().unwrap();
    assert_eq!(pieces.recv().await.unwrap(), b"second\n");
    assert_eq!((output.text().as_str(), output.truncated), ("fir", true));
}

#[tokio::test]
async fn nothing_of_our_environment_leaks() {
    let output = Program::new("/usr/bin/env").env("EXTRA", "1").run().await.unwrap();
    let text = output.text();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["EXTRA", "HOME", "LC_ALL", "PATH"]);
}

#[tokio::test]
async fn arguments_are_not_interpreted() {
    let output = Program::new("/bin/echo").args(["$HOME", "a;b", "`id`"]).run().await.unwrap();
    assert_eq!(output.text(), "$HOME a;b `id`\n");
}

#[tokio::test]
async fn the_deadline_kills_the_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", file.display());
    let running = tokio::spawn(shell(&script).deadline(Duration::from_millis(500)).run());
    let grandchild = pid_in(&file).await;
    let error = running.await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with("/bin/sh did not end within 0.5 s"), "{error}");
    until_dead(&grandchild).await;
}

#[tokio::test]
async fn a_cancelled_run_kills_the_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", file.display());
    let running = tokio::spawn(shell(&script).run());
    let grandchild = pid_in(&file).await;
    assert!(is_alive(&grandchild));
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    until_dead(&grandchild).await;
}

#[tokio::test]
async fn a_descendant_that_holds_the_pipes_does_not_hold_the_caller() {
    let output = shell("sleep 600 & echo $!").run().await.unwrap();
    assert!(output.success());
    until_dead(output.text().trim()).await;
}

#[tokio::test]
async fn a_signal_is_not_an_exit_code() {
    let output = shell("kill -TERM $$").run().await.unwrap();
    assert_eq!((output.code, output.signal), (None, Some(15)));
}

#[tokio::test]
async fn only_absolute_paths_are_started() {
    let error = Program::new("sh").run().await.unwrap_err();
    assert!(matches!(error, ExecError::RelativePath { .. }));
    let error = Program::new("/no/such/program").run().await.unwrap_err();
    assert!(matches!(error, ExecError::Start { .. }));
}

#[test]
fn programs_are_found_by_bare_name_only() {
    assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
    assert_eq!(find_program("../bin/sh"), None);
    assert_eq!(find_program(""), None);
    assert_eq!(find_program("no-such-program-anywhere"), None);
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let program = Program::new("/bin/true").arg("secret-argument").stdin("secret-input");
    assert!(!format!("{program:?}").contains("secret"));
}
