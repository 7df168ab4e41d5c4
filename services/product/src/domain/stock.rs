//! The pieces of one product, by where they are, and how the events of a reservation move them.
//!
//! Never here: whether a move is allowed; the deciders say so before, and the database's constraints once more.
//! From here the flow goes to `reservation.rs` and `catalogue.rs`, whose events are what moves pieces.

use contract::product::{Event, StockLine};

/// Most free pieces of one product: a bound that keeps every sum of quantities far inside an integer.
pub const ON_HAND_MAX: i64 = 1_000_000_000;

/// Where a product's pieces are. `on_hand + reserved + sold == added`, and none of the first three is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Free: not promised to anybody.
    pub on_hand: i64,
    /// Held for orders that have not ended.
    pub reserved: i64,
    /// Gone to customers; less again when an order's pieces come back.
    pub sold: i64,
    /// Everything ever delivered, less what was written off.
    pub added: i64,
}

impl Stock {
    /// Delivered pieces are free; written-off ones were.
    pub fn changed(self, change: i64) -> Self {
        Self { on_hand: self.on_hand + change, added: self.added + change, ..self }
    }

    /// Moves pieces between the places.
    pub fn moved(self, movement: Movement, quantity: u32) -> Self {
        let pieces = i64::from(quantity);
        let Self { on_hand, reserved, sold, added } = self;
        match movement {
            Movement::Reserve => Self { on_hand: on_hand - pieces, reserved: reserved + pieces, sold, added },
            Movement::Release => Self { on_hand: on_hand + pieces, reserved: reserved - pieces, sold, added },
            Movement::Commit => Self { on_hand, reserved: reserved - pieces, sold: sold + pieces, added },
            Movement::Restock => Self { on_hand: on_hand + pieces, reserved, sold: sold - pieces, added },
        }
    }
}

/// From where to where an order's pieces go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Movement {
    /// Free to held.
    Reserve,
    /// Held to free.
    Release,
    /// Held to sold.
    Commit,
    /// Sold to free.
    Restock,
}

/// What an event of a reservation moves, line by line; a reply given again moves nothing.
pub fn movements(event: &Event) -> impl Iterator<Item = (Movement, &StockLine)> {
    movement(event).into_iter().flat_map(|(to, lines)| lines.iter().map(move |line| (to, line)))
}

fn movement(event: &Event) -> Option<(Movement, &[StockLine])> {
    let (to, lines) = match event {
        Event::StockReserved(reserved) if !reserved.repeated.0 => (Movement::Reserve, reserved.lines.as_slice()),
        Event::StockReleased(released) if !released.repeated.0 => {
            (if released.restocked { Movement::Restock } else { Movement::Release }, released.lines.as_slice())
        }
        Event::StockCommitted(committed) if !committed.repeated.0 => (Movement::Commit, committed.lines.as_slice()),
        Event::StockReserved(_) | Event::StockReleased(_) | Event::StockCommitted(_) | Event::StockRefused(_) => return None,
        Event::ProductAdded(_) | Event::ProductChanged(_) | Event::ProductRemoved(_) | Event::StockChanged(_) => return None,
    };
    Some((to, lines))
}
