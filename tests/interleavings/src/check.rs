//! Plays a scenario.

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

/// The number of interleavings that each scheduler plays, unless the variable of
/// [`INTERLEAVINGS`] says otherwise.
const DEFAULT_INTERLEAVINGS: usize = 1_000;

/// The variable with the number of interleavings that each scheduler plays.
const INTERLEAVINGS: &str = "PENSTOCK_TEST_INTERLEAVINGS";

/// The variable with a schedule, as a failure prints it: only that is played.
const SCHEDULE: &str = "PENSTOCK_TEST_SCHEDULE";

/// The number of changes of priority in one interleaving of the PCT scheduler. A defect that
/// needs no more than that many forced switches is found with a known probability.
const PRIORITY_CHANGES: usize = 3;

/// The stack of a thread. A build without optimization needs more than shuttle's default.
const STACK_BYTES: usize = 128 * 1024;

/// Plays a scenario by a random scheduler, which switches often, and by a probabilistic one
/// (PCT), which keeps threads waiting for long.
pub(crate) fn check(scenario: fn()) {
    if let Ok(schedule) = std::env::var(SCHEDULE) {
        return run(ReplayScheduler::new_from_encoded(&schedule), scenario);
    }
    let number = std::env::var(INTERLEAVINGS).ok();
    let number = number.map(|it| it.parse());
    let Ok(number) = number.unwrap_or(Ok(DEFAULT_INTERLEAVINGS)) else {
        panic!("{INTERLEAVINGS} is not a number");
    };
    run(RandomScheduler::new(number), scenario);
    run(PctScheduler::new(PRIORITY_CHANGES, number), scenario);
}

fn run(scheduler: impl Scheduler + 'static, scenario: fn()) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    // That atomics are sequentially consistent; see the crate.
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(scenario);
}
