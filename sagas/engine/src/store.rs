//! The table of instances: the only SQL of the engine.

use std::{collections::HashMap, sync::Arc};

use contract::{Timestamp, Trace};
use eventlog::{Conn, Due, DueReader, Error, Log, Migration, Unit, for_update, is_set_aside, on, select_in, write_many};
use saga::{Saga, Word};
use uuid::Uuid;

use crate::{Instance, Patience};

/// The table of a service that hosts sagas.
pub const MIGRATION: Migration = Migration {
    version: 50,
    name: "sagas",
    sqlite: include_str!("../migrations/0050_sagas.sqlite.sql"),
    postgres: include_str!("../migrations/0050_sagas.postgres.sql"),
};

type Row =
    (Uuid, i64, String, Option<String>, i64, i64, i64, Option<i64>, i64, Option<i64>, String, Option<String>, Option<String>);

/// The columns of a [`Row`].
macro_rules! columns {
    () => {
        "id, definition, state, reason, attempt, stuck, version, due_us, started_us, ended_us, context, traceparent, tracestate"
    };
}

/// What [`load`] found.
pub struct Loaded<S: Saga> {
    pub instances: HashMap<Uuid, Instance<S>>,
    /// Rows that this build can't read, each with why: a newer one wrote them, or somebody by hand.
    pub unreadable: HashMap<Uuid, String>,
}

/// Loads and locks the instances with these ids, in key order. One that does not exist is not in the answer. One whose row this build
/// can't read stops none of the others; those of them that are due are to be set aside ([`Due::set_aside`]).
///
/// # Errors
/// What the database said.
pub async fn load<S: Saga>(conn: &mut Conn<'_>, ids: &[Uuid]) -> Result<Loaded<S>, Error> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let tail = format!("ORDER BY id{}", for_update(conn));
    let rows = select_in!(conn, Row, concat!("SELECT ", columns!(), " FROM sagas WHERE id"), &ids, &tail)?;
    let mut loaded = Loaded { instances: HashMap::new(), unreadable: HashMap::new() };
    for row in rows {
        let id = row.0;
        match instance(row) {
            Ok(instance) => drop(loaded.instances.insert(id, instance)),
            Err(why) => drop(loaded.unreadable.insert(id, why)),
        }
    }
    Ok(loaded)
}

/// The sagas that wait, as rows that are due. `patience` bounds what they wait for.
pub(crate) fn waiting<S: Saga>(patience: &Patience) -> Arc<Due> {
    let words = S::State::ALL.iter().map(|state| state.as_str()).chain(S::Reason::ALL.iter().map(|reason| reason.as_str()));
    let definition = S::DEFINITION.to_string();
    let reader = DueReader::of(words.chain([definition.as_str()]));
    // With jitter a backoff is up to twice its cap.
    let longest = patience.step_deadline.max(patience.backoff_max) * 2;
    Due::new("sagas", "id", "sagas", longest, patience.step_deadline, reader)
}

fn instance<S: Saga>(row: Row) -> Result<Instance<S>, String> {
    let (id, definition, state, reason, attempt, stuck, version, due, started, ended, context, parent, trace_state) = row;
    let unknown = |what: &str, found: &dyn std::fmt::Display| format!("its {what} is {found}, which this build does not know");
    if definition > i64::from(S::DEFINITION) {
        return Err(unknown("definition", &definition));
    }
    Ok(Instance {
        id,
        definition: u16::try_from(definition).map_err(|_| unknown("definition", &definition))?,
        state: S::State::parse(&state).ok_or_else(|| unknown("state", &state))?,
        reason: reason.map(|reason| S::Reason::parse(&reason).ok_or_else(|| unknown("reason", &reason))).transpose()?,
        attempt: u32::try_from(attempt).map_err(|_| unknown("attempt", &attempt))?,
        stuck: stuck != 0,
        version,
        due: due.map(Timestamp),
        started: Timestamp(started),
        ended: ended.map(Timestamp),
        context: serde_json::from_str(&context).map_err(|error| format!("its context can't be read: {error}"))?,
        trace: Trace { parent, state: trace_state },
    })
}

