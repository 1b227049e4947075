//! One consumer: it is built from its parts, run, and stopped.

pub(crate) mod assembly;
pub(crate) mod memory;
pub(crate) mod remote;
pub(crate) mod running;
pub(crate) mod server;
