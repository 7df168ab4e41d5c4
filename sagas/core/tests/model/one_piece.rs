//! Model 2: several orders on too few pieces of one product, with two replicas of the product service.
//!
//! Each order runs the production table against the reservation of model 1. The payment answers at once and as it likes, and no
//! operator acts: both are model 1's. Orders are alike, so states that differ only in their order are one.

use contract::Fault;
use skald_saga::{
    Invariant, Word,
    order::{Input, State},
};
use stateright::{Model, Property};

use crate::{
    engine::{Applied, Instance, Patience, Timer},
    explorer::Proven,
    one_order::Message,
    product::Reservation,
};

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnePiece<const ORDERS: usize> {
    pub pieces: i8,
}

/// Every deadline is the last one, and every wait is flagged from its beginning: counting is model 1's.
const PATIENCE: Patience = Patience { tries_max: 1, stuck_after: 0 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Order {
    saga: Instance,
    /// Messages from and to product.
    net: u16,
    reservation: Reservation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shelf<const ORDERS: usize> {
    orders: [Order; ORDERS],
    on_hand: i8,
    /// What each replica remembers of the shelf: nothing, unless that is the fault.
    memory: [Option<i8>; 2],
    broken: Option<Invariant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// To an order's saga, or to one of product's replicas.
    Deliver {
        order: usize,
        message: Message,
        replica: usize,
    },
    Lose(usize, Message),
    Pay(usize, Input),
    Deadline(usize),
    Cancel(usize),
}

const MESSAGES: [Message; 7] = [
    Message::Command(State::ReservingStock),
    Message::Command(State::CommittingStock),
    Message::Command(State::ReleasingStock),
    Message::Reply(Input::StockReserved),
    Message::Reply(Input::StockRefused),
    Message::Reply(Input::StockCommitted),
    Message::Reply(Input::StockReleased),
];

/// What the payment may say in a state.
fn says(state: State) -> &'static [Input] {
    match state {
        State::AuthorizingPayment => &[Input::PaymentAuthorized, Input::PaymentDeclined],
        State::CapturingPayment => &[Input::PaymentCaptured, Input::CaptureRefused],
        State::VoidingPayment => &[Input::PaymentVoided],
        _ => &[],
    }
}

impl<const ORDERS: usize> Shelf<ORDERS> {
    fn apply(&mut self, order: usize, input: Input) {
        let applied = self.orders[order].saga.apply(PATIENCE, input);
        self.follow(order, applied);
    }

    fn follow(&mut self, order: usize, applied: Applied) {
        let Order { saga, net, .. } = &mut self.orders[order];
        let asked = Message::Command(saga.state);
        match applied {
            Applied::Moved if MESSAGES.contains(&asked) => *net |= asked.bit(),
            Applied::Moved | Applied::Nothing => {}
            Applied::Broken(invariant) => self.broken = Some(invariant),
        }
    }

    fn product(&mut self, order: usize, asked: State, replica: usize) {
        let from_memory = Fault::StockFromMemory.is_planted();
        let level = if from_memory { *self.memory[replica].get_or_insert(self.on_hand) } else { self.on_hand };
        let Order { net, reservation, .. } = &mut self.orders[order];
        match reservation.answer(asked, level > 0) {
            Some((after, back, reply)) => {
                *reservation = after;
                self.on_hand = (level + back).clamp(-1, 9);
                if from_memory {
                    self.memory[replica] = Some(self.on_hand);
                }
                *net |= reply.map_or(0, |reply| Message::Reply(reply).bit());
            }
            None => self.broken = Some(Invariant::NoDeadLetter),
        }
    }

    fn check(&self, pieces: i8) -> Option<Invariant> {
        let held: i8 = self.orders.iter().map(|order| order.reservation.pieces()).sum();
        let ended_right = |order: &Order| match order.saga.state {
            State::Confirmed if order.reservation != Reservation::Committed => Some(Invariant::ConfirmedStockCommitted),
            State::Cancelled if order.reservation.pieces() != 0 => Some(Invariant::CancelledNothingReserved),
            _ => None,
        };
        let conserved = self.on_hand >= 0 && self.on_hand + held == pieces;
        let broken = (!conserved).then_some(Invariant::StockConserved);
        self.broken.or(broken).or_else(|| self.orders.iter().find_map(ended_right))
    }
}

impl<const ORDERS: usize> Model for OnePiece<ORDERS> {
    type State = Shelf<ORDERS>;
    type Action = Action;

    fn init_states(&self) -> Vec<Self::State> {
        let net = Message::Command(State::ReservingStock).bit();
        let order = Order { saga: Instance::STARTED, net, reservation: Reservation::New };
        vec![Shelf { orders: [order; ORDERS], on_hand: self.pieces, memory: [None; 2], broken: None }]
    }

    fn actions(&self, shelf: &Self::State, actions: &mut Vec<Action>) {
        if self.broken(shelf).is_some() {
            return;
        }
        let replicas = if Fault::StockFromMemory.is_planted() { 2 } else { 1 };
        for (order, Order { saga, net, .. }) in shelf.orders.iter().enumerate() {
            for message in MESSAGES.into_iter().filter(|message| net & message.bit() != 0) {
                actions.extend((0..replicas).map(|replica| Action::Deliver { order, message, replica }));
                actions.push(Action::Lose(order, message));
            }
            actions.extend(says(saga.state).iter().map(|input| Action::Pay(order, *input)));
            actions.extend([Action::Deadline(order), Action::Cancel(order)]);
        }
    }

    fn next_state(&self, before: &Self::State, action: Action) -> Option<Self::State> {
        let mut shelf = *before;
        match action {
            Action::Deliver { order, message: Message::Reply(input), .. } | Action::Pay(order, input) => {
                shelf.apply(order, input)
            }
            Action::Deliver { order, message: Message::Command(asked), replica } => shelf.product(order, asked, replica),
            Action::Lose(order, message) => shelf.orders[order].net &= !message.bit(),
            Action::Deadline(order) => {
                let saga = &mut shelf.orders[order].saga;
                saga.look();
                let applied = saga.deadline(PATIENCE);
                saga.timer = Timer::Quiet;
                shelf.follow(order, applied);
            }
            Action::Cancel(order) => shelf.apply(order, Input::CancelAsked),
        }
        shelf.orders.sort_unstable();
        (shelf != *before).then_some(shelf)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no invariant is broken", |model: &Self, shelf: &Shelf<ORDERS>| model.broken(shelf).is_none())]
    }
}

impl<const ORDERS: usize> Proven for OnePiece<ORDERS> {
    fn broken(&self, shelf: &Self::State) -> Option<Invariant> {
        shelf.check(self.pieces)
    }

    fn is_end(&self, shelf: &Self::State) -> bool {
        shelf.orders.iter().all(|order| order.saga.has_ended())
    }

    fn is_own(&self, action: Action) -> bool {
        !matches!(action, Action::Lose(..) | Action::Cancel(_))
    }

    fn say(&self, before: &Self::State, action: Action, after: &Self::State) -> String {
        let of = |order: usize| format!("an order in {}", before.orders[order].saga.state.as_str());
        let what = match action {
            Action::Deliver { order, message: Message::Reply(input), .. } => format!("{} reaches {}", input.as_str(), of(order)),
            Action::Deliver { order, message, replica } => {
                format!("{} of {} reaches product's replica {replica}", message.name(), of(order))
            }
            Action::Lose(order, message) => format!("{} of {} is lost", message.name(), of(order)),
            Action::Pay(order, input) => format!("payment says {} to {}", input.as_str(), of(order)),
            Action::Deadline(order) => format!("the last deadline of {} passes", of(order)),
            Action::Cancel(order) => format!("a customer cancels {}", of(order)),
        };
        let stand = |shelf: &Self::State| -> Vec<String> {
            let one = |order: &Order| format!("{}/{:?}", order.saga.state.as_str(), order.reservation);
            shelf.orders.iter().map(one).collect()
        };
        format!("{what}; on hand {}, orders {}", after.on_hand, stand(after).join(", "))
    }
}
