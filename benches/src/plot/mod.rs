//! Drawing the results as SVG: `penstock-bench plot`.

mod bars;
mod lines;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use plotters::style::RGBColor;
use serde::Deserialize;

use crate::bench::median;
use crate::memory::mb;
use crate::meter::Measure;

/// What to draw.
#[derive(Debug, Args)]
pub struct Plot {
    /// What `run --json` or `sweep --json` wrote
    json: PathBuf,
    /// Directory for the drawings
    #[arg(long, default_value = "target")]
    to: PathBuf,
}

/// The fields of a report that are drawn.
#[derive(Debug, Deserialize)]
struct Drawn {
    machine: DrawnMachine,
    #[serde(default)]
    pairs: Vec<DrawnPair>,
    #[serde(default)]
    axes: Vec<DrawnAxis>,
}

#[derive(Debug, Deserialize)]
struct DrawnMachine {
    cores: usize,
    cpu: String,
    load: String,
    commit: String,
}

/// Two programs beside each other.
#[derive(Debug, Deserialize)]
struct DrawnPair {
    name: String,
    ratio: Option<f64>,
    reference: Vec<Measure>,
    ours: Vec<Measure>,
}

/// Some programs along an axis.
#[derive(Debug, Deserialize)]
struct DrawnAxis {
    name: String,
    unit: String,
    series: Vec<DrawnLine>,
}

#[derive(Debug, Deserialize)]
struct DrawnLine {
    name: String,
    points: Vec<DrawnPoint>,
}

#[derive(Debug, Deserialize)]
struct DrawnPoint {
    at: f64,
    runs: Vec<Measure>,
}

/// Draws what is in a file, and says where.
pub fn run(options: &Plot) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(&options.json)
        .map_err(|error| format!("{} can't be read: {error}", options.json.display()))?;
    let drawn: Drawn = serde_json::from_str(&text)?;
    fs::create_dir_all(&options.to)?;
    let subtitle = drawn.machine.subtitle();
    let mut drawings = Vec::new();
    if !drawn.pairs.is_empty() {
        drawings.push((
            "bench-pairs".to_owned(),
            bars::draw(&drawn.pairs, &subtitle)?,
        ));
    }
    for axis in &drawn.axes {
        let name = format!("bench-{}", axis.name);
        drawings.push((name, lines::draw(axis, &subtitle)?));
    }
    for (name, svg) in drawings {
        let path = options.to.join(name + ".svg");
        fs::write(&path, svg)?;
        println!("{}", path.display());
    }
    Ok(())
}

impl DrawnMachine {
    fn subtitle(&self) -> String {
        let Self {
            cores,
            cpu,
            load,
            commit,
        } = self;
        format!("commit {commit}, {cores} cores of {cpu}, load at the start {load}")
    }
}

fn rate(runs: &[Measure]) -> Option<f64> {
    median(runs.iter().map(Measure::rate))
}

fn peak_mb(runs: &[Measure]) -> Option<f64> {
    median(runs.iter().map(|run| mb(run.peak_rss_kib)))
}

/// The family of all text: whatever the reader's system has.
const FONT: &str = "sans-serif";

/// Ours in a drawing of two, and the first of several.
const COLOURS: [RGBColor; 12] = [
    RGBColor(31, 105, 186),
    RGBColor(214, 96, 34),
    RGBColor(44, 138, 72),
    RGBColor(178, 44, 58),
    RGBColor(121, 82, 168),
    RGBColor(130, 90, 60),
    RGBColor(206, 90, 160),
    RGBColor(100, 100, 100),
    RGBColor(20, 150, 160),
    RGBColor(190, 160, 30),
    RGBColor(110, 190, 70),
    RGBColor(20, 20, 20),
];

/// A number with as many digits as a plot has room for: 950, 12 k, 1.5 M.
fn short(number: f64) -> String {
    let (value, unit) = match number {
        ..1e3 => (number, ""),
        ..1e6 => (number / 1e3, " k"),
        _ => (number / 1e6, " M"),
    };
    let digits = usize::from(value < 10.0 && value.fract() > 0.05);
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str =
        r#"{"messages":1000,"seconds":0.5,"cpu_seconds":0.1,"switches":null,"peak_rss_kib":1000}"#;

    fn drawn(content: &str) -> Drawn {
        let machine = r#"{"cores":2,"cpu":"a","load":"1","commit":"b","kernel":"c"}"#;
        serde_json::from_str(&format!(r#"{{"machine":{machine},{content}}}"#)).unwrap()
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.5, 950.0, 2_000.0, 12_345.0, 1_500_000.0].map(short);
        assert_eq!(numbers, ["0.5", "950", "2 k", "12 k", "1.5 M"]);
    }

    #[test]
    fn pairs_are_drawn_with_their_ratio_and_those_not_run_by_name() {
        let pairs = format!(
            r#""pairs":[{{"name":"one","ratio":2.5,"reference":[{RUN}],"ours":[{RUN}]}},
                {{"name":"two","ratio":null,"reference":[],"ours":[]}}]"#
        );
        let svg = bars::draw(&drawn(&pairs).pairs, "where").unwrap();
        for text in ["one", "two", "2.50", "2 k", "not run", "where"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
    }

    #[test]
    fn an_axis_is_drawn_with_a_line_for_each_program() {
        let line = |name| {
            format!(
                r#"{{"name":"{name}","points":[{{"at":1,"runs":[{RUN}]}},{{"at":4,"runs":[{RUN}]}}]}}"#
            )
        };
        let series = format!("{},{}", line("first"), line("second"));
        let axes = format!(r#""axes":[{{"name":"size","unit":"bytes","series":[{series}]}}]"#);
        let svg = lines::draw(&drawn(&axes).axes[0], "where").unwrap();
        for text in ["first", "second", "bytes", "messages/s", "peak RSS, MB"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        // Two programs, each in two charts.
        assert!(svg.matches("<polyline").count() >= 4, "{svg}");
    }
}
