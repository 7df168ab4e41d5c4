//! One assigned partition: where reading it begins, what a record in it comes to, and the bounded buffer between who polls and who
//! handles.
//!
//! Never here: Kafka's client; `group` fills the buffer, pauses and resumes. An assignment that ends closes its buffer for good:
//! the next one has a new one, so that nothing polled before is handled after. A buffer from which something was taken that is to be
//! handled still ends its assignment in the same instant: what is left of it must not be claimed as if nothing lay before it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use contract::{
    DeadLetter, Fault, MessageKeys,
    dead_letter::Cause,
    record::{self, Record},
    topics::{self, Topic},
};
use eventlog::{Arrived, Error, Log, Memory, Poison};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{Batch, Incoming, Source};

/// Messages in one batch.
const BATCH_MAX: usize = 256;
/// Messages that may wait: at more the partition is paused, at less than a quarter it goes on. The same goes for its part of the
/// [`Room`], in bytes.
const BUFFER_MAX: usize = 2_048;
/// Parked messages taken up in one batch.
const RELEASED_MAX: i64 = 256;

/// How far before the first message that waits behind a gap Kafka is asked once more: more than was ever taken out of a buffer at once.
const LOOK_BACK: i64 = BUFFER_MAX as i64;

/// Topics and partitions that are to be read again from an offset before their progress, until that has begun. Cheap to clone.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<Again>>);

#[derive(Default)]
struct Again {
    from: HashMap<(String, i64), i64>,
    /// Where that was done for the sake of what waits behind a gap: once a process.
    looked_back: HashSet<(String, i64)>,
}

impl Places {
    fn again(&self) -> MutexGuard<'_, Again> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The offset from which a partition is to be read again, if it is.
    pub fn from(&self, place: &(String, i64)) -> Option<i64> {
        self.again().from.get(place).copied()
    }

    /// Messages wait behind a gap, the first of them at this offset: what is missing is looked for once more before that.
    pub fn look_back(&self, place: &(String, i64), first_parked: i64) {
        let mut again = self.again();
        if again.looked_back.insert(place.clone()) {
            again.from.entry(place.clone()).or_insert((first_parked - LOOK_BACK).max(0));
        }
    }

    /// It has begun.
    fn forget(&self, place: &(String, i64)) {
        self.again().from.remove(place);
    }

    /// It is another's to begin.
    pub(super) fn leave(&self, place: &(String, i64)) {
        let mut again = self.again();
        if again.from.remove(place).is_some() {
            again.looked_back.remove(place);
        }
    }
}

/// How many bytes the partitions of one process may hold together. Each has the same part of it, so that one whose handler is slow
/// takes nothing from the others; what passes its part is one record. Cheap to clone.
#[derive(Clone)]
pub struct Room {
    bytes: usize,
    buffers: Arc<AtomicUsize>,
}

impl Room {
    pub fn new(memory: Memory) -> Self {
        Self { bytes: memory.buffered(), buffers: Arc::default() }
    }

    fn of_each(&self) -> usize {
        self.bytes / self.buffers.load(Ordering::Relaxed).max(1)
    }
}

/// The buffer between the polling thread and the consumer of one partition.
pub struct Buffer {
    polled: Mutex<VecDeque<Incoming>>,
    /// What the messages in it take, and those of the batch that was taken out of it and is being handled.
    bytes: AtomicUsize,
    room: Room,
    filled: Notify,
    /// The progress in the consumer's database, as far as it is known here.
    stored: AtomicI64,
    /// The assignment has ended.
    closed: CancellationToken,
}

