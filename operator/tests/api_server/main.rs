//! The operator before an API server in memory that records each call and can
//! fail: passes, the queue, and the Lease. Kafka is librdkafka's mock cluster.

mod call;
mod config_maps;
mod controller;
mod faults;
mod fields;
mod hostile;
mod lease;
mod objects;
mod positions;
mod secrets;
mod server;
mod statuses;
mod topics;
mod world;
