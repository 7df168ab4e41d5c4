//! The clock of a process: the machine's when it starts, and from then on one that never goes back and never leaps with it.
//!
//! A wall clock can be set wrong at any instant, and right again. What is measured by this one (leases, deadlines, the age of a key)
//! goes on in even steps whatever is done to the machine's; on PostgreSQL it goes by the database's, which all replicas share
//! (ADR 0021). Never here: what a wrong instant in a table is taken for, which is `due.rs`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use contract::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::Clock;

/// A difference that time servers make when they correct a clock; it is followed. In microseconds, like all numbers here.
const CORRECTED: i64 = 1_000_000;
/// For so long after a database was asked the machine's clock has no say.
const AGREED_FOR: i64 = 60_000_000;
/// An answer that took longer says nothing of the time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// Both clocks are read within this, or again: a process that is stopped between the two has seen no leap.
const READ_WITHIN: i64 = 10_000;

/// How a process' clock stands to the machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// How far the machine's clock is ahead of this one; below zero where it is behind. In microseconds.
    pub ahead: i64,
    /// How often it has left this one by more than a correction.
    pub leaps: u64,
    /// This one goes by a database's time.
    pub is_agreed: bool,
}

impl Stand {
    /// Whether the machine's clock can't be believed, or this one can't.
    pub fn is_apart(self) -> bool {
        self.ahead.abs() > CORRECTED
    }
}

/// As `/health` says it.
impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, where_to) = (self.ahead.abs() / 1_000_000, if self.ahead > 0 { "ahead of" } else { "behind" });
        let by = if self.is_agreed {
            "the time of the database, by which this process goes"
        } else {
            "the time by which this process goes since it started"
        };
        write!(f, "the machine's clock is {seconds} s {where_to} {by}: set it right, or restart this process if it is right now")
    }
}

/// The machine's clock, made steady.
#[derive(Debug)]
pub struct SystemClock {
    steady: Mutex<Steady>,
}

impl SystemClock {
    /// Goes by the machine's time as it is now.
    pub fn start() -> Self {
        let (even, wall) = both();
        Self { steady: Mutex::new(Steady::new(even, wall)) }
    }

    fn read<T>(&self, read: impl FnOnce(&mut Steady, i64) -> T) -> T {
        // Nothing in there can be left half-changed.
        let mut steady = self.steady.lock().unwrap_or_else(PoisonError::into_inner);
        let (even, wall) = both();
        let told = steady.go_on(even, wall);
        let result = read(&mut steady, even);
        let stand = steady.stand(even);
        drop(steady);
        match told {
            Some(Told::Left) => tracing::error!(ahead_us = stand.ahead, "{stand}"),
            Some(Told::Joined) => {
                tracing::info!("the machine's clock and the time by which this process goes are the same again")
            }
            None => {}
        }
        result
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.read(|steady, even| steady.now(even)))
    }

    fn sleep(&self, wait: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(wait))
    }

    fn agree(&self, time: Timestamp, took: Duration) {
        self.read(|steady, even| steady.agree(even, time.0, took));
    }

    fn stand(&self) -> Stand {
        self.read(|steady, even| steady.stand(even))
    }
}

/// A clock that only ever goes on, also while the machine sleeps, and the one on the wall.
#[expect(clippy::disallowed_methods, reason = "the one place that asks the machine for the time")]
fn both() -> (i64, i64) {
    let even = || {
        #[cfg(target_os = "linux")]
        let id = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = ClockId::Monotonic;
        let time = clock_gettime(id);
        time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
    };
    let mut read = (0, 0);
    for _ in 0..3 {
        let before = even();
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        read = (even(), i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX));
        if read.0 - before < READ_WITHIN {
            break;
        }
    }
    read
}

/// What a reading has to tell.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Left,
    Joined,
}

/// What is known of the two clocks. Pure: it is told what they show.
#[derive(Debug)]
struct Steady {
    /// What this clock is ahead of the even one.
    offset: i64,
    /// The even clock, when both were read last.
    even: i64,
    wall: i64,
    /// What it has to give back yet; it goes at half its pace until then, as it never goes back.
    owed: i64,
    /// When a database was asked last.
    agreed: Option<i64>,
    is_apart: bool,
    leaps: u64,
}

impl Steady {
    fn new(even: i64, wall: i64) -> Self {
        Self { offset: wall - even, even, wall, owed: 0, agreed: None, is_apart: false, leaps: 0 }
    }

    fn now(&self, even: i64) -> i64 {
        even + self.offset
    }

    fn is_agreed(&self, even: i64) -> bool {
        self.agreed.is_some_and(|at| even - at < AGREED_FOR)
    }

    fn stand(&self, even: i64) -> Stand {
        Stand { ahead: self.wall - self.now(self.even), leaps: self.leaps, is_agreed: self.is_agreed(even) }
    }

