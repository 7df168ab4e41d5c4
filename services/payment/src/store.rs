//! The rows of payments: loading, writing back, and what of them becomes due.
//!
//! Never here: rules. From here the flow goes to `handler.rs`, which decides on what was loaded. The built-in provider's
//! books have their own SQL, in `provider/ledger.rs`.

use std::{collections::BTreeMap, sync::Arc};

use contract::{CustomerId, MessageId, Meta, Money, OrderId, Timestamp, Trace, payment::Operation};
use eventlog::{Conn, Due, DueReader, Error, Log, Unit, for_update, select_in, write_many};
use sqlx::{ColumnIndex, Decode, FromRow, Type};
use uuid::Uuid;

use crate::{
    Config,
    config::LOOKUP_EVERY,
    domain::{Payment, Status},
};

/// One payment with what its stream does not carry.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub payment: Payment,
    /// None where only a tombstone stands.
    pub customer_id: Option<CustomerId>,
    pub token: Option<String>,
    /// Present exactly while `payment.open` is.
    pub open_call: Option<OpenCall>,
    pub changed: bool,
}

/// An intent that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct OpenCall {
    /// When somebody may call again: the end of the claim, or of a pause after an unknown outcome.
    pub due: Timestamp,
    pub opened: Timestamp,
    /// The row of the log that recorded the intent: what the answer is caused by.
    pub intent: MessageId,
    pub trace: Trace,
    /// Calls with an unknown outcome.
    pub tries: i64,
    pub stuck: bool,
}

impl Row {
    pub(crate) fn new(order_id: OrderId) -> Self {
        Self { payment: Payment::new(order_id), customer_id: None, token: None, open_call: None, changed: false }
    }
}

impl OpenCall {
    /// Why the answer to this call is appended.
    pub(crate) fn meta(self, order_id: OrderId) -> Meta {
        Meta { cause: Some(self.intent), correlation: Some(order_id.0), trace: self.trace, actor: None }
    }
}

/// The columns of [`Stored`].
macro_rules! columns {
    () => {
        "order_id, customer_id, status, amount_minor, currency, token, operation, due_us, opened_us, intent_id, traceparent, \
         tracestate, tries, stuck, void_requested, declined_code, refused_code, captured_minor, refunded_minor, version"
    };
}

/// A row as the database has it.
struct Stored {
    order_id: Uuid,
    customer_id: Option<Uuid>,
    status: String,
    amount_minor: Option<i64>,
    currency: Option<String>,
    token: Option<String>,
    operation: Option<String>,
    due_us: Option<i64>,
    opened_us: Option<i64>,
    intent_id: Option<Uuid>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    tries: i64,
    stuck: i64,
    void_requested: i64,
    declined_code: Option<String>,
    refused_code: Option<String>,
    captured_minor: i64,
    refunded_minor: i64,
    version: i64,
}

impl<'r, R: sqlx::Row> FromRow<'r, R> for Stored
where
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Uuid: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            order_id: row.try_get(0)?,
            customer_id: row.try_get(1)?,
            status: row.try_get(2)?,
            amount_minor: row.try_get(3)?,
            currency: row.try_get(4)?,
            token: row.try_get(5)?,
            operation: row.try_get(6)?,
            due_us: row.try_get(7)?,
            opened_us: row.try_get(8)?,
            intent_id: row.try_get(9)?,
            traceparent: row.try_get(10)?,
            tracestate: row.try_get(11)?,
            tries: row.try_get(12)?,
            stuck: row.try_get(13)?,
            void_requested: row.try_get(14)?,
            declined_code: row.try_get(15)?,
            refused_code: row.try_get(16)?,
            captured_minor: row.try_get(17)?,
            refunded_minor: row.try_get(18)?,
            version: row.try_get(19)?,
        })
    }
}

impl TryFrom<Stored> for Row {
    /// What this build does not know of it.
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let order_id = stored.order_id;
        let corrupt = || {
            let words = (&stored.status, &stored.operation, &stored.currency);
            format!("this build does not know its status, operation or currency: {words:?}")
        };
        let amount = match (stored.amount_minor, &stored.currency) {
            (Some(minor), Some(currency)) => Some(Money::new(minor, currency.parse().map_err(|_| corrupt())?)),
            _ => None,
        };
        let open = match &stored.operation {
            Some(operation) => Some(Operation::parse(operation).ok_or_else(corrupt)?),
            None => None,
        };
        let open_call = match (open, stored.due_us, stored.opened_us, stored.intent_id) {
            (None, ..) => None,
            (Some(_), Some(due), Some(opened), Some(intent)) => Some(OpenCall {
                due: Timestamp(due),
                opened: Timestamp(opened),
                intent: intent.into(),
                trace: Trace { parent: stored.traceparent, state: stored.tracestate },
                tries: stored.tries,
                stuck: stored.stuck != 0,
            }),
            _ => return Err(corrupt()),
        };
        let payment = Payment {
            order_id: order_id.into(),
            status: Status::parse(&stored.status).ok_or_else(corrupt)?,
            open,
            void_requested: stored.void_requested != 0,
            amount,
            declined_code: stored.declined_code,
            refused_code: stored.refused_code,
            captured_minor: stored.captured_minor,
            refunded_minor: stored.refunded_minor,
            version: stored.version,
        };
        let customer_id = stored.customer_id.map(Into::into);
        Ok(Self { payment, customer_id, token: stored.token, open_call, changed: false })
    }
}

