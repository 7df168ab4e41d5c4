//! The notification service's knobs, each with its unit, default and reason.
//!
//! Never here: reading the environment by hand. From here the flow goes to `lib.rs`, which hands each room what it needs.

use std::time::Duration;

/// Configuration of the notification service.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "notification")]
pub struct Config {
    /// How long the channel may take to deliver one notification, in milliseconds
    #[arg(id = "notification_timeout_ms", long = "notification-timeout-ms", env = "SKALD_NOTIFICATION_TIMEOUT_MS",
          value_name = "MS", default_value_t = Self::default().timeout_ms)]
    pub timeout_ms: u64,
    /// Notifications delivered at the same time; more wait their turn
    #[arg(id = "notification_concurrency", long = "notification-concurrency", env = "SKALD_NOTIFICATION_CONCURRENCY",
          value_name = "COUNT", default_value_t = Self::default().concurrency,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub concurrency: u32,
    /// How often delivery is tried before a notification is given up
    #[arg(id = "notification_attempts_max", long = "notification-attempts-max", env = "SKALD_NOTIFICATION_ATTEMPTS_MAX",
          value_name = "COUNT", default_value_t = Self::default().attempts_max,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts_max: u32,
    /// First wait before delivery is tried again, in milliseconds; doubles each time
    #[arg(id = "notification_retry_first_ms", long = "notification-retry-first-ms", env = "SKALD_NOTIFICATION_RETRY_FIRST_MS",
          value_name = "MS", default_value_t = Self::default().retry_first_ms)]
    pub retry_first_ms: u64,
    /// Longest wait before delivery is tried again, in milliseconds
    #[arg(id = "notification_retry_cap_ms", long = "notification-retry-cap-ms", env = "SKALD_NOTIFICATION_RETRY_CAP_MS",
          value_name = "MS", default_value_t = Self::default().retry_cap_ms)]
    pub retry_cap_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        // Eight attempts reach over one to two minutes: an outage longer than that is an operator's.
        Self { timeout_ms: 5_000, concurrency: 256, attempts_max: 8, retry_first_ms: 500, retry_cap_ms: 60_000 }
    }
}

impl Config {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// How long a claimed notification is left to the process that claimed it: the delivery, its turn and its commit.
    pub fn lease(&self) -> Duration {
        self.timeout() * 3
    }

    pub fn retry_first(&self) -> Duration {
        Duration::from_millis(self.retry_first_ms)
    }

    pub fn retry_cap(&self) -> Duration {
        Duration::from_millis(self.retry_cap_ms.max(self.retry_first_ms))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn every_knob_is_a_flag_under_the_name_of_the_service() {
        let flags = ["skald", "--notification-attempts-max", "3", "--notification-retry-first-ms", "20"];
        let config = Line::try_parse_from(flags).expect("these are its flags").config;
        assert_eq!((config.attempts_max, config.retry_first_ms), (3, 20));
        assert!(Line::try_parse_from(["skald", "--notification-attempts-max", "0"]).is_err());
    }
}
