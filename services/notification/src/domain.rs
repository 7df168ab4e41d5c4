//! The rules of one notification: queued once an outcome, tried until it is delivered or given up.
//!
//! Never here: I/O, clocks, randomness, SQL. From here the flow goes to `handler.rs`, which appends what was decided.

use contract::{
    CustomerId, NotificationId, OrderId,
    notification::{Event, NotificationDelivered, NotificationGivenUp, NotificationQueued},
};

/// Where a notification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// There is none.
    #[default]
    Nothing,
    Queued,
    /// The channel took it.
    Delivered,
    /// The channel refused it until the bound was reached.
    GivenUp,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Queued, Self::Delivered, Self::GivenUp];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// One notification of one outcome of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub notification_id: NotificationId,
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub template: String,
    pub status: Status,
    /// Deliveries that were tried and came to an end.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub reason: Option<String>,
    /// Of the stream's newest row.
    pub version: i64,
}

/// What a notification reacts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The order came to the outcome that the notification tells of.
    Queue,
    /// The channel took it.
    Delivered,
    /// The channel refused it, or gave no answer.
    Failed { reason: String, attempts_max: u32 },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Record(Event),
    /// Deliver again after a pause. Not a row of the log: only the last attempt is.
    TryAgain {
        attempts: u32,
        reason: String,
    },
    /// It has ended before, or stands already.
    Nothing,
}

impl Notification {
    pub fn new(notification_id: NotificationId, order_id: OrderId, customer_id: CustomerId, template: &str) -> Self {
        let (template, status) = (template.to_owned(), Status::Nothing);
        Self { notification_id, order_id, customer_id, template, status, attempts: 0, reason: None, version: 0 }
    }

    /// Decides one input; total, as nobody can be wrong here.
    pub fn decide(&self, input: Input) -> Decision {
        let Self { notification_id, order_id, customer_id, .. } = *self;
        let attempts = self.attempts.saturating_add(1);
        match (self.status, input) {
            (Status::Nothing, Input::Queue) => {
                let template = self.template.clone();
                Decision::Record(NotificationQueued { notification_id, order_id, customer_id, template }.into())
            }
            (Status::Queued, Input::Delivered) => {
                Decision::Record(NotificationDelivered { notification_id, order_id, attempts }.into())
            }
            (Status::Queued, Input::Failed { reason, attempts_max }) if attempts >= attempts_max => {
                Decision::Record(NotificationGivenUp { notification_id, order_id, attempts, reason }.into())
            }
            (Status::Queued, Input::Failed { reason, .. }) => Decision::TryAgain { attempts, reason },
            (Status::Queued | Status::Delivered | Status::GivenUp, Input::Queue)
            | (Status::Nothing | Status::Delivered | Status::GivenUp, Input::Delivered | Input::Failed { .. }) => {
                Decision::Nothing
            }
        }
    }

    /// What one recorded event makes of the notification.
    pub fn evolve(&mut self, event: &Event) {
        self.version += 1;
        match event {
            Event::NotificationQueued(_) => self.status = Status::Queued,
            Event::NotificationDelivered(event) => (self.status, self.attempts) = (Status::Delivered, event.attempts),
            Event::NotificationGivenUp(event) => {
                (self.status, self.attempts, self.reason) = (Status::GivenUp, event.attempts, Some(event.reason.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(inputs: impl IntoIterator<Item = Input>) -> Notification {
        let id = uuid::Uuid::from_u128;
        let mut notification = Notification::new(id(1).into(), id(2).into(), id(3).into(), "order_confirmed");
        for input in inputs {
            match notification.decide(input) {
                Decision::Record(event) => notification.evolve(&event),
                Decision::TryAgain { attempts, .. } => notification.attempts = attempts,
                Decision::Nothing => panic!("a history holds nothing that was ignored"),
            }
        }
        notification
    }

    fn failed() -> Input {
        Input::Failed { reason: "mailbox full".into(), attempts_max: 3 }
    }

    fn recorded(decision: Decision) -> &'static str {
        match decision {
            Decision::Record(event) => event.kind(),
            Decision::TryAgain { .. } => "again",
            Decision::Nothing => "nothing",
        }
    }

    #[test]
    fn an_outcome_is_queued_once() {
        assert_eq!(recorded(given([]).decide(Input::Queue)), "notification.NotificationQueued");
        for history in [vec![], vec![Input::Delivered], vec![failed(), failed(), failed()]] {
            let after = given([Input::Queue].into_iter().chain(history));
            assert_eq!(recorded(after.decide(Input::Queue)), "nothing");
        }
    }

    #[test]
    fn a_failed_delivery_is_tried_again_until_the_bound_and_then_given_up_with_its_reason() {
        let queued = given([Input::Queue]);
        assert_eq!(queued.decide(failed()), Decision::TryAgain { attempts: 1, reason: "mailbox full".into() });
        let last = given([Input::Queue, failed(), failed()]);
        let Notification { notification_id, order_id, .. } = last;
        let given_up = NotificationGivenUp { notification_id, order_id, attempts: 3, reason: "mailbox full".into() };
        assert_eq!(last.decide(failed()), Decision::Record(given_up.into()));
    }

    #[test]
    fn a_delivery_counts_the_attempts_before_it() {
        let notification = given([Input::Queue, failed()]);
        let Notification { notification_id, order_id, .. } = notification;
        let delivered = NotificationDelivered { notification_id, order_id, attempts: 2 };
        assert_eq!(notification.decide(Input::Delivered), Decision::Record(delivered.into()));
    }

    #[test]
    fn each_row_is_one_version_and_the_words_of_a_status_read_back() {
        assert_eq!(given([Input::Queue]).version, 1);
        assert_eq!(given([Input::Queue, failed(), Input::Delivered]).version, 2, "an attempt that is repeated is no row");
        let words = ["nothing", "queued", "delivered", "given_up"];
        let all = [Status::Nothing, Status::Queued, Status::Delivered, Status::GivenUp];
        assert_eq!(all.map(Status::as_str), words, "as they stand in databases");
        assert_eq!(words.map(Status::parse), all.map(Some));
        assert_eq!(Status::parse(""), None);
    }

    #[test]
    fn what_has_ended_stays_as_it_ended() {
        let delivered = given([Input::Queue, Input::Delivered]);
        let given_up = given([Input::Queue, failed(), failed(), failed()]);
        for (notification, input) in
            [(&delivered, Input::Delivered), (&delivered, failed()), (&given_up, Input::Delivered), (&given_up, failed())]
        {
            assert_eq!(notification.decide(input), Decision::Nothing);
        }
        assert_eq!(given_up.reason.as_deref(), Some("mailbox full"));
    }
}
