//! One assigned partition: where reading it begins, what a record in it comes to, and the bounded buffer between who polls and who
//! handles.
//!
//! Never here: Kafka's client; `group` fills the buffer, pauses and resumes. An assignment that ends closes its buffer for good:
//! the next one has a new one, so that nothing polled before is handled after.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use contract::{
    Fault, MessageKeys,
    dead_letter::Cause,
    record::{self, Record},
    topics::{self, Topic},
};
use eventlog::{Arrived, Error, Log, Poison};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{Batch, Incoming, Source};

/// Messages in one batch.
const BATCH_MAX: usize = 256;
/// Messages that may wait: at more the partition is paused, at less than a quarter it goes on.
pub(super) const BUFFER_MAX: usize = 2_048;
/// Parked messages taken up in one batch.
const RELEASED_MAX: i64 = 256;

/// Topics and partitions that have to be read from their beginning, until that has begun. Cheap to clone.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<HashSet<(String, i64)>>>);

impl Places {
    fn set(&self) -> MutexGuard<'_, HashSet<(String, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn contains(&self, place: &(String, i64)) -> bool {
        self.set().contains(place)
    }

    pub(super) fn forget(&self, place: &(String, i64)) {
        self.set().remove(place);
    }
}

/// The buffer between the polling thread and the consumer of one partition.
pub struct Buffer {
    polled: Mutex<VecDeque<Incoming>>,
    filled: Notify,
    /// The progress in the consumer's database, as far as it is known here.
    stored: AtomicI64,
    /// The assignment has ended.
    closed: CancellationToken,
}

impl Buffer {
    pub fn new(stored: i64) -> Arc<Self> {
        let (polled, filled, stored, closed) =
            (Mutex::default(), Notify::new(), AtomicI64::new(stored), CancellationToken::new());
        Arc::new(Self { polled, filled, stored, closed })
    }

    fn polled(&self) -> MutexGuard<'_, VecDeque<Incoming>> {
        self.polled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, incoming: Incoming) {
        self.polled().push_back(incoming);
        self.filled.notify_one();
    }

    /// How many messages wait in it.
    pub fn waiting(&self) -> usize {
        self.polled().len()
    }

    pub fn stored(&self) -> i64 {
        self.stored.load(Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.closed.cancel();
    }
}

/// One partition as a source of messages. Offsets are Kafka's.
pub struct Partition {
    consumer: &'static str,
    topic: String,
    number: i64,
    keys: MessageKeys,
    buffer: Arc<Buffer>,
    /// The consumer's own log, in which messages are parked.
    log: Log,
    /// Asks for a new assignment: what is buffered does not join what is stored.
    lost: CancellationToken,
    made_anew: Places,
    /// The buffer begins at the stored progress, and not at the beginning of a topic that was made anew.
    joined: bool,
    /// Parked messages may have been released since they were last looked for.
    may_release: bool,
    /// The batch under way.
    handed: Handed,
}

/// What a partition has to be handled now.
pub enum Look {
    Batch(Batch),
    /// Nothing, until more is polled.
    Nothing,
    /// It is another's now.
    Ended,
}

#[derive(Clone, Copy)]
enum Handed {
    Nothing,
    /// Buffered messages before this offset.
    Before(i64),
    /// Parked messages, which move no progress.
    Released,
}

impl Partition {
    pub fn new(
        consumer: &'static str,
        (topic, number): (String, i64),
        buffer: Arc<Buffer>,
        log: Log,
        lost: CancellationToken,
        made_anew: Places,
        joined: bool,
    ) -> Self {
        let (keys, handed) = (MessageKeys::default(), Handed::Nothing);
        Self { consumer, topic, number, keys, buffer, log, lost, made_anew, joined, may_release: true, handed }
    }

    /// With message keys what was parked is checked once more before it is handled.
    #[must_use]
    pub fn with_keys(self, keys: MessageKeys) -> Self {
        Self { keys, ..self }
    }

    fn batch(&self, next: i64, messages: Vec<Incoming>) -> Batch {
        let from = self.buffer.stored();
        Batch { topic: self.topic.clone(), partition: self.number, from, next, messages }
    }

    /// Parked messages whose gap has closed.
    async fn released(&self) -> Result<Vec<Incoming>, Error> {
        let released = self.log.released(self.consumer, &self.topic, self.number, RELEASED_MAX).await?;
        let incoming = |(offset, found): (i64, Record)| match record::decode(&self.topic, &found) {
            Ok((message, mut link)) => {
                let poison = self.keys.check(&message, &mut link).err();
                let poison = poison.map(|why| Poison::new(Cause::Forged, why.to_string()));
                Incoming { offset, message: Arrived::Linked(Arc::new(message), link), poison }
            }
            Err(error) => {
                let poison = Some(Poison::new(Cause::Undecodable, error.to_string()));
                Incoming { offset, message: Arrived::Raw(found), poison }
            }
        };
        Ok(released.into_iter().map(incoming).collect())
    }
}

impl Partition {
    /// A buffered message that was handled already: the one before the stored progress, with which every assignment begins, or
    /// what another replica has done meanwhile.
    fn handled_before(&self) -> Option<Incoming> {
        let mut polled = self.buffer.polled();
        let is_before = self.joined && polled.front().is_some_and(|first| first.offset < self.buffer.stored());
        if is_before { polled.pop_front() } else { None }
    }

    /// Where the progress has to go back to before a topic is read from its beginning. By itself: a batch that happens to end where the
    /// progress was would look like one that moves none.
    fn first_anew(&self) -> Option<i64> {
        let first = self.buffer.polled().front()?.offset;
        (!self.joined && first != self.buffer.stored()).then_some(first)
    }

