//! The rules of the model, one test each.

mod commits;
mod engine;
mod groups;
mod reader;
mod reading;
mod transactions;
