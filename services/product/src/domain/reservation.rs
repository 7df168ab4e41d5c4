//! A reservation: the stream `reservation-<order id>`, and what each of the saga's commands does to it.
//!
//! Never here: async, clock, randomness, I/O. Every command gets a reply, and a repeated one its recorded reply again.
//! From here the flow goes to `handler.rs`, which appends the reply and moves the pieces that it names.
//!
//! | state | ReserveStock | ReleaseStock | CommitStock |
//! |---|---|---|---|
//! | New | Reserved or Refused | Released (a tombstone) | wrong |
//! | Reserved | reply again | Released | Committed |
//! | Refused | reply again | Released, with nothing | wrong |
//! | Committed | reply again | Released, restocked | reply again |
//! | Released | refused, recorded | reply again | wrong |

use contract::{
    Fault, OrderId, ProductId,
    envelope::Repeated,
    product::{Command, Event, StockCommitted, StockLine, StockRefusal, StockRefused, StockReleased, StockReserved},
};
use serde::{Deserialize, Serialize};

/// Where an order's reservation stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reservation {
    /// Never heard of.
    #[default]
    New,
    /// The lines are held.
    Reserved { lines: Vec<StockLine> },
    /// Nothing is held, and nothing will be.
    Refused { refusal: Refusal },
    /// Nothing is held any more. The lines went back: from what was sold if `restocked`. The refusal is the answer to a
    /// ReserveStock, if one was ever refused.
    Released { lines: Vec<StockLine>, restocked: bool, refusal: Option<Refusal> },
    /// The lines are sold.
    Committed { lines: Vec<StockLine> },
}

/// Why nothing was reserved, and which products fell short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: StockRefusal,
    pub products: Vec<ProductId>,
}

