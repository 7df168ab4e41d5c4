//! What the relay of a log keeps in that log's database: who publishes, and how far it has come.
//!
//! Never here: a broker. The lease goes by the database's clock (on SQLite, which one process has, by that process'), and one that ends
//! later than any lease can was taken with a clock that was wrong: it is no lease. It only saves work: the fence guards the checkpoint, and whoever publishes without it publishes
//! again what is published already, which every consumer can tell.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use contract::Fault;
use uuid::Uuid;

use crate::{Conn, Error, Log, agree::time, db::Owned, on, select_in};

/// How far a log is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Every row up to this position is published.
    pub position: i64,
    /// The last published position of each topic's partitions; 0 where there is none.
    pub chain: BTreeMap<String, Vec<i64>>,
}

/// Where the rows of an epoch begin; they go on until the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub number: i64,
    pub first_position: i64,
}

/// What became of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    Yes,
    /// Another replica leads now, or an operator has moved the checkpoint.
    Deposed,
    /// The log ends before what was published of it: it has lost commits.
    Behind {
        head: i64,
    },
}

/// A replica that publishes its log whenever it is the leader. It has a connection of its own.
pub struct Candidate {
    log: Log,
    id: Uuid,
    fence: i64,
    connection: Option<Owned>,
}

impl Candidate {
    pub fn new(log: Log) -> Self {
        let id = log.env().id();
        Self { log, id, fence: 0, connection: None }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    async fn conn(&mut self) -> Result<Conn<'_>, Error> {
        if self.connection.is_none() {
            let mut connection = self.log.database().connect_to_write().await?;
            // A lost checkpoint only publishes again, so it is not worth waiting for the disk.
            if let Conn::Postgres(c) = connection.conn() {
                sqlx::query("SET synchronous_commit = off").execute(c).await?;
            }
            self.log.forget();
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("connected above").conn())
    }

    /// Forgets the connection after an error.
    fn failed<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, Error> {
        if result.is_err() {
            self.connection = None;
        }
        Ok(result?)
    }

    /// What the database came to in time. After an error, and where there is no answer, the connection is forgotten.
    fn in_the_end<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.connection = None;
            self.log.tell_damage(error);
        }
        result
    }

    /// Becomes the leader if there is none; tells from where to publish. Also tells the log how far somebody else has come.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn lead(&mut self, lease: Duration) -> Result<Option<Checkpoint>, Error> {
        let log = self.log.clone();
        let led = log.in_time(self.try_to_lead(lease)).await;
        self.in_the_end(led)
    }

    async fn try_to_lead(&mut self, lease: Duration) -> Result<Option<Checkpoint>, Error> {
        let (id, env) = (self.id, self.log.env().clone());
        let mut conn = self.conn().await?;
        let now = time(&mut conn, &env).await;
        let now = self.failed(now)?;
        let latest = if Fault::LeaseBelieved.is_planted() { i64::MAX } else { now.plus(lease).0 };
        let mut conn = self.conn().await?;
        let taken: Result<Option<(i64, i64, String)>, sqlx::Error> =
            on!(&mut conn, |c| sqlx::query_as::<DB, (i64, i64, String)>(
                "UPDATE relay SET owner = $1, lease_until_us = $2, fence = fence + 1 \
             WHERE owner IS NULL OR owner = $1 OR lease_until_us < $3 OR lease_until_us > $4 RETURNING fence, position, chain"
            )
            .bind(id)
            .bind(now.plus(lease).0)
            .bind(now.0)
            .bind(latest)
            .fetch_optional(c)
            .await);
        let Some((fence, position, chain)) = self.failed(taken)? else {
            let mut conn = self.conn().await?;
            let position = on!(&mut conn, |c| sqlx::query_scalar::<DB, i64>("SELECT position FROM relay").fetch_one(c).await);
            let position = self.failed(position)?;
            self.log.published(position);
            return Ok(None);
        };
        self.fence = fence;
        let chain = serde_json::from_str(&chain).map_err(|error| Error::Corrupt(format!("the relay's chain: {error}")))?;
        self.log.published(position);
        Ok(Some(Checkpoint { position, chain }))
    }

    /// Moves the checkpoint and renews the lease.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn save(&mut self, checkpoint: &Checkpoint, lease: Duration) -> Result<Saved, Error> {
        let log = self.log.clone();
        let saved = log.in_time(self.try_to_save(checkpoint, lease)).await;
        self.in_the_end(saved)
    }

    async fn try_to_save(&mut self, checkpoint: &Checkpoint, lease: Duration) -> Result<Saved, Error> {
        let (mut fence, env) = (self.fence, self.log.env().clone());
        let chain = serde_json::to_string(&checkpoint.chain).expect("a chain has string keys only");
        let mut conn = self.conn().await?;
        let now = time(&mut conn, &env).await;
        let until = self.failed(now)?.plus(lease).0;
        let mut conn = self.conn().await?;
        if Fault::ZombieUnfenced.is_planted() {
            fence = on!(&mut conn, |c| sqlx::query_scalar::<DB, i64>("SELECT fence FROM relay").fetch_one(c).await)?;
        }
        let saved = on!(&mut conn, |c| sqlx::query::<DB>(
            "UPDATE relay SET position = $1, chain = $2, lease_until_us = $3 \
             WHERE fence = $4 AND $1 <= (SELECT position FROM head)"
        )
        .bind(checkpoint.position)
        .bind(chain.as_str())
        .bind(until)
        .bind(fence)
        .execute(c)
        .await
        .map(|result| result.rows_affected()));
        if self.failed(saved)? == 1 {
            self.log.published(checkpoint.position);
            return Ok(Saved::Yes);
        }
        let mut conn = self.conn().await?;
        let found = on!(&mut conn, |c| {
            sqlx::query_as::<DB, (i64, i64)>("SELECT relay.fence, head.position FROM relay, head").fetch_one(c).await
        });
        let (found, head) = self.failed(found)?;
        Ok(if found == fence { Saved::Behind { head } } else { Saved::Deposed })
    }

    /// Lets another replica lead at once.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; the lease ends by itself then.
    pub async fn resign(&mut self) -> Result<(), Error> {
        let log = self.log.clone();
        let resigned = log.in_time(self.try_to_resign()).await;
        self.in_the_end(resigned)
    }

    async fn try_to_resign(&mut self) -> Result<(), Error> {
        let fence = self.fence;
        let mut conn = self.conn().await?;
        let resigned = on!(&mut conn, |c| sqlx::query::<DB>("UPDATE relay SET owner = NULL WHERE fence = $1")
            .bind(fence)
            .execute(c)
            .await
            .map(drop));
        self.failed(resigned)
    }
}

impl Log {
    /// The epochs of this log, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn epochs(&self) -> Result<Vec<Epoch>, Error> {
        let mut reader = self.reader().await?;
        let rows: Vec<(i64, i64)> = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (i64, i64)>(
            "SELECT epoch, first_position FROM epochs ORDER BY epoch"
        )
        .fetch_all(c)
        .await)?;
        Ok(rows.into_iter().map(|(number, first_position)| Epoch { number, first_position }).collect())
    }

    /// The ids of the rows at these positions, as far as there are such.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn ids_at(&self, positions: &[i64]) -> Result<HashMap<i64, Uuid>, Error> {
        let mut reader = self.reader().await?;
        let rows = select_in!(&mut reader.conn(), (i64, Uuid), "SELECT position, id FROM log WHERE position", positions, "")?;
        Ok(rows.into_iter().collect())
    }
}
