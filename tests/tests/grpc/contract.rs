//! SDKs of other versions, frozen in tests/contract, and what docs/handlers.md says of each.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::time::Duration;

use futures_util::future::try_join_all;
use penstock_tests::kafka::Kafka;
use penstock_tests::lane::Mode;
use penstock_tests::languages::{self, root};
use penstock_tests::process::{Process, Program};
use penstock_tests::produce::Produce;
use penstock_tests::{Consumer, Manifest, groups, topics, wait};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{LIMIT, Outcome};

/// The table's heading in docs/handlers.md.
const HEADING: &str = "### SDKs of other versions\n";

/// What a message asks of the handler, by its place; others ask nothing.
const PROBES: [(u64, &str); 4] = [(2, "wait"), (5, "return"), (8, "extend"), (11, "skip")];

const MESSAGES: u64 = 14;

/// A handler that is frozen.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// The first cell of its row in the table.
    row: String,
    /// A directory with an SDK; without it `first` is recorded.
    program: Option<String>,
    #[serde(default)]
    can: Vec<String>,
    /// The first message on the stream, in hexadecimal digits.
    first: Option<String>,
    /// Words with which the handler refuses the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    refuse: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(default = "fast")]
    modes: Vec<String>,
    accepted: bool,
    waits: Option<String>,
    returns: Option<String>,
    extends: Option<String>,
    /// Words in the runtime's log.
    runtime: String,
    /// Words in the handler's log.
    handler: Option<String>,
}

fn fast() -> Vec<String> {
    vec!["Fast".to_owned()]
}

fn fixtures() -> Result<BTreeMap<String, Fixture>, Box<dyn Error>> {
    let mut fixtures = BTreeMap::new();
    for entry in fs::read_dir(root().join("tests/contract/fixtures"))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let fixture: Fixture = serde_yaml::from_str(&fs::read_to_string(&path)?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        fixtures.insert(name.into_owned(), fixture);
    }
    Ok(fixtures)
}

/// The cells of each row of the table in docs/handlers.md.
fn table() -> Result<BTreeSet<Vec<String>>, Box<dyn Error>> {
    let page = fs::read_to_string(root().join("docs/handlers.md"))?;
    let (_, section) = page.split_once(HEADING).ok_or("the page has no table")?;
    let lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let lines = lines.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    Ok(lines.skip(2).map(cells).collect())
}

impl Fixture {
    /// The cells of its row.
    fn cells(&self) -> Vec<String> {
        let accepts = match self.accepted {
            true => "accepts it",
            false => "refuses it",
        };
        let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
        vec![
            self.row.clone(),
            accepts.to_owned(),
            cell(&self.waits),
            cell(&self.returns),
            cell(&self.extends),
        ]
    }

    /// The attempts that a probe costs.
    fn attempts(&self, probe: &str) -> u32 {
        let cell = match probe {
            "wait" => &self.waits,
            "return" => &self.returns,
            "extend" => &self.extends,
            _ => return 1,
        };
        match cell.as_deref() {
            Some("no attempt") => 1,
            _ => 2,
        }
    }

    fn modes(&self) -> Result<Vec<Mode>, String> {
        let mode = |name: &String| match name.as_str() {
            "Fast" => Ok(Mode::Fast),
            "InOrder" => Ok(Mode::InOrder),
            "KeyOrdered" => Ok(Mode::KeyOrdered),
            other => Err(format!("the mode {other}")),
        };
        self.modes.iter().map(mode).collect()
    }

    async fn start(&self, dir: &TempDir) -> Result<Process, Box<dyn Error>> {
        let contract = root().join("tests/contract");
        let program = Program::new(languages::python().await?);
        let program = match &self.program {
            Some(sdk) => {
                let found = contract.join(sdk).join("penstock/__init__.py");
                fs::metadata(&found).map_err(|error| format!("{}: {error}", found.display()))?;
                program
                    .arg(contract.join("sdk.py"))
                    .env("PYTHONPATH", contract.join(sdk))
            }
            None => program
                .arg(contract.join("handler.py"))
                .env("CONTRACT_FIXTURE", serde_json::to_string(self)?),
        };
        let program = program
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PENSTOCK_HANDLER_SOCKET", dir.path().join("handler.sock"))
            .env("CONTRACT_JOURNAL", dir.path().join("journal"));
        Ok(program.start()?)
    }
}

/// A runtime and a frozen handler.
struct Pair {
    bootstrap: String,
    topic: String,
    group: String,
    dir: TempDir,
    handler: Process,
    consumer: Consumer,
}

