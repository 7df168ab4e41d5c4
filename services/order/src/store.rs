//! The orders as they were placed, and how they stand: the only SQL of the service.
//!
//! Never here: rules. The saga's own row is the engine's; it is joined here to tell an order's status.

use contract::{CustomerId, Money, OrderId, Timestamp, order::Line};
use eventlog::{Conn, Error, Migration, Unit, on, write_many};
use saga::{
    Saga, Word,
    order::{OrderSaga, State},
};
use uuid::Uuid;

pub(crate) const MIGRATIONS: [Migration; 2] = [
    engine::MIGRATION,
    Migration {
        version: 100,
        name: "order",
        sqlite: include_str!("../migrations/0100_order.sqlite.sql"),
        postgres: include_str!("../migrations/0100_order.postgres.sql"),
    },
];

/// An order as it was placed.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub lines: Vec<Line>,
    pub total: Money,
}

/// Where an order stands for its customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Confirmed,
    Cancelled,
    /// It has ended in a way that this build does not know.
    Unknown,
}

impl Status {
    pub(crate) fn of(state: State) -> Self {
        match state {
            State::Confirmed => Self::Confirmed,
            State::Cancelled => Self::Cancelled,
            State::ReservingStock
            | State::AuthorizingPayment
            | State::CapturingPayment
            | State::CommittingStock
            | State::VoidingPayment
            | State::ReleasingStock => Self::Pending,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// An order with how its saga stands.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub order_id: OrderId,
    pub customer_id: CustomerId,
    pub lines: Vec<Line>,
    pub total: Money,
    pub placed: Timestamp,
    /// Or the word of a newer build, which is no reason not to show the order.
    pub state: Result<State, String>,
    pub reason: Option<String>,
    pub stuck: bool,
    pub ended: Option<Timestamp>,
}

impl Order {
    pub(crate) fn status(&self) -> Status {
        match (&self.state, self.ended) {
            (Ok(state), _) => Status::of(*state),
            (Err(_), None) => Status::Pending,
            (Err(_), Some(_)) => Status::Unknown,
        }
    }

    pub(crate) fn state(&self) -> &str {
        self.state.as_ref().map_or_else(|word| word.as_str(), |state| state.as_str())
    }

    pub(crate) fn step(&self) -> Option<&'static str> {
        OrderSaga::step(*self.state.as_ref().ok()?).map(|step| step.name)
    }
}

pub(crate) async fn insert(unit: &mut Unit<'_>, placed: &[Placed], now: Timestamp) -> Result<(), Error> {
    let rows: Vec<(&Placed, String)> =
        placed.iter().map(|order| (order, serde_json::to_string(&order.lines).expect("lines have string keys only"))).collect();
    write_many!(
        unit,
        "INSERT INTO orders (order_id, customer_id, lines, total_minor, currency, placed_us)",
        &rows,
        |r| [r.0.order_id.0, r.0.customer_id.0, r.1.as_str(), r.0.total.amount_minor, r.0.total.currency.as_str(), now.0],
        ""
    )?;
    Ok(())
}

type Row = (Uuid, Uuid, String, i64, String, i64, String, Option<String>, i64, Option<i64>);

/// The columns of a [`Row`], with the rest of the statement.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT o.order_id, o.customer_id, o.lines, o.total_minor, o.currency, o.placed_us, s.state, s.reason, s.stuck, s.ended_us \
             FROM orders o JOIN sagas s ON s.id = o.order_id ",
            $rest
        )
    };
}

pub(crate) async fn find(conn: &mut Conn<'_>, id: OrderId) -> Result<Option<Order>, Error> {
    let row: Option<Row> =
        on!(conn, |c| sqlx::query_as::<DB, Row>(select!("WHERE o.order_id = $1")).bind(id.0).fetch_optional(c).await)?;
    row.map(order).transpose()
}

/// Orders, newest first, below the id `after`; of one customer, or of all. One that this build can't read is there by its id alone, so
/// that it keeps nobody from the others.
pub(crate) async fn list(
    conn: &mut Conn<'_>,
    customer: Option<CustomerId>,
    status: Option<Status>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Result<Order, Uuid>>, Error> {
    // A status is a set of saga states: pending is whatever has not ended.
    let (ended, state) = match status {
        None => (None, None),
        // Nobody asks for what they don't know.
        Some(Status::Pending | Status::Unknown) => (Some(0_i64), None),
        Some(Status::Confirmed) => (Some(1), Some(State::Confirmed.as_str())),
        Some(Status::Cancelled) => (Some(1), Some(State::Cancelled.as_str())),
    };
    let after = after.unwrap_or(Uuid::max());
    let rows: Vec<Row> = match customer {
        Some(customer) => on!(conn, |c| {
            sqlx::query_as::<DB, Row>(select!(
            "WHERE o.customer_id = $5 AND o.order_id < $1 AND ($3 IS NULL OR $3 = CASE WHEN s.ended_us IS NULL THEN 0 ELSE 1 END) \
             AND ($4 IS NULL OR s.state = $4) ORDER BY o.order_id DESC LIMIT $2"
        ))
        .bind(after)
        .bind(limit)
        .bind(ended)
        .bind(state)
        .bind(customer.0)
        .fetch_all(c)
        .await
        })?,
        None => on!(conn, |c| sqlx::query_as::<DB, Row>(select!(
            "WHERE o.order_id < $1 AND ($3 IS NULL OR $3 = CASE WHEN s.ended_us IS NULL THEN 0 ELSE 1 END) \
             AND ($4 IS NULL OR s.state = $4) ORDER BY o.order_id DESC LIMIT $2"
        ))
        .bind(after)
        .bind(limit)
        .bind(ended)
        .bind(state)
        .fetch_all(c)
        .await)?,
    };
    Ok(rows.into_iter().map(|row| (row.0, row)).map(|(id, row)| order(row).map_err(|_| id)).collect())
}

fn order(row: Row) -> Result<Order, Error> {
    let (id, customer, lines, total_minor, currency, placed, state, reason, stuck, ended) = row;
    let corrupt = |what: &str| Error::Corrupt(format!("order {id}: {what}"));
    Ok(Order {
        order_id: id.into(),
        customer_id: customer.into(),
        lines: serde_json::from_str(&lines).map_err(|_| corrupt("lines"))?,
        total: Money::new(total_minor, currency.parse().map_err(|_| corrupt("currency"))?),
        placed: Timestamp(placed),
        state: State::parse(&state).ok_or(state),
        reason,
        stuck: stuck != 0,
        ended: ended.map(Timestamp),
    })
}
