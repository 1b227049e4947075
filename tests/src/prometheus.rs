//! A real Prometheus that scrapes what a test tells it to.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::guard::Guard;
use crate::kubernetes::Binaries;
use crate::page::{self, PageError};
use crate::ports;
use crate::process::{Process, ProcessError, Program};
use crate::promtext::{Labels, Sample};

/// Longest time for it to be ready; usually 1 s.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Something about Prometheus failed.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// A file or a port.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        error: std::io::Error,
    },
    /// Its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It does not answer.
    #[error(transparent)]
    Page(#[from] PageError),
    /// It refuses a query, or answers with something else than values of now.
    #[error("{query}: {answer}")]
    Answer {
        /// What was asked.
        query: String,
        /// What was answered.
        answer: String,
    },
}

impl PrometheusError {
    fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { what, error }
    }
}

/// A Prometheus on 127.0.0.1. Dropped, it is killed and its data removed; the same
/// happens when the test process ends in any way.
#[derive(Debug)]
pub struct Prometheus {
    // Dropped first to last.
    _process: Process,
    _dir: TempDir,
    _guard: Guard,
    port: u16,
}

impl Prometheus {
    /// Starts it with a configuration, prometheus.yml as data, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// [`PrometheusError`] with its last lines when it ends, as it does when it can't
    /// read the configuration.
    pub async fn start(
        binaries: &Binaries,
        configuration: &Value,
    ) -> Result<Self, PrometheusError> {
        let dir = TempDir::with_prefix("penstock-prometheus-")
            .map_err(PrometheusError::io("a temporary directory"))?;
        let guard = Guard::remove_dir(dir.path())
            .map_err(PrometheusError::io("a guard of the directory"))?;
        // JSON is YAML too.
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, configuration.to_string())
            .map_err(PrometheusError::io("writing prometheus.yml"))?;
        let [port] = ports::free("127.0.0.1").map_err(PrometheusError::io("a free port"))?;

        let process = Program::new(binaries.path("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .start()?;
        process
            .wait_for(
                "Prometheus to be ready",
                START_LIMIT,
                async || match page::get(port, "/-/ready").await {
                    Ok(page) if page.status == 200 => Ok(()),
                    Ok(page) => Err(format!("status {}", page.status)),
                    Err(error) => Err(error.to_string()),
                },
            )
            .await?;
        Ok(Self {
            _process: process,
            _dir: dir,
            _guard: guard,
            port,
        })
    }

    /// The values that an expression has now, in no order. The name is blank where
    /// the expression leaves none.
    ///
    /// # Errors
    /// [`PrometheusError::Answer`] when it can't evaluate the expression.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>, PrometheusError> {
        let path = format!("/api/v1/query?query={}", percent_encode(expression));
        let page = page::get(self.port, &path).await?;
        samples(&page.body).ok_or(PrometheusError::Answer {
            query: expression.to_owned(),
            answer: page.body,
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", rename_all = "camelCase")]
enum Data {
    Vector { result: Vec<Series> },
}

#[derive(Deserialize)]
struct Series {
    metric: Labels,
    /// Time and value.
    value: (f64, String),
}

fn samples(answer: &str) -> Option<Vec<Sample>> {
    let answer: Answer = serde_json::from_str(answer).ok()?;
    let Data::Vector { result } = answer.data;
    let sample = |mut series: Series| {
        Some(Sample {
            name: series.metric.remove("__name__").unwrap_or_default(),
            labels: series.metric,
            value: series.value.1.parse().ok()?,
        })
    };
    result.into_iter().map(sample).collect()
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let answer = r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"__name__":"up","job":"a"},"value":[1764000000.1,"1"]},
            {"metric":{},"value":[1764000000.1,"+Inf"]}]}}"#;
        let samples = samples(answer).unwrap();
        assert_eq!(samples[0].name, "up");
        assert!(samples[0].has(&[("job", "a")]));
        assert_eq!(samples[0].value, 1.0);
        assert_eq!(samples[1].value, f64::INFINITY);
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let refusal = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(samples(refusal), None);
    }

    #[test]
    fn an_expression_fits_into_a_path() {
        assert_eq!(percent_encode(r#"up{a="b"}"#), "up%7Ba%3D%22b%22%7D");
    }
}