/// Writes instances back, new ones too.
///
/// # Errors
/// What the database said.
pub async fn save<S: Saga>(unit: &mut Unit<'_>, instances: &[&Instance<S>]) -> Result<(), Error> {
    let rows: Vec<(&Instance<S>, String)> = instances
        .iter()
        .map(|instance| (*instance, serde_json::to_string(&instance.context).expect("a saga's context has string keys only")))
        .collect();
    write_many!(
        unit,
        concat!("INSERT INTO sagas (saga, ", columns!(), ")"),
        &rows,
        |r| [
            S::NAME,
            r.0.id,
            i64::from(r.0.definition),
            r.0.state.as_str(),
            r.0.reason.map(Word::as_str),
            i64::from(r.0.attempt),
            i64::from(r.0.stuck),
            r.0.version,
            r.0.due.map(|due| due.0),
            r.0.started.0,
            r.0.ended.map(|ended| ended.0),
            r.1.as_str(),
            r.0.trace.parent.as_deref(),
            r.0.trace.state.as_deref()
        ],
        "ON CONFLICT (id) DO UPDATE SET definition = excluded.definition, state = excluded.state, reason = excluded.reason, \
         attempt = excluded.attempt, stuck = excluded.stuck, version = excluded.version, due_us = excluded.due_us, ended_us = excluded.ended_us"
    )?;
    Ok(())
}

/// Instances that have not ended: their state, whether they are stuck, how many.
pub type Open = (String, i64, i64);

/// Counts the instances of a saga that have not ended. By the index of deadlines, which each of them has.
///
/// # Errors
/// What the database said.
pub async fn open<S: Saga>(log: &Log) -> Result<Vec<Open>, Error> {
    let mut reader = log.reader().await?;
    let sql = "SELECT state, stuck, COUNT(*) FROM sagas WHERE saga = $1 AND due_us IS NOT NULL GROUP BY state, stuck";
    Ok(on!(&mut reader.conn(), |c| sqlx::query_as::<DB, Open>(sql).bind(S::NAME).fetch_all(c).await)?)
}

/// Which instances to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    All,
    Open,
    Ended,
    Stuck,
}

/// An instance in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    pub id: Uuid,
    pub definition: i64,
    pub state: String,
    pub reason: Option<String>,
    pub attempt: i64,
    pub stuck: bool,
    pub due: Option<Timestamp>,
    /// It waits for a build that can read it.
    pub unreadable: bool,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
}

/// Lists instances, newest first, after the id `after` (exclusive).
///
/// # Errors
/// What the database said.
pub async fn list(conn: &mut Conn<'_>, selection: Selection, after: Option<Uuid>, limit: i64) -> Result<Vec<Listed>, Error> {
    type Row = (Uuid, i64, String, Option<String>, i64, i64, Option<i64>, i64, Option<i64>);
    macro_rules! sql {
        ($condition:literal) => {
            concat!(
                "SELECT id, definition, state, reason, attempt, stuck, due_us, started_us, ended_us FROM sagas WHERE id < $1",
                $condition,
                " ORDER BY id DESC LIMIT $2"
            )
        };
    }
    let sql = match selection {
        Selection::All => sql!(""),
        Selection::Open => sql!(" AND due_us IS NOT NULL"),
        Selection::Ended => sql!(" AND due_us IS NULL"),
        Selection::Stuck => sql!(" AND stuck = 1"),
    };
    let after = after.unwrap_or(Uuid::max());
    let rows: Vec<Row> = on!(conn, |c| sqlx::query_as::<DB, Row>(sql).bind(after).bind(limit).fetch_all(c).await)?;
    Ok(rows
        .into_iter()
        .map(|(id, definition, state, reason, attempt, stuck, due, started, ended)| Listed {
            id,
            definition,
            state,
            reason,
            attempt,
            stuck: stuck != 0,
            due: due.map(Timestamp).filter(|due| !is_set_aside(*due)),
            unreadable: due.map(Timestamp).is_some_and(is_set_aside),
            started: Timestamp(started),
            ended: ended.map(Timestamp),
        })
        .collect())
}
