//! The pages that the runtime serves: metrics and health.

mod health;
mod pages;

pub(crate) use health::{Health, health_pages};
pub use health::{HealthCheck, HealthCheckError};
pub use pages::ListenError;
pub(crate) use pages::{Place, Server, metrics_page};
