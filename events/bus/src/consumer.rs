//! The consumer: reads a batch, hands it to the writer under a compare-and-set on its progress, and never gives up on an outage.
//!
//! Progress and effects commit together, so that a message has its effects exactly once: no broker transaction, no table of
//! message ids that grows.

use std::{future::Future, sync::Arc, time::Duration};

use contract::{Fault, Message, dead_letter::Cause};
use eventlog::{Arrived, Claim, Delivered, Error, Handler, Item, Job, Poison, Todo, Verdict, Way, Writer, backoff};
use tokio_util::sync::CancellationToken;

/// A service that handles messages.
pub trait Consumer: Handler {
    /// What to do about a message: `None` if it is of no interest here.
    ///
    /// # Errors
    /// Why the message can never be handled. It becomes a dead letter; the messages around it go on.
    fn accept(&self, message: &Message) -> Result<Option<Self::Work>, Poison>;
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub offset: i64,
    pub message: Arrived,
    /// Why nobody needs to look at what it says.
    pub poison: Option<Poison>,
}

/// Messages of one topic and partition, in order, between two offsets.
#[derive(Clone, Debug)]
pub struct Batch {
    pub topic: String,
    pub partition: i64,
    /// The consumer's progress before …
    pub from: i64,
    /// … and after this batch; the same when its messages were parked before. Offsets between that carry no message were of no
    /// interest.
    pub next: i64,
    /// At most a few hundred; none where only the progress moves.
    pub messages: Vec<Incoming>,
}

/// Where messages come from.
pub trait Source: Send {
    /// Waits for messages that come after what was last committed or sought; `None` when they are another's to handle now.
    fn next(&mut self) -> impl Future<Output = Result<Option<Batch>, Error>> + Send;

    /// Says that everything before `next` has been handled, here or by somebody else.
    fn seek(&mut self, topic: &str, partition: i64, next: i64);

    /// Says that nothing before `next` was of interest, so that no transaction was worth it: the progress stands where it was.
    fn pass_over(&mut self, topic: &str, partition: i64, next: i64);
}

/// Somebody else may come first now and then; who always does is no other than this message's own effect.
const CONFLICTS_MAX: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// Handles what `source` brings, until `stop`. A batch in flight is finished.
pub async fn consume<H: Consumer, S: Source>(
    name: &'static str,
    mut source: S,
    handler: Arc<H>,
    writer: Writer<H>,
    stop: CancellationToken,
) {
    let consumer = Running { name, handler, writer, stop: stop.clone() };
    let mut failures = 0;
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = source.next() => next,
        };
        match next {
            Ok(None) => return,
            Ok(Some(batch)) => {
                failures = 0;
                consumer.tell(&batch);
                if consumer.is_dull(&batch) {
                    source.pass_over(&batch.topic, batch.partition, batch.next);
                    continue;
                }
                let Some(next) = consumer.handle(&batch).await else { return };
                source.seek(&batch.topic, batch.partition, next);
            }
            Err(error) => {
                failures += 1;
                consumer.writer.log().tell_damage(&error);
                tracing::warn!(consumer = name, %error, attempt = failures, "can't read messages; trying again");
                if !consumer.pause(failures).await {
                    return;
                }
            }
        }
    }
}

struct Running<H: Consumer> {
    name: &'static str,
    handler: Arc<H>,
    writer: Writer<H>,
    stop: CancellationToken,
}

impl<H: Consumer> Running<H> {
    /// Whether the batch has messages, but none that this service does anything about, not even to keep in mind that it came.
    fn is_dull(&self, batch: &Batch) -> bool {
        let is_dull = |incoming: &Incoming| match &incoming.message {
            Arrived::Row(message) => matches!(self.handler.accept(message), Ok(None)),
            Arrived::Linked(..) | Arrived::Raw(_) => false,
        };
        !batch.messages.is_empty() && batch.messages.iter().all(is_dull)
    }

