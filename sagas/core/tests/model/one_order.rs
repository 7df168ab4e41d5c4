//! Model 1: one order, its participants, a network that loses, repeats and reorders, deadlines and crashes at any time, a customer who
//! cancels and an operator who acts at any time.
//!
//! A message is on its way or not: one that is delivered stays, so that it may come again any number of times and in any order, until it
//! is lost. A move is one transaction of one service, so a crash before its commit is the move that was not made.

use contract::Fault;
use skald_saga::{
    Invariant, Word,
    order::{Input, State},
};
use stateright::{Model, Property};

use crate::{
    engine::{Applied, Instance, Patience, Timer},
    explorer::Proven,
    payment::{OPERATIONS, Operation, Payment, Replies},
    product::Reservation,
};

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneOrder {
    pub patience: Patience,
    /// Whether an operator acts.
    pub operator: bool,
}

/// A command by the state that asks it, or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Command(State),
    Reply(Input),
}

/// The states that ask come first in `State`, the replies first in `Input`.
const COMMANDS: usize = 6;
const REPLIES: usize = 9;

impl Message {
    fn all() -> impl Iterator<Item = Self> {
        let commands = State::ALL[..COMMANDS].iter().map(|state| Self::Command(*state));
        commands.chain(Input::ALL[..REPLIES].iter().map(|input| Self::Reply(*input)))
    }

    pub(crate) fn bit(self) -> u16 {
        1 << match self {
            Self::Command(state) => state as usize,
            Self::Reply(input) => COMMANDS + input as usize,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Command(State::ReservingStock) => "ReserveStock",
            Self::Command(State::AuthorizingPayment) => "AuthorizePayment",
            Self::Command(State::CapturingPayment) => "CapturePayment",
            Self::Command(State::CommittingStock) => "CommitStock",
            Self::Command(State::VoidingPayment) => "VoidPayment",
            Self::Command(State::ReleasingStock) => "ReleaseStock",
            Self::Command(State::Confirmed | State::Cancelled) => unreachable!("an end asks nothing"),
            Self::Reply(input) => input.as_str(),
        }
    }

    fn to(self) -> &'static str {
        match self {
            Self::Command(State::ReservingStock | State::CommittingStock | State::ReleasingStock) => "product",
            Self::Command(_) => "payment",
            Self::Reply(_) => "the order saga",
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// To a reservation that decides for the first time: whether the stock is there.
    Deliver(Message, bool),
    Lose(Message),
    Look,
    Deadline,
    Crash,
    /// A call comes to the provider, which says yes or no.
    Arrive(Operation, bool),
    /// The provider's answer comes back.
    Answer,
    /// The caller gives up waiting for the answer.
    TimeOut,
    /// A customer's or an operator's request.
    Person(Input),
}

/// Everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shop {
    pub saga: Instance,
    /// The messages on their way, one bit each.
    net: u16,
    pub reservation: Reservation,
    /// Pieces on the shelf, beside those that were there in the beginning.
    shelf: i8,
    pub payment: Payment,
    /// An operator has ended it without an answer: the audit lists it, and what follows is his.
    waived_money: bool,
    waived_stock: bool,
    /// An operator turned back after the stock was asked to be committed: that command may come too late.
    turned: bool,
    broken: Option<Invariant>,
}

const VERBS: [Input; 4] = [Input::RetryAsked, Input::CompensationForced, Input::StepSkipped, Input::CompletionForced];

impl Shop {
    fn new() -> Self {
        let net = Message::Command(State::ReservingStock).bit();
        Self {
            saga: Instance::STARTED,
            net,
            reservation: Reservation::New,
            shelf: 0,
            payment: Payment::NEW,
            waived_money: false,
            waived_stock: false,
            turned: false,
            broken: None,
        }
    }

    fn carries(&self, message: Message) -> bool {
        self.net & message.bit() != 0
    }

