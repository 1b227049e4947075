//! Prometheus' text format 0.0.4, read strictly: what its own parser and its
//! linter (`promtool check metrics`) refuse is refused here.

use std::collections::BTreeMap;
use std::fmt;
use std::str::Chars;

/// A breach of the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {what}")]
pub struct FormatError {
    /// What is wrong.
    pub why: &'static str,
    /// The line or the name that it is about.
    pub what: String,
}

fn wrong<T>(why: &'static str, what: impl fmt::Display) -> Result<T, FormatError> {
    Err(FormatError {
        why,
        what: what.to_string(),
    })
}

/// Kinds of series that the runtime has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by upper bounds.
    Histogram,
}

/// Labels of a series.
pub type Labels = BTreeMap<String, String>;

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name, with `_bucket`, `_sum` or `_count` for a histogram.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Value.
    pub value: f64,
}

impl Sample {
    /// Whether it has at least these labels.
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels
            .iter()
            .all(|(name, value)| self.labels.get(*name).is_some_and(|found| found == value))
    }
}

/// All series of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Kind.
    pub kind: Kind,
    /// Help text.
    pub help: String,
    /// Series, in the order of the page.
    pub samples: Vec<Sample>,
}

/// A page that keeps the format.
#[derive(Clone, Debug)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

impl Exposition {
    /// All names and their series.
    pub fn families(&self) -> &BTreeMap<String, Family> {
        &self.families
    }

    /// The series of a name.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.get(name)
    }

    /// Lines with this name and at least these labels. The name may be that of a
    /// histogram's `_bucket`, `_sum` or `_count`.
    pub fn samples<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.families
            .values()
            .flat_map(|family| &family.samples)
            .filter(move |sample| sample.name == name && sample.has(labels))
    }

    /// The value of the only line with this name and at least these labels;
    /// nothing where there is none, or several.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.samples(name, labels);
        match (found.next(), found.next()) {
            (Some(sample), None) => Some(sample.value),
            _ => None,
        }
    }
}

/// Reads a page.
///
/// # Errors
/// The first breach.
pub fn parse(page: &str) -> Result<Exposition, FormatError> {
    if !page.is_empty() && !page.ends_with('\n') {
        return wrong(
            "the last line does not end",
            page.lines().last().unwrap_or(""),
        );
    }
    let mut reader = Reader::default();
    for line in page.lines() {
        reader.line(line)?;
    }
    reader.end_family()?;
    Ok(Exposition {
        families: reader.families,
    })
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    families: BTreeMap<String, Family>,
    current: Option<Current>,
}

/// The family that is being read.
struct Current {
    name: String,
    help: String,
    kind: Option<Kind>,
    samples: Vec<Sample>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), FormatError> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            return self.begin_family(name, help);
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            return self.set_kind(rest);
        }
        let sample = Line::new(line).sample()?;
        match &mut self.current {
            Some(current) if current.kind.is_some() => current.add(sample, line),
            _ => wrong("a value before HELP and TYPE of its name", line),
        }
    }

    fn begin_family(&mut self, name: &str, help: &str) -> Result<(), FormatError> {
        self.end_family()?;
        if !is_metric_name(name) {
            return wrong("not a name", name);
        }
        if help.trim().is_empty() {
            return wrong("no help", name);
        }
        if self.families.contains_key(name) {
            return wrong("HELP twice", name);
        }
        self.current = Some(Current {
            name: name.to_owned(),
            help: help.to_owned(),
            kind: None,
            samples: Vec::new(),
        });
        Ok(())
    }

    fn set_kind(&mut self, rest: &str) -> Result<(), FormatError> {
        let Some((name, kind)) = rest.split_once(' ') else {
            return wrong("TYPE without a type", rest);
        };
        let kind = match kind {
            "counter" => Kind::Counter,
            "gauge" => Kind::Gauge,
            "histogram" => Kind::Histogram,
            _ => return wrong("an unknown type", rest),
        };
        match &mut self.current {
            Some(current) if current.name == name && current.kind.is_none() => {
                current.kind = Some(kind);
                check_name(name, kind)
            }
            _ => wrong("TYPE that does not follow HELP of the same name", rest),
        }
    }

    fn end_family(&mut self) -> Result<(), FormatError> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        let Some(kind) = current.kind else {
            return wrong("HELP without TYPE", current.name);
        };
        if current.samples.is_empty() {
            return wrong("HELP and TYPE without a value", current.name);
        }
        if kind == Kind::Histogram {
            check_histogram(&current)?;
        }
        self.families.insert(
            current.name,
            Family {
                kind,
                help: current.help,
                samples: current.samples,
            },
        );
        Ok(())
    }
}

