//! The simulated broker: topics with partitions, offsets, and what is on its way to them.
//!
//! Never here: who publishes or reads. A producer's messages of one partition arrive in their order or not at all from some point on,
//! as an idempotent producer's do; a producer that was thrown away may still have some on their way.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bus::kafka::{Publish, Report};
use contract::{Message, MessageKeys, record::Record, topics};

/// One producer's way to one partition.
pub(crate) type Lane = (u64, String, i32);

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broker {
    state: Arc<Mutex<Inner>>,
    /// What the services sign with; in some worlds they have no key.
    pub keys: MessageKeys,
}

#[derive(Debug, Default)]
struct Inner {
    partitions: BTreeMap<(String, i32), Vec<Record>>,
    on_their_way: BTreeMap<Lane, VecDeque<(i64, Record)>>,
    /// Of producers that somebody listens to.
    reports: BTreeMap<u64, VecDeque<Report>>,
    producers: u64,
}

/// A producer, as a relay's flow sees it.
#[derive(Clone, Debug)]
pub(crate) struct Producer {
    pub number: u64,
    broker: Broker,
}

impl Broker {
    /// With every topic of the contract.
    pub(crate) fn new(keys: MessageKeys) -> Self {
        let broker = Self { keys, ..Self::default() };
        for (topic, settings) in topics::all() {
            for partition in 0..settings.partitions {
                broker.inner().partitions.insert((topic.clone(), partition), Vec::new());
            }
        }
        broker
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn producer(&self) -> Producer {
        let mut inner = self.inner();
        inner.producers += 1;
        let number = inner.producers;
        inner.reports.insert(number, VecDeque::new());
        Producer { number, broker: self.clone() }
    }

    /// Every lane with something on its way.
    pub(crate) fn lanes(&self) -> Vec<Lane> {
        self.inner().on_their_way.keys().cloned().collect()
    }

    /// The first message of a lane arrives, and its producer hears of it.
    pub(crate) fn arrive(&self, lane: &Lane) -> i64 {
        let mut inner = self.inner();
        let (position, record) = inner.take(lane);
        inner.partition((&lane.1, lane.2)).push(record);
        if let Some(reports) = inner.reports.get_mut(&lane.0) {
            reports.push_back((position, None));
        }
        position
    }

    /// The first message of a lane is lost, and everything behind it; its producer hears that it failed.
    pub(crate) fn lose(&self, lane: &Lane) -> i64 {
        let mut inner = self.inner();
        let (position, _) = inner.take(lane);
        inner.on_their_way.remove(lane);
        if let Some(reports) = inner.reports.get_mut(&lane.0) {
            reports.push_back((position, Some("the broker did not take it".to_owned())));
        }
        position
    }

    /// Appends what no relay has published.
    pub(crate) fn append(&self, topic: &str, partition: i32, record: Record) {
        self.inner().partition((topic, partition)).push(record);
    }

    /// Forgets the last records of a partition, acknowledged or not.
    pub(crate) fn cut(&self, topic: &str, partition: i32, count: usize) -> usize {
        let mut inner = self.inner();
        let records = inner.partition((topic, partition));
        let left = records.len().saturating_sub(count);
        let cut = records.len() - left;
        records.truncate(left);
        cut
    }

    pub(crate) fn end(&self, topic: &str, partition: i32) -> i64 {
        self.inner().partition((topic, partition)).len() as i64
    }

    /// The records from an offset on, at most `limit`.
    pub(crate) fn read(&self, topic: &str, partition: i32, from: i64, limit: usize) -> Vec<(i64, Record)> {
        let mut inner = self.inner();
        let records = inner.partition((topic, partition)).iter().enumerate().skip(from as usize).take(limit);
        records.map(|(offset, record)| (offset as i64, record.clone())).collect()
    }
}

impl Inner {
    fn partition(&mut self, (topic, partition): (&str, i32)) -> &mut Vec<Record> {
        self.partitions.get_mut(&(topic.to_owned(), partition)).expect("every topic of the contract was made")
    }

    fn take(&mut self, lane: &Lane) -> (i64, Record) {
        let waiting = self.on_their_way.get_mut(lane).expect("an empty lane is no lane");
        let first = waiting.pop_front().expect("an empty lane is no lane");
        if waiting.is_empty() {
            self.on_their_way.remove(lane);
        }
        first
    }
}

impl Producer {
    pub(crate) fn report(&self) -> Option<Report> {
        self.broker.inner().reports.get_mut(&self.number)?.pop_front()
    }

    pub(crate) fn has_report(&self) -> bool {
        self.broker.inner().reports.get(&self.number).is_some_and(|reports| !reports.is_empty())
    }

    /// Nobody listens any more; what is on its way goes on.
    pub(crate) fn throw_away(&self) {
        self.broker.inner().reports.remove(&self.number);
    }
}

impl Publish for Producer {
    fn publish(&self, topic: &str, partition: i32, row: &Message, record: &Record) -> Result<(), String> {
        let lane = (self.number, topic.to_owned(), partition);
        self.broker.inner().on_their_way.entry(lane).or_default().push_back((row.position, record.clone()));
        Ok(())
    }

    /// The relay's turn takes the reports.
    fn hear(&self) {}
}
