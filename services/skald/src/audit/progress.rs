//! How far each consumer has come in what other logs hold for it: by positions where it reads a log directly, by what it has seen of
//! each partition where Kafka is between.
//!
//! Never here: the relay's or the consumers' own code; the partition of a row is worked out anew. From here the flow goes to
//! `laws.rs`, once all logs have been read.

use std::collections::{BTreeMap, BTreeSet};

use contract::topics::{TOPICS, partition_of};
use eventlog::on;
use uuid::Uuid;

use super::{
    laws::{Id, Laws},
    snapshot::{Entry, Snapshot},
};

/// What all logs hold, and what all consumers have handled.
#[derive(Default)]
pub(super) struct Journey {
    logs: Vec<Published>,
    /// The log whose rows are being read, and whether it was read before.
    current: (usize, bool),
    direct: Vec<Direct>,
    seen: Vec<Seen>,
    /// Readers and the topics that they consume through Kafka.
    through_kafka: BTreeSet<(&'static str, String)>,
}

/// What a log holds for its readers.
struct Published {
    service: &'static str,
    head: i64,
    /// What its sources begin with; an epoch's number ends them.
    source: String,
    /// Each epoch with its first position, oldest first.
    epochs: Vec<(i64, i64)>,
    /// By topic, partition and epoch.
    newest: BTreeMap<(&'static str, i64, i64), Newest>,
}

/// The newest position, when the log was read, and when it was read again.
#[derive(Clone, Copy, Default)]
struct Newest {
    first: i64,
    last: i64,
}

/// The progress of a service in another one's log: the next position that it wants.
struct Direct {
    reader: &'static str,
    source: String,
    next: i64,
}

/// The last position that a service has seen of a source in a partition.
struct Seen {
    reader: &'static str,
    topic: String,
    partition: i64,
    source: String,
    last: i64,
}

impl Journey {
    /// Begins to read a log, or goes on where it has grown since.
    pub(super) async fn begin(&mut self, snapshot: &mut Snapshot) -> Result<(), sqlx::Error> {
        let id = on!(&mut snapshot.conn(), |c| sqlx::query_scalar::<DB, Uuid>("SELECT log_id FROM head").fetch_one(c).await)?;
        let epochs: Vec<(i64, i64)> = on!(&mut snapshot.conn(), |c| {
            sqlx::query_as::<DB, (i64, i64)>("SELECT epoch, first_position FROM epochs ORDER BY epoch").fetch_all(c).await
        })?;
        let (service, head, source) = (snapshot.service, snapshot.head, format!("/skald/{}/{id}/", snapshot.service));
        let known = self.logs.iter().position(|log| log.service == service);
        match known {
            Some(index) => (self.logs[index].head, self.logs[index].epochs) = (head, epochs),
            None => self.logs.push(Published { service, head, source, epochs, newest: BTreeMap::new() }),
        }
        self.current = (known.unwrap_or(self.logs.len() - 1), known.is_some());
        Ok(())
    }

    /// Takes note of a row of the log that was begun.
    pub(super) fn take(&mut self, entry: &Entry) {
        let (index, again) = self.current;
        let log = &mut self.logs[index];
        let topic = TOPICS.iter().find(|topic| Some(topic.name) == entry.topic.as_deref() && topic.owner == log.service);
        let Some(topic) = topic else { return };
        let partition = partition_of(entry.key.as_bytes(), topic.settings.partitions).into();
        let epoch = log.epochs.iter().rev().find(|(_, first)| *first <= entry.position).map_or(1, |(number, _)| *number);
        let newest = log.newest.entry((topic.name, partition, epoch)).or_default();
        newest.last = entry.position;
        if !again {
            newest.first = entry.position;
        }
    }