    fn go_on(&mut self, even: i64, wall: i64) -> Option<Told> {
        let passed = (even - self.even).max(0);
        let ahead = wall - self.now(even);
        if !self.is_agreed(even) && ahead.abs() <= CORRECTED {
            self.turn(ahead);
        }
        let given = self.owed.min(passed / 2);
        (self.owed, self.offset) = (self.owed - given, self.offset - given);
        (self.even, self.wall) = (even, wall);
        let is_apart = (wall - self.now(even)).abs() > CORRECTED;
        if is_apart == self.is_apart {
            return None;
        }
        self.is_apart = is_apart;
        self.leaps += u64::from(is_apart);
        Some(if is_apart { Told::Left } else { Told::Joined })
    }

    /// It is to show so much more.
    fn turn(&mut self, by: i64) {
        self.owed = (-by).max(0);
        self.offset += by.max(0);
    }

    fn agree(&mut self, even: i64, time: i64, took: Duration) {
        if took > ANSWERED_WITHIN {
            return;
        }
        let took = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        let by = time + took / 2 - self.now(even);
        match self.agreed.replace(even) {
            // Nothing has been written by it yet.
            None => (self.offset, self.owed) = (self.offset + by, 0),
            // Closer than this nobody can tell.
            Some(_) if by.abs() <= took => self.owed = 0,
            Some(_) => self.turn(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3_600 * SECOND;
    const QUICK: Duration = Duration::from_micros(200);

    #[test]
    fn corrections_are_followed_and_it_never_goes_back() {
        let mut steady = Steady::new(0, HOUR);
        assert_eq!(steady.go_on(SECOND, HOUR + SECOND + 300_000), None);
        assert_eq!(steady.now(SECOND), HOUR + SECOND + 300_000, "forward at once");
        let (mut even, mut last) = (SECOND, HOUR + SECOND + 300_000);
        for _ in 0..20 {
            even += 100_000;
            assert_eq!(steady.go_on(even, HOUR + even), None);
            let now = steady.now(even);
            assert!(now > last, "{now} after {last}");
            last = now;
        }
        assert_eq!(last, HOUR + even, "back at half the pace, until it is there");
    }

    #[test]
    fn a_leap_of_the_machine_s_clock_is_told_once_and_not_followed() {
        for by in [HOUR, -HOUR, 48 * HOUR] {
            let mut steady = Steady::new(0, 100 * HOUR);
            assert_eq!(steady.go_on(SECOND, 100 * HOUR + SECOND + by), Some(Told::Left));
            assert_eq!(steady.go_on(2 * SECOND, 100 * HOUR + 2 * SECOND + by), None);
            assert_eq!(steady.now(2 * SECOND), 100 * HOUR + 2 * SECOND);
            let stand = steady.stand(2 * SECOND);
            assert_eq!((stand.ahead, stand.leaps, stand.is_apart()), (by, 1, true));
            assert_eq!(steady.go_on(3 * SECOND, 100 * HOUR + 3 * SECOND), Some(Told::Joined), "it was set right again");
            assert!(!steady.stand(3 * SECOND).is_apart());
        }
    }

    #[test]
    fn the_database_s_time_counts_more_than_the_machine_s() {
        let mut steady = Steady::new(0, 9 * HOUR);
        // The machine is half an hour ahead when the process starts.
        steady.agree(0, 9 * HOUR - HOUR / 2, QUICK);
        assert_eq!(steady.now(0), 9 * HOUR - HOUR / 2 + 100);
        assert_eq!(steady.go_on(SECOND, 9 * HOUR + SECOND), Some(Told::Left));
        assert_eq!(steady.now(SECOND), 9 * HOUR - HOUR / 2 + 100 + SECOND);
        assert!(steady.stand(SECOND).is_agreed);
        // A database that fails over to a host which is two seconds behind: never back, but slower.
        let before = steady.now(SECOND);
        steady.agree(SECOND, before - 2 * SECOND, QUICK);
        steady.go_on(3 * SECOND, 9 * HOUR + 3 * SECOND);
        assert_eq!(steady.now(3 * SECOND), before + SECOND);
        // While it is away nothing is followed that is not a correction.
        steady.go_on(10 * HOUR, 19 * HOUR);
        assert!(steady.stand(10 * HOUR).is_apart() && !steady.stand(10 * HOUR).is_agreed);
        // An answer that took its time says nothing.
        let before = steady.now(10 * HOUR);
        steady.agree(10 * HOUR, before + HOUR, Duration::from_secs(5));
        assert_eq!(steady.now(10 * HOUR), before);
    }

    #[test]
    fn the_machine_s_own_clock_is_followed_in_a_process() {
        let clock = SystemClock::start();
        let (first, second) = (clock.now(), clock.now());
        assert!(second >= first && first.0 > 1_700_000_000_000_000);
        assert!(!clock.stand().is_apart());
    }
}