impl Current {
    fn add(&mut self, sample: Sample, line: &str) -> Result<(), FormatError> {
        let suffix = sample.name.strip_prefix(&self.name);
        let fits = match self.kind {
            Some(Kind::Histogram) => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
            _ => suffix == Some(""),
        };
        if !fits {
            return wrong("a value of another name", line);
        }
        if (suffix == Some("_bucket")) != sample.labels.contains_key("le") {
            return wrong("the label le belongs to buckets, and only there", line);
        }
        let counts =
            self.kind == Some(Kind::Counter) || matches!(suffix, Some("_bucket" | "_count"));
        if counts && (sample.value.is_nan() || sample.value < 0.0) {
            return wrong("a count that is no count", line);
        }
        let is_same = |other: &Sample| other.name == sample.name && other.labels == sample.labels;
        if self.samples.iter().any(is_same) {
            return wrong("a series twice", line);
        }
        self.samples.push(sample);
        Ok(())
    }
}

/// The linter's rules for names.
fn check_name(name: &str, kind: Kind) -> Result<(), FormatError> {
    let is_total = name.ends_with("_total");
    if (kind == Kind::Counter) != is_total {
        return wrong("counters end in _total, and nothing else does", name);
    }
    if ["_bucket", "_sum", "_count"]
        .iter()
        .any(|end| name.ends_with(end))
    {
        return wrong("a name that ends as a histogram's series do", name);
    }
    let units = [
        "milliseconds",
        "microseconds",
        "ms",
        "minutes",
        "kilobytes",
        "megabytes",
    ];
    if name.split('_').any(|word| units.contains(&word)) {
        return wrong("not a base unit", name);
    }
    let kinds = ["counter", "gauge", "histogram"];
    if name.split('_').any(|word| kinds.contains(&word)) {
        return wrong("a name that repeats its type", name);
    }
    Ok(())
}

/// Buckets rise, and the last one holds all.
fn check_histogram(family: &Current) -> Result<(), FormatError> {
    let mut groups: BTreeMap<Labels, Histogram> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let histogram = groups.entry(labels).or_default();
        match bound {
            Some(bound) => histogram.buckets.push((number(&bound)?, sample.value)),
            None if sample.name.ends_with("_sum") => histogram.sum = Some(sample.value),
            None => histogram.count = Some(sample.value),
        }
    }
    for (labels, histogram) in groups {
        let what = || format!("{} {labels:?}", family.name);
        let rises = |two: &[(f64, f64)]| two[0].0 < two[1].0 && two[0].1 <= two[1].1;
        if !histogram.buckets.windows(2).all(rises) {
            return wrong("buckets that do not rise", what());
        }
        let last = histogram.buckets.last().copied();
        if last.map(|(bound, _)| bound) != Some(f64::INFINITY) {
            return wrong("no bucket for +Inf", what());
        }
        if histogram.sum.is_none() || histogram.count != last.map(|(_, count)| count) {
            return wrong(
                "no sum, or a count that is not that of the last bucket",
                what(),
            );
        }
    }
    Ok(())
}

#[derive(Default)]
struct Histogram {
    buckets: Vec<(f64, f64)>,
    sum: Option<f64>,
    count: Option<f64>,
}

/// One line with a value, read from its beginning.
struct Line<'a> {
    line: &'a str,
    rest: Chars<'a>,
}

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Self {
        Self {
            line,
            rest: line.chars(),
        }
    }

    fn sample(mut self) -> Result<Sample, FormatError> {
        let name = self.take_while(|c| c != '{' && c != ' ');
        if !is_metric_name(name) {
            return wrong("not a name", self.line);
        }
        let labels = match self.rest.as_str().starts_with('{') {
            true => self.labels()?,
            false => Labels::new(),
        };
        self.expect(' ')?;
        // A time stamp would follow the value; the runtime has no use for one.
        let value = number(self.rest.as_str())?;
        Ok(Sample {
            name: name.to_owned(),
            labels,
            value,
        })
    }

    fn labels(&mut self) -> Result<Labels, FormatError> {
        self.expect('{')?;
        let mut labels = Labels::new();
        loop {
            let name = self.take_while(|c| c != '=').to_owned();
            if !is_label_name(&name) {
                return wrong("not a label's name", self.line);
            }
            self.expect('=')?;
            let value = self.quoted()?;
            if labels.insert(name, value).is_some() {
                return wrong("a label twice", self.line);
            }
            match self.rest.next() {
                Some(',') => {}
                Some('}') => return Ok(labels),
                _ => return wrong("labels that do not end", self.line),
            }
        }
    }

    fn quoted(&mut self) -> Result<String, FormatError> {
        self.expect('"')?;
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(match self.rest.next() {
                    Some('\\') => '\\',
                    Some('"') => '"',
                    Some('n') => '\n',
                    _ => return wrong("an unknown escape", self.line),
                }),
                Some(c) => text.push(c),
                None => return wrong("a label's value that does not end", self.line),
            }
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let text = self.rest.as_str();
        let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
        self.rest = text[end..].chars();
        &text[..end]
    }

    fn expect(&mut self, wanted: char) -> Result<(), FormatError> {
        match self.rest.next() {
            Some(found) if found == wanted => Ok(()),
            _ => wrong("not a line of the format", self.line),
        }
    }
}

