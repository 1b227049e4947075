//! A consumer in this process, with a handler in another process.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use penstock_crds::spec::Protocol;
use penstock_crds::validate::Address;
use penstock_runtime::handler::{FailureKind, HandlerError};
use penstock_runtime::{Metrics, RemoteHandler, Runtime};

use super::child::{Child, HANDLER_STOP_LIMIT};
use super::error::DevError;
use super::pages::{Listeners, Source, check_port};
use super::{Setting, Started};

/// Starts the handler, waits until it accepts connections, and consumes. Nothing
/// when a stop came first.
pub async fn start(setting: &Setting, listeners: Listeners) -> Result<Option<Started>, DevError> {
    let consumer = &setting.plan.consumer;
    let Some(remote) = RemoteHandler::new(consumer)? else {
        return Err(DevError::NoProgram);
    };
    // From here on it is the handler's to take, also of one that is started apart: while
    // the port is held, it looks as if a handler were up.
    drop(listeners.handler);
    let mut handler = match setting.arguments.command.as_slice() {
        [] => None,
        command => {
            make_way(remote.address())?;
            let environment = environment(setting);
            Some(Child::start(command, &environment, &setting.console)?)
        }
    };
    if !wait_until_up(setting, &remote, handler.as_mut()).await? {
        if let Some(mut handler) = handler {
            handler.stop(HANDLER_STOP_LIMIT).await?;
        }
        return Ok(None);
    }

    let metrics = Metrics::new(&consumer.prometheus_client_name, consumer.name.as_str())
        .map_err(|error| DevError::Metrics(error.to_string()))?;
    let runtime = Runtime::new(consumer.clone())
        .secrets(&setting.secrets)
        .metrics_listener(listeners.metrics)
        .health_listener(listeners.health)
        .metrics(metrics.clone());
    let stop = setting.stop.clone();
    let consumer = consumer.clone();
    let consuming = tokio::spawn(async move {
        let ended = remote.run(runtime, stop).await;
        ended.map_err(|error| DevError::run(&consumer, error))
    });
    Ok(Some(Started {
        consuming,
        handler,
        progress: Source::Own(Box::new(metrics)),
    }))
}

/// Makes sure that the handler can listen, and that nobody else is taken for it.
fn make_way(address: &Address) -> Result<(), DevError> {
    match address {
        Address::Port(port) => check_port(*port)?,
        Address::Socket(path) => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(directory).map_err(|source| DevError::SocketDirectory {
                directory: directory.to_owned(),
                source,
            })?;
        }
    }
    Ok(())
}

/// The manifest's variables, and where to listen. What comes from Secrets and
/// ConfigMaps is only in the cluster; it is left as it is in this environment.
fn environment(setting: &Setting) -> Vec<(&str, OsString)> {
    let consumer = &setting.plan.consumer;
    let mut environment = Vec::new();
    for variable in &consumer.handler.env {
        match &variable.value {
            Some(value) => environment.push((variable.name.as_str(), value.into())),
            None if variable.value_from.is_none() => {
                environment.push((variable.name.as_str(), OsString::new()));
            }
            None if std::env::var_os(&variable.name).is_none() => {
                setting.console.say(format_args!(
                    "note: the handler's variable {} comes from the cluster and is not set here; export it first if the handler needs it",
                    variable.name
                ));
            }
            None => {}
        }
    }
    if !consumer.handler.env_from.is_empty() {
        setting.console.say(
            "note: the variables of spec.handler.envFrom come from the cluster and are not set here; export those that the handler needs",
        );
    }
    match consumer.endpoint.address() {
        Some(Address::Port(port)) => environment.push(("PORT", port.to_string().into())),
        Some(Address::Socket(path)) => {
            environment.push(("PENSTOCK_HANDLER_SOCKET", path.into()));
        }
        None => {}
    }
    environment
}

/// Returns the error of a handler that was not up in time, or that was refused.
fn not_up(
    setting: &Setting,
    address: &Address,
    program: Option<String>,
    error: HandlerError,
) -> DevError {
    let target = address.to_string();
    let limit = setting.arguments.start_limit();
    let is_grpc = setting.plan.consumer.handler.protocol == Protocol::Grpc;
    let kind = error.kind();
    let error = Box::new(error);
    if kind == FailureKind::Permanent {
        return DevError::HandlerRefused { target, error };
    }
    if is_grpc && listens(address) {
        return DevError::NotGrpc { target, error };
    }
    let Some(program) = program else {
        return DevError::NobodyListening {
            target,
            limit,
            error,
        };
    };
    let (variable, field) = match address {
        Address::Socket(_) => ("PENSTOCK_HANDLER_SOCKET", "socket"),
        Address::Port(_) => ("PORT", "port"),
    };
    DevError::NotListening {
        program,
        target,
        error,
        limit,
        variable,
        field,
    }
}

fn listens(address: &Address) -> bool {
    match address {
        Address::Port(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok(),
        Address::Socket(path) => UnixStream::connect(path).is_ok(),
    }
}

/// Notes that a handler listens on 127.0.0.1 alone, which is enough here and not in a pod. On
/// Linux, every address of 127.0.0.0/8 is this machine's.
async fn note_loopback(setting: &Setting, address: &Address) {
    let Address::Port(port) = address else {
        return;
    };
    if !cfg!(target_os = "linux") || setting.plan.consumer.handler.startup_probe.is_some() {
        return;
    }
    let other = Ipv4Addr::new(127, 0, 0, 2);
    if let Err(error) = tokio::net::TcpStream::connect((other, *port)).await
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        setting.console.say(
            "note: the handler listens on 127.0.0.1 alone; in a pod the kubelet probes it at the pod's address, so let it listen on all addresses (0.0.0.0)",
        );
    }
}

/// Waits for the handler; `false` when a stop came first.
async fn wait_until_up(
    setting: &Setting,
    remote: &RemoteHandler,
    handler: Option<&mut Child>,
) -> Result<bool, DevError> {
    let limit = setting.arguments.start_limit();
    let target = remote.address().to_string();
    let program = handler.as_ref().map(|handler| handler.program().to_owned());
    let ended = async {
        match handler {
            Some(handler) => handler.ended().await,
            None => std::future::pending().await,
        }
    };
    setting
        .console
        .progress(format!("waiting for the handler at {target}"));
    tokio::select! {
        up = remote.wait_until_up(limit) => match up {
            Ok(()) => {
                note_loopback(setting, remote.address()).await;
                Ok(true)
            }
            Err(error) => Err(not_up(setting, remote.address(), program, error)),
        },
        status = ended => Err(DevError::EndedEarly {
            program: program.unwrap_or_default(),
            status: status?,
        }),
        () = setting.stop.cancelled() => Ok(false),
    }
}
