//! A consumer that is a program of its own, built on the runtime library.

use std::ffi::OsString;
use std::io::Write as _;
use std::time::Duration;

use penstock_crds::spec::KafkaConsumer;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use super::child::Child;
use super::error::DevError;
use super::pages::{Listeners, Source};
use super::{Setting, Started};

/// What a consumer may take beyond its stopTimeout to leave its group.
const LEAVE_LIMIT: Duration = Duration::from_secs(15);

/// Pause between two looks for the metrics page.
const PAGE_PAUSE: Duration = Duration::from_millis(50);

/// Starts the program and waits until it serves its metrics. Nothing when a stop
/// came first.
pub async fn start(setting: &Setting, listeners: Listeners) -> Result<Option<Started>, DevError> {
    let config = copy(&setting.plan.resource).map_err(DevError::Copy)?;
    let environment = environment(setting, &config);
    // From here on they are the program's to take.
    drop(listeners);
    let child = Child::start(&setting.arguments.command, &environment, &setting.console)?;
    let program = child.program().to_owned();
    let limit = setting.plan.consumer.stop_timeout + LEAVE_LIMIT;
    let mut consuming = tokio::spawn(supervise(child, setting.stop.clone(), limit, config));
    let progress = Source::Page(setting.pages.metrics);
    let up = async {
        while progress.look().await.is_none() {
            tokio::time::sleep(PAGE_PAUSE).await;
        }
    };
    let limit = setting.arguments.start_limit();
    setting
        .console
        .progress(format!("waiting for the consumer {program}"));
    tokio::select! {
        up = tokio::time::timeout(limit, up) => if up.is_err() {
            return Err(DevError::NoMetrics {
                program,
                address: setting.pages.metrics,
                limit,
            });
        },
        ended = &mut consuming => {
            return match ended {
                Ok(ended) => ended.map(|()| None),
                Err(error) => Err(DevError::Task(error.to_string())),
            };
        }
    }
    Ok(Some(Started {
        consuming,
        handler: None,
        progress,
    }))
}

/// The manifest as the program is to read it. (JSON is YAML too.)
fn copy(resource: &KafkaConsumer) -> std::io::Result<NamedTempFile> {
    let mut file = NamedTempFile::with_prefix("penstock-")?;
    serde_json::to_writer(&mut file, resource)?;
    file.flush()?;
    Ok(file)
}

fn environment<'a>(setting: &'a Setting, config: &NamedTempFile) -> Vec<(&'a str, OsString)> {
    let brokers = &setting.plan.consumer.kafka.bootstrap_servers;
    vec![
        ("PENSTOCK_CONFIG", config.path().into()),
        ("PENSTOCK_BOOTSTRAP_SERVERS", brokers.into()),
        ("PENSTOCK_SECRETS", setting.secrets.clone().into()),
        (
            "PENSTOCK_METRICS_ADDRESS",
            setting.pages.metrics.to_string().into(),
        ),
        (
            "PENSTOCK_HEALTH_ADDRESS",
            setting.pages.health.to_string().into(),
        ),
        ("PENSTOCK_LOG", setting.log_filter.clone().into()),
    ]
}

/// Waits for the program, which reads `_config` whenever it starts, and passes a
/// stop on.
async fn supervise(
    mut child: Child,
    stop: CancellationToken,
    limit: Duration,
    _config: NamedTempFile,
) -> Result<(), DevError> {
    let program = child.program().to_owned();
    let status = tokio::select! {
        status = child.ended() => Some(status?),
        () = stop.cancelled() => child.stop(limit).await?,
    };
    match status {
        Some(status) if status.success() && stop.is_cancelled() => Ok(()),
        Some(status) => Err(DevError::ConsumerEnded { program, status }),
        None => Err(DevError::ConsumerKilled { program, limit }),
    }
}