/// The command must not have come in this state: no retry makes it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stock can be committed only while it is reserved; it is {0}")]
pub struct Wrong(pub &'static str);

/// Decides one command. `free` tells the free pieces of a product, `None` for an unknown or removed one.
///
/// # Errors
/// [`Wrong`]: dead-letter the message.
pub fn decide(state: &Reservation, free: impl Fn(ProductId) -> Option<i64>, command: &Command) -> Result<Event, Wrong> {
    match command {
        Command::ReserveStock(reserve) => Ok(decide_reserve(state, free, reserve.order_id, &reserve.lines)),
        Command::ReleaseStock(release) => Ok(decide_release(state, release.order_id)),
        Command::CommitStock(commit) => decide_commit(state, commit.order_id),
    }
}

/// The order that a command is about.
pub fn order_of(command: &Command) -> OrderId {
    match command {
        Command::ReserveStock(reserve) => reserve.order_id,
        Command::ReleaseStock(release) => release.order_id,
        Command::CommitStock(commit) => commit.order_id,
    }
}

fn decide_reserve(state: &Reservation, free: impl Fn(ProductId) -> Option<i64>, order_id: OrderId, lines: &[StockLine]) -> Event {
    let again = Repeated(true);
    let refused = |refusal: Refusal, repeated| {
        StockRefused { order_id, reason: refusal.reason, products: refusal.products, repeated }.into()
    };
    match state {
        Reservation::New => {
            let mut lines = merged(lines);
            if Fault::PartOfTheLines.is_planted() {
                lines.retain(|line| free(line.product_id) >= Some(i64::from(line.quantity)));
            }
            match shortfall(&lines, free) {
                None => StockReserved { order_id, lines, repeated: Repeated(false) }.into(),
                Some(refusal) => refused(refusal, Repeated(false)),
            }
        }
        Reservation::Reserved { lines } | Reservation::Committed { lines } => {
            StockReserved { order_id, lines: lines.clone(), repeated: again }.into()
        }
        Reservation::Refused { refusal } | Reservation::Released { refusal: Some(refusal), .. } => {
            refused(refusal.clone(), again)
        }
        // Also after a reservation that was released: to repeat "reserved" would claim stock that nobody holds.
        Reservation::Released { refusal: None, .. } => {
            refused(Refusal { reason: StockRefusal::AlreadyReleased, products: Vec::new() }, Repeated(false))
        }
    }
}

fn decide_release(state: &Reservation, order_id: OrderId) -> Event {
    let released = |lines: &[StockLine], restocked, repeated| {
        StockReleased { order_id, lines: lines.to_vec(), restocked, repeated: Repeated(repeated) }.into()
    };
    match state {
        Reservation::New | Reservation::Refused { .. } => released(&[], false, false),
        Reservation::Reserved { lines } => released(lines, false, false),
        Reservation::Committed { lines } => released(lines, true, false),
        Reservation::Released { lines, restocked, .. } => released(lines, *restocked, !Fault::ReleaseTwice.is_planted()),
    }
}

fn decide_commit(state: &Reservation, order_id: OrderId) -> Result<Event, Wrong> {
    let committed =
        |lines: &[StockLine], repeated| StockCommitted { order_id, lines: lines.to_vec(), repeated: Repeated(repeated) }.into();
    match state {
        Reservation::Reserved { lines } => Ok(committed(lines, false)),
        Reservation::Committed { lines } => Ok(committed(lines, true)),
        Reservation::New => Err(Wrong("not reserved")),
        Reservation::Refused { .. } => Err(Wrong("refused")),
        Reservation::Released { .. } => Err(Wrong("released")),
    }
}

/// The state after an event; a reply given again changes nothing.
pub fn evolve(state: Reservation, event: &Event) -> Reservation {
    match event {
        Event::StockReserved(reserved) if !reserved.repeated.0 => Reservation::Reserved { lines: reserved.lines.clone() },
        Event::StockRefused(refused) if !refused.repeated.0 => {
            let refusal = Refusal { reason: refused.reason, products: refused.products.clone() };
            match state {
                Reservation::Released { lines, restocked, .. } => {
                    Reservation::Released { lines, restocked, refusal: Some(refusal) }
                }
                _ => Reservation::Refused { refusal },
            }
        }
        Event::StockReleased(released) if !released.repeated.0 => {
            let refusal = match state {
                Reservation::Refused { refusal } => Some(refusal),
                _ => None,
            };
            Reservation::Released { lines: released.lines.clone(), restocked: released.restocked, refusal }
        }
        Event::StockCommitted(committed) if !committed.repeated.0 => Reservation::Committed { lines: committed.lines.clone() },
        Event::StockReserved(_) | Event::StockRefused(_) | Event::StockReleased(_) | Event::StockCommitted(_) => state,
        Event::ProductAdded(_) | Event::ProductChanged(_) | Event::ProductRemoved(_) | Event::StockChanged(_) => state,
    }
}

/// One line a product, in the order of first appearance. A sum past `u32` is more than any product can have.
fn merged(lines: &[StockLine]) -> Vec<StockLine> {
    let mut merged: Vec<StockLine> = Vec::with_capacity(lines.len());
    for line in lines {
        match merged.iter_mut().find(|known| known.product_id == line.product_id) {
            Some(known) => known.quantity = known.quantity.saturating_add(line.quantity),
            None => merged.push(*line),
        }
    }
    merged
}

/// Why these lines can't be reserved, if they can't.
fn shortfall(lines: &[StockLine], free: impl Fn(ProductId) -> Option<i64>) -> Option<Refusal> {
    let of = |reason, wanted: &dyn Fn(&StockLine) -> bool| {
        let products: Vec<_> = lines.iter().filter(|line| wanted(line)).map(|line| line.product_id).collect();
        (!products.is_empty()).then_some(Refusal { reason, products })
    };
    of(StockRefusal::UnknownProduct, &|line| free(line.product_id).is_none())
        .or_else(|| of(StockRefusal::NotEnough, &|line| free(line.product_id) < Some(i64::from(line.quantity))))
}

#[cfg(test)]
mod tests;
