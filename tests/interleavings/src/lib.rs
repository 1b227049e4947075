//! Plays the types that the runtime's threads share under many interleavings of those threads.
//!
//! The modules of the queue and of the partitions are compiled here as they are. They name
//! their locks, atomics and notifications by `crate::sync`, which is [`sync`] here: before
//! each operation, shuttle's scheduler decides which thread continues. A scenario is played
//! some thousand times, each time with other decisions. It fails if an assertion does, or if
//! every thread waits: a lost wake-up is such a deadlock.
//!
//! shuttle plays all atomics as if they were sequentially consistent. So a scenario finds
//! wrong orders of operations, and not orderings that are too weak.

// Empty in a build of unit tests, which `--all-targets` and `--lib` make although there are
// none here: the runtime's own would be among them.
#![cfg(not(test))]

/// The runtime's modules that are checked, and the modules that those need.
// Their other items are for the rest of the runtime.
#[allow(dead_code, unused_imports)]
#[path = "../../../runtime/src"]
mod runtime {
    pub(crate) mod commit {
        pub(crate) mod outbox;
    }
    pub(crate) mod group {
        pub(crate) mod epochs;
        pub(crate) mod partition;
    }
    pub(crate) mod offsets;
    pub(crate) mod queue;
}

mod check;
mod rest;
mod scenarios;
mod sync;

// By these names the modules find each other.
use rest::{handler, kafka, observe};
use runtime::{group, offsets, queue};

mod commit {
    pub(crate) use crate::rest::strategy;
    pub(crate) use crate::runtime::commit::outbox;
}

/// Calls a macro with the names of all scenarios. One that is missing here is dead code.
#[macro_export]
macro_rules! scenarios {
    ($use:ident) => {
        $use! {
            queue::every_message_leaves_once_past_a_revocation_and_a_close,
            queue::every_handler_that_waits_is_woken,
            queue::a_handler_that_is_given_up_loses_no_wake_up,
            queue::a_close_ends_every_handler,
            queue::places_and_bytes_are_bounds_while_handlers_take,
            lanes::messages_of_a_key_are_in_order_and_never_out_together,
            lanes::messages_that_went_along_come_back_in_their_order,
            lanes::a_revocation_leaves_no_key_taken,
            partition::nothing_begins_after_a_drain_and_the_pump_is_woken,
            partition::a_wait_between_attempts_ends_after_the_drain_is_decided,
            partition::what_is_held_returns_to_zero_and_wakes_the_pump,
            partition::one_commit_follows_another_and_none_goes_back,
            partition::each_record_is_committed_once_with_its_message,
        }
    };
}

macro_rules! public {
    ($($module:ident::$name:ident,)+) => {
        $(
            #[doc = concat!("Plays `", stringify!($name), "`; panics if it fails.")]
            pub fn $name() {
                scenarios::$module::$name();
            }
        )+
    };
}

scenarios!(public);
