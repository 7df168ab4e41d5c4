//! Dead letters as an operator works on them: listed, handled again, or put down for good.
//!
//! A redrive is local: the dead letter is taken by compare-and-set and handled in one transaction, like the message it once was. It
//! never goes through a topic again, where it would come behind everything that came since.

use contract::{Cause, DeadLetter, Encoded, Meta, Timestamp, record};

use crate::{
    Conn, Database, Error, Handled, Handler, Job, Log, Poison, Unit, append::append, db::Owned, observe::Story, on, unit::Row,
};

/// A dead letter in the list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its stream, `dead-letter-<id>`.
    pub stream: String,
    pub kind: String,
    pub letter: DeadLetter,
    pub replays: i64,
    pub since: Timestamp,
    pub is_solved: bool,
}

/// What a redrive came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// Handled; the types of what was appended.
    Handled(Vec<String>),
    /// It still can't be handled.
    Still(Poison),
    /// Somebody else has solved it, or is just redriving it.
    Taken,
    /// It is never handled: no service has written it, or it is not at the place that it claims.
    Never(String),
}

/// What the records of one page may take, but for the last of them.
const LISTED_BYTES: i64 = 8 * 1024 * 1024;

type StoredLetter = (String, String, String, i64, i64, Option<i64>, String, String);

/// The dead letters of a service, oldest first, without those that are solved unless `all`: at most `limit`, and fewer where their
/// records are large; none when there are no more.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Corrupt`].
pub async fn dead_letters(database: &Database, all: bool, after: Option<&str>, limit: i64) -> Result<Vec<Listed>, Error> {
    let mut connection = database.connect().await?;
    let rows: Vec<StoredLetter> = on!(&mut connection.conn(), |c| sqlx::query_as::<DB, StoredLetter>(
        "SELECT stream, kind, message, replays, time_us, solved_us, cause, error FROM dead_letters \
         WHERE stream > $1 AND ($2 = 1 OR solved_us IS NULL) AND stream <= (SELECT MAX(stream) FROM \
         (SELECT stream, SUM(bytes) OVER (ORDER BY stream) - bytes AS before FROM (SELECT stream, octet_length(message) AS bytes \
         FROM dead_letters WHERE stream > $1 AND ($2 = 1 OR solved_us IS NULL) ORDER BY stream LIMIT $3) AS found) AS summed \
         WHERE before < $4) ORDER BY stream"
    )
    .bind(after.unwrap_or_default())
    .bind(i64::from(all))
    .bind(limit)
    .bind(LISTED_BYTES)
    .fetch_all(c)
    .await)?;
    connection.close().await?;
    rows.into_iter().map(listed).collect()
}

/// One of them, solved or not.
///
/// # Errors
/// [`Error::Unavailable`]; [`Error::Corrupt`].
pub async fn dead_letter(database: &Database, stream: &str) -> Result<Option<Listed>, Error> {
    let mut connection = database.connect().await?;
    let row: Option<StoredLetter> = on!(&mut connection.conn(), |c| sqlx::query_as::<DB, StoredLetter>(
        "SELECT stream, kind, message, replays, time_us, solved_us, cause, error FROM dead_letters WHERE stream = $1"
    )
    .bind(stream)
    .fetch_optional(c)
    .await)?;
    connection.close().await?;
    row.map(listed).transpose()
}

/// A message that waits for the one before it.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// `parked-<topic>-<partition>-<source's epoch>-<sequence>`
    pub id: String,
    pub topic: String,
    pub partition: i64,
    pub offset: i64,
    pub source: String,
    pub previous: i64,
    pub since: Timestamp,
}

type StoredWaiting = (String, i64, String, i64, i64, i64, i64);

/// Shown at most; where one waits, all that follow it wait too.
const WAITING_MAX: i64 = 1_000;

