//! What goes wrong: commits, partitions that change hands, garbage, records that the broker loses.
//!
//! Never here: when; `choose.rs` offers these only before the calm.

use std::time::Duration;

use contract::{
    record::{DATASCHEMA, Record},
    topics::{self, TOPICS},
};
use eventlog::{Error, on};

use crate::{
    disk::Fate,
    drive::{Driven, Operation},
    replica::{Door, Name},
    world::World,
};

/// More than are decided in one transaction.
const NEWER: usize = 300;

impl World {
    /// What becomes of the next commit; usually nothing in particular.
    pub(crate) fn fate(&mut self) -> Option<Fate> {
        if !self.chance.permille(25) {
            return None;
        }
        Some(match self.chance.below(11) {
            0..=2 => Fate::CrashBefore,
            3..=5 => Fate::CrashAfter,
            6 => Fate::AnswerLost,
            7..=8 => Fate::Refused,
            9 => Fate::Denied,
            _ => Fate::Slow(self.chance.wait(Duration::from_millis(100), Duration::from_secs(8))),
        })
    }

    /// By how much the clock of a process is wrong that starts now, in microseconds; usually by nothing.
    pub(crate) fn wrong_by(&mut self) -> i64 {
        const MINUTE: u64 = 60_000_000;
        if !self.may_err || !self.chance.permille(400) {
            return 0;
        }
        let most = [10 * MINUTE, 3 * 60 * MINUTE, 2 * 24 * 60 * MINUTE][self.chance.below(3)];
        if self.chance.permille(600) {
            return self.chance.between(MINUTE / 60, most) as i64;
        }
        // Never behind by as much as a payment's key lives: its call could only be looked up, and that proves nothing.
        -(self.chance.between(MINUTE / 60, most.min(12 * 60 * MINUTE)) as i64)
    }

    /// Idempotency keys that are past their time are forgotten, as a process does every minute by its even clock.
    pub(crate) async fn forget(&mut self, index: usize) {
        let Door::Order(writer, _) = &self.replica(index).door else { return };
        let (writer, now) = (writer.clone(), self.clock.now());
        let passed = now.since(self.slots[index].forgot);
        self.slots[index].forgot = now;
        let mut operation: Operation<Result<(), Error>> = Box::pin(async move { writer.forget_old_keys(passed).await });
        let driven = self.drive(index, &mut operation).await;
        let label = self.label(index);
        self.say(format_args!("{label} forgets old keys: {}", matches!(driven, Driven::Done(Ok(())))));
    }

    /// Sagas of a build that is not here any more, which knew a state that this one does not: all of them overdue.
    pub(crate) async fn newer(&mut self) -> anyhow::Result<()> {
        let mut connection = self.services[&Name::Order].database.connect().await?;
        for _ in 0..NEWER {
            let id = uuid::Uuid::from_u64_pair(self.chance.bits(), self.chance.bits());
            on!(&mut connection.conn(), |c| sqlx::query::<DB>(
                "INSERT INTO sagas (id, saga, definition, state, attempt, stuck, version, due_us, started_us, context) \
                 VALUES ($1, 'order', 1, 'Newer', 1, 0, 1, 1, 1, '{}')"
            )
            .bind(id)
            .execute(c)
            .await
            .map(drop))?;
        }
        self.has_newer = true;
        self.say(format_args!("a newer build has left {NEWER} sagas"));
        self.look_up_due().await
    }

    /// Some partitions of a process become somebody's, who may be the same; the old reader may not know it for a while.
    pub(crate) async fn rebalance(&mut self, index: usize) -> anyhow::Result<()> {
        let name = self.slots[index].name;
        let places: Vec<(String, i32)> = {
            let assigned = &self.replica(index).assigned;
            assigned.iter().map(|assigned| (assigned.topic.name.to_owned(), assigned.partition)).collect()
        };
        let overlaps = self.chance.permille(400);
        let moved = places.into_iter().filter(|_| self.chance.permille(400)).collect::<std::collections::BTreeSet<_>>();
        if moved.is_empty() {
            return Ok(());
        }
        if !overlaps {
            self.replica(index).assigned.retain(|assigned| {
                let is_moved = moved.contains(&(assigned.topic.name.to_owned(), assigned.partition));
                if is_moved {
                    assigned.buffer.close();
                }
                !is_moved
            });
        }
        let Some(to) = self.any(name) else { return Ok(()) };
        let broker = self.broker.clone();
        self.replica(to).assign(&moved, &broker).await?;
        let (from, to) = (self.slots[index].number, self.slots[to].number);
        let how = if overlaps { "are read by both" } else { "move" };
        self.say(format_args!("{}: {} partitions {how} from {from} to {to}", name.as_str(), moved.len()));
        Ok(())
    }

