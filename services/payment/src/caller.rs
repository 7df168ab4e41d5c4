//! The calls that are open: made after the commit of their intent, bounded, timed, and again until they are answered.
//!
//! Never here: transactions around a call, or rules. From here the flow goes back to `handler.rs` with the answer. Everything
//! here may be lost at any instant: what is open stands in the database, and the due loop finds it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use contract::{Meta, OrderId, Timestamp};
use eventlog::{Database, Env, Error, Job, Writer, backoff};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    domain::Verdict,
    handler::{Done, Handler, Kind, Outcome, Work},
    metrics::Metrics,
    provider::{Answer, Call, PaymentProvider},
    store,
};

/// Calls that wait for their turn. What does not fit is left to the due loop.
const QUEUE_MAX: usize = 16_384;
/// Calls claimed in one transaction.
const CLAIM_MAX: i64 = 256;
/// How often to look for what other processes left behind. What this one leaves wakes the loop by itself.
const POLL: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, so that an outage of the provider is no storm on the database.
const POLL_MIN: Duration = Duration::from_millis(5);
/// How often a call is looked up whose key has expired.
const LOOKUP_EVERY: Duration = Duration::from_secs(60);

/// A call with what its answer is appended under.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub call: Call,
    pub meta: Meta,
    pub opened: Timestamp,
    pub tries: i64,
    pub stuck: bool,
}

/// The door to the calls of this process. Never blocks.
#[derive(Clone)]
pub(crate) struct Caller {
    queue: mpsc::Sender<Outgoing>,
    /// Orders with a call queued or under way here: the same call is not made twice at the same time.
    busy: Arc<Mutex<HashSet<OrderId>>>,
}