/// What waits for a missing message, the first of them.
///
/// # Errors
/// [`Error::Unavailable`].
pub async fn parked(database: &Database) -> Result<Vec<Waiting>, Error> {
    let mut connection = database.connect().await?;
    let rows: Vec<StoredWaiting> = on!(&mut connection.conn(), |c| sqlx::query_as::<DB, StoredWaiting>(
        "SELECT topic, partition, source, sequence, previous, message_offset, time_us FROM parked \
         ORDER BY topic, partition, source, sequence LIMIT $1"
    )
    .bind(WAITING_MAX)
    .fetch_all(c)
    .await)?;
    connection.close().await?;
    Ok(rows.into_iter().map(waiting).collect())
}

fn waiting((topic, partition, source, sequence, previous, offset, time_us): StoredWaiting) -> Waiting {
    let epoch = source.rsplit('/').next().unwrap_or_default();
    let id = format!("parked-{topic}-{partition}-{epoch}-{sequence}");
    Waiting { id, topic, partition, offset, source, previous, since: Timestamp(time_us) }
}

/// Puts a waiting message down for good, such as one that was forged; false when it waits no more.
///
/// # Errors
/// What the database said.
pub async fn discard_parked(log: &Log, id: &str, actor: &str, reason: &str) -> Result<bool, Error> {
    let found = parked(log.database()).await?.into_iter().find(|waiting| waiting.id == id);
    let Some(Waiting { topic, partition, source, offset, .. }) = found else { return Ok(false) };
    let mut connection = begin(log.database()).await?;
    let mut unit = Unit::new(connection.conn(), log.env());
    let record: Option<String> = on!(unit.conn(), |c| sqlx::query_scalar::<DB, String>(
        "DELETE FROM parked WHERE topic = $1 AND partition = $2 AND source = $3 AND message_offset = $4 RETURNING record"
    )
    .bind(topic.as_str())
    .bind(partition)
    .bind(source.as_str())
    .bind(offset)
    .fetch_optional(c)
    .await)?;
    if let Some(record) = &record {
        let row = unit.id();
        append_note(&mut unit, format!("discarded-{row}"), 1, actor, &format!("discarded {id}: {reason}; it was {record}"));
        append(&mut unit).await?;
    }
    connection.end(if record.is_some() { "COMMIT" } else { "ROLLBACK" }).await?;
    Ok(record.is_some())
}

fn listed((stream, kind, message, replays, time_us, solved_us, cause, error): StoredLetter) -> Result<Listed, Error> {
    let mut letter = DeadLetter::decode(&message).map_err(|error| Error::Corrupt(format!("{stream}: {error}")))?;
    // The row says how it stands; the message, how it was when it was written.
    letter.cause = Cause::parse(&cause).unwrap_or(letter.cause);
    letter.error = error;
    Ok(Listed { stream, kind, letter, replays, since: Timestamp(time_us), is_solved: solved_us.is_some() })
}

/// Handles a dead letter as the message it was, never one that is forged; `work` is what the handler makes of it. A dry run changes nothing.
///
/// # Errors
/// What the database said; nothing has changed then, unless it is an unknown outcome, which the list then shows.
pub async fn redrive<H: Handler>(
    log: &Log,
    handler: &H,
    listed: &Listed,
    work: Result<Job<H::Work>, Poison>,
    actor: &str,
    dry_run: bool,
) -> Result<Redriven, Error> {
    if listed.letter.cause == Cause::Forged {
        return Ok(Redriven::Never(format!("{}. Look at it, and put it down: skald dead-letters discard", listed.letter.error)));
    }
    let mut connection = begin(log.database()).await?;
    let mut unit = Unit::new(connection.conn(), log.env());
    let now = unit.now();
    if !take(unit.conn(), listed, now.0).await? {
        connection.end("ROLLBACK").await?;
        return Ok(Redriven::Taken);
    }
    let poison = match &work {
        Ok(job) => {
            handler.handle(&mut unit, &[job]).await?;
            unit.refused.pop().map(|(_, why)| Poison::new(Cause::Refused, why))
        }
        Err(found) => Some(found.clone()),
    };
    let redriven = match poison {
        None => Redriven::Handled(unit.rows.iter().map(|row| row.payload.kind.to_owned()).collect()),
        Some(poison) => {
            // A handler that refuses has appended nothing for this message.
            still(unit.conn(), listed, &poison).await?;
            Redriven::Still(poison)
        }
    };
    let outcome = match &redriven {
        Redriven::Still(poison) => poison.error.as_str(),
        _ => "handled",
    };
    note(&mut unit, listed, actor, outcome);
    let DeadLetter { consumer, topic, partition, offset, record, .. } = &listed.letter;
    let found = record::decode(topic, record).ok().filter(|_| !dry_run);
    let handled = found.iter().zip(&work).map(|((message, link), job)| Handled {
        consumer,
        partition: *partition,
        offset: *offset,
        message,
        is_linked: !link.source.log.is_nil(),
        trace: job.meta.trace.clone(),
        error: if let Redriven::Still(poison) = &redriven { Some(poison.cause.as_str()) } else { None },
    });
    let story = Story::new(now, &unit.rows, handled.collect(), Vec::new(), std::mem::take(&mut unit.spans));
    let rows = append(&mut unit).await?;
    connection.end(if dry_run { "ROLLBACK" } else { "COMMIT" }).await?;
    if !dry_run {
        story.tell(log, &rows);
    }
    Ok(redriven)
}

