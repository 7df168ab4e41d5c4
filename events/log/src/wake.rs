//! Wakes the other replicas of a service after a commit, by PostgreSQL's LISTEN and NOTIFY.
//!
//! Only a hint, sent after the commit and by a connection of its own: inside the transaction it would queue all commits of the
//! server behind one lock. Whoever misses it looks up the head by its slow poll. Where no other replica waits for rows, none is sent but
//! a sign of life now and then. Never here: what waits for the head.

use std::{str::FromStr, time::Duration};

use contract::Timestamp;
use sqlx::{Connection, PgConnection, postgres::PgListener};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Database, Error, Log, backoff};

const CHANNEL: &str = "skald_head";
/// Commits within this time share one hint.
const TOGETHER: Duration = Duration::from_millis(2);
/// How often a replica gives a sign of life, and how long after one there is somebody to tell.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
const ALIVE_FOR: Duration = Duration::from_secs(3);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// When another replica of this log was last heard of, and when one that waits for its rows.
#[derive(Clone, Copy, Default)]
pub(crate) struct Peers {
    pub any: Option<Timestamp>,
    pub waiting: Option<Timestamp>,
}

/// What a replica tells: who it is, whether it waits for rows itself, and how far the log is.
struct Hint {
    replica: Uuid,
    waits: bool,
    position: i64,
}

const WAITS: &str = "waits";
const TELLS: &str = "tells";

impl std::fmt::Display for Hint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.replica, if self.waits { WAITS } else { TELLS }, self.position)
    }
}

impl FromStr for Hint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let [replica, waits, position] = text.split(' ').collect::<Vec<_>>().try_into().map_err(drop)?;
        Ok(Self { replica: replica.parse().map_err(drop)?, waits: waits == WAITS, position: position.parse().map_err(drop)? })
    }
}

impl Log {
    /// Tells other replicas of this process' commits and hears of theirs, until `stop`. Nothing to do on SQLite.
    pub async fn exchange_wake_ups(self, stop: CancellationToken) {
        let Database::Postgres(url) = self.database().clone() else { return };
        let replica = self.env().id();
        tokio::join!(
            self.again("tell other replicas of commits", &stop, || self.tell(&url, replica)),
            self.again("hear of other replicas' commits", &stop, || self.hear(&url, replica)),
        );
    }

    /// Repeats what only ends by an error, with a backoff, until `stop`.
    async fn again<F: Future<Output = Result<(), Error>>>(&self, what: &str, stop: &CancellationToken, run: impl Fn() -> F) {
        let mut failures = 0;
        loop {
            let began = self.env().now();
            let Some(ended) = stop.run_until_cancelled(run()).await else { return };
            let Err(error) = ended else { return };
            failures = if self.env().now() > began.plus(RETRY_CAP) { 1 } else { failures + 1 };
            tracing::debug!(service = self.service(), %error, "can't {what} now; they look it up by themselves");
            let pause = self.env().sleep(backoff(self.env(), failures, RETRY_FIRST, RETRY_CAP));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn tell(&self, url: &str, replica: Uuid) -> Result<(), Error> {
        let mut connection = PgConnection::connect_with(&Database::postgres_in_time(url)?).await?;
        // A hint is not worth a wait for the disk.
        sqlx::query("SET synchronous_commit = off").execute(&mut connection).await?;
        let (mut committed, mut peers) = (self.own_commits(), self.peers().subscribe());
        loop {
            let hint = Hint { replica, waits: self.is_waited_for(), position: *committed.borrow_and_update() };
            sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(hint.to_string()).execute(&mut connection).await?;
            self.env().sleep(TOGETHER).await;
            let Peers { any, waiting } = *peers.borrow_and_update();
            tokio::select! {
                changed = committed.changed(), if self.is_recent(waiting) => changed.map_err(|_| Error::Closed)?,
                // A replica that begins is to hear at once that it is not alone.
                changed = peers.changed(), if !self.is_recent(any) => changed.map_err(|_| Error::Closed)?,
                () = self.env().sleep(ALIVE_EVERY) => {}
            }
        }
    }

    async fn hear(&self, url: &str, replica: Uuid) -> Result<(), Error> {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_lazy_with(Database::postgres_in_time(url)?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        // What was committed before the first hint could come.
        self.refresh().await?;
        loop {
            let Some(hint) = listener.try_recv().await? else { return Err(Error::Closed) };
            if let Ok(Hint { replica: from, waits, position }) = hint.payload().parse()
                && from != replica
            {
                let now = self.env().now();
                self.peers().send_modify(|peers| {
                    peers.any = Some(now);
                    peers.waiting = if waits { Some(now) } else { peers.waiting };
                });
                self.heard(position);
            }
        }
    }

    /// Whether another replica of this log is alive, as far as is known.
    pub(crate) fn has_peer(&self) -> bool {
        let last = self.peers().borrow().any;
        self.is_recent(last)
    }

    fn is_recent(&self, heard: Option<Timestamp>) -> bool {
        heard.is_some_and(|last| self.env().now() < last.plus(ALIVE_FOR))
    }
}
