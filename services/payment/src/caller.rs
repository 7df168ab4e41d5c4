//! The calls that are open: made after the commit of their intent, and again until they are answered.
//!
//! Never here: transactions around a call, or rules. From here the flow goes back to `handler.rs` with the answer. When a call
//! is made, and how many at a time, is `kit::outgoing`'s.

use std::sync::Arc;

use contract::{Fault, Meta, OrderId, Timestamp, payment::Operation, trace::span_of};
use eventlog::{Due, Env, Error, Job, Log, Span, SpanKind, Writer, backoff};
use kit::outgoing::{Courier, Sent, within};
use uuid::Uuid;

use crate::{
    Config,
    config::LOOKUP_EVERY,
    domain::Verdict,
    handler::{Done, Handler, Kind, Outcome, Work},
    metrics::Metrics,
    provider::{Answer, Call, PaymentProvider},
    store::OpenCall,
};

/// A call with the open intent that its answer is appended under.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub call: Call,
    pub open: OpenCall,
}

/// What makes the calls.
pub(crate) struct Calls {
    pub provider: Arc<dyn PaymentProvider>,
    pub writer: Writer<Handler>,
    pub due: Arc<Due>,
    pub config: Config,
    pub metrics: Metrics,
}

impl Courier for Calls {
    type Item = Outgoing;
    const WHAT: &'static str = "payment calls";

    fn id(outgoing: &Outgoing) -> Uuid {
        outgoing.open.intent.0
    }

    fn log(&self) -> &Log {
        self.writer.log()
    }

    async fn send(&self, outgoing: Outgoing) -> Result<Sent<Outgoing>, Error> {
        let Outgoing { call, open } = outgoing;
        let expired = self.env().now().since(open.opened) >= self.config.key_lifetime();
        let begun = self.env().now();
        let answer = if expired { self.look_up(&call).await } else { self.ask(&call).await };
        self.tell(&call, &open, expired, begun, &answer);
        match answer {
            Answer::Definitive(verdict) => self.settle(call.order_id, open, verdict).await,
            Answer::Unknown(why) => self.postpone(&call, &open, expired, &why).await,
        }
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        self.due.first(self.log()).await
    }

    async fn claim(&self, before: Timestamp, limit: i64) -> Result<Vec<Outgoing>, Error> {
        match self.submit(Kind::ClaimDue { before, limit }, Meta::default()).await? {
            Outcome::Claimed(claimed) => Ok(claimed),
            _ => unreachable!("a claim answers with calls"),
        }
    }
}

impl Calls {
    fn env(&self) -> &Env {
        self.log().env()
    }

    async fn submit(&self, kind: Kind, meta: Meta) -> Result<Outcome, Error> {
        self.writer.submit(Job { work: Work(kind), meta }).await.map(|Done(outcome)| outcome)
    }

    async fn ask(&self, call: &Call) -> Answer {
        let asked = self.env().now();
        let answer = within(self.env(), self.config.timeout(), self.provider.call(call)).await;
        let is_declined = Fault::TimeoutIsDeclined.is_planted() && answer.is_none() && call.operation == Operation::Authorize;
        let answer = if is_declined { Some(Answer::Definitive(Verdict::Declined("no answer".to_owned()))) } else { answer };
        let answer = fitting(call, answer.unwrap_or_else(|| Answer::Unknown("no answer in time".to_owned())));
        self.metrics.answered(call.operation, &answer, self.env().now().since(asked));
        answer
    }

    async fn look_up(&self, call: &Call) -> Answer {
        match within(self.env(), self.config.timeout(), self.provider.lookup(call.order_id)).await {
            Some(Ok(verdicts)) => match verdicts.into_iter().find(|verdict| verdict.operation() == call.operation) {
                Some(verdict) => Answer::Definitive(verdict),
                None => Answer::Unknown("the provider has no record of it, which proves nothing".to_owned()),
            },
            Some(Err(why)) => Answer::Unknown(why),
            None => Answer::Unknown("no answer in time".to_owned()),
        }
    }

    /// The call as a span of the trace in which its intent was recorded.
    fn tell(&self, call: &Call, open: &OpenCall, expired: bool, begun: Timestamp, answer: &Answer) {
        let Some(observer) = self.env().observer().filter(|_| open.trace.is_sampled()) else { return };
        let operation = if expired { "look up" } else { call.operation.as_str() };
        let span = span_of(&[operation, &begun.0.to_string()], open.intent.0);
        observer.told(
            self.log().service(),
            Span {
                name: format!("{operation} payment provider"),
                kind: SpanKind::Client,
                trace: open.trace.child(span),
                parent: Some(open.trace.clone()),
                links: Vec::new(),
                begun,
                ended: self.env().now(),
                attributes: vec![
                    ("peer.service", "payment provider".into()),
                    ("payment.operation", call.operation.as_str().into()),
                    ("payment.tries", open.tries.into()),
                    ("saga.id", call.order_id.to_string().into()),
                    ("order.id", call.order_id.to_string().into()),
                ],
                error: matches!(answer, Answer::Unknown(_)).then(|| "outcome_unknown".to_owned()),
            },
        );
    }

    async fn settle(&self, order_id: OrderId, open: OpenCall, verdict: Verdict) -> Result<Sent<Outgoing>, Error> {
        match self.submit(Kind::Settled { order_id, verdict }, open.meta(order_id)).await? {
            Outcome::Call(next) => Ok(Sent::Next(*next)),
            _ => Ok(Sent::Ended),
        }
    }

    async fn postpone(&self, call: &Call, open: &OpenCall, expired: bool, why: &str) -> Result<Sent<Outgoing>, Error> {
        let (order_id, operation, tries) = (call.order_id, call.operation, open.tries);
        if expired && !open.stuck {
            let trace_id = open.trace.id().unwrap_or_default();
            tracing::error!(order.id = %order_id, trace.id = trace_id, operation = operation.as_str(), why,
                "payment call is stuck: its idempotency key has expired; look it up at the provider");
        } else {
            tracing::debug!(order.id = %order_id, operation = operation.as_str(), tries, why, "outcome of a payment call is unknown");
        }
        let attempt = u32::try_from(tries + 1).unwrap_or(u32::MAX);
        let wait = match expired {
            true => LOOKUP_EVERY,
            false => backoff(self.env(), attempt, self.config.retry_first(), self.config.retry_cap()),
        };
        self.submit(Kind::Postponed { order_id, operation, tries, wait, stuck: expired }, Meta::default()).await?;
        Ok(Sent::Postponed)
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
