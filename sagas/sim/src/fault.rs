//! What goes wrong: commits, partitions that change hands, garbage, records that the broker loses.
//!
//! Never here: when; `choose.rs` offers these only before the calm.

use std::time::Duration;

use contract::{record::Record, topics::TOPICS};

use crate::{disk::Fate, world::World};

impl World {
    /// What becomes of the next commit; usually nothing in particular.
    pub(crate) fn fate(&mut self) -> Option<Fate> {
        if !self.chance.permille(25) {
            return None;
        }
        Some(match self.chance.below(10) {
            0..=2 => Fate::CrashBefore,
            3..=5 => Fate::CrashAfter,
            6 => Fate::AnswerLost,
            7..=8 => Fate::Refused,
            _ => Fate::Slow(self.chance.wait(Duration::from_millis(100), Duration::from_secs(8))),
        })
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

    /// Somebody writes to a topic what no relay would.
    pub(crate) fn garbage(&mut self) {
        let read: Vec<_> = TOPICS.iter().filter(|topic| !topic.readers.is_empty()).collect();
        let topic = read[self.chance.below(read.len())];
        let partition = self.chance.below(topic.settings.partitions as usize) as i32;
        let newest = self.broker.end(topic.name, partition) - 1;
        let copied = self.broker.read(topic.name, partition, newest.max(0), 1).pop();
        let record = match copied {
            // As if another service had written it.
            Some((_, mut record)) if self.chance.permille(500) => {
                for (name, value) in &mut record.headers {
                    if name == "ce_source" {
                        *value = format!("/skald/user/{}/1", uuid::Uuid::from_u128(7)).into_bytes();
                    }
                }
                record
            }
            _ => {
                // One in three is large, up to 1 MiB: more than a batch may take, or a partition hold.
                let times = if self.chance.permille(300) { 1 << self.chance.between(10, 15) } else { 1 };
                Record { key: None, headers: Vec::new(), value: Some(self.chance.bytes().repeat(times)) }
            }
        };
        let bytes = record.value.as_ref().map_or(0, Vec::len);
        self.broker.append(topic.name, partition, record);
        self.counts.garbage += 1;
        self.say(format_args!("garbage of {bytes} bytes in {}/{partition}", topic.name));
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
