//! Every knob of the order service: its unit, default and bound.
//!
//! Never read from the environment elsewhere. From here the values go to `build`.

use std::time::Duration;

use engine::Patience;

use crate::Page;

/// How the order service waits and asks.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "order")]
pub struct Config {
    /// How long a saga waits for a participant before it asks again, in milliseconds
    #[arg(long, env = "SKALD_STEP_DEADLINE_MS", value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub step_deadline_ms: u64,
    /// How often a step that can be compensated is asked before it is given up
    #[arg(long, env = "SKALD_STEP_TRIES", value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub step_tries: u32,
    /// The longest wait between two askings of a step that is never given up, in milliseconds; with chance, up to twice that
    #[arg(long, env = "SKALD_STEP_BACKOFF_MAX_MS", value_name = "MS", default_value_t = 3_600_000, value_parser = clap::value_parser!(u64).range(10..=86_400_000))]
    pub step_backoff_max_ms: u64,
    /// After so many askings without an answer a saga is flagged as stuck; it goes on asking
    #[arg(long, env = "SKALD_STUCK_AFTER", value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub stuck_after: u32,
    /// How long the stock check before an order may take, in milliseconds
    #[arg(long, env = "SKALD_STOCK_CHECK_TIMEOUT_MS", value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=30_000))]
    pub stock_check_timeout_ms: u64,
    /// Where people open Jaeger, such as http://127.0.0.1:16686: an order's history then links each step's trace, for operators
    #[arg(long, env = "SKALD_JAEGER_URL", value_name = "URL")]
    pub jaeger_url: Option<Page>,
    /// Where people open Kafdrop, such as http://127.0.0.1:9000: an order's history then links each published message, for operators
    #[arg(long, env = "SKALD_KAFDROP_URL", value_name = "URL")]
    pub kafdrop_url: Option<Page>,
}

impl Config {
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            step_deadline: Duration::from_millis(self.step_deadline_ms),
            tries_max: self.step_tries,
            backoff_max: Duration::from_millis(self.step_backoff_max_ms),
            stuck_after: self.stuck_after,
        }
    }

    /// The bound of one stock check.
    pub fn stock_check_timeout(&self) -> Duration {
        Duration::from_millis(self.stock_check_timeout_ms)
    }
}
