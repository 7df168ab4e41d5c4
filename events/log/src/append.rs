//! The last thing a transaction does: takes the head's lock, gives the rows their positions and writes them.
//!
//! PostgreSQL does it in one statement, together with everything that `write_many!` has left for it: a message alone waits for one answer,
//! and the head is locked for less long. Never here: what is appended.

use std::sync::Arc;

use contract::{Message, topics};
use sqlx::{Postgres, QueryBuilder};

use crate::{Conn, Error, Unit, insert_many, unit::one_more, unnest};

/// The columns of the log, and a row's values in their order for `insert_many!` and `unnest!`.
macro_rules! log {
    () => {
        concat!("position, ", $crate::append::log!(AFTER POSITION))
    };
    (AFTER POSITION) => {
        "id, stream, version, topic, key, kind, schema, data, cause, correlation, traceparent, tracestate, time_us, actor"
    };
    ($into:ident, $($before:expr),+ $(; $after:expr)?) => {
        $into!(
            $($before),+,
            |r| [
                r.position,
                r.id.0,
                r.stream.as_str(),
                r.version,
                r.topic.as_deref(),
                r.key.as_deref(),
                r.kind.as_str(),
                r.schema,
                r.data.as_str(),
                r.meta.cause.map(|cause| cause.0),
                r.meta.correlation,
                r.meta.trace.parent.as_deref(),
                r.meta.trace.state.as_deref(),
                r.time.0,
                r.meta.actor.as_deref()
            ]
            $(, $after)?
        )
    };
}
pub(crate) use log;

/// Takes the head's lock, gives the rows their positions and writes them, with whatever else is left to write.
pub(crate) async fn append(unit: &mut Unit<'_>) -> Result<Vec<Arc<Message>>, Error> {
    let rows = std::mem::take(&mut unit.rows);
    for row in &rows {
        let Some((topic, bytes_max)) = row.topic.as_ref().and_then(|topic| Some((topic, topics::value_bytes_max(topic)?))) else {
            continue;
        };
        let (kind, bytes) = (row.payload.kind, row.payload.data.len());
        if bytes > bytes_max {
            return Err(Error::TooLarge { kind, topic: topic.clone(), bytes, bytes_max });
        }
    }
    let (now, writes) = (unit.now(), unit.writes.take());
    // Positions after the head, which is known only with its lock.
    let mut messages: Vec<Message> = rows.into_iter().zip(1..).map(|(row, place)| row.at(place, now)).collect();
    let count = i64::try_from(messages.len()).expect("a batch is far smaller than 2^63");
    let head = match unit.conn() {
        Conn::Postgres(connection) => {
            let Some(mut query) = together(writes, &messages, count) else { return Ok(Vec::new()) };
            query.build_query_scalar::<i64>().fetch_one(&mut **connection).await?
        }
        Conn::Sqlite(_) if count == 0 => return Ok(Vec::new()),
        Conn::Sqlite(connection) => {
            let lock = sqlx::query_scalar("UPDATE head SET position = position + $1 RETURNING position").bind(count);
            lock.fetch_one(&mut **connection).await?
        }
    };
    messages.iter_mut().for_each(|message| message.position += head - count);
    if let Conn::Sqlite(_) = unit.conn() {
        log!(insert_many, unit.conn(), concat!("INSERT INTO log (", log!(), ")"), &messages; "")?;
    }
    Ok(messages.into_iter().map(Arc::new).collect())
}

/// Everything that is left to write, as one statement that tells the head; `None` where nothing is.
fn together(writes: Option<QueryBuilder<Postgres>>, messages: &[Message], count: i64) -> Option<QueryBuilder<Postgres>> {
    if messages.is_empty() {
        let mut query = writes?;
        query.push(" SELECT position FROM head");
        return Some(query);
    }
    let mut query = one_more(writes);
    query.push("h AS (UPDATE head SET position = position + ").push_bind(count).push(" RETURNING position), ");
    query.push(concat!("l AS (INSERT INTO log (", log!(), ") SELECT h.position - ")).push_bind(count);
    query.push(concat!(" + v.position, ", log!(AFTER POSITION), " FROM h, "));
    log!(unnest, query, messages);
    query.push(concat!(" AS v (", log!(), ")) SELECT position FROM h"));
    Some(query)
}
