//! The one way to wait before trying again: exponential, capped, with jitter.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::Env;

/// How long to wait before attempt `attempt + 1`, where `attempt` counts from 1: about `first`, doubled each time, at most
/// about `cap`, plus up to as much again at random so that those who failed together do not return together.
pub fn backoff(env: &Env, attempt: u32, first: Duration, cap: Duration) -> Duration {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(cap)
        .with_factor(2.0)
        .with_jitter()
        .with_jitter_seed(env.random())
        .without_max_times()
        .build()
        .nth(attempt.saturating_sub(1).min(64) as usize)
        .unwrap_or(cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_cap_and_never_more_than_twice_that() {
        let env = Env::system();
        let (first, cap) = (Duration::from_millis(100), Duration::from_secs(2));
        for attempt in 1..200 {
            let wait = backoff(&env, attempt, first, cap);
            assert!(wait >= first && wait <= cap * 2, "{attempt}: {wait:?}");
        }
        assert!(backoff(&env, 50, first, cap) >= cap);
    }
}
