//! The bus without a broker: a consumer reads the other service's event log directly, from its own progress on.
//!
//! The log is durable and ordered already, so nothing is imitated. Woken by a level (the watched head) and read until empty,
//! with a slow poll as a net.

use std::time::Duration;

use eventlog::{Arrived, Error, Log};
use tokio::sync::watch;

use crate::{Batch, Incoming, Source};

/// Rows looked at in one read; those of other topics are skipped.
const ROWS_READ_MAX: usize = 1_024;
/// Messages in one batch.
const MESSAGES_MAX: usize = 256;
/// Rows skipped without a message before the progress is saved anyway, so that a restart need not read them again.
const SKIPPED_MAX: i64 = 10_000;
const POLL: Duration = Duration::from_secs(1);

/// The consumer's progress is ahead of the log it reads: the log was restored from an older copy.
#[derive(Debug, thiserror::Error)]
#[error(
    "{consumer} has handled messages of {source_log} up to {progress}, but that log ends at {head}: it was restored from an older copy. \
     Restore all databases from the same backup"
)]
pub struct Ahead {
    pub consumer: &'static str,
    pub source_log: &'static str,
    pub progress: i64,
    pub head: i64,
}

/// A source that reads another service's log in this process. Offsets are positions.
pub struct Embedded {
    log: Log,
    head: watch::Receiver<i64>,
    topics: &'static [&'static str],
    topic: String,
    /// The progress in the consumer's database.
    stored: i64,
    /// The next position to look at; at least `stored`.
    scanned: i64,
    /// Messages were passed over since the progress was stored.
    owed: bool,
}

impl Embedded {
    /// Follows `topics` of `log` from `progress` on.
    ///
    /// # Errors
    /// [`Ahead`]: refuse to start, or messages would be skipped.
    pub fn new(consumer: &'static str, log: Log, topics: &'static [&'static str], progress: i64) -> Result<Self, Ahead> {
        let head_now = *log.head().borrow();
        if progress > head_now + 1 {
            return Err(Ahead { consumer, source_log: log.service(), progress: progress - 1, head: head_now });
        }
        let head = log.head();
        let topic = Self::topic(&log);
        Ok(Self { log, head, topics, topic, stored: progress, scanned: progress.max(1), owed: false })
    }

    fn batch(&self, messages: Vec<Incoming>) -> Batch {
        Batch { topic: self.topic.clone(), partition: 0, from: self.stored, next: self.scanned, messages }
    }

    /// Under which topic the progress of an embedded consumer is kept: the whole log is its one partition.
    pub fn topic(log: &Log) -> String {
        format!("log:{}", log.service())
    }
}

impl Source for Embedded {
    async fn next(&mut self) -> Result<Option<Batch>, Error> {
        loop {
            // Seen before the read: a commit that comes while reading wakes the wait below.
            self.head.mark_unchanged();
            let rows = self.log.after(self.scanned - 1, ROWS_READ_MAX).await?;
            let mut messages = Vec::new();
            for row in &rows {
                if row.topic.as_deref().is_some_and(|topic| self.topics.contains(&topic)) {
                    if messages.len() == MESSAGES_MAX {
                        break;
                    }
                    messages.push(Incoming { offset: row.position, message: Arrived::Row(row.clone()), poison: None });
                }
                self.scanned = row.position + 1;
            }
            if !messages.is_empty() || self.scanned - self.stored > SKIPPED_MAX {
                return Ok(Some(self.batch(messages)));
            }
            if rows.is_empty() {
                tokio::select! {
                    changed = self.head.changed() => changed.map_err(|_| Error::Closed)?,
                    () = self.log.env().sleep(POLL) => {
                        if self.owed {
                            return Ok(Some(self.batch(Vec::new())));
                        }
                        self.log.refresh().await?;
                    }
                }
            }
        }
    }

    fn seek(&mut self, _topic: &str, _partition: i64, next: i64) {
        self.stored = next;
        self.scanned = next.max(1);
        self.owed = false;
    }

    fn pass_over(&mut self, _topic: &str, _partition: i64, _next: i64) {
        // `scanned` is there already; the progress is stored with the next message, or when there is time.
        self.owed = true;
    }
}
