//! A handler for pods of a test cluster: it passes each connection on to a
//! [`Recorder`](penstock_tests::recorder::Recorder) of the test, on the address in
//! `RECORDER`, and so does in the pod what the recorder does outside.
//!
//! It listens on `PORT` of all addresses, or of the one in `LISTEN_ON`; or at the path
//! in `PENSTOCK_HANDLER_SOCKET`.

#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::process::ExitCode;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-test-handler: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> io::Result<()> {
    let recorder = variable("RECORDER")?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = serve(recorder) => served,
        _ = terminate.recv() => Ok(()),
    }
}

async fn serve(recorder: String) -> io::Result<()> {
    if let Ok(path) = env::var("PENSTOCK_HANDLER_SOCKET") {
        // One that was killed leaves its socket behind.
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(path)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(pass_on(client, recorder.clone()));
        }
    }
    let port = variable("PORT")?;
    let address = env::var("LISTEN_ON").unwrap_or_else(|_| "0.0.0.0".into());
    let listener = TcpListener::bind(format!("{address}:{port}")).await?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(pass_on(client, recorder.clone()));
    }
}

/// A recorder that is down looks like a handler that is: the connection ends.
async fn pass_on(mut client: impl AsyncRead + AsyncWrite + Unpin, recorder: String) {
    if let Ok(mut recorder) = TcpStream::connect(recorder).await {
        let _ = copy_bidirectional(&mut client, &mut recorder).await;
    }
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|_| io::Error::other(format!("{name} is not set")))
}
