//! Folders, waits and processes.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use sandbox::stack::{Process, StackError, TempDir, eventually};

use super::PATIENCE;

#[test]
fn a_folder_ends_with_the_test_that_made_it() -> Result<(), StackError> {
    let (first, second) = (TempDir::new("harness")?, TempDir::new("harness")?);
    assert_ne!(first.path(), second.path());
    std::fs::write(first.path().join("file"), "content").expect("writing into a new folder");
    let path = first.path().to_owned();
    drop(first);
    assert!(!path.exists());
    assert!(second.path().is_dir());
    Ok(())
}

#[tokio::test]
async fn a_wait_ends_with_the_answer_or_says_what_it_waited_for() -> Result<(), StackError> {
    let mut asked = 0;
    let answer = eventually(PATIENCE, "the third question", async || {
        asked += 1;
        (asked == 3).then_some("here")
    });
    assert_eq!(answer.await?, "here");

    let never = eventually(
        Duration::from_millis(20),
        "pigs to fly",
        async || None::<()>,
    );
    assert_eq!(
        format!("{:?}", never.await.expect_err("it never answers")),
        "not within 20ms: pigs to fly"
    );

    // A question that is never answered does not outlast the deadline either.
    let hangs = eventually(
        Duration::from_millis(20),
        "an answer",
        std::future::pending::<Option<()>>,
    );
    assert!(hangs.await.is_err());
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_is_stopped_goes_on_and_is_killed_with_its_owner() -> Result<(), StackError> {
    let state = |process: &Process| {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
            .expect("a state, see proc(5)")
    };
    let folder = TempDir::new("harness")?;
    let process = Process::spawn("sleeper", folder.path(), Command::new("sleep").arg("1000"))?;
    for _ in 0..3 {
        process.stop().await?;
        assert_eq!(state(&process), 'T');
        process.resume().await?;
        assert_ne!(state(&process), 'T');
    }
    process.stop().await?; // Even a stopped process is killed.
    let id = Pid::from_raw(process.id().cast_signed()).expect("no process has the id 0");
    assert!(test_kill_process(id).is_ok());
    drop(process);
    assert!(test_kill_process(id).is_err());
    Ok(())
}

#[tokio::test]
async fn a_process_tells_how_it_ended_and_what_it_said() -> Result<(), StackError> {
    let folder = TempDir::new("harness")?;
    let mut command = Command::new("sh");
    command.args(["-c", "echo out; echo err >&2; exit 3"]);
    for run in 1..=2 {
        let mut process = Process::spawn("talker", folder.path(), &mut command)?;
        assert_eq!(process.wait(PATIENCE).await?.code(), Some(3));
        assert_eq!(
            process.output()?,
            format!("{}{}", "out\n".repeat(run), "err\n".repeat(run))
        );
    }
    let missing = Process::spawn(
        "nobody",
        folder.path(),
        &mut Command::new("/no/such/program"),
    );
    assert!(format!("{:?}", missing.expect_err("no such program")).starts_with("starting nobody"));
    Ok(())
}
