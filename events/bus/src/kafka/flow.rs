//! A leader's messages on their way: rows in, records out in order, the checkpoint behind what was reported.
//!
//! Never here: who leads, a client of Kafka; `relay` has both, and a simulation brings a producer of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use contract::{
    Fault, Message, MessageKeys, Timestamp,
    record::{self, Record},
    topics,
};
use eventlog::{Candidate, Checkpoint, Epoch, Log, Saved, Way, weight};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::relay::{Ended, LEASE, source_of};

/// How often it says so.
pub(super) const RENEW: Duration = Duration::from_millis(500);
/// How long the checkpoint may lag behind: what a new leader repeats.
const SAVE: Duration = Duration::from_millis(100);
/// Messages on their way to Kafka, if what they take does not bound them before.
pub(super) const IN_FLIGHT_MAX: usize = 8_192;
/// Rows read at a time.
const ROWS_MAX: usize = 1_024;
/// Under load a pause between rounds makes few requests of many; a round of fewer rows than one order's is not load.
const PACE: Duration = Duration::from_millis(2);
const PACED_FROM: usize = 12;
/// How long what no saga waits for is held, to be sent with what comes meanwhile: Kafka's work goes by requests, and a request takes
/// all that there is for its partition.
const HELD: Duration = Duration::from_millis(100);
/// How often reports are looked for while something is on its way: nobody waits for them, and being woken by each costs more than
/// sending did.
const REPORTS: Duration = Duration::from_millis(20);
/// How long a leader that stops waits for what is on its way, and how often it looks.
const FLUSH: Duration = Duration::from_secs(2);
const FLUSHED: Duration = Duration::from_millis(2);

/// What the broker says of a message: its position, and what went wrong.
pub type Report = (i64, Option<String>);

/// Takes messages on their way to the broker; each gets a [`Report`] later.
pub trait Publish {
    /// # Errors
    /// Why it was not taken.
    fn publish(&self, topic: &str, partition: i32, row: &Message, record: &Record) -> Result<(), String>;

    /// Hands on what the broker has said meanwhile; never waits.
    fn hear(&self);
}

/// A leader's messages on their way.
pub struct Flow<P> {
    log: Log,
    epochs: Vec<Epoch>,
    keys: MessageKeys,
    producer: P,
    /// Rows up to here have been given to the producer, or are held; the id of that row, and the chain with it.
    sent: i64,
    last: Option<Uuid>,
    chain: BTreeMap<String, Vec<i64>>,
    /// Rows that are not known to have arrived, in order.
    window: VecDeque<Sent>,
    /// What they take.
    bytes: usize,
    /// Those of them that the producer does not have yet, in order.
    held: Vec<Held>,
    saved: Checkpoint,
    /// What is to be told of messages once they have arrived; nothing where nobody hears it.
    rounds: Vec<Round>,
}

/// Rows that were given to the producer together.
struct Round {
    begun: Timestamp,
    rows: Vec<Arc<Message>>,
}

/// A row that waits to be given to the producer.
struct Held {
    until: Timestamp,
    row: Arc<Message>,
    partition: i32,
    record: Record,
}

struct Sent {
    position: i64,
    to: Option<(String, usize)>,
    bytes: usize,
    has_arrived: bool,
}

impl<P: Publish> Flow<P> {
    /// Goes on from a [`whole`] checkpoint.
    ///
    /// # Errors
    /// [`Ended::Failed`]: what the database said.
    pub async fn begin(log: Log, checkpoint: Checkpoint, producer: P) -> Result<Self, Ended> {
        let last = log.ids_at(&[checkpoint.position]).await?.remove(&checkpoint.position);
        let (epochs, sent, chain) = (log.epochs().await?, checkpoint.position, checkpoint.chain.clone());
        let (keys, window, held, rounds) = Default::default();
        Ok(Self { log, epochs, keys, producer, sent, last, chain, window, bytes: 0, held, saved: checkpoint, rounds })
    }

    /// Whether so much is on its way that the next rows have to wait. The last of them may pass the bound, however large it is.
    fn is_full(&self) -> bool {
        self.window.len() >= IN_FLIGHT_MAX || self.bytes >= self.log.env().memory().in_flight()
    }

    /// Signs what it sends.
    #[must_use]
    pub fn with_keys(self, keys: MessageKeys) -> Self {
        Self { keys, ..self }
    }

    /// Rows up to here have been given to the producer, or are held.
    pub fn sent(&self) -> i64 {
        self.sent
    }