    /// Tells that the batch was taken, in an instant: how long it was waited for says nothing of its messages.
    fn tell(&self, batch: &Batch) {
        let log = self.writer.log();
        if log.env().observer().is_none() {
            return;
        }
        let messages = batch.messages.iter().filter_map(|incoming| match &incoming.message {
            Arrived::Row(message) | Arrived::Linked(message, _) => Some((message.topic.as_deref()?, &message.meta.trace)),
            Arrived::Raw(_) => None,
        });
        let is_linked = batch.messages.iter().any(|incoming| matches!(incoming.message, Arrived::Linked(..)));
        eventlog::carry(log, Way::Polled, log.env().now(), &messages.collect::<Vec<_>>(), is_linked);
    }

    /// Handles a batch to its end; tells the progress after it, or `None` when it is time to stop.
    async fn handle(&self, batch: &Batch) -> Option<i64> {
        match self.deliver(batch, None).await? {
            Ok(next) => Some(next),
            Err(error) => {
                tracing::warn!(consumer = self.name, %error, messages = batch.messages.len(), "batch refused; handling its messages one by one");
                self.one_by_one(batch).await
            }
        }
    }

    async fn one_by_one(&self, batch: &Batch) -> Option<i64> {
        let mut from = batch.from;
        for (index, incoming) in batch.messages.iter().enumerate() {
            let last = index + 1 == batch.messages.len();
            let next = if last || batch.from == batch.next { batch.next } else { incoming.offset + 1 };
            let (topic, partition, messages) = (batch.topic.clone(), batch.partition, vec![incoming.clone()]);
            let one = Batch { topic, partition, from, next, messages };
            let reached = match self.deliver(&one, None).await? {
                Ok(reached) => reached,
                // The one to blame: the database will never take its effects.
                Err(error) if self.has_effects(incoming) => self.set_aside(&one, &error.to_string()).await?,
                // Nothing was to be done about it, so it is to blame for nothing: only the progress moves, for as long as that takes.
                Err(error) => self.move_on(&one, error).await?,
            };
            if reached != next {
                return Some(reached);
            }
            from = next;
        }
        Some(from)
    }

    /// Whether there is anything to do about a message, so that it may be to blame for what the database says.
    fn has_effects(&self, incoming: &Incoming) -> bool {
        let (Arrived::Row(message) | Arrived::Linked(message, _)) = &incoming.message else { return true };
        incoming.poison.is_some() || !matches!(self.handler.accept(message), Ok(None))
    }

    /// Passes over a message of no interest.
    async fn move_on(&self, one: &Batch, mut error: Error) -> Option<i64> {
        for attempt in 1.. {
            tracing::error!(consumer = self.name, %error, attempt, offset = one.from, "the progress can't be moved over a message of no interest");
            if !self.pause(attempt).await {
                break;
            }
            match self.deliver(one, None).await? {
                Ok(reached) => return Some(reached),
                Err(again) => error = again,
            }
        }
        None
    }

