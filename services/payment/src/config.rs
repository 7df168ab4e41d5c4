//! The payment service's knobs, each with its unit, default and reason.
//!
//! Never here: reading the environment by hand. From here the flow goes to `lib.rs`, which hands each room what it needs.

use std::time::Duration;

/// How often a call is looked up whose key has expired.
pub(crate) const LOOKUP_EVERY: Duration = Duration::from_secs(60);

/// Configuration of the payment service and of its built-in provider.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "payment")]
pub struct Config {
    /// How long a call to the payment provider may take before its outcome counts as unknown, in milliseconds
    #[arg(id = "payment_timeout_ms", long = "payment-timeout-ms", env = "SKALD_PAYMENT_TIMEOUT_MS", value_name = "MS",
          default_value_t = Self::default().timeout_ms)]
    pub timeout_ms: u64,
    /// Calls to the payment provider at the same time; more wait their turn
    #[arg(id = "payment_concurrency", long = "payment-concurrency", env = "SKALD_PAYMENT_CONCURRENCY", value_name = "CALLS",
          default_value_t = Self::default().concurrency, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub concurrency: u32,
    /// First wait before a call with an unknown outcome is made again, in milliseconds; doubles each time
    #[arg(id = "payment_retry_first_ms", long = "payment-retry-first-ms", env = "SKALD_PAYMENT_RETRY_FIRST_MS", value_name = "MS",
          default_value_t = Self::default().retry_first_ms)]
    pub retry_first_ms: u64,
    /// Longest wait before a call with an unknown outcome is made again, in milliseconds
    #[arg(id = "payment_retry_cap_ms", long = "payment-retry-cap-ms", env = "SKALD_PAYMENT_RETRY_CAP_MS", value_name = "MS",
          default_value_t = Self::default().retry_cap_ms)]
    pub retry_cap_ms: u64,
    /// How long the payment provider honours an idempotency key, in seconds; after that a call is only looked up, never repeated
    #[arg(id = "payment_key_lifetime_s", long = "payment-key-lifetime-s", env = "SKALD_PAYMENT_KEY_LIFETIME_S", value_name = "S",
          default_value_t = Self::default().key_lifetime_s)]
    pub key_lifetime_s: u64,
    /// Built-in provider: the share of good authorizations that it grants, 0 to 1
    #[arg(id = "payment_success_rate", long = "payment-success-rate", env = "SKALD_PAYMENT_SUCCESS_RATE", value_name = "SHARE",
          default_value_t = Self::default().success_rate, value_parser = share)]
    pub success_rate: f64,
    /// Built-in provider: how long it takes to answer, in milliseconds
    #[arg(id = "payment_latency_ms", long = "payment-latency-ms", env = "SKALD_PAYMENT_LATENCY_MS", value_name = "MS",
          default_value_t = Self::default().latency_ms)]
    pub latency_ms: u64,
    /// Built-in provider: how long an authorization of tok_slow takes, in milliseconds
    #[arg(id = "payment_slow_ms", long = "payment-slow-ms", env = "SKALD_PAYMENT_SLOW_MS", value_name = "MS",
          default_value_t = Self::default().slow_ms)]
    pub slow_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout_ms: 2_000,
            concurrency: 1_024,
            retry_first_ms: 100,
            retry_cap_ms: 5_000,
            // What Stripe and Adyen promise at least.
            key_lifetime_s: 86_400,
            success_rate: 1.0,
            latency_ms: 0,
            // Past three asks of a step, five seconds each.
            slow_ms: 20_000,
        }
    }
}

impl Config {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// How long a claimed call is left to the process that claimed it: the call, its turn in the queue and its commit.
    pub fn lease(&self) -> Duration {
        self.timeout() * 3
    }

    pub fn retry_first(&self) -> Duration {
        Duration::from_millis(self.retry_first_ms)
    }

    pub fn retry_cap(&self) -> Duration {
        Duration::from_millis(self.retry_cap_ms.max(self.retry_first_ms))
    }

    pub fn key_lifetime(&self) -> Duration {
        Duration::from_secs(self.key_lifetime_s)
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
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
        let flags = ["skald", "--payment-timeout-ms", "200", "--payment-success-rate", "0.5", "--payment-slow-ms", "2000"];
        let config = Line::try_parse_from(flags).expect("these are its flags").config;
        assert_eq!((config.timeout_ms, config.success_rate, config.slow_ms), (200, 0.5, 2_000));
        for wrong in [["--payment-success-rate", "1.5"], ["--payment-concurrency", "0"]] {
            assert!(Line::try_parse_from(["skald"].into_iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
