//! Wakes the other replicas of a service after a commit, by PostgreSQL's LISTEN and NOTIFY.
//!
//! Only a hint, sent after the commit and by a connection of its own: inside the transaction it would queue all commits of the
//! server behind one lock. Whoever misses it looks up the head by its slow poll. Never here: what waits for the head.

use std::time::Duration;

use sqlx::{Connection, PgConnection, postgres::PgListener};
use tokio_util::sync::CancellationToken;

use crate::{Database, Error, Log, backoff};

const CHANNEL: &str = "skald_head";
/// Commits within this time share one hint.
const TOGETHER: Duration = Duration::from_millis(2);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);

impl Log {
    /// Tells other replicas of this process' commits and hears of theirs, until `stop`. Nothing to do on SQLite.
    pub async fn exchange_wake_ups(self, stop: CancellationToken) {
        let Database::Postgres(url) = self.database().clone() else { return };
        tokio::join!(
            self.again("tell other replicas of commits", &stop, || self.tell(&url)),
            self.again("hear of other replicas' commits", &stop, || self.hear(&url)),
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

    async fn tell(&self, url: &str) -> Result<(), Error> {
        let mut connection = PgConnection::connect_with(&Database::postgres(url)?).await?;
        // A hint is not worth a wait for the disk.
        sqlx::query("SET synchronous_commit = off").execute(&mut connection).await?;
        let mut committed = self.own_commits();
        loop {
            committed.changed().await.map_err(|_| Error::Closed)?;
            let position = *committed.borrow_and_update();
            sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(position.to_string()).execute(&mut connection).await?;
            self.env().sleep(TOGETHER).await;
        }
    }

    async fn hear(&self, url: &str) -> Result<(), Error> {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_lazy_with(Database::postgres(url)?);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        // What was committed before the first hint could come.
        self.refresh().await?;
        loop {
            match listener.try_recv().await? {
                Some(hint) => {
                    if let Ok(position) = hint.payload().parse() {
                        self.heard(position);
                    }
                }
                None => return Err(Error::Closed),
            }
        }
    }
}
