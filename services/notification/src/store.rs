//! The rows of notifications: loading, writing back, what is due, and pages of them.
//!
//! Never here: rules. From here the flow goes to `handler.rs`, which decides on what was loaded, and to `http.rs`.

use std::sync::Arc;

use contract::{CustomerId, MessageId, Meta, OrderId, Timestamp, Trace};
use eventlog::{Conn, Due, DueReader, Error, Log, Unit, for_update, on, select_in, write_many};
use uuid::Uuid;

use crate::{
    Config,
    domain::{Notification, Status},
};

/// One notification with what its stream does not carry.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub notification: Notification,
    pub subject: String,
    pub body: String,
    /// When somebody may try to deliver: the end of a claim or of a pause. None once it has ended.
    pub due: Option<Timestamp>,
    /// The row of the log that queued it: what its end is caused by.
    pub queued: MessageId,
    pub trace: Trace,
    pub created: Timestamp,
    pub changed: bool,
}

impl Row {
    /// Why the end of this notification is appended.
    pub(crate) fn meta(&self) -> Meta {
        let correlation = Some(self.notification.order_id.0);
        Meta { cause: Some(self.queued), correlation, trace: self.trace.clone(), actor: None }
    }
}

/// A row as the database has it.
type Stored = (
    Uuid,
    Uuid,
    Uuid,
    String,
    String,
    String,
    String,
    i64,
    Option<String>,
    Option<i64>,
    Uuid,
    Option<String>,
    Option<String>,
    i64,
    i64,
);

/// The columns of [`Stored`].
macro_rules! columns {
    () => {
        "notification_id, order_id, customer_id, template, subject, body, status, attempts, reason, due_us, queued_id, \
         traceparent, tracestate, version, time_us"
    };
}

fn row(stored: Stored) -> Result<Row, String> {
    let (id, order, customer, template, subject, body, status, attempts, reason, due_us, queued, parent, state, version, time_us) =
        stored;
    let corrupt = || format!("this build does not know its status, or how often it was tried: {status}, {attempts}");
    let notification = Notification {
        status: Status::parse(&status).ok_or_else(corrupt)?,
        attempts: u32::try_from(attempts).map_err(|_| corrupt())?,
        reason,
        version,
        ..Notification::new(id.into(), order.into(), customer.into(), &template)
    };
    let (due, queued, created) = (due_us.map(Timestamp), queued.into(), Timestamp(time_us));
    Ok(Row { notification, subject, body, due, queued, trace: Trace { parent, state }, created, changed: false })
}

/// Loads and locks the notifications of these orders, which are sorted: replicas that lock in one order never deadlock. Each with its
/// order, and why this build can't read it, if so.
pub(crate) async fn load(conn: &mut Conn<'_>, orders: &[Uuid]) -> Result<Vec<(OrderId, Result<Row, String>)>, Error> {
    let tail = format!("ORDER BY order_id, notification_id{}", for_update(conn));
    let rows = select_in!(conn, Stored, concat!("SELECT ", columns!(), " FROM notifications WHERE order_id"), orders, &tail)?;
    Ok(rows.into_iter().map(|stored| (stored.1.into(), row(stored))).collect())
}

/// Writes notifications back, with one statement a run.
pub(crate) async fn save(unit: &mut Unit<'_>, rows: &[&Row]) -> Result<(), Error> {
    write_many!(
        unit,
        concat!("INSERT INTO notifications (", columns!(), ")"),
        rows,
        |r| [
            r.notification.notification_id.0,
            r.notification.order_id.0,
            r.notification.customer_id.0,
            r.notification.template.as_str(),
            r.subject.as_str(),
            r.body.as_str(),
            r.notification.status.as_str(),
            i64::from(r.notification.attempts),
            r.notification.reason.as_deref(),
            r.due.map(|due| due.0),
            r.queued.0,
            r.trace.parent.as_deref(),
            r.trace.state.as_deref(),
            r.notification.version,
            r.created.0
        ],
        "ON CONFLICT (notification_id) DO UPDATE SET status = excluded.status, attempts = excluded.attempts, \
         reason = excluded.reason, due_us = excluded.due_us, version = excluded.version"
    )?;
    Ok(())
}

/// The notifications that are on their way, as rows that are due.
pub(crate) fn on_their_way(config: &Config) -> Arc<Due> {
    // With jitter a backoff is up to twice its cap.
    let longest = config.lease().max(config.retry_cap() * 2);
    let reader = DueReader::of(Status::ALL.iter().map(|status| status.as_str()));
    Due::new("notifications", "order_id", "notifications", longest, config.lease(), reader)
}

/// A page of notifications, newest first: of one customer, or of all. One that this build can't read is there by its id alone.
pub(crate) async fn page(
    log: &Log,
    owner: Option<CustomerId>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Result<Row, Uuid>>, Error> {
    let (mut reader, after) = (log.reader().await?, after.unwrap_or(Uuid::max()));
    let rows: Vec<Stored> = on!(&mut reader.conn(), |c| match owner {
        Some(owner) => {
            sqlx::query_as::<DB, Stored>(concat!(
                "SELECT ",
                columns!(),
                " FROM notifications WHERE customer_id = $1 AND notification_id < $2 ORDER BY notification_id DESC LIMIT $3"
            ))
            .bind(owner.0)
            .bind(after)
            .bind(limit)
            .fetch_all(c)
            .await
        }
        None => {
            sqlx::query_as::<DB, Stored>(concat!(
                "SELECT ",
                columns!(),
                " FROM notifications WHERE notification_id < $1 ORDER BY notification_id DESC LIMIT $2"
            ))
            .bind(after)
            .bind(limit)
            .fetch_all(c)
            .await
        }
    })?;
    Ok(rows.into_iter().map(|stored| (stored.0, stored)).map(|(id, stored)| row(stored).map_err(|_| id)).collect())
}