/// Payments by their orders, and those that this build can't read, with why.
pub(crate) type Loaded = (BTreeMap<OrderId, Row>, BTreeMap<OrderId, String>);

/// Loads and locks the payments of these orders, which are sorted: replicas that lock in one order never deadlock.
pub(crate) async fn load(conn: &mut Conn<'_>, orders: &[Uuid]) -> Result<Loaded, Error> {
    let tail = format!("ORDER BY order_id{}", for_update(conn));
    let mut loaded = Loaded::default();
    for (order, row) in select(conn, orders, &tail).await? {
        match row {
            Ok(row) => drop(loaded.0.insert(order, row)),
            Err(why) => drop(loaded.1.insert(order, why)),
        }
    }
    Ok(loaded)
}

async fn select(conn: &mut Conn<'_>, orders: &[Uuid], tail: &str) -> Result<Vec<(OrderId, Result<Row, String>)>, Error> {
    let rows = select_in!(conn, Stored, concat!("SELECT ", columns!(), " FROM payments WHERE order_id"), orders, tail)?;
    Ok(rows.into_iter().map(|stored| (stored.order_id.into(), stored.try_into())).collect())
}

/// Writes payments back, with one statement a run.
pub(crate) async fn save(unit: &mut Unit<'_>, rows: &[&Row], now_us: i64) -> Result<(), Error> {
    write_many!(
        unit,
        concat!("INSERT INTO payments (", columns!(), ", time_us)"),
        rows,
        |r| [
            r.payment.order_id.0,
            r.customer_id.map(|customer| customer.0),
            r.payment.status.as_str(),
            r.payment.amount.map(|amount| amount.amount_minor),
            r.payment.amount.as_ref().map(|amount| amount.currency.as_str()),
            r.token.as_deref(),
            r.payment.open.map(|operation| operation.as_str()),
            r.open_call.as_ref().map(|call| call.due.0),
            r.open_call.as_ref().map(|call| call.opened.0),
            r.open_call.as_ref().map(|call| call.intent.0),
            r.open_call.as_ref().and_then(|call| call.trace.parent.as_deref()),
            r.open_call.as_ref().and_then(|call| call.trace.state.as_deref()),
            r.open_call.as_ref().map_or(0, |call| call.tries),
            r.open_call.as_ref().map_or(0, |call| i64::from(call.stuck)),
            i64::from(r.payment.void_requested),
            r.payment.declined_code.as_deref(),
            r.payment.refused_code.as_deref(),
            r.payment.captured_minor,
            r.payment.refunded_minor,
            r.payment.version,
            now_us
        ],
        "ON CONFLICT (order_id) DO UPDATE SET customer_id = excluded.customer_id, status = excluded.status, \
         amount_minor = excluded.amount_minor, currency = excluded.currency, token = excluded.token, \
         operation = excluded.operation, due_us = excluded.due_us, opened_us = excluded.opened_us, \
         intent_id = excluded.intent_id, traceparent = excluded.traceparent, tracestate = excluded.tracestate, \
         tries = excluded.tries, stuck = excluded.stuck, void_requested = excluded.void_requested, \
         declined_code = excluded.declined_code, refused_code = excluded.refused_code, \
         captured_minor = excluded.captured_minor, refunded_minor = excluded.refunded_minor, version = excluded.version, \
         time_us = excluded.time_us"
    )?;
    Ok(())
}

/// The open calls, as rows that are due.
pub(crate) fn open_calls(config: &Config) -> Arc<Due> {
    let statuses = Status::ALL.iter().map(|status| status.as_str());
    let operations = Operation::ALL.iter().map(|operation| operation.as_str());
    // With jitter a backoff is up to twice its cap.
    let longest = config.lease().max(config.retry_cap() * 2).max(LOOKUP_EVERY);
    Due::new("payments", "order_id", "payment calls", longest, config.lease(), DueReader::of(statuses.chain(operations)))
}

/// One payment, for reading only.
pub(crate) async fn find(log: &Log, order_id: OrderId) -> Result<Option<Row>, Error> {
    let mut reader = log.reader().await?;
    let found = select(&mut reader.conn(), &[order_id.0], "").await?.pop();
    found.map(|(order_id, row)| row.map_err(|why| Error::Corrupt(format!("payment {order_id}: {why}")))).transpose()
}
