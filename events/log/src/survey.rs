//! What only the database knows of a log, looked up when somebody asks: for metrics.
//!
//! Never here: what this process has counted itself; that is `read.rs`. Each replica of a service sees the same.

use contract::Timestamp;

use crate::{Error, Log, on};

/// The state of a log, for all of its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Dead letters that nobody has redriven or discarded.
    pub dead_letters: i64,
    /// Messages that wait for a gap to close.
    pub parked: i64,
    /// When the oldest row was appended that the relay's checkpoint has not passed. Without a broker that is the first row.
    pub oldest_unpublished: Option<Timestamp>,
    /// Rows that wait for a build which can read them.
    pub unreadable: i64,
}

impl Log {
    /// Looks at the database, in one read.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn survey(&self) -> Result<Survey, Error> {
        let mut reader = self.reader().await?;
        let (dead_letters, parked, oldest): (i64, i64, Option<i64>) = on!(&mut reader.conn(), |c| {
            sqlx::query_as::<DB, (i64, i64, Option<i64>)>(
                "SELECT (SELECT COUNT(*) FROM dead_letters WHERE solved_us IS NULL), (SELECT COUNT(*) FROM parked), \
                 (SELECT time_us FROM log WHERE position = (SELECT position + 1 FROM relay))",
            )
            .fetch_one(c)
            .await
        })?;
        let unreadable = match self.due() {
            Some(due) => due.aside(&mut reader.conn()).await?,
            None => 0,
        };
        Ok(Survey { dead_letters, parked, oldest_unpublished: oldest.map(Timestamp), unreadable })
    }
}
