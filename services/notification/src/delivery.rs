//! Letters on their way: handed to the channel after the commit, and again until they end.
//!
//! Never here: transactions around a delivery, or rules. From here the flow goes back to `handler.rs` with the result. When a
//! letter is handed over, and how many at a time, is `kit::outgoing`'s.

use std::sync::Arc;

use contract::{Meta, Timestamp, Trace, trace::span_of};
use eventlog::{Due, Error, Job, Log, Span, SpanKind, Writer};
use kit::outgoing::{Courier, Sent, within};
use uuid::Uuid;

use crate::{
    Config,
    channel::{Channel, Letter},
    handler::{Done, Handler, Kind, Outcome, Work},
};

/// A letter with what its result is appended under.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub letter: Letter,
    pub meta: Meta,
    pub attempts: u32,
}

/// What carries the letters.
pub(crate) struct Delivery {
    pub channel: Arc<dyn Channel>,
    pub writer: Writer<Handler>,
    pub due: Arc<Due>,
    pub config: Config,
}

impl Courier for Delivery {
    type Item = Outgoing;
    const WHAT: &'static str = "deliveries";

    fn id(outgoing: &Outgoing) -> Uuid {
        outgoing.letter.notification_id.0
    }

    fn log(&self) -> &Log {
        self.writer.log()
    }

    async fn send(&self, outgoing: Outgoing) -> Result<Sent<Outgoing>, Error> {
        let Outgoing { letter, meta, attempts } = outgoing;
        let begun = self.log().env().now();
        let result = within(self.log().env(), self.config.timeout(), self.channel.deliver(&letter)).await;
        let result = result.unwrap_or_else(|| Err("the channel did not answer in time".to_owned()));
        let (order_id, notification_id) = (letter.order_id, letter.notification_id);
        self.tell(&letter, &meta.trace, attempts, begun, result.is_ok());
        if let Err(reason) = &result {
            let trace_id = meta.trace.id().unwrap_or_default();
            tracing::warn!(notification.id = %notification_id, order.id = %order_id, trace.id = trace_id, attempts, reason, "a notification was not delivered");
        }
        match self.submit(Kind::Tried { order_id, notification_id, attempts, result }, meta).await? {
            Outcome::Postponed => Ok(Sent::Postponed),
            _ => Ok(Sent::Ended),
        }
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        self.due.first(self.log()).await
    }

    async fn claim(&self, before: Timestamp, limit: i64) -> Result<Vec<Outgoing>, Error> {
        match self.submit(Kind::ClaimDue { before, limit }, Meta::default()).await? {
            Outcome::Claimed(claimed) => Ok(claimed),
            _ => unreachable!("a claim answers with letters"),
        }
    }
}

impl Delivery {
    /// The delivery as a span of the trace in which the letter was queued.
    fn tell(&self, letter: &Letter, trace: &Trace, attempts: u32, begun: Timestamp, is_delivered: bool) {
        let env = self.log().env();
        let Some(observer) = env.observer().filter(|_| trace.is_sampled()) else { return };
        observer.told(
            self.log().service(),
            Span {
                name: "deliver notification".to_owned(),
                kind: SpanKind::Client,
                trace: trace.child(span_of(&["deliver", &begun.0.to_string()], letter.notification_id.0)),
                parent: Some(trace.clone()),
                links: Vec::new(),
                begun,
                ended: env.now(),
                attributes: vec![
                    ("notification.id", letter.notification_id.to_string().into()),
                    ("notification.template", letter.template.as_str().into()),
                    ("notification.attempts", i64::from(attempts).into()),
                    ("order.id", letter.order_id.to_string().into()),
                ],
                error: (!is_delivered).then(|| "not_delivered".to_owned()),
            },
        );
    }

    async fn submit(&self, kind: Kind, meta: Meta) -> Result<Outcome, Error> {
        self.writer.submit(Job { work: Work(kind), meta }).await.map(|Done(outcome)| outcome)
    }
}
