//! The addresses that a handler listens at.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};

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
pub(crate) fn unix(path: &Path) -> Result<UnixListener, ListenError> {
    let refused = |source| refused(path.display(), source);
    // Two processes that start together must not both remove the socket. Not every file
    // system has locks; the look for a listener remains.
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).map_err(refused)?;
    let _ = directory.lock();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(refused(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => remove_unused(path)?,
    }
    UnixListener::bind(path).map_err(refused)
}

/// Removes a socket that nobody listens on.
fn remove_unused(path: &Path) -> Result<(), ListenError> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        // A listener whose queue is full answers so too.
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
        let listener = unix(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn a_socket_in_use_is_never_stolen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handler.sock");
        let first = unix(&path).unwrap();
        let error = unix(&path).unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        UnixStream::connect(&path).unwrap();
        first.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_file_of_another_kind_is_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handler.sock");
        fs::write(&path, "precious").unwrap();
        let error = unix(&path).unwrap_err();
        assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn an_error_names_the_address() {
        let first = tcp(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = tcp(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        let error = unix(Path::new("/nowhere/handler.sock")).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/handler.sock"),
            "{error}"
        );
    }
}