    fn deliver(&mut self, model: &OneOrder, message: Message, is_free: bool) {
        match message {
            Message::Reply(input) => {
                let applied = self.saga.apply(model.patience, input);
                self.follow(applied);
            }
            Message::Command(asked) if message.to() == "product" => match self.reservation.answer(asked, is_free) {
                Some((reservation, back, reply)) => {
                    (self.reservation, self.shelf) = (reservation, (self.shelf + back).clamp(-2, 2));
                    self.reply([reply, None]);
                }
                None => self.set_aside(),
            },
            Message::Command(asked) => match self.payment.answer(asked) {
                Some(replies) => self.reply(replies),
                None => self.set_aside(),
            },
        }
    }

    fn set_aside(&mut self) {
        if !self.turned {
            self.broken = Some(Invariant::NoDeadLetter);
        }
    }

    fn reply(&mut self, replies: Replies) {
        for reply in replies.into_iter().flatten() {
            self.net |= Message::Reply(reply).bit();
        }
    }

    /// What the engine does after the table has spoken.
    fn follow(&mut self, applied: Applied) {
        match applied {
            Applied::Moved if !self.saga.has_ended() => self.net |= Message::Command(self.saga.state).bit(),
            Applied::Moved | Applied::Nothing => {}
            Applied::Broken(invariant) => self.broken = Some(invariant),
        }
    }

    fn ask(&mut self, model: &OneOrder, input: Input) {
        let from = self.saga.state;
        let applied = self.saga.apply(model.patience, input);
        self.follow(applied);
        if applied != Applied::Moved {
            return;
        }
        match (from, input) {
            (State::CommittingStock, Input::CompensationForced) => self.turned = true,
            (State::CommittingStock | State::ReleasingStock, Input::StepSkipped | Input::CompletionForced) => {
                self.waived_stock = true;
            }
            (State::VoidingPayment, Input::StepSkipped) => self.waived_money = true,
            (State::VoidingPayment, Input::CompletionForced) => (self.waived_money, self.waived_stock) = (true, true),
            _ => {}
        }
    }

    /// What no state may break, whatever is on its way.
    fn check(&self, model: &OneOrder) -> Option<Invariant> {
        let (state, Payment { holds, captures, refunds, .. }) = (self.saga.state, self.payment);
        let (confirmed, cancelled) = (state == State::Confirmed, state == State::Cancelled);
        let (money, stock) = (!self.waived_money, !self.waived_stock);
        let checks = [
            (Invariant::CapturedAtMostOnce, captures <= 1),
            (Invariant::StockConserved, self.shelf + self.reservation.pieces() == 0),
            (Invariant::ConfirmedCapturedOnce, !confirmed || (captures, refunds, holds) == (1, 0, 0)),
            (Invariant::ConfirmedStockCommitted, !(confirmed && stock) || self.reservation == Reservation::Committed),
            (Invariant::CancelledNothingTaken, !(cancelled && money) || (captures == refunds && holds == 0)),
            (Invariant::CancelledNothingReserved, !(cancelled && stock) || self.reservation.pieces() == 0),
        ];
        let broken = checks.into_iter().find(|(_, holds)| !holds).map(|(invariant, _)| invariant);
        self.broken.or(broken).or_else(|| self.saga.broken(model.patience))
    }
}

impl Model for OneOrder {
    type State = Shop;
    type Action = Action;

    fn init_states(&self) -> Vec<Shop> {
        vec![Shop::new()]
    }

    fn actions(&self, shop: &Shop, actions: &mut Vec<Action>) {
        if self.broken(shop).is_some() {
            return;
        }
        for message in Message::all().filter(|message| shop.carries(*message)) {
            actions.push(Action::Deliver(message, true));
            if message == Message::Command(State::ReservingStock) && shop.reservation == Reservation::New {
                actions.push(Action::Deliver(message, false));
            }
            actions.push(Action::Lose(message));
        }
        actions.extend([Action::Look, Action::Deadline, Action::Crash]);
        for operation in OPERATIONS.into_iter().filter(|operation| shop.payment.would_take_effect(*operation)) {
            actions.push(Action::Arrive(operation, true));
            let may_say_no = matches!(operation, Operation::Authorize | Operation::Capture);
            if may_say_no && shop.payment.verdicts[operation as usize].is_none() {
                actions.push(Action::Arrive(operation, false));
            }
        }
        actions.push(Action::Answer);
        if Fault::TimeoutIsDeclined.is_planted() {
            actions.push(Action::TimeOut);
        }
        actions.push(Action::Person(Input::CancelAsked));
        if self.operator {
            actions.extend(VERBS.map(Action::Person));
        }
    }

