//! Where and with what the figures were taken.

use std::fs;
use std::process::Command;
use std::thread;

use serde::Serialize;

/// The Kafka that the harness starts, as Maven is asked for it.
const POM: &str = include_str!("../../tests/kafka/pom.xml");

/// Shown for what can't be found out.
const UNKNOWN: &str = "unknown";

/// The machine and the versions.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// CPU cores that this process may use.
    pub cores: usize,
    /// Model of the CPU.
    pub cpu: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Runnable threads when the measurement began, on average over a minute: what
    /// else the machine was doing.
    pub load: String,
    /// Version of Apache Kafka.
    pub kafka: String,
    /// Version of librdkafka.
    pub librdkafka: String,
    /// The compiler that is installed.
    pub rustc: String,
    /// The commit, with `+` where files differ from it.
    pub commit: String,
}

impl Machine {
    /// Finds out.
    pub fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "model name").then(|| value.trim().to_owned())
        });
        let changed = !output("git", &["status", "--porcelain", "-uno"]).is_empty();
        let commit = output("git", &["rev-parse", "--short", "HEAD"]);
        Self {
            cores: thread::available_parallelism().map_or(0, usize::from),
            cpu: cpu.unwrap_or_else(|| UNKNOWN.into()),
            kernel: known(read("/proc/sys/kernel/osrelease").trim()),
            load: known(read("/proc/loadavg").split(' ').next().unwrap_or_default()),
            kafka: known(kafka_version(POM).unwrap_or_default()),
            librdkafka: rdkafka::util::get_rdkafka_version().1,
            rustc: known(&output("rustc", &["--version"])),
            commit: known(&commit) + if changed { "+" } else { "" },
        }
    }
}

fn kafka_version(pom: &str) -> Option<&str> {
    let (_, kafka) = pom.split_once("<artifactId>kafka_")?;
    let (_, version) = kafka.split_once("<version>")?;
    Some(version.split_once("</version>")?.0)
}

fn known(text: &str) -> String {
    match text {
        "" => UNKNOWN.into(),
        text => text.into(),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_kafka_is_the_one_that_is_started() {
        let version = kafka_version(POM).unwrap();
        assert!(version.split('.').count() == 3, "{version}");
        assert!(POM.contains(&format!("<version>{version}</version>")));
    }
}
