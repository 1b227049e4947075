//! The operator with very many consumers, on a real API server without nodes.

use std::error::Error;
use std::time::{Duration, Instant};

use penstock_tests::fleet::{self, Fleet};
use penstock_tests::kafka_mock::MockKafka;
use penstock_tests::kubernetes::ControlPlane;
use penstock_tests::operator::{Operator, Request, Requests};
use penstock_tests::usage::{self, Memory};
use penstock_tests::wait;
use serde::Serialize;

use crate::machine::Machine;
use crate::memory::mb;

/// Most memory that the operator may have in RAM, in MB (10⁶ bytes).
pub const GOAL_MB: f64 = 150.0;

/// Longest time, in seconds, until every consumer is reconciled.
pub const GOAL_SECONDS: f64 = 300.0;

/// Most CPU time while nothing changes, in percent of a core.
pub const GOAL_IDLE_PERCENT: f64 = 1.0;

/// Longest time for anything; then the measurement has failed.
const LIMIT: Duration = Duration::from_secs(3600);

/// Passes that have ended.
const PASSES: &str = "penstock_operator_reconcile_duration_seconds_count";

/// How long no request must have come for the operator to count as done.
const QUIET: Duration = Duration::from_secs(5);

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct OperatorReport {
    /// Where and with what.
    pub machine: Machine,
    /// KafkaConsumers.
    pub consumers: usize,
    /// Objects made of them.
    pub objects: usize,
    /// From the start of the operator until each consumer's status says so.
    pub first: Phase,
    /// The same of an operator that finds everything done.
    pub restart: Phase,
    /// With nothing to do.
    pub idle: Idle,
}

/// The operator from its start until it is done.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// How long that took.
    pub seconds: f64,
    /// CPU time of the operator.
    pub cpu_seconds: f64,
    /// Its memory at the end, and at its highest.
    pub memory: Memory,
    /// Its requests.
    pub requests: Vec<Asked>,
    /// Those of them that change something, the Lease's left out.
    pub writes: u64,
}

/// The operator with nothing to do.
#[derive(Debug, Serialize)]
pub struct Idle {
    /// How long it was looked at.
    pub seconds: f64,
    /// CPU time, in percent of a core.
    pub cpu_percent: f64,
    /// Its memory at the end, and at its highest.
    pub memory: Memory,
    /// Its requests.
    pub requests: Vec<Asked>,
    /// Those of them that are neither a watch nor the Lease's.
    pub others: u64,
}

/// Requests of one kind.
#[derive(Debug, Serialize)]
pub struct Asked {
    /// Verb.
    pub verb: String,
    /// Resource.
    pub resource: String,
    /// How many.
    pub count: u64,
}

/// Measures the operator with so many consumers, idle for so long.
pub async fn measure(consumers: usize, idle: Duration) -> Result<OperatorReport, Box<dyn Error>> {
    let topics: Vec<String> = fleet::topics().collect();
    let kafka = MockKafka::start(topics.iter().map(String::as_str))?;
    let control_plane = ControlPlane::start().await?;
    control_plane.install_crd().await?;
    let machine = Machine::look();
    let client = control_plane.client().await?;
    let fleet = Fleet::create(client, &kafka.bootstrap(), consumers).await?;
    let settings = Operator::with(control_plane.kubeconfig()).flag("--log", "warn");

    let began = Instant::now();
    let operator = settings.spawn()?;
    let first = done(&operator, &fleet, consumers, began).await?;
    operator.process().terminate()?;
    operator.process().wait(LIMIT).await?;

    let began = Instant::now();
    let operator = settings.spawn()?;
    let restart = done(&operator, &fleet, consumers, began).await?;
    let idle = watch(&operator, idle).await?;
    Ok(OperatorReport {
        machine,
        consumers,
        objects: fleet.objects(),
        first,
        restart,
        idle,
    })
}

