//! What CI plays.

use penstock_runtime::simulation::{Scenario, run};
use penstock_simulator::campaign::{Campaign, SHRINK_RUNS};

/// Seeds that every change is held against.
const SEEDS: u64 = 20_000;

#[test]
fn twenty_thousand_seeds_keep_every_rule() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let campaign = Campaign {
        from: 0,
        seeds: SEEDS,
        time: None,
        jobs,
        shrink_runs: SHRINK_RUNS,
    };
    let report = campaign.play(|_| {});
    for failure in &report.failures {
        println!("{failure}");
    }
    assert!(report.failures.is_empty(), "see above");
    assert_eq!(report.played, SEEDS);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..50 {
        let scenario = Scenario::from_seed(seed);
        let (first, second) = (run(&scenario, true), run(&scenario, true));
        assert_eq!(first.log, second.log, "seed {seed}");
        assert_eq!(
            format!("{:?}", first.deliveries),
            format!("{:?}", second.deliveries),
            "seed {seed}"
        );
    }
}
