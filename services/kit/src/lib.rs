//! What every service shares: HTTP, problems, tokens, idempotency keys, pages, metrics, traces, probes, tasks and their end, what
//! goes out.
//!
//! Never here: a rule of any service, SQL, a topic. From here the flow goes into `services/*`, whose routes [`http::app`]
//! puts behind one door, and to `services/skald`, which serves that door.

pub mod auth;
pub mod grpc;
pub mod http;
pub mod idempotency;
pub mod log;
pub mod metrics;
pub mod outgoing;
pub mod propagation;
pub mod secret;
pub mod tasks;
pub mod telemetry;
pub mod text;

pub use idempotency::Idempotency;
pub use metrics::Metrics;
pub use secret::Secret;
pub use tasks::Tasks;
pub use telemetry::Telemetry;
