//! The addresses that a handler listens at.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// How often the lock of the socket's directory is tried, and the pause in between.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The reasons for which a handler can't listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Another process listens on the socket.
    #[error(
        "another process listens on the socket {0}; stop it, or set PENSTOCK_HANDLER_SOCKET to another path"
    )]
    InUse(PathBuf),
    /// The path is a file of another kind.
    #[error(
        "{0} exists and is no socket; remove it, or set PENSTOCK_HANDLER_SOCKET to another path"
    )]
    NoSocket(PathBuf),
    /// The operating system refuses the address.
    #[error("the handler can't listen at {address}: {source}")]
    Refused {
        /// The address or path.
        address: String,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Listens on a TCP port.
pub(crate) async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| refused(address, source))
}

/// Listens on a Unix socket, in place of one that a killed process has left.
pub(crate) async fn unix(path: &Path) -> Result<UnixListener, ListenError> {
    let refused = |source| refused(path.display(), source);
    let _lock = lock_directory(path).await;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => remove_unused(path).await?,
    }
    UnixListener::bind(path).map_err(refused)
}

/// Keeps two processes that start together from both removing the socket. Not every file system
/// has locks, and a frozen process may hold one for long; the look for a listener remains.
async fn lock_directory(path: &Path) -> Option<File> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..LOCK_TRIES {
        if directory.try_lock().is_ok() {
            break;
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Some(directory)
}

/// Removes a socket that nobody listens on.
async fn remove_unused(path: &Path) -> Result<(), ListenError> {
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        // The queue of a listener that is frozen may be full.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return Err(ListenError::InUse(path.to_owned()));
        }
        Ok(_) => return Err(ListenError::InUse(path.to_owned())),
        Err(error) => return Err(refused(path.display(), error)),
    }
    fs::remove_file(path).map_err(|error| refused(path.display(), error))
}

fn refused(address: impl ToString, source: io::Error) -> ListenError {
    ListenError::Refused {
        address: address.to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_killed_process_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handler.sock");
        // A dropped listener leaves its file, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = unix(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn a_socket_in_use_is_never_stolen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handler.sock");
        let first = unix(&path).await.unwrap();
        let error = unix(&path).await.unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        UnixStream::connect(&path).await.unwrap();
        first.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_file_of_another_kind_is_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handler.sock");
        fs::write(&path, "precious").unwrap();
        let error = unix(&path).await.unwrap_err();
        assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn an_error_names_the_address() {
        let first = tcp(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = tcp(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        let error = unix(Path::new("/nowhere/handler.sock")).await.unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/handler.sock"),
            "{error}"
        );
    }
}
