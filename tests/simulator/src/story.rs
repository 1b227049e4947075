//! What is known of a message, told in order of time.

use std::fmt::Write as _;

use penstock_runtime::simulation::Run;

/// The deliveries of a message, the commits of its partition, and what happened to
/// processes.
pub(crate) fn tell(run: &Run, message: Option<(i32, i64)>) -> String {
    let mut lines = Vec::new();
    for (at, process, happened) in &run.processes {
        lines.push((*at, format!("process {process}: {happened:?}")));
    }
    if let Some((partition, offset)) = message {
        let deliveries = run.deliveries.iter();
        for it in deliveries.filter(|it| (it.partition, it.offset) == (partition, offset)) {
            let who = format!(
                "attempt {}, process {}, epoch {}",
                it.attempt, it.process, it.epoch
            );
            lines.push((it.begun, format!("begun: {who}")));
            if let Some(ended) = it.ended {
                lines.push((ended, format!("ended as {:?}: {who}", it.verdict)));
            }
        }
        for commit in run.commits.iter().filter(|it| it.partition == partition) {
            lines.push((commit.at, format!("committed up to {}", commit.offset)));
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    let mut story = String::new();
    for (at, line) in lines {
        let _ = writeln!(story, "  {:>10.3} s  {line}", at.as_secs_f64());
    }
    story
}