/// Waits until the operator has looked at each consumer and nothing is left to do.
async fn done(
    operator: &Operator,
    fleet: &Fleet,
    consumers: usize,
    began: Instant,
) -> Result<Phase, Box<dyn Error>> {
    operator.wait_until_ready().await?;
    wait::value(
        "a pass over each consumer",
        LIMIT,
        async || match operator.metric(PASSES).await {
            Ok(passes) if passes >= consumers as f64 => Ok(()),
            Ok(passes) => Err(format!("{passes} passes")),
            Err(error) => Err(error.to_string()),
        },
    )
    .await?;
    // The page itself is too large to be asked for all the time.
    let mut reconciled = fleet.reconciled().await?;
    while reconciled < consumers {
        if began.elapsed() > LIMIT {
            return Err(format!("{reconciled} of {consumers} were reconciled").into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        reconciled = fleet.reconciled().await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let requests = quiet(operator).await?;
    let id = operator.process().id().to_string();
    Ok(Phase {
        seconds,
        cpu_seconds: usage::cpu(&id).unwrap_or_default().as_secs_f64(),
        memory: usage::memory(&id).ok_or("the operator ended")?,
        writes: requests.writes().count(),
        requests: asked(&requests),
    })
}

/// The requests so far, once no more come but those for the Lease.
async fn quiet(operator: &Operator) -> Result<Requests, Box<dyn Error>> {
    let mut before = operator.requests().await?;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = operator.requests().await?;
        let new = now.since(&before).only(|request| !request.is_of_lease());
        if new.count() == 0 {
            return Ok(now);
        }
        before = now;
    }
}

async fn watch(operator: &Operator, time: Duration) -> Result<Idle, Box<dyn Error>> {
    let id = operator.process().id().to_string();
    let requests = operator.requests().await?;
    let (began, cpu) = (Instant::now(), usage::cpu(&id).unwrap_or_default());
    tokio::time::sleep(time).await;
    let seconds = began.elapsed().as_secs_f64();
    let used = usage::cpu(&id).unwrap_or_default().saturating_sub(cpu);
    let requests = operator.requests().await?.since(&requests);
    let other = |request: &Request| request.verb != "watch" && !request.is_of_lease();
    Ok(Idle {
        seconds,
        cpu_percent: used.as_secs_f64() / seconds * 100.0,
        memory: usage::memory(&id).ok_or("the operator ended")?,
        others: requests.only(other).count(),
        requests: asked(&requests),
    })
}

fn asked(requests: &Requests) -> Vec<Asked> {
    let requests = requests.0.iter().map(|(request, count)| Asked {
        verb: request.verb.clone(),
        resource: request.resource.clone(),
        count: *count,
    });
    requests.collect()
}

impl OperatorReport {
    /// The table.
    pub fn text(&self) -> String {
        let (first, restart, idle) = (&self.first, &self.restart, &self.idle);
        let peak = mb(first.memory.peak_kib.max(restart.memory.peak_kib));
        let lines = [
            format!(
                "operator, {} consumers, {} objects of them; load at the start {}",
                self.consumers, self.objects, self.machine.load
            ),
            goal("all reconciled, s", first.seconds, GOAL_SECONDS),
            format!(
                "  {:<32} {:>9.1}",
                "CPU time for that, s", first.cpu_seconds
            ),
            goal(
                "peak RSS, first start, MB",
                mb(first.memory.peak_kib),
                GOAL_MB,
            ),
            goal(
                "peak RSS, restart, MB",
                mb(restart.memory.peak_kib),
                GOAL_MB,
            ),
            goal("peak RSS of all, MB", peak, GOAL_MB),
            format!(
                "  {:<32} {:>9.1}",
                "restart until all looked at, s", restart.seconds
            ),
            goal("writes after the restart", restart.writes as f64, 0.0),
            goal(
                "CPU while idle, % of a core",
                idle.cpu_percent,
                GOAL_IDLE_PERCENT,
            ),
            goal("requests while idle but Lease", idle.others as f64, 0.0),
            format!(
                "  {:<32} {:>9.1}",
                "RSS while idle, MB",
                mb(idle.memory.now_kib)
            ),
            format!("  requests of the first start, for each consumer:"),
        ];
        let mut text = lines.join("\n");
        for asked in &first.requests {
            let each = asked.count as f64 / self.consumers as f64;
            text += &format!(
                "\n    {:<7} {:<28} {:>7} {each:>7.2}",
                asked.verb, asked.resource, asked.count
            );
        }
        text
    }
}

fn goal(what: &str, value: f64, most: f64) -> String {
    let verdict = if value <= most { "met" } else { "MISSED" };
    format!("  {what:<32} {value:>9.2}  goal {most:>5} {verdict}")
}