/// Puts a dead letter down for good, unhandled; false when it is solved already.
///
/// # Errors
/// What the database said.
pub async fn discard(log: &Log, listed: &Listed, actor: &str, reason: &str) -> Result<bool, Error> {
    let mut connection = begin(log.database()).await?;
    let mut unit = Unit::new(connection.conn(), log.env());
    let now_us = unit.now().0;
    let is_taken = take(unit.conn(), listed, now_us).await?;
    if is_taken {
        note(&mut unit, listed, actor, &format!("discarded: {reason}"));
        append(&mut unit).await?;
    }
    connection.end(if is_taken { "COMMIT" } else { "ROLLBACK" }).await?;
    Ok(is_taken)
}

async fn begin(database: &Database) -> Result<Owned, Error> {
    let mut connection = database.connect_to_write().await?;
    connection.begin().await?;
    Ok(connection)
}

/// Solves it, if it stands as it was listed.
async fn take(conn: &mut Conn<'_>, listed: &Listed, now_us: i64) -> Result<bool, Error> {
    let taken = on!(conn, |c| {
        sqlx::query::<DB>(
        "UPDATE dead_letters SET solved_us = $1, replays = replays + 1 WHERE stream = $2 AND replays = $3 AND solved_us IS NULL"
    )
    .bind(now_us)
    .bind(listed.stream.as_str())
    .bind(listed.replays)
    .execute(c)
    .await
    .map(|result| result.rows_affected())
    })?;
    Ok(taken == 1)
}

/// It is open again, with what is wrong with it now.
async fn still(conn: &mut Conn<'_>, listed: &Listed, poison: &Poison) -> Result<(), Error> {
    on!(conn, |c| sqlx::query::<DB>("UPDATE dead_letters SET solved_us = NULL, cause = $1, error = $2 WHERE stream = $3")
        .bind(poison.cause.as_str())
        .bind(poison.error.as_str())
        .bind(listed.stream.as_str())
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// The log says who did what about it, and what came of it: a row `skald.DeadLetterWorkedOn` on the dead letter's stream. It has
/// no topic and stays in this log, where people and the audit read it: nothing decodes it, and the contract does not know it.
fn note(unit: &mut Unit<'_>, listed: &Listed, actor: &str, outcome: &str) {
    append_note(unit, listed.stream.clone(), 2 + listed.replays, actor, outcome);
}

fn append_note(unit: &mut Unit<'_>, stream: String, version: i64, actor: &str, outcome: &str) {
    let id = unit.id().into();
    let data = serde_json::json!({ "outcome": outcome }).to_string();
    let payload = Encoded { kind: "skald.DeadLetterWorkedOn", schema: 1, data };
    let meta = Meta { actor: Some(actor.to_owned()), ..Meta::default() };
    unit.rows.push(Row::new(id, stream, version, None, payload, meta));
}
