//! The rows of a log in their order, or a stream's: from memory where they are there, else from the database.
//!
//! Never here: the head, and who is woken by it.

use std::sync::Arc;

use contract::{Message, Meta, Timestamp, Trace};
use uuid::Uuid;

use crate::{Error, Log, append::log, on};

/// The columns of [`log!`].
type StoredRow = (
    i64,
    Uuid,
    String,
    i64,
    Option<String>,
    Option<String>,
    String,
    i64,
    String,
    Option<Uuid>,
    Option<Uuid>,
    Option<String>,
    Option<String>,
    i64,
    Option<String>,
);

fn message(row: StoredRow) -> Arc<Message> {
    let (position, id, stream, version, topic, key, kind, schema, data, cause, correlation, parent, state, time_us, actor) = row;
    let meta = Meta { cause: cause.map(Into::into), correlation, trace: Trace { parent, state }, actor };
    let (id, time) = (id.into(), Timestamp(time_us));
    Arc::new(Message { position, id, stream, version, topic, key, kind, schema, data, time, meta })
}

impl Log {
    /// The next rows after a position, in order, at most `limit`: from memory where they are there, else from the database.
    /// There may be more than what comes, as what is read is bounded in bytes too; there is nothing more only when nothing comes. Of
    /// two that are there at least two come, so that whoever asks for one again that it knows gets on.
    ///
    /// All of it is of one log: where that has lost commits and given their positions out again, nothing older comes with what is there
    /// now. Whoever has read the row at `after` before sees by its id, from one position earlier, whether it is still the same.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn after(&self, after: i64, limit: usize) -> Result<Vec<Arc<Message>>, Error> {
        let (rows, is_all) = self.in_memory(after, limit);
        if is_all {
            return Ok(rows);
        }
        // What one has read, whoever waited for their turn finds in memory.
        let _turn = self.reading().lock().await;
        let (mut rows, is_all) = self.in_memory(after, limit);
        if is_all {
            return Ok(rows);
        }
        let reached = rows.last().map_or(after, |last| last.position);
        let until = self.tail().first_after(reached).unwrap_or(i64::MAX);
        // What is missing, and its neighbours, to see that they join.
        let read = self.read(reached, until, limit - rows.len() + 2).await?;
        let Some(more) = self.join(&rows, reached, &read, limit) else { return self.read(after + 1, i64::MAX, limit).await };
        rows.extend(read.into_iter().filter(|row| row.position > reached));
        rows.extend(more);
        rows.truncate(limit);
        Ok(rows)
    }

    /// Takes up what was read from the row at `reached` on, and tells what is in memory behind it; `None` where the log has lost commits.
    ///
    /// Held against `rows` as well, which came before: a read that waits for a failover to end finds memory forgotten.
    fn join(&self, rows: &[Arc<Message>], reached: i64, read: &[Arc<Message>], limit: usize) -> Option<Vec<Arc<Message>>> {
        let goes_on = rows.last().is_none_or(|last| read.first().is_some_and(|first| first.id == last.id));
        let mut tail = self.tail();
        let joins = goes_on && tail.join(reached, read);
        joins.then(|| tail.after(read.last().map_or(reached, |last| last.position), limit))
    }

    /// The next rows after a position that are in memory, and whether none is missing before the end or the limit.
    fn in_memory(&self, after: i64, limit: usize) -> (Vec<Arc<Message>>, bool) {
        let head = self.newest();
        let rows = self.tail().after(after, limit);
        let reached = rows.last().map_or(after, |last| last.position);
        let is_all = reached >= head || rows.len() == limit;
        (rows, is_all)
    }

    /// The rows at two positions and between them, at most `limit`, from the database. The first three come whatever they take; what
    /// follows, until all that came take as much as one reader may be given.
    async fn read(&self, first: i64, last: i64, limit: usize) -> Result<Vec<Arc<Message>>, Error> {
        self.in_time(self.rows(first, last, limit)).await
    }

    async fn rows(&self, first: i64, last: i64, limit: usize) -> Result<Vec<Arc<Message>>, Error> {
        let mut reader = self.reader().await?;
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        // Looked up by lengths alone: what is too much is never read.
        let rows: Vec<StoredRow> = on!(&mut reader.conn(), |c| {
            sqlx::query_as::<DB, StoredRow>(concat!(
            "SELECT ",
            log!(),
            " FROM log WHERE position >= $1 AND position <= (SELECT MAX(position) FROM \
             (SELECT position, SUM(bytes) OVER (ORDER BY position) - bytes AS before FROM \
             (SELECT position, octet_length(data) AS bytes FROM log WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT $3) \
             AS found) AS summed WHERE before < $4 OR position < $1 + 3) ORDER BY position"
        ))
        .bind(first)
        .bind(last)
        .bind(number(limit))
        .bind(number(self.env().memory().read()))
        .fetch_all(c)
        .await
        })?;
        Ok(rows.into_iter().map(message).collect())
    }

    /// One stream from a version on, in order.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn stream(&self, stream: &str, from_version: i64) -> Result<Vec<Arc<Message>>, Error> {
        self.part_of(stream, from_version, i64::MAX).await
    }

    /// The same, at most `limit` rows of it.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn part_of(&self, stream: &str, from_version: i64, limit: i64) -> Result<Vec<Arc<Message>>, Error> {
        let mut reader = self.reader().await?;
        let rows: Vec<StoredRow> = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, StoredRow>(concat!(
            "SELECT ",
            log!(),
            " FROM log WHERE stream = $1 AND version >= $2 ORDER BY version LIMIT $3"
        ))
        .bind(stream)
        .bind(from_version)
        .bind(limit)
        .fetch_all(c)
        .await)?;
        Ok(rows.into_iter().map(message).collect())
    }
}
