//! Makes a scenario that breaks a rule smaller, as long as it breaks the same rule.

use penstock_runtime::simulation::{Attempt, Message, OnFailure, Scenario, Shape};

use crate::rules::{Rule, judge};

/// The smallest scenario that was found within so many runs.
pub fn shrink(scenario: &Scenario, rule: Rule, runs: usize) -> Scenario {
    let mut smallest = scenario.clone();
    let mut left = runs;
    loop {
        let candidates = candidates(&smallest);
        let smaller = candidates.into_iter().find(|candidate| {
            if left == 0 {
                return false;
            }
            left -= 1;
            breaks(candidate, rule)
        });
        match smaller {
            Some(smaller) => smallest = smaller,
            None => return smallest,
        }
    }
}

fn breaks(scenario: &Scenario, rule: Rule) -> bool {
    judge(scenario).1.iter().any(|found| found.rule == rule)
}

/// Smaller scenarios, the smallest first.
fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut found = Vec::new();
    let mut try_with = |change: &dyn Fn(&mut Scenario)| {
        let mut candidate = scenario.clone();
        change(&mut candidate);
        if candidate != *scenario {
            found.push(candidate);
        }
    };
    let (messages, events) = (scenario.messages.len(), scenario.events.len());
    for (count, part) in [(messages, messages / 2), (messages, messages / 4)] {
        for start in (0..count).step_by(part.max(1)).filter(|_| part > 0) {
            try_with(&|it| drop(it.messages.drain(start..(start + part).min(count))));
        }
    }
    for index in 0..events {
        try_with(&|it| {
            it.events.remove(index);
        });
    }
    for index in (0..messages).rev() {
        try_with(&|it| drop(it.messages.remove(index)));
    }
    try_with(&|it| it.members = 1);
    try_with(&|it| it.metadata_limit = 4096);
    try_with(&|it| it.batch_size = 1);
    try_with(&|it| it.shape = Shape::Single);
    try_with(&|it| it.on_failure = OnFailure::Skip);
    for index in 0..messages {
        for attempt in 0..scenario.messages[index].attempts.len() {
            try_with(&|it| {
                it.messages[index].attempts.remove(attempt);
            });
            try_with(&|it| simpler(&mut it.messages[index].attempts[attempt]));
        }
        try_with(&|it| plain(&mut it.messages[index]));
    }
    found
}

fn simpler(attempt: &mut Attempt) {
    attempt.latency = 0;
}

fn plain(message: &mut Message) {
    message.valid = true;
    message.at = 0;
}