    /// Reads what the service of a database has handled.
    pub(super) async fn read(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        let reader = snapshot.service;
        let rows: Vec<(String, i64)> = on!(&mut snapshot.conn(), |c| {
            sqlx::query_as::<DB, (String, i64)>("SELECT topic, next_offset FROM progress").fetch_all(c).await
        })?;
        for (topic, next) in rows {
            match topic.strip_prefix("log:") {
                Some(source) => self.direct.push(Direct { reader, source: source.to_owned(), next }),
                None => drop(self.through_kafka.insert((reader, topic))),
            }
        }
        let rows: Vec<(String, i64, String, i64)> = on!(&mut snapshot.conn(), |c| {
            sqlx::query_as::<DB, (String, i64, String, i64)>(
                "SELECT topic, partition, source, last_sequence FROM seen WHERE last_sequence > 0",
            )
            .fetch_all(c)
            .await
        })?;
        for (topic, partition, source, last) in rows {
            laws.check(Id::NoneParked, true, String::new);
            self.through_kafka.insert((reader, topic.clone()));
            self.seen.push(Seen { reader, topic, partition, source, last });
        }
        let rows: Vec<(String, i64, i64, i64)> = on!(&mut snapshot.conn(), |c| {
            sqlx::query_as::<DB, (String, i64, i64, i64)>("SELECT topic, partition, sequence, previous FROM parked")
                .fetch_all(c)
                .await
        })?;
        for (topic, partition, sequence, previous) in rows {
            laws.check(Id::NoneParked, false, || {
                format!("{reader}: message {sequence} of {topic}, partition {partition}, waits for message {previous}")
            });
        }
        Ok(())
    }

    /// Holds the consumers against the logs; all have been read.
    pub(super) fn finish(&self, laws: &mut Laws) {
        for Direct { reader, source, next } in &self.direct {
            let Some(log) = self.log(source) else { continue };
            laws.check(Id::ProgressWithinSource, *next <= log.head + 1, || {
                format!("{reader} has handled {source} up to {}, whose head is {}", next - 1, log.head)
            });
        }
        for seen in &self.seen {
            laws.check(Id::ProgressWithinSource, self.is_within(seen), || {
                let Seen { reader, topic, partition, source, last } = seen;
                format!("{reader} has seen {source} up to {last} in {topic}, partition {partition}: it does not hold that")
            });
        }
        for topic in &TOPICS {
            let Some(log) = self.log(topic.owner) else { continue };
            let newest = log.newest.iter().filter(|((name, ..), _)| *name == topic.name);
            for reader in topic.readers {
                if self.through_kafka.contains(&(*reader, topic.name.to_owned())) {
                    for ((_, partition, epoch), newest) in newest.clone() {
                        let last = self.last_seen(reader, topic.name, *partition, &format!("{}{epoch}", log.source));
                        laws.check(Id::ConsumersAtHead, newest.first <= last, || {
                            let (name, newest) = (topic.name, newest.first);
                            format!("{reader} has seen {name}, partition {partition}, up to {last}; it goes up to {newest}")
                        });
                    }
                    continue;
                }
                let newest = newest.clone().map(|(_, newest)| newest.first).max().unwrap_or(0);
                let own = self.direct.iter().filter(|direct| direct.reader == *reader && direct.source == topic.owner);
                let next = own.map(|direct| direct.next).min().unwrap_or(0);
                laws.check(Id::ConsumersAtHead, newest < next || newest == 0, || {
                    format!("{reader} has not handled {} from {next} on, which goes up to {newest}", topic.name)
                });
            }
        }
    }

    fn log(&self, service: &str) -> Option<&Published> {
        self.logs.iter().find(|log| log.service == service)
    }

    fn last_seen(&self, reader: &str, topic: &str, partition: i64, source: &str) -> i64 {
        let same =
            |seen: &&Seen| (seen.reader, &*seen.topic, seen.partition, &*seen.source) == (reader, topic, partition, source);
        self.seen.iter().find(same).map_or(0, |seen| seen.last)
    }

    /// Whether the log that owns the topic is the source, and holds what was seen of it.
    fn is_within(&self, seen: &Seen) -> bool {
        let topic = TOPICS.iter().find(|topic| topic.name == seen.topic && topic.readers.contains(&seen.reader));
        let Some(log) = topic.and_then(|topic| self.log(topic.owner)) else { return false };
        let epoch = seen.source.strip_prefix(&log.source).and_then(|epoch| epoch.parse::<i64>().ok());
        let Some(index) = log.epochs.iter().position(|(number, _)| Some(*number) == epoch) else { return false };
        // An epoch ends where the log has lost what was published of it: consumers may have seen more of it.
        let is_ended = index + 1 < log.epochs.len();
        let newest = log.newest.iter().find(|((name, partition, number), _)| {
            (*name, *partition, Some(*number)) == (seen.topic.as_str(), seen.partition, epoch)
        });
        is_ended || newest.is_some_and(|(_, newest)| seen.last <= newest.last)
    }
}
