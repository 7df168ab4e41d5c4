//! How often a login may fail, per account and per address, and how often an address may register, in a window that slides.
//!
//! Never here: what a login is. In memory and per process: a restart forgets, and each replica counts by itself.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::Timestamp;

use crate::config::Config;

const WINDOW: Duration = Duration::from_secs(15 * 60);
/// Accounts and addresses remembered; about 10 MiB. Past it those are forgotten that failed longest ago.
const KEYS_MAX: usize = 50_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The address as typed, in lower case and composed, whether there is such an account or not: an unknown one must not look different.
    Account(String),
    Address(IpAddr),
    /// Registrations from an address.
    Newcomers(IpAddr),
}

/// Counts failed logins, and registrations.
pub(crate) struct Limiter {
    per_account: usize,
    per_address: usize,
    newcomers: usize,
    failed: Mutex<HashMap<Key, VecDeque<Timestamp>>>,
}

/// An attempt that counts as failed until it is said to have succeeded, so that many at once are no way round.
pub(crate) struct Attempt {
    keys: Vec<Key>,
    at: Timestamp,
}

impl Limiter {
    pub(crate) fn new(config: &Config) -> Self {
        let (per_account, per_address) = (config.login_failures_per_account, config.login_failures_per_address);
        let newcomers = config.registrations_per_address as usize;
        Self { per_account: per_account as usize, per_address: per_address as usize, newcomers, failed: Mutex::default() }
    }

    /// Whether another attempt may be made now; takes no note of it.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn check(&self, email: &str, address: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        let failed = self.failed();
        let waits = keys(email, address).into_iter().filter_map(|key| self.wait(&failed, &key, now));
        waits.max().map_or(Ok(()), Err)
    }

    /// Begins an attempt.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn begin(&self, email: &str, address: Option<IpAddr>, now: Timestamp) -> Result<Attempt, Duration> {
        let mut failed = self.failed();
        let keys = keys(email, address);
        if let Some(wait) = keys.iter().filter_map(|key| self.wait(&failed, key, now)).max() {
            return Err(wait);
        }
        for key in &keys {
            self.note(&mut failed, key, now);
        }
        Ok(Attempt { keys, at: now })
    }

    /// Takes note of a registration, whatever comes of it.
    ///
    /// # Errors
    /// How long to wait.
    pub(crate) fn register(&self, address: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        let Some(key) = address.map(|address| Key::Newcomers(network(address))) else { return Ok(()) };
        let mut failed = self.failed();
        if let Some(wait) = self.wait(&failed, &key, now) {
            return Err(wait);
        }
        self.note(&mut failed, &key, now);
        Ok(())
    }

    fn note(&self, failed: &mut HashMap<Key, VecDeque<Timestamp>>, key: &Key, now: Timestamp) {
        if failed.len() >= KEYS_MAX && !failed.contains_key(key) {
            forget(failed, now);
        }
        let bound = self.bound(key);
        let times = failed.entry(key.clone()).or_default();
        if times.len() == bound {
            times.pop_front();
        }
        times.push_back(now);
    }

    /// Takes an attempt off the count.
    pub(crate) fn succeeded(&self, attempt: Attempt) {
        let mut failed = self.failed();
        for key in attempt.keys {
            let Some(times) = failed.get_mut(&key) else { continue };
            if let Some(at) = times.iter().rposition(|at| *at == attempt.at) {
                times.remove(at);
            }
            if times.is_empty() {
                failed.remove(&key);
            }
        }
    }

    fn bound(&self, key: &Key) -> usize {
        match key {
            Key::Account(_) => self.per_account,
            Key::Address(_) => self.per_address,
            Key::Newcomers(_) => self.newcomers,
        }
    }

    /// Until when the oldest of the last so many is out of the window.
    fn wait(&self, failed: &HashMap<Key, VecDeque<Timestamp>>, key: &Key, now: Timestamp) -> Option<Duration> {
        let times = failed.get(key)?;
        let oldest = times.len().checked_sub(self.bound(key)).and_then(|at| times.get(at))?;
        Some(oldest.plus(WINDOW).since(now)).filter(|wait| !wait.is_zero())
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<Key, VecDeque<Timestamp>>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keys(email: &str, address: Option<IpAddr>) -> Vec<Key> {
    let account = Key::Account(kit::text::composed(email));
    std::iter::once(account).chain(address.map(|address| Key::Address(network(address)))).collect()
}

/// Who has one IPv6 address has its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Makes room: all that are out of the window; if there are none, the one that failed longest ago.
fn forget(failed: &mut HashMap<Key, VecDeque<Timestamp>>, now: Timestamp) {
    let before = failed.len();
    failed.retain(|_, times| times.back().is_some_and(|last| last.plus(WINDOW) > now));
    if failed.len() == before
        && let Some(key) = failed.iter().min_by_key(|(_, times)| times.back().copied()).map(|(key, _)| key.clone())
    {
        failed.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    fn limiter() -> Limiter {
        Limiter::new(&Config { login_failures_per_account: 3, login_failures_per_address: 5, ..Config::default() })
    }

    fn after(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn an_account_waits_until_its_oldest_failure_is_out_of_the_window() {
        let limiter = limiter();
        for second in 0..3 {
            assert!(limiter.begin("a", None, after(second)).is_ok());
        }
        assert_eq!(limiter.check("a", None, after(3)), Err(Duration::from_secs(897)));
        assert!(limiter.check("b", None, after(3)).is_ok());
        assert!(limiter.begin("a", None, after(900)).is_ok());
        assert_eq!(limiter.check("a", None, after(900)), Err(Duration::from_secs(1)));
    }

    #[test]
    fn a_login_that_succeeds_does_not_count() {
        let limiter = limiter();
        for _ in 0..10 {
            let attempt = limiter.begin("a", Some([1, 2, 3, 4].into()), NOW);
            limiter.succeeded(attempt.ok().unwrap());
        }
        assert!(limiter.failed().is_empty());
    }

    #[test]
    fn an_address_waits_whatever_accounts_it_tries() {
        let limiter = limiter();
        let address = |last: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]));
        for number in 0..5 {
            assert!(limiter.begin(&number.to_string(), address(number), NOW).is_ok());
        }
        assert!(limiter.check("another", address(99), NOW).is_err(), "the same /64");
        assert!(limiter.check("another", Some([1, 2, 3, 4].into()), NOW).is_ok());
    }

    #[test]
    fn an_address_registers_so_often_and_no_more_and_logs_in_none_the_less() {
        let limiter = Limiter::new(&Config { registrations_per_address: 2, ..Config::default() });
        let (one, other) = (Some([1, 2, 3, 4].into()), Some([1, 2, 3, 5].into()));
        assert!(limiter.register(one, after(0)).is_ok() && limiter.register(one, after(1)).is_ok());
        assert_eq!(limiter.register(one, after(2)), Err(Duration::from_secs(898)));
        assert!(limiter.register(other, after(2)).is_ok() && limiter.check("a", one, after(2)).is_ok());
        assert!(limiter.register(one, after(900)).is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let limiter = limiter();
        for number in 0..KEYS_MAX + 2 {
            assert!(limiter.begin(&number.to_string(), None, NOW.plus(Duration::from_micros(number as u64))).is_ok());
        }
        assert_eq!(limiter.failed().len(), KEYS_MAX);
        assert!(limiter.begin("last", None, after(2_000)).is_ok());
        assert_eq!(limiter.failed().len(), 1);
    }
}
