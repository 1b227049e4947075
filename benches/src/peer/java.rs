//! The Java peers: each run has a Java machine of its own, which does the same work
//! once before, uncounted, so that its compiler has seen it.

use std::path::Path;

use penstock_tests::process::Program;

/// What Maven is asked for.
const POM: &str = include_str!("../../peers/java/pom.xml");

/// The parallel collector has the higher throughput of those that are built in. The
/// limit keeps the heap from growing to a quarter of the machine's memory, which
/// changes no rate.
const OPTIONS: [&str; 2] = ["-XX:+UseParallelGC", "-Xmx512m"];

/// A class with its jars.
pub fn program(dir: &Path, class: &str) -> Program {
    let path = format!("{0}/classes:{0}/jars/*", dir.display());
    Program::new("java")
        .args(OPTIONS)
        .args(["-cp", &path, class])
}

/// Version of a library.
pub fn version(artifact: &str) -> Option<&'static str> {
    let (_, found) = POM.split_once(&format!("<artifactId>{artifact}</artifactId>"))?;
    let (_, version) = found.split_once("<version>")?;
    Some(version.split_once("</version>")?.0)
}