    /// Whether it is what was handled there. If not, the topic was made anew and has grown as long as the old one was.
    async fn look_at(&self, before: Incoming) -> Result<(), Error> {
        let Arrived::Linked(_, link) = &before.message else { return Ok(()) };
        let is_known = self.log.has_met(self.consumer, &self.topic, self.number, before.offset, link).await?;
        if !is_known && before.offset < self.buffer.stored() {
            let (consumer, topic, partition, offset) = (self.consumer, &self.topic, self.number, before.offset);
            tracing::error!(
                consumer,
                topic,
                partition,
                offset,
                "{topic} partition {partition} was made anew: it has other messages than those that were handled. Reading it from its \
                 beginning, where repeats are skipped; what is missing is told below"
            );
            self.made_anew.set().insert((topic.clone(), partition));
            self.lost.cancel();
            self.buffer.closed.cancel();
        }
        Ok(())
    }
}

impl Partition {
    /// What is there now, without waiting for more.
    ///
    /// # Errors
    /// What the database said.
    pub async fn look(&mut self) -> Result<Look, Error> {
        loop {
            if self.buffer.closed.is_cancelled() {
                return Ok(Look::Ended);
            }
            if self.may_release && !Fault::GapNeverDrained.is_planted() {
                let released = if self.log.parked() > 0 { self.released().await? } else { Vec::new() };
                if !released.is_empty() {
                    self.handed = Handed::Released;
                    return Ok(Look::Batch(self.batch(self.buffer.stored(), released)));
                }
                self.may_release = false;
            }
            if let Some(before) = self.handled_before() {
                self.look_at(before).await?;
                continue;
            }
            if let Some(first) = self.first_anew() {
                self.handed = Handed::Before(first);
                return Ok(Look::Batch(self.batch(first, Vec::new())));
            }
            let messages: Vec<Incoming> = {
                let mut polled = self.buffer.polled();
                let count = polled.len().min(BATCH_MAX);
                polled.drain(..count).collect()
            };
            let Some(last) = messages.last() else { return Ok(Look::Nothing) };
            let next = last.offset + 1;
            self.handed = Handed::Before(next);
            return Ok(Look::Batch(self.batch(next, messages)));
        }
    }
}

impl Source for Partition {
    async fn next(&mut self) -> Result<Option<Batch>, Error> {
        loop {
            match self.look().await? {
                Look::Batch(batch) => return Ok(Some(batch)),
                Look::Ended => return Ok(None),
                Look::Nothing => {}
            }
            tokio::select! {
                () = self.buffer.closed.cancelled() => return Ok(None),
                () = self.buffer.filled.notified() => {}
            }
        }
    }

    fn seek(&mut self, _topic: &str, _partition: i64, next: i64) {
        let before = self.buffer.stored.swap(next, Ordering::Relaxed);
        self.may_release = true;
        let handed = std::mem::replace(&mut self.handed, Handed::Nothing);
        let is_ours = match handed {
            Handed::Before(handed) if next == handed => {
                if !std::mem::replace(&mut self.joined, true) {
                    self.made_anew.forget(&(self.topic.clone(), self.number));
                }
                true
            }
            Handed::Before(_) | Handed::Nothing => false,
            Handed::Released => next == before,
        };
        // Somebody else has moved the progress. Further on is where the buffer leads to; anywhere else it has to be filled anew.
        // Where they came less far than what was taken out of the buffer, the rest of that is no longer in it.
        let is_short = matches!(handed, Handed::Before(end) if next < end);
        let leads_there = self.joined && next > before && !is_short;
        if !is_ours && !leads_there {
            self.lost.cancel();
        }
    }

    fn pass_over(&mut self, _topic: &str, _partition: i64, _next: i64) {
        unreachable!("a message with a place in a chain is never passed over")
    }
}

/// Where an assignment begins, and whether that joins the stored progress: in a topic that holds `low` to `high`.
pub fn begin_at(stored: i64, low: i64, high: i64, is_new: bool) -> (i64, bool) {
    let joined = (low..=high).contains(&stored) && !is_new;
    // One earlier, to see that it is still the topic whose messages were handled.
    (if joined { low.max(stored - 1) } else { low }, joined)
}

/// Reads a record, and holds it against what the topic's owner would have written; who wrote it is not asked.
pub fn incoming(topic: &Topic, partition: i32, offset: i64, record: Record) -> Incoming {
    incoming_with(&MessageKeys::default(), topic, partition, offset, record)
}

/// The same where the services have message keys: only one of them can have written what is not forged.
pub fn incoming_with(keys: &MessageKeys, topic: &Topic, partition: i32, offset: i64, record: Record) -> Incoming {
    let decoded = record::decode(topic.name, &record).map(|(found, mut link)| {
        let checked = keys.check(&found, &mut link);
        (found, link, checked)
    });
    let poison = match decoded {
        Ok((_, _, Err(why))) => Poison::new(Cause::Forged, why.to_string()),
        Ok((_, link, _)) if link.source.service != topic.owner => {
            let error = format!("{} carries messages of the {} service, not of {}", topic.name, topic.owner, link.source.service);
            Poison::new(Cause::Forged, error)
        }
        Ok((found, link, _)) => {
            let key = found.key.as_deref().unwrap_or_default();
            let wanted = topics::partition_of(key.as_bytes(), topic.settings.partitions);
            if wanted == partition {
                return Incoming { offset, message: Arrived::Linked(Arc::new(found), link), poison: None };
            }
            let error = format!("its key belongs to partition {wanted}, it is in {partition}");
            Poison::new(Cause::Forged, error)
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            Poison::new(Cause::Undecodable, format!("{error}{cause}"))
        }
    };
    Incoming { offset, message: Arrived::Raw(record), poison: Some(poison) }
}
