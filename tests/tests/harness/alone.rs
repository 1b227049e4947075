//! The broker as a program, and what it leaves behind, however it ends.

use std::net::TcpStream;
use std::time::Duration;

use penstock_tests::process::{Process, Program, Signal};
use penstock_tests::wait;

use super::Outcome;

const SOON: Duration = Duration::from_secs(90);

fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_penstock-test-kafka"))
}

async fn address(process: &Process) -> Result<String, Box<dyn std::error::Error>> {
    let line = process.wait_for_line("bootstrap=", SOON).await?;
    let address = line.text.strip_prefix("bootstrap=").ok_or("another line")?;
    assert!(TcpStream::connect(address).is_ok(), "{address}");
    Ok(address.to_owned())
}

#[tokio::test]
async fn it_serves_until_its_input_ends() -> Outcome {
    let process = program().open_input().start()?;
    let address = address(&process).await?;
    process.end_input();
    assert!(process.wait(SOON).await?.success());
    assert!(TcpStream::connect(address).is_err());
    Ok(())
}

#[tokio::test]
async fn it_ends_in_order_when_interrupted() -> Outcome {
    let process = program().open_input().start()?;
    let address = address(&process).await?;
    process.signal(Signal::INT)?;
    assert!(process.wait(SOON).await?.success());
    assert!(TcpStream::connect(address).is_err());
    Ok(())
}

#[tokio::test]
async fn the_broker_and_its_data_go_even_when_it_is_killed() -> Outcome {
    let dir = tempfile::tempdir()?;
    let process = program().env("TMPDIR", dir.path()).open_input().start()?;
    let address = address(&process).await?;
    let entries = || std::fs::read_dir(dir.path()).map(Iterator::count);
    assert_eq!(entries()?, 1);

    process.kill()?;
    process.wait(SOON).await?;
    wait::until("the broker to be gone", SOON, async || {
        TcpStream::connect(&address).is_err()
    })
    .await?;
    wait::until("its data to be gone", SOON, async || {
        entries().is_ok_and(|count| count == 0)
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_command_gets_the_address_and_its_status_is_passed_on() -> Outcome {
    let script = "echo at $PENSTOCK_TEST_BOOTSTRAP; exit 7";
    let process = program().args(["sh", "-c", script]).start()?;
    assert_eq!(process.wait(SOON).await?.code(), Some(7));
    assert_eq!(process.count("at 127.0.0.1:"), 1);
    Ok(())
}