impl Caller {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        (Self { queue, busy: Arc::default() }, calls)
    }

    /// Takes a committed intent; drops what is under way already or does not fit, for the due loop to find.
    pub(crate) fn send(&self, outgoing: Outgoing) {
        let order_id = outgoing.call.order_id;
        if self.busy().insert(order_id) && self.queue.try_send(outgoing).is_err() {
            self.release(order_id);
        }
    }

    fn release(&self, order_id: OrderId) {
        self.busy().remove(&order_id);
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, HashSet<OrderId>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes the calls.
pub(crate) struct Calls {
    pub caller: Caller,
    pub provider: Arc<dyn PaymentProvider>,
    pub writer: Writer<Handler>,
    pub config: Config,
    pub metrics: Metrics,
    /// Something is due at another time than the due loop knows.
    pub postponed: Notify,
}

impl Calls {
    fn env(&self) -> &Env {
        self.writer.log().env()
    }

    /// Makes the queued calls, so many at a time, until `stop`; what is under way then is dropped.
    pub(crate) async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<Outgoing>, stop: CancellationToken) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(()) = running.next(), if !running.is_empty() => {}
                Some(outgoing) = queue.recv(), if running.len() < self.config.concurrency as usize => {
                    running.push(self.make(outgoing));
                }
            }
        }
    }

    /// Makes one call and hands in what came of it.
    async fn make(&self, outgoing: Outgoing) {
        let order_id = outgoing.call.order_id;
        let expired = self.env().now().since(outgoing.opened) >= self.config.key_lifetime();
        let answer = if expired { self.look_up(&outgoing).await } else { self.ask(&outgoing.call).await };
        let next = match answer {
            Answer::Definitive(verdict) => self.settle(&outgoing, verdict).await,
            Answer::Unknown(why) => self.postpone(&outgoing, expired, &why).await.map(|()| None),
        };
        self.caller.release(order_id);
        match next {
            Ok(Some(next)) => self.caller.send(next),
            Ok(None) => {}
            // The call is still open in the database, and due when the claim ends; its answer will be the same.
            Err(error) => tracing::warn!(order.id = %order_id, %error, "can't record the answer to a payment call yet"),
        }
    }

    async fn ask(&self, call: &Call) -> Answer {
        let asked = self.env().now();
        let answer = tokio::select! {
            biased;
            answer = self.provider.call(call) => answer,
            () = self.env().sleep(self.config.timeout()) => Answer::Unknown("no answer in time".to_owned()),
        };
        let answer = fitting(call, answer);
        self.metrics.answered(call.operation, &answer, self.env().now().since(asked));
        answer
    }

    async fn look_up(&self, outgoing: &Outgoing) -> Answer {
        let call = &outgoing.call;
        let found = tokio::select! {
            biased;
            found = self.provider.lookup(call.order_id) => found,
            () = self.env().sleep(self.config.timeout()) => Err("no answer in time".to_owned()),
        };
        match found {
            Ok(verdicts) => match verdicts.into_iter().find(|verdict| verdict.operation() == call.operation) {
                Some(verdict) => Answer::Definitive(verdict),
                None => Answer::Unknown("the provider has no record of it, which proves nothing".to_owned()),
            },
            Err(why) => Answer::Unknown(why),
        }
    }

    async fn settle(&self, outgoing: &Outgoing, verdict: Verdict) -> Result<Option<Outgoing>, Error> {
        let work = Work(Kind::Settled { order_id: outgoing.call.order_id, verdict });
        match self.writer.submit(Job { work, meta: outgoing.meta.clone() }).await? {
            Done(Outcome::Call(next)) => Ok(Some(*next)),
            Done(_) => Ok(None),
        }
    }

    async fn postpone(&self, outgoing: &Outgoing, expired: bool, why: &str) -> Result<(), Error> {
        let (call, tries) = (&outgoing.call, outgoing.tries);
        let (order_id, operation) = (call.order_id, call.operation);
        if expired && !outgoing.stuck {
            tracing::error!(order.id = %order_id, operation = operation.as_str(), why,
                "payment call is stuck: its idempotency key has expired; look it up at the provider");
        } else {
            tracing::debug!(order.id = %order_id, operation = operation.as_str(), tries, why, "outcome of a payment call is unknown");
        }
        let attempt = u32::try_from(tries + 1).unwrap_or(u32::MAX);
        let wait = match expired {
            true => LOOKUP_EVERY,
            false => backoff(self.env(), attempt, self.config.retry_first(), self.config.retry_cap()),
        };
        let work = Work(Kind::Postponed { order_id, operation, tries, wait, stuck: expired });
        self.writer.submit(Job { work, meta: Meta::default() }).await?;
        self.postponed.notify_one();
        Ok(())
    }

    /// Claims open calls that are due, at the start and whenever one is, until `stop`.
    pub(crate) async fn run_due(self: Arc<Self>, stop: CancellationToken) {
        let started = self.env().now();
        // One process at a time has a SQLite database: whatever is open at its start, nobody is calling.
        let mut orphans = matches!(self.writer.log().database(), Database::Sqlite(_)).then(|| started.plus(self.config.lease()));
        let mut failures = 0;
        loop {
            let wait = match self.claim(orphans).await {
                Ok(Some(wait)) => {
                    (orphans, failures) = (None, 0);
                    wait
                }
                Ok(None) => POLL_MIN,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, attempt = failures, "can't look for due payment calls");
                    backoff(self.env(), failures, POLL_MIN, POLL)
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.env().sleep(POLL_MIN.min(wait)) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.postponed.notified() => {}
                () = self.env().sleep(wait.saturating_sub(POLL_MIN)) => {}
            }
        }
    }

    /// Claims a batch; tells how long nothing more is due, or nothing if there may be more.
    async fn claim(&self, orphans: Option<Timestamp>) -> Result<Option<Duration>, Error> {
        let now = self.env().now();
        let before = orphans.unwrap_or(Timestamp(now.0 + 1));
        let Some(next) = store::next_due(self.writer.log()).await? else { return Ok(Some(POLL)) };
        // Calls that wait here already would only be claimed again and again.
        if next >= before || self.caller.queue.capacity() < QUEUE_MAX / 2 {
            return Ok(Some(next.since(now).clamp(POLL_MIN, POLL)));
        }
        let work = Work(Kind::ClaimDue { before, limit: CLAIM_MAX });
        let Done(Outcome::Claimed(claimed)) = self.writer.submit(Job { work, meta: Meta::default() }).await? else {
            unreachable!("a claim answers with calls")
        };
        claimed.into_iter().for_each(|outgoing| self.caller.send(outgoing));
        Ok(None)
    }
}

/// The answer, unless it is one to another question: then nothing is known.
fn fitting(call: &Call, answer: Answer) -> Answer {
    match answer {
        Answer::Definitive(verdict) if verdict.operation() != call.operation => {
            tracing::error!(order.id = %call.order_id, operation = call.operation.as_str(), ?verdict, "the payment provider's answer does not fit its call");
            Answer::Unknown("the answer does not fit the call".to_owned())
        }
        answer => answer,
    }
}