    /// Who reads a partition has not been heard of for too long: it becomes somebody's, who may be the same, and the old reader, once it
    /// goes on, does not know.
    pub(crate) async fn take_over(&mut self, index: usize, place: (String, i32)) -> anyhow::Result<()> {
        let name = self.slots[index].name;
        let Some(to) = self.any(name) else { return Ok(()) };
        let broker = self.broker.clone();
        self.replica(to).assign(&[place].into(), &broker).await?;
        let (from, to) = (self.slots[index].number, self.slots[to].number);
        self.say(format_args!("{}: what {from} reads is taken over by {to}", name.as_str()));
        Ok(())
    }

    /// Somebody writes to a topic what no relay would.
    pub(crate) fn garbage(&mut self) {
        let read: Vec<_> = TOPICS.iter().filter(|topic| !topic.readers.is_empty()).collect();
        let topic = read[self.chance.below(read.len())];
        let partition = self.chance.below(topic.settings.partitions as usize) as i32;
        let newest = self.broker.end(topic.name, partition) - 1;
        let copied = self.broker.read(topic.name, partition, newest.max(0), 1).pop();
        let record = match copied {
            // As if another service had written it.
            Some((_, mut record)) if self.chance.permille(250) => {
                set(&mut record, "ce_source", &format!("/skald/user/{}/1", uuid::Uuid::from_u128(7)));
                record
            }
            // By somebody who knows all headers.
            Some((_, record)) if self.chance.permille(500) => self.forged(topic.name, record),
            _ => {
                // One in three takes more than a batch may, and some more than all that a process may hold.
                let times = if self.chance.permille(300) { 1 << self.chance.between(8, 13) } else { 1 };
                Record { key: None, headers: Vec::new(), value: Some(self.chance.bytes().repeat(times)) }
            }
        };
        let bytes = record.value.as_ref().map_or(0, Vec::len);
        self.broker.append(topic.name, partition, record);
        self.counts.garbage += 1;
        self.say(format_args!("garbage of {bytes} bytes in {}/{partition}", topic.name));
    }

    /// What the newest record of a partition would be followed by, had its service written it: a command that sells what was only
    /// reserved, where it is one. Without a message key nobody is told from a relay who names the newest record as the predecessor
    /// (ARCHITECTURE.md, "Not covered"), so that a forger makes up an epoch there.
    fn forged(&mut self, topic: &str, mut record: Record) -> Record {
        let number = |record: &Record, name| record.header(name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let newest = number(&record, "ce_sequence");
        let id = uuid::Uuid::from_u64_pair(self.chance.bits(), self.chance.bits());
        set(&mut record, "ce_id", &id.to_string());
        if self.broker.keys.is_empty() {
            let source = record.header("ce_source").unwrap_or_default().to_owned();
            let log = source.rsplit_once('/').map_or("", |(log, _)| log);
            set(&mut record, "ce_source", &format!("{log}/{}", self.chance.between(2, 1_000)));
            set(&mut record, "ce_previous", "0");
        } else {
            set(&mut record, "ce_previous", &newest.to_string());
            set(&mut record, "ce_sequence", &(newest + 1).to_string());
        }
        if topic == topics::PRODUCT_COMMANDS {
            let (kind, order) = ("product.CommitStock", record.header("ce_partitionkey").unwrap_or_default().to_owned());
            record.value = Some(format!(r#"{{"order_id":"{order}"}}"#).into_bytes());
            set(&mut record, "ce_type", kind);
            set(&mut record, "ce_dataschema", &format!("{DATASCHEMA}{kind}:1"));
        }
        record
    }

    /// The broker loses the last records of a partition, which it has acknowledged.
    pub(crate) fn cut(&mut self) {
        let read: Vec<_> = TOPICS.iter().filter(|topic| !topic.readers.is_empty()).collect();
        let topic = read[self.chance.below(read.len())];
        let partition = self.chance.below(topic.settings.partitions as usize) as i32;
        let count = 1 + self.chance.below(3);
        let cut = self.broker.cut(topic.name, partition, count);
        self.counts.cuts += 1;
        self.say(format_args!("the broker loses the last {cut} of {}/{partition}", topic.name));
    }
}

/// Changes a header that is there.
fn set(record: &mut Record, name: &str, value: &str) {
    for (_, found) in record.headers.iter_mut().filter(|(found, _)| found == name) {
        *found = value.as_bytes().to_vec();
    }
}
