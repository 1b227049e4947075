//! A consumer in this process, with a handler in a process of its own.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use penstock_crds::validate::Address;
use penstock_runtime::{Metrics, RemoteHandler, Runtime};

use super::child::{Child, HANDLER_STOP_LIMIT};
use super::error::DevError;
use super::pages::{Listeners, Source};
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
        Address::Port(port) => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map_err(|source| {
                DevError::HandlerPort {
                    port: *port,
                    source,
                }
            })?;
        }
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
        up = remote.wait_until_up(limit) => match (up, program) {
            (Ok(()), _) => Ok(true),
            (Err(_), None) => Err(DevError::NobodyListening { target, limit }),
            (Err(_), Some(program)) => {
                let (variable, field) = match remote.address() {
                    Address::Socket(_) => ("PENSTOCK_HANDLER_SOCKET", "socket"),
                    Address::Port(_) => ("PORT", "port"),
                };
                Err(DevError::NotListening { program, target, limit, variable, field })
            }
        },
        status = ended => Err(DevError::EndedEarly {
            program: program.unwrap_or_default(),
            status: status?,
        }),
        () = setting.stop.cancelled() => Ok(false),
    }
}
