//! How long anything may take that has to do with PostgreSQL: all of it in one place, because one number rests on another.
//!
//! What they are for: **a replica that is frozen, or whose host has vanished, keeps the others from committing for ten seconds at most.** It
//! may have the head's lock when it stops. The server ends its session after [`IDLE_IN_TRANSACTION`], and whoever waits for the lock goes
//! on then: [`LOCK`] is longer, so that waiting is enough. Should the next one to get the lock be frozen as well, that is twice the time.
//! SQLite has no part in this: it is in the process, and who has its lock is this process.

use std::time::Duration;

/// A session that has begun a transaction and sends nothing is ended by the server. Between two statements a writer computes for
/// milliseconds.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);
/// A statement waits so long for a lock. More than the above, and less than [`TRANSACTION`].
const LOCK: Duration = Duration::from_secs(7);
/// A transaction gets its answers in this time, or its connection is thrown away; a commit is looked up then. A batch takes milliseconds,
/// and a second on a disk that is busy.
pub(crate) const TRANSACTION: Duration = Duration::from_secs(15);
/// The server ends by itself what was given up here.
const STATEMENT: Duration = Duration::from_secs(20);
/// Bytes that nobody acknowledges end a connection, as the server sees it: its client's host has vanished.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);
/// A connection on which nothing is said is asked for a sign of life, and ended after three times without.
const ALIVE: [(&str, &str); 3] = [("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "3"), ("tcp_keepalives_count", "3")];
/// A server that is there answers at once.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// How long the outcome of a commit without an answer is looked for; then it is told to be unknown.
pub(crate) const SETTLE: Duration = Duration::from_secs(20);
/// From when on a writer that can't commit says so to `/readyz`: what passes sooner is nobody's business.
pub(crate) const TROUBLED: Duration = Duration::from_secs(2);

/// Settings of every session: a peer that has vanished is noticed.
pub(crate) fn of_any_session() -> Vec<(&'static str, String)> {
    let alive = ALIVE.map(|(name, value)| (name, value.to_owned()));
    [("tcp_user_timeout", ms(UNACKNOWLEDGED))].into_iter().chain(alive).collect()
}

/// Settings of the sessions that write or that somebody waits for. Never those of a migration or an audit, which may take their time.
pub(crate) fn of_a_short_session() -> Vec<(&'static str, String)> {
    let short =
        [("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION), ("lock_timeout", LOCK), ("statement_timeout", STATEMENT)];
    short.map(|(name, time)| (name, ms(time))).to_vec()
}

/// As a setting of PostgreSQL's that has milliseconds.
fn ms(time: Duration) -> String {
    time.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_a_frozen_replica_gets_its_lock_and_twice_that_is_ten_seconds() {
        assert!(IDLE_IN_TRANSACTION < LOCK && LOCK < TRANSACTION && TRANSACTION < STATEMENT);
        assert!(TROUBLED < IDLE_IN_TRANSACTION);
        assert!(IDLE_IN_TRANSACTION * 2 <= Duration::from_secs(10));
    }
}