impl Pair {
    async fn start(fixture: &Fixture, mode: Mode) -> Result<Self, Box<dyn Error>> {
        let bootstrap = Kafka::shared().await?.bootstrap().to_owned();
        let topic = topics::create(&bootstrap, "contract", 1).await?;
        let group = topics::unique("test.contract");
        let probe = |seq: u64| {
            let (_, probe) = PROBES.iter().find(|(place, _)| *place == seq)?;
            Some(probe.as_bytes().to_vec())
        };
        // Without keys, which would share the calls of the older SDK.
        Produce::to(&topic)
            .count(MESSAGES)
            .key(|_| None)
            .header_of("probe", probe)
            .send(&bootstrap)
            .await?;
        let dir = TempDir::with_prefix("penstock-contract-")?;
        let handler = fixture.start(&dir).await?;
        let consumer = Consumer::start(&manifest(mode, &bootstrap, &group, &topic, &dir))?;
        Ok(Self {
            bootstrap,
            topic,
            group,
            dir,
            handler,
            consumer,
        })
    }

    /// Holds the attempts of each message against the fixture.
    async fn is_accepted(&self, fixture: &Fixture) -> Outcome {
        let (topic, group) = (&self.topic, &self.group);
        let all = i64::try_from(MESSAGES)?;
        let committed = groups::wait_for_committed(&self.bootstrap, group, topic, all, LIMIT);
        tokio::select! {
            committed = committed => committed?,
            // One that has ended commits nothing more.
            ended = self.consumer.wait(LIMIT * 2) => {
                return Err(format!("the runtime ended with {}", ended?).into());
            }
        }
        let mut attempts: BTreeMap<u64, u32> = BTreeMap::new();
        for line in fs::read_to_string(self.dir.path().join("journal"))?.lines() {
            let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let [_, offset, attempt] = numbers[..] else {
                return Err(format!("{line:?} in the journal").into());
            };
            let most = attempts.entry(offset).or_default();
            *most = (*most).max(u32::try_from(attempt)?);
        }
        let probes: BTreeMap<_, _> = PROBES.into_iter().collect();
        for place in 0..MESSAGES {
            let probe = probes.get(&place).copied().unwrap_or("nothing");
            let wanted = fixture.attempts(probe);
            let seen = attempts.get(&place).copied();
            if seen != Some(wanted) {
                return Err(format!("{probe} at {place} cost {seen:?}, not {wanted}").into());
            }
        }
        let skipped = self.consumer.metrics().await?;
        let skipped = skipped.value("penstock_skipped_messages_total", &[]);
        if skipped != Some(1.0) {
            return Err(format!("{skipped:?} messages were skipped").into());
        }
        self.has_words(fixture).await?;
        let status = self.consumer.stop(LIMIT).await?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("the runtime ended with {status}").into()),
        }
    }

    /// The runtime ends, and gave the handler nothing.
    async fn is_refused(&self, fixture: &Fixture) -> Outcome {
        let status = self.consumer.wait(LIMIT).await?;
        if status.code() != Some(1) {
            return Err(format!("the runtime ended with {status}").into());
        }
        let journal = self.dir.path().join("journal");
        if journal.exists() {
            return Err("the handler was given a message".into());
        }
        self.has_words(fixture).await
    }

    /// The words of both sides.
    async fn has_words(&self, fixture: &Fixture) -> Outcome {
        if self.consumer.count(&fixture.runtime) == 0 {
            return Err(format!("the runtime's log has no {:?}", fixture.runtime).into());
        }
        let Some(words) = &fixture.handler else {
            return Ok(());
        };
        let said = async || self.handler.count(words) > 0;
        wait::until("the handler's words", Duration::from_secs(10), said)
            .await
            .map_err(|error| format!("{error}: {words:?}").into())
    }
}

fn manifest(mode: Mode, bootstrap: &str, group: &str, topic: &str, dir: &TempDir) -> Manifest {
    let socket = dir.path().join("handler.sock");
    mode.manifest(bootstrap, group, topic, 2)
        .set("/consumeBatchSize", 10)
        .set("/handler/protocol", "Grpc")
        .set("/handler/socket", socket.display().to_string())
        .set("/handler/timeout", "3s")
        .set("/handler/maxTimeout", "12s")
        .set("/handler/waitTimeout", "20s")
        .set("/delivery/maxAttempts", 2)
        .set("/delivery/backoff/initial", "10ms")
}

async fn check(name: String, fixture: Fixture, mode: Mode) -> Result<(), String> {
    let checked = async {
        let pair = Pair::start(&fixture, mode).await?;
        let held = match fixture.accepted {
            true => pair.is_accepted(&fixture).await,
            false => pair.is_refused(&fixture).await,
        };
        held.map_err(|error| {
            let (runtime, handler) = (pair.consumer.tail(), pair.handler.tail());
            format!("{error}\nruntime:\n{runtime}\nhandler:\n{handler}").into()
        })
    };
    let checked: Outcome = checked.await;
    checked.map_err(|error| format!("{name}, {mode:?}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_what_the_runtime_does_with_sdks_of_other_versions() -> Outcome {
    let fixtures = fixtures()?;
    let cells: BTreeSet<_> = fixtures.values().map(Fixture::cells).collect();
    assert_eq!(cells, table()?, "docs/handlers.md and tests/contract");
    let mut checks = Vec::new();
    for (name, fixture) in fixtures {
        for mode in fixture.modes()? {
            checks.push(check(name.clone(), fixture.clone(), mode));
        }
    }
    try_join_all(checks).await?;
    Ok(())
}