    /// Makes a message a dead letter, for as long as that takes: passing it over would lose it.
    async fn set_aside(&self, one: &Batch, why: &str) -> Option<i64> {
        let mut attempt = 0;
        loop {
            match self.deliver(one, Some(why.to_owned())).await? {
                Ok(reached) => return Some(reached),
                Err(error) => {
                    attempt += 1;
                    tracing::error!(consumer = self.name, %error, attempt, offset = one.from, "a message can be neither handled nor set aside");
                    if !self.pause(attempt).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Delivers until it is committed, lost, to be read once more or refused for good. `poison` turns every message into a dead letter.
    async fn deliver(&self, batch: &Batch, poison: Option<String>) -> Option<Result<i64, Error>> {
        let claim = Claim {
            consumer: self.name.to_owned(),
            topic: batch.topic.clone(),
            partition: batch.partition,
            from: batch.from,
            next: batch.next,
        };
        let (mut attempt, mut conflicts) = (0, 0);
        loop {
            let error = match self.writer.deliver(claim.clone(), self.items(batch, poison.as_deref())).await {
                Ok(Delivered::Committed) => return Some(Ok(batch.next)),
                Ok(Delivered::Lost) => match self.elsewhere(batch).await {
                    Ok(next) => return Some(Ok(next)),
                    Err(error) => error,
                },
                Err(Error::Closed) => return None,
                Err(error @ Error::Missing { .. }) => {
                    let (topic, partition, from) = (&batch.topic, batch.partition, batch.from);
                    tracing::warn!(consumer = self.name, topic, partition, from, "{error}; asking Kafka for it once more");
                    self.writer.log().asked_again(topic, partition, from);
                    return Some(Ok(from));
                }
                Err(error) => match error.verdict() {
                    Verdict::Outage if Fault::OutageIsPoison.is_planted() => return Some(Err(error)),
                    // What it would write is always there already.
                    Verdict::Outage if error.is_taken() && conflicts == CONFLICTS_MAX => return Some(Err(error)),
                    Verdict::Outage => {
                        conflicts += u32::from(error.is_taken());
                        error
                    }
                    Verdict::Poison => return Some(Err(error)),
                    // The writer has told who ends the process.
                    Verdict::Stop => return None,
                },
            };
            attempt += 1;
            tracing::warn!(consumer = self.name, %error, attempt, "can't handle messages now; trying again");
            if !self.pause(attempt).await {
                return None;
            }
        }
    }

    /// Where the progress is that somebody else has moved. What they parked waits for whoever reads on.
    async fn elsewhere(&self, batch: &Batch) -> Result<i64, Error> {
        let log = self.writer.log();
        log.count_parked().await?;
        log.progress(self.name, &batch.topic, batch.partition).await
    }

    fn items(&self, batch: &Batch, poison: Option<&str>) -> Vec<Item<H::Work>> {
        let (mut items, now) = (Vec::with_capacity(batch.messages.len()), self.writer.log().env().now());
        for incoming in &batch.messages {
            let Incoming { offset, message, poison: unreadable } = incoming;
            let todo = match (poison, unreadable, message) {
                (Some(error), ..) => Todo::SetAside(Poison::new(Cause::Refused, error)),
                (None, Some(poison), _) => Todo::SetAside(poison.clone()),
                (None, None, Arrived::Raw(_)) => Todo::SetAside(Poison::new(Cause::Undecodable, "it has no envelope")),
                (None, None, Arrived::Row(content) | Arrived::Linked(content, _)) => match self.handler.accept(content) {
                    Ok(Some(work)) => Todo::Handle(Job { work, meta: content.effect(self.name, now) }),
                    // Without a chain nothing needs to be known of it.
                    Ok(None) if matches!(message, Arrived::Row(_)) => continue,
                    Ok(None) => Todo::Nothing,
                    Err(poison) => Todo::SetAside(poison),
                },
            };
            if let Todo::SetAside(Poison { cause, error }) = &todo {
                let (topic, partition, cause) = (&batch.topic, batch.partition, cause.as_str());
                let trace_id = match message {
                    Arrived::Row(message) | Arrived::Linked(message, _) => message.meta.trace.id(),
                    Arrived::Raw(_) => None,
                };
                tracing::warn!(
                    consumer = self.name,
                    trace.id = trace_id,
                    topic,
                    partition,
                    offset,
                    cause,
                    error,
                    "message becomes a dead letter"
                );
            }
            items.push(Item { offset: *offset, message: message.clone(), todo });
        }
        items
    }

    /// Waits before the next attempt; false when it is time to stop.
    async fn pause(&self, attempt: u32) -> bool {
        let env = self.writer.log().env();
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = env.sleep(backoff(env, attempt, RETRY_FIRST, RETRY_CAP)) => true,
        }
    }
}