    /// When there is something to send although nothing new has come.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.held.first().map(|first| first.until)
    }

    pub(super) async fn run(
        mut self,
        mut reports: mpsc::UnboundedReceiver<Report>,
        candidate: &mut Candidate,
        stop: &CancellationToken,
    ) -> Result<Ended, Ended> {
        let env = self.log.env().clone();
        let mut head = self.log.head();
        let (mut renewed, mut is_dirty) = (env.now(), false);
        loop {
            head.mark_unchanged();
            let sent = self.send_more().await?;
            self.hear(&mut reports, &mut is_dirty)?;
            let age = env.now().since(renewed);
            if age >= RENEW || (is_dirty && age >= SAVE) {
                if let Some(ended) = self.save(candidate).await? {
                    return Ok(ended);
                }
                (renewed, is_dirty) = (env.now(), false);
            }
            if sent > 0 && !self.is_full() {
                if sent >= PACED_FROM {
                    env.sleep(PACE).await;
                }
                continue;
            }
            let until = if is_dirty { SAVE } else { RENEW }.saturating_sub(age);
            let until = if self.window.is_empty() { until } else { until.min(REPORTS) };
            let until = self.held_until().map_or(until, |due| until.min(due.since(env.now())));
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.stop(reports, candidate).await,
                changed = head.changed(), if !self.is_full() => {
                    if changed.is_err() {
                        return self.stop(reports, candidate).await;
                    }
                }
                () = env.sleep(until) => {
                    if !is_dirty && env.now().since(renewed) >= RENEW {
                        // The net under the wake-up, for rows of other replicas.
                        self.log.refresh().await?;
                    }
                }
            }
        }
    }

    /// Takes what has been reported, and moves the checkpoint with it.
    fn hear(&mut self, reports: &mut mpsc::UnboundedReceiver<Report>, is_dirty: &mut bool) -> Result<(), Ended> {
        self.producer.hear();
        while let Ok(report) = reports.try_recv() {
            self.report(report)?;
        }
        self.settle(is_dirty);
        Ok(())
    }

    /// Gives the next rows to the producer, and what was held long enough; tells how many rows were next, none when there are none now
    /// or no room.
    ///
    /// # Errors
    /// Why it must end.
    pub async fn send_more(&mut self) -> Result<usize, Ended> {
        if self.held_until().is_some_and(|due| due <= self.log.env().now()) {
            self.release()?;
        }
        if self.is_full() || *self.log.head().borrow() <= self.sent {
            return Ok(0);
        }
        // The last one comes again: if it is another one now, the log has lost commits and reused their positions.
        let rows = self.log.after((self.sent - 1).max(0), ROWS_MAX).await?;
        let mut rows = rows.into_iter();
        if self.sent > 0 {
            match rows.next() {
                Some(row) if row.position == self.sent && self.last.is_none_or(|last| row.id.0 == last) => {}
                _ => return Err(Ended::Failed("the log has lost rows that were published; looking at Kafka".to_owned())),
            }
        }
        let mut count = 0;
        self.begin_round();
        for row in rows {
            (self.sent, self.last) = (row.position, Some(row.id.0));
            self.send(row)?;
            count += 1;
            if self.is_full() {
                break;
            }
        }
        if self.is_full() {
            self.release()?;
        }
        Ok(count)
    }

    /// Gives the producer what is held.
    fn release(&mut self) -> Result<(), Ended> {
        self.begin_round();
        for Held { row, partition, record, .. } in std::mem::take(&mut self.held) {
            self.publish(row, partition, &record)?;
        }
        Ok(())
    }

    fn publish(&mut self, row: Arc<Message>, partition: i32, record: &Record) -> Result<(), Ended> {
        let topic = row.topic.as_deref().unwrap_or_default();
        let failed = |error| Ended::Failed(format!("can't publish row {} to {topic}: {error}", row.position));
        self.producer.publish(topic, partition, &row, record).map_err(failed)?;
        if let Some(round) = self.rounds.last_mut() {
            round.rows.push(row);
        }
        Ok(())
    }

    /// What the producer is given from here on is told together.
    fn begin_round(&mut self) {
        if self.log.env().observer().is_some() {
            self.rounds.push(Round { begun: self.log.env().now(), rows: Vec::new() });
        }
    }

    /// Tells of the rounds that have arrived whole.
    fn tell(&mut self) {
        let rounds = std::mem::take(&mut self.rounds);
        let (arrived, rest) = rounds.into_iter().partition(|round: &Round| {
            round.rows.iter().all(|row| self.place(row.position).is_none_or(|place| self.window[place].has_arrived))
        });
        self.rounds = rest;
        for Round { begun, rows } in arrived {
            let sent: Vec<_> = rows.iter().filter_map(|row| Some((row.topic.as_deref()?, &row.meta.trace))).collect();
            eventlog::carry(&self.log, Way::Sent, begun, &sent, true);
        }
    }

    /// The place in the window of the row at a position that is not settled yet.
    fn place(&self, position: i64) -> Option<usize> {
        let place = usize::try_from(position - self.window.front()?.position).ok()?;
        (place < self.window.len()).then_some(place)
    }

    fn send(&mut self, row: Arc<Message>) -> Result<(), Ended> {
        let (Some(topic), Some(key)) = (row.topic.as_deref(), row.key.as_deref()) else {
            self.window.push_back(Sent { position: row.position, to: None, bytes: 0, has_arrived: true });
            return Ok(());
        };
        let chain = self.chain.get_mut(topic).ok_or_else(|| {
            Ended::Barred(format!("row {} is for the topic {topic}, which this service does not publish to", row.position))
        })?;
        let partitions = chain.len() as i32;
        let partition = topics::partition_of(key.as_bytes(), partitions);
        let last = &mut chain[partition as usize];
        let source = source_of(&self.log, &self.epochs, row.position);
        // An epoch begins a chain of its own.
        let first =
            self.epochs.iter().rev().find(|epoch| epoch.first_position <= row.position).map_or(1, |epoch| epoch.first_position);
        let previous = if *last >= first { *last } else { 0 };
        let mut record = record::encode(&row, &source, previous);
        self.keys.sign(&mut record, &row, &source, previous);
        *last = row.position;
        let (to, bytes) = (Some((topic.to_owned(), partition as usize)), weight(&row));
        self.window.push_back(Sent { position: row.position, to, bytes, has_arrived: false });
        self.bytes += bytes;
        if topics::is_awaited(topic) {
            return self.publish(row, partition, &record);
        }
        self.held.push(Held { until: self.log.env().now().plus(HELD), row, partition, record });
        Ok(())
    }

    /// Takes one report.
    ///
    /// # Errors
    /// [`Ended::Failed`]: throw the producer away.
    pub fn report(&mut self, (position, error): Report) -> Result<(), Ended> {
        if let Some(error) = error {
            // Later ones may have arrived; they are published again behind this one.
            return Err(Ended::Failed(format!("Kafka did not take row {position}: {error}")));
        }
        if let Some(place) = self.place(position) {
            self.window[place].has_arrived = true;
        }
        Ok(())
    }

    /// Moves the checkpoint over what has arrived without a gap; `is_dirty` tells that it has moved.
    pub fn settle(&mut self, is_dirty: &mut bool) {
        while self.window.front().is_some_and(|first| first.has_arrived || Fault::CheckpointBeforeReport.is_planted()) {
            let Some(Sent { position, to, bytes, .. }) = self.window.pop_front() else { return };
            self.bytes -= bytes;
            self.saved.position = position;
            if let Some((topic, partition)) = to
                && let Some(last) = self.saved.chain.get_mut(&topic).and_then(|chain| chain.get_mut(partition))
            {
                *last = position;
            }
            *is_dirty = true;
        }
        self.tell();
    }

    /// Saves the checkpoint; tells why it must end, if it must.
    ///
    /// # Errors
    /// [`Ended::Failed`]: what the database said.
    pub async fn save(&mut self, candidate: &mut Candidate) -> Result<Option<Ended>, Ended> {
        Ok(match candidate.save(&self.saved, LEASE).await? {
            Saved::Yes => None,
            Saved::Deposed => Some(Ended::Deposed),
            Saved::Behind { head } => Some(Ended::Failed(format!(
                "the log ends at {head}, before {}, which was published; looking at Kafka",
                self.saved.position
            ))),
        })
    }

    /// Waits for what is on its way, not for long, and keeps how far it came.
    async fn stop(mut self, mut reports: mpsc::UnboundedReceiver<Report>, candidate: &mut Candidate) -> Result<Ended, Ended> {
        let env = self.log.env().clone();
        let mut is_dirty = false;
        let began = env.now();
        self.release()?;
        while !self.window.is_empty() && env.now().since(began) < FLUSH {
            self.hear(&mut reports, &mut is_dirty)?;
            env.sleep(FLUSHED).await;
        }
        self.save(candidate).await?;
        Ok(Ended::Stopped)
    }
}
