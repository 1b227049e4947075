//! The Java peers: each run has a Java machine of its own, which does the same work
//! once before, uncounted, so that its compiler has seen it.

use std::path::Path;

use penstock_tests::process::Program;

/// What Maven is asked for.
const POM: &str = include_str!("../../peers/java/pom.xml");

/// The plain KafkaConsumer. More heap makes it no faster, and without a limit Java
/// takes a quarter of the machine's memory.
pub fn plain_consumer(dir: &Path) -> Program {
    program(dir, "512m", "PlainConsumer")
}

/// The Parallel Consumer. With half of the heap it collects garbage for half of the
/// time; with more it is no faster.
pub fn parallel_consumer(dir: &Path) -> Program {
    program(dir, "1g", "KeyOrdered")
}

/// A class with its jars. The parallel collector has the highest throughput of those
/// that are built in.
fn program(dir: &Path, heap: &str, class: &str) -> Program {
    let path = format!("{0}/classes:{0}/jars/*", dir.display());
    Program::new("java")
        .arg("-XX:+UseParallelGC")
        .arg(format!("-Xmx{heap}"))
        .args(["-cp", &path, class])
}

/// Version of a library.
pub fn version(artifact: &str) -> Option<&'static str> {
    let (_, found) = POM.split_once(&format!("<artifactId>{artifact}</artifactId>"))?;
    let (_, version) = found.split_once("<version>")?;
    Some(version.split_once("</version>")?.0)
}