fn number(text: &str) -> Result<f64, FormatError> {
    let digits = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.chars().all(digits) => text.parse().or_else(|_| wrong("not a number", text)),
        _ => wrong("not a number", text),
    }
}

fn is_metric_name(name: &str) -> bool {
    is_name(name, |c| c == '_' || c == ':')
}

fn is_label_name(name: &str) -> bool {
    is_name(name, |c| c == '_') && !name.starts_with("__")
}

fn is_name(name: &str, more: impl Fn(char) -> bool) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || more(c))
        && name.starts_with(|c: char| !c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a_total counts things
# TYPE a_total counter
a_total{topic=\"x \\\"y\\\" \\\\ \\n\"} 3
a_total{topic=\"\"} 0
# HELP b_seconds takes times
# TYPE b_seconds histogram
b_seconds_bucket{le=\"0.1\"} 1
b_seconds_bucket{le=\"+Inf\"} 2
b_seconds_sum 1.5e-3
b_seconds_count 2
# HELP c is a gauge
# TYPE c gauge
c -1
";

    #[test]
    fn a_good_page_is_read() {
        let page = parse(GOOD).unwrap();
        assert_eq!(
            page.value("a_total", &[("topic", "x \"y\" \\ \n")]),
            Some(3.0)
        );
        assert_eq!(page.value("a_total", &[]), None);
        assert_eq!(page.value("b_seconds_count", &[]), Some(2.0));
        assert_eq!(page.value("c", &[]), Some(-1.0));
        assert_eq!(page.family("b_seconds").unwrap().kind, Kind::Histogram);
        assert_eq!(page.family("c").unwrap().help, "is a gauge");
    }

    #[test]
    fn each_breach_is_found() {
        let cases = [
            ("c -1\n", "c -1", "the last line does not end"),
            (
                "# HELP c is a gauge\n",
                "",
                "TYPE that does not follow HELP of the same name",
            ),
            (
                "# TYPE c gauge\n",
                "",
                "a value before HELP and TYPE of its name",
            ),
            ("c -1\n", "c -1\nc -1\n", "a series twice"),
            ("c -1\n", "", "HELP and TYPE without a value"),
            ("c -1\n", "d -1\n", "a value of another name"),
            ("c -1\n", "c one\n", "not a number"),
            ("c -1\n", "c inf\n", "not a number"),
            ("c -1\n", "c{} -1\n", "not a label's name"),
            ("c -1\n", "c{__x=\"1\"} -1\n", "not a label's name"),
            ("c -1\n", "c{x=\"1\",x=\"1\"} -1\n", "a label twice"),
            ("c -1\n", "c{x=\"\\t\"} -1\n", "an unknown escape"),
            (
                "c -1\n",
                "c{x=\"1} -1\n",
                "a label's value that does not end",
            ),
            (
                "c -1\n",
                "c{le=\"1\"} -1\n",
                "the label le belongs to buckets, and only there",
            ),
            ("c -1\n", "c-d -1\n", "not a name"),
            ("c -1\n", "c  -1\n", "not a number"),
            (
                "c -1\n",
                "c -1\n# HELP c again\n# TYPE c gauge\nc 1\n",
                "HELP twice",
            ),
            ("c -1\n", "\nc -1\n", "not a name"),
            ("} 3", "} -3", "a count that is no count"),
            ("is a gauge", "", "no help"),
            (" gauge\nc", " summary\nc", "an unknown type"),
            ("le=\"0.1\"} 1", "le=\"0.1\"} 3", "buckets that do not rise"),
            ("le=\"+Inf\"", "le=\"9\"", "no bucket for +Inf"),
            (
                "_count 2",
                "_count 3",
                "no sum, or a count that is not that of the last bucket",
            ),
        ];
        for (from, to, why) in cases {
            let page = GOOD.replacen(from, to, 1);
            assert_ne!(page, GOOD, "{from:?}");
            assert_eq!(parse(&page).unwrap_err().why, why, "{from:?} → {to:?}");
        }
    }

    #[test]
    fn names_keep_the_linters_rules() {
        for (name, kind) in [
            ("requests", Kind::Counter),
            ("size_total", Kind::Gauge),
            ("wait_milliseconds", Kind::Histogram),
            ("error_count", Kind::Gauge),
            ("size_gauge", Kind::Gauge),
        ] {
            assert!(check_name(name, kind).is_err(), "{name}");
        }
        assert!(check_name("wait_seconds", Kind::Histogram).is_ok());
    }
}
