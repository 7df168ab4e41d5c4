//! What an operator does to a log whose topics and it have come apart: publish again, or go on in a new epoch.
//!
//! Never here: finding out what is wrong; the relay and the consumers tell, with the command. Each of these deposes the relay's
//! leader, which then reads where to go on from.

use std::collections::BTreeMap;

use contract::{Timestamp, record::Source, topics};

use crate::{Database, Error, Owned, chain, for_update, on};

/// A log's database, as an operator opens it: no writer, no migration.
pub struct Desk {
    connection: Owned,
    pub service: String,
}

/// What an operator's command has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub position_before: i64,
    /// Rows after this one are published, again or for the first time.
    pub position: i64,
    pub head: i64,
    pub epoch: i64,
}

/// Who reads what a service publishes.
pub fn readers_of(service: &str) -> Vec<&'static str> {
    let read = topics::TOPICS.iter().filter(|topic| topic.owner == service).flat_map(|topic| topic.readers.iter().copied());
    read.collect::<std::collections::BTreeSet<_>>().into_iter().filter(|reader| *reader != service).collect()
}

/// The command makes no sense for this log.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("the log of {service} has been published up to {published}: nothing to publish again after {wanted}")]
    NotPublished { service: String, published: i64, wanted: i64 },
    #[error("{reader} reads nothing of {service}")]
    ReadsNothing { reader: String, service: String },
    #[error("a position is from 0 to the log's head, which is {head}; {wanted} is not")]
    OutOfRange { head: i64, wanted: i64 },
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Rows read at a time while looking for the last one of each partition.
const PAGE: i64 = 4_096;

type Chain = BTreeMap<String, Vec<i64>>;

impl Desk {
    /// # Errors
    /// The database is away, or not one of ours.
    pub async fn open(database: &Database) -> Result<Self, Error> {
        let mut connection = database.connect_to_write().await?;
        let service =
            on!(&mut connection.conn(), |c| sqlx::query_scalar::<DB, String>("SELECT service FROM head").fetch_one(c).await)?;
        Ok(Self { connection, service })
    }

    /// What the messages of one of its epochs name as their source.
    ///
    /// # Errors
    /// The database is away.
    pub async fn source(&mut self, epoch: i64) -> Result<Source, Error> {
        let log = on!(&mut self.connection.conn(), |c| {
            sqlx::query_scalar::<DB, uuid::Uuid>("SELECT log_id FROM head").fetch_one(c).await
        })?;
        Ok(Source { service: self.service.clone(), log, epoch })
    }