impl Buffer {
    pub fn new(stored: i64, room: &Room) -> Arc<Self> {
        let (polled, filled, stored, closed) =
            (Mutex::default(), Notify::new(), AtomicI64::new(stored), CancellationToken::new());
        room.buffers.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { polled, bytes: AtomicUsize::new(0), room: room.clone(), filled, stored, closed })
    }

    fn polled(&self) -> MutexGuard<'_, VecDeque<Incoming>> {
        self.polled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, incoming: Incoming) {
        self.bytes.fetch_add(incoming.message.weight(), Ordering::Relaxed);
        self.polled().push_back(incoming);
        self.filled.notify_one();
    }

    /// How many messages wait in it.
    pub fn waiting(&self) -> usize {
        self.polled().len()
    }

    /// Whether nothing more should be polled for it. What comes all the same is taken: a record may be larger than all that there is
    /// room for.
    pub fn is_full(&self) -> bool {
        self.waiting() >= BUFFER_MAX || self.bytes.load(Ordering::Relaxed) >= self.room.of_each()
    }

    /// Whether a full one has been emptied far enough to go on; one that holds nothing always has.
    pub fn has_room(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.waiting() < BUFFER_MAX / 4 && (bytes == 0 || bytes < self.room.of_each() / 4)
    }

    /// Takes messages for a batch out of it, and tells what they take: as many as may be, but one at least, however large it is.
    fn take(&self, bytes_max: usize) -> (Vec<Incoming>, usize) {
        let mut polled = self.polled();
        let (mut count, mut bytes) = (0, 0);
        for incoming in polled.iter().take(BATCH_MAX) {
            let weight = incoming.message.weight();
            let is_only = count == 0 && !Fault::LargeIsLeft.is_planted();
            if bytes + weight > bytes_max && !is_only {
                break;
            }
            (count, bytes) = (count + 1, bytes + weight);
        }
        (polled.drain(..count).collect(), bytes)
    }

    /// What was taken out of it is no longer held.
    fn let_go(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn stored(&self) -> i64 {
        self.stored.load(Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.closed.cancel();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.room.buffers.fetch_sub(1, Ordering::Relaxed);
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
    /// Asks for a new assignment.
    lost: CancellationToken,
    made_anew: Places,
    /// The buffer begins at the stored progress, and not before it in what is to be read again.
    joined: bool,
    /// Messages before this offset are no longer in the buffer, so that it joins no progress before it. Offsets that Kafka itself does
    /// not hold, such as those of its own markers, are no concern: of these nothing was taken.
    taken: i64,
    /// Parked messages may have been released since they were last looked for.
    may_release: bool,
    /// The batch under way, and what it takes.
    handed: Handed,
    handed_bytes: usize,
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
        let (taken, may_release, handed, handed_bytes) = (buffer.stored(), true, Handed::Nothing, 0);
        let keys = MessageKeys::default();
        Self { consumer, topic, number, keys, buffer, log, lost, made_anew, joined, taken, may_release, handed, handed_bytes }
    }

    /// Ends this assignment, and asks for another one. What is buffered is never handled: it no longer joins what is stored.
    fn end(&self) {
        self.lost.cancel();
        if !Fault::BufferGoesOn.is_planted() {
            self.buffer.close();
        }
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
                Incoming { offset, message: Arrived::Raw(Arc::new(found)), poison }
            }
        };
        Ok(released.into_iter().map(incoming).collect())
    }
}

impl Partition {
    /// A buffered message that was handled already: the one before the stored progress, with which every assignment begins, or
    /// what another replica has done meanwhile.
    fn handled_before(&mut self) -> Option<Incoming> {
        let mut polled = self.buffer.polled();
        let is_before = self.joined && polled.front().is_some_and(|first| first.offset < self.buffer.stored());
        let before = if is_before { polled.pop_front() } else { None };
        self.buffer.let_go(before.as_ref().map_or(0, |before| before.message.weight()));
        self.taken = before.as_ref().map_or(self.taken, |before| before.offset + 1);
        before
    }

    /// Where the progress has to go back to before a partition is read again. By itself: a batch that happens to end where the
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
            self.made_anew.again().from.insert((topic.clone(), partition), 0);
            self.lost.cancel();
            self.buffer.close();
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
            let (messages, bytes) = self.buffer.take(self.log.env().memory().batch());
            self.handed_bytes += bytes;
            let Some(last) = messages.last() else { return Ok(Look::Nothing) };
            let next = last.offset + 1;
            (self.taken, self.handed) = (next, Handed::Before(next));
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
        self.buffer.let_go(std::mem::take(&mut self.handed_bytes));
        let handed = std::mem::replace(&mut self.handed, Handed::Nothing);
        if !self.joined {
            if matches!(handed, Handed::Before(end) if end == next) {
                // The progress is where the buffer begins, or leads to.
                (self.joined, self.taken) = (true, next);
                self.made_anew.forget(&(self.topic.clone(), self.number));
            } else if next != before {
                // Somebody else has moved it, and not to where this buffer begins.
                self.end();
            }
        }
        // Further on than what was taken is where the buffer leads to. Before that, whether another came less far, or rewound, or a
        // message is missing and Kafka has to be asked for it once more: what has to be handled next is no longer in it.
        if next < self.taken {
            self.end();
        }
    }

    fn pass_over(&mut self, _topic: &str, _partition: i64, _next: i64) {
        unreachable!("a message with a place in a chain is never passed over")
    }
}

/// Where an assignment begins, and whether that joins the stored progress: in a partition that holds `low` to `high`, and perhaps is to
/// be read again from an offset on.
pub fn begin_at(stored: i64, low: i64, high: i64, again: Option<i64>) -> (i64, bool) {
    let is_there = (low..=high).contains(&stored);
    // One earlier, to see that it is still the topic whose messages were handled.
    let from = if is_there { again.unwrap_or(stored).min(stored) - 1 } else { low };
    (from.max(low), is_there && again.is_none())
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
    // What is too large for a dead letter need not be held until it is one.
    let (record, note) = DeadLetter::kept(record);
    let poison = Poison::new(poison.cause, note + &poison.error);
    Incoming { offset, message: Arrived::Raw(Arc::new(record)), poison: Some(poison) }
}