    fn next_state(&self, before: &Shop, action: Action) -> Option<Shop> {
        let mut shop = *before;
        match action {
            Action::Deliver(message, is_free) => shop.deliver(self, message, is_free),
            Action::Lose(message) => shop.net &= !message.bit(),
            Action::Look => shop.saga.look(),
            Action::Deadline => {
                let applied = shop.saga.deadline(self.patience);
                shop.follow(applied);
            }
            Action::Crash => shop.saga.crash(),
            Action::Arrive(operation, says_yes) => shop.payment.arrive(operation, says_yes),
            Action::Answer => {
                let (operation, says_yes) = shop.payment.verdict()?;
                let replies = shop.payment.settle(operation, says_yes);
                shop.reply(replies);
            }
            Action::TimeOut => {
                let operation = shop.payment.open?;
                let replies = shop.payment.settle(operation, false);
                shop.reply(replies);
            }
            Action::Person(input) => shop.ask(self, input),
        }
        (shop != *before).then_some(shop)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no invariant is broken", |model: &Self, shop: &Shop| model.broken(shop).is_none())]
    }
}

impl Proven for OneOrder {
    fn broken(&self, shop: &Shop) -> Option<Invariant> {
        shop.check(self)
    }

    fn is_end(&self, shop: &Shop) -> bool {
        shop.saga.has_ended() && shop.payment.open.is_none()
    }

    fn is_own(&self, action: Action) -> bool {
        !matches!(action, Action::Person(_) | Action::Lose(_) | Action::Crash)
    }

    fn say(&self, before: &Shop, action: Action, after: &Shop) -> String {
        let what = match action {
            Action::Deliver(message, _) => format!("{} reaches {}", message.name(), message.to()),
            Action::Lose(message) => format!("{} to {} is lost", message.name(), message.to()),
            Action::Look => "a replica of the order service finds that the deadline has passed".to_owned(),
            Action::Deadline if before.saga.timer == Timer::Stale => "it acts on that deadline, which is stale by now".to_owned(),
            Action::Deadline => "it acts on that deadline".to_owned(),
            Action::Crash => "the order service dies and starts again".to_owned(),
            Action::Arrive(operation, true) => format!("the provider hears the call {operation:?}: it is done"),
            Action::Arrive(operation, false) => format!("the provider hears the call {operation:?}: it says no"),
            Action::Answer => "the provider's answer reaches payment".to_owned(),
            Action::TimeOut => "no answer of the provider reaches payment in time".to_owned(),
            Action::Person(input) => format!("a person's {}", input.as_str()),
        };
        let mut then = Vec::new();
        if after.reservation != before.reservation {
            then.push(format!("the reservation is {:?} now", after.reservation));
        }
        if after.payment.status != before.payment.status {
            then.push(format!("the payment is {:?} now", after.payment.status));
        }
        if after.saga.state != before.saga.state {
            then.push(format!("the order saga goes from {} to {}", before.saga.state.as_str(), after.saga.state.as_str()));
        }
        let sent = |message: &Message| after.carries(*message) && !before.carries(*message);
        then.extend(Message::all().filter(sent).map(|message| match message {
            Message::Command(_) => format!("it asks {} for {}", message.to(), message.name()),
            Message::Reply(_) => format!("the answer {} is on its way", message.name()),
        }));
        if after.saga.stuck && !before.saga.stuck {
            then.push("it is flagged as stuck".to_owned());
        }
        if then.is_empty() { what } else { format!("{what}; {}", then.join(", ")) }
    }
}