    /// Has everything after a position published again.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn rewind(&mut self, to: i64) -> Result<Moved, Refused> {
        self.change(async |desk, state| {
            if !(0..=state.head).contains(&to) {
                return Err(Refused::OutOfRange { head: state.head, wanted: to });
            }
            if to >= state.published {
                let (service, published) = (desk.service.clone(), state.published);
                return Err(Refused::NotPublished { service, published, wanted: to });
            }
            desk.publish_after(to, state).await
        })
        .await
    }

    /// Gives the rows from a position on to a new epoch, so that consumers take them for what they are: others than those of the
    /// old epoch with the same positions.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn new_epoch(&mut self, first_position: i64, now: Timestamp) -> Result<Moved, Refused> {
        self.change(async |desk, state| {
            if !(1..=state.head + 1).contains(&first_position) {
                return Err(Refused::OutOfRange { head: state.head, wanted: first_position });
            }
            // A number that no epoch of a lost copy of this log can have: it is told by the clock, in seconds.
            let epoch = (state.epoch + 1).max(now.0 / 1_000_000);
            on!(&mut desk.connection.conn(), |c| sqlx::query::<DB>(
                "INSERT INTO epochs (epoch, first_position) VALUES ($1, $2)"
            )
            .bind(epoch)
            .bind(first_position)
            .execute(c)
            .await
            .map(drop))?;
            on!(&mut desk.connection.conn(), |c| sqlx::query::<DB>("UPDATE head SET epoch = $1")
                .bind(epoch)
                .execute(c)
                .await
                .map(drop))?;
            desk.publish_after(state.published.min(first_position - 1), State { epoch, ..state }).await
        })
        .await
    }

    /// Has this service's consumer believe a source that it did not know, in every partition that carries it: a new epoch, or another
    /// log where the old one was made anew. Tells in how many partitions it was new.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn trust(&mut self, source: &Source) -> Result<usize, Refused> {
        let reads = |topic: &&topics::Topic| topic.owner == source.service && topic.readers.contains(&self.service.as_str());
        let mut read: Vec<_> = topics::TOPICS.iter().filter(reads).collect();
        // Locked in the order of the consumers' claims.
        read.sort_by_key(|topic| topic.name);
        if read.is_empty() {
            return Err(Refused::ReadsNothing { reader: self.service.clone(), service: source.service.clone() });
        }
        self.connection.begin().await?;
        let mut trusted = 0;
        for (topic, partition) in read.iter().flat_map(|topic| (0..topic.settings.partitions).map(move |number| (topic, number)))
        {
            match self.trust_in(topic.name, i64::from(partition), source).await {
                Ok(is_new) => trusted += usize::from(is_new),
                Err(error) => {
                    // What it was about is the error to tell.
                    let _ = self.connection.end("ROLLBACK").await;
                    return Err(error.into());
                }
            }
        }
        self.connection.end("COMMIT").await?;
        Ok(trusted)
    }

    async fn trust_in(&mut self, topic: &str, partition: i64, source: &Source) -> Result<bool, Error> {
        let consumer = self.service.clone();
        // The row is there and locked from here on, as by a consumer's claim.
        let seen: String = on!(&mut self.connection.conn(), |c| {
            sqlx::query_scalar::<DB, String>(
                "INSERT INTO progress (consumer, topic, partition, next_offset) VALUES ($1, $2, $3, 0) \
                 ON CONFLICT (consumer, topic, partition) DO UPDATE SET seen = progress.seen RETURNING seen",
            )
            .bind(consumer.as_str())
            .bind(topic)
            .bind(partition)
            .fetch_one(c)
            .await
        })?;
        let Some(seen) = chain::with_source(&seen, source)? else { return Ok(false) };
        on!(&mut self.connection.conn(), |c| {
            sqlx::query::<DB>("UPDATE progress SET seen = $1 WHERE consumer = $2 AND topic = $3 AND partition = $4")
                .bind(seen.as_str())
                .bind(consumer.as_str())
                .bind(topic)
                .bind(partition)
                .execute(c)
                .await
                .map(drop)
        })?;
        Ok(true)
    }

    async fn change(&mut self, change: impl AsyncFnOnce(&mut Self, State) -> Result<Moved, Refused>) -> Result<Moved, Refused> {
        self.connection.begin().await?;
        let state = self.state().await?;
        match change(self, state).await {
            Ok(moved) => {
                self.connection.end("COMMIT").await?;
                Ok(moved)
            }
            Err(error) => {
                // What it was about is the error to tell; the rollback comes with the connection's end, if not now.
                let _ = self.connection.end("ROLLBACK").await;
                Err(error)
            }
        }
    }

    async fn state(&mut self) -> Result<State, Error> {
        let lock = for_update(&self.connection.conn());
        let (head, epoch) = on!(&mut self.connection.conn(), |c| {
            let mut query = sqlx::QueryBuilder::<DB>::new("SELECT position, epoch FROM head");
            query.push(lock).build_query_as::<(i64, i64)>().fetch_one(c).await
        })?;
        let (published, chain) = on!(&mut self.connection.conn(), |c| {
            sqlx::query_as::<DB, (i64, String)>("SELECT position, chain FROM relay").fetch_one(c).await
        })?;
        let chain = serde_json::from_str(&chain).map_err(|error| Error::Corrupt(format!("the relay's chain: {error}")))?;
        Ok(State { head, epoch, published, chain })
    }

    /// Sets the checkpoint back, with the chain as it was then.
    async fn publish_after(&mut self, position: i64, state: State) -> Result<Moved, Refused> {
        let State { head, epoch, published, mut chain } = state;
        let mut missing = 0;
        for last in chain.values_mut().flatten() {
            if *last > position {
                *last = -1;
                missing += 1;
            }
        }
        let mut before = position + 1;
        while missing > 0 {
            let rows: Vec<(i64, String, String)> = on!(&mut self.connection.conn(), |c| {
                sqlx::query_as::<DB, (i64, String, String)>(
                    "SELECT position, topic, key FROM log WHERE position < $1 AND topic IS NOT NULL ORDER BY position DESC LIMIT $2",
                )
                .bind(before)
                .bind(PAGE)
                .fetch_all(c)
                .await
            })?;
            let Some((lowest, ..)) = rows.last() else { break };
            before = *lowest;
            for (position, topic, key) in &rows {
                let Some(partitions) = chain.get_mut(topic) else { continue };
                let partition = topics::partition_of(key.as_bytes(), partitions.len().try_into().unwrap_or(1));
                if let Some(last) = partitions.get_mut(partition as usize)
                    && *last == -1
                {
                    *last = *position;
                    missing -= 1;
                }
            }
        }
        // The others had nothing before this position.
        for last in chain.values_mut().flatten() {
            *last = (*last).max(0);
        }
        let text = serde_json::to_string(&chain).expect("a chain has string keys only");
        on!(&mut self.connection.conn(), |c| sqlx::query::<DB>(
            "UPDATE relay SET owner = NULL, lease_until_us = 0, fence = fence + 1, position = $1, chain = $2"
        )
        .bind(position)
        .bind(text.as_str())
        .execute(c)
        .await
        .map(drop))?;
        Ok(Moved { position_before: published, position, head, epoch })
    }
}

struct State {
    head: i64,
    epoch: i64,
    published: i64,
    chain: Chain,
}
