//! Dead letters: messages a consumer could not decode or refused for good, kept whole in the consumer's own log.
//!
//! A row of the log says so for good; the table `dead_letters` is its fold, for operators. Never here: why a message is poison.

use contract::{
    Cause, DeadLetter, Meta, Timestamp,
    record::{self, Record, Source},
    topics,
};
use uuid::Uuid;

use crate::{Arrived, Claim, Conn, Error, Poison, Unit, insert_many, unit::Row};

/// A message to set aside.
pub(crate) struct Letter<'m> {
    pub claim: &'m Claim,
    pub offset: i64,
    pub message: &'m Arrived,
    pub poison: Poison,
}

/// The message as it stands, or would stand, on its topic.
pub(crate) fn record(claim: &Claim, message: &Arrived) -> Record {
    match message {
        Arrived::Raw(record) => Record::clone(record),
        Arrived::Linked(message, link) => record::encode_again(message, link),
        Arrived::Row(message) => {
            // Read out of a log directly: it never had a place among what is published.
            let service = claim.topic.rsplit(':').next().unwrap_or_default().to_owned();
            record::encode(message, &Source { service, log: Uuid::nil(), epoch: 1 }, 0)
        }
    }
}

impl Letter<'_> {
    /// The row, and what lists it: stream, dead letter and the message's type.
    fn write(self, id: Uuid, row_id: Uuid, now: Timestamp) -> (Row, (String, DeadLetter, String)) {
        let Self { claim, offset, message, poison } = self;
        let record = record(claim, message);
        let (topic, key, meta, kind) = match message {
            // The message's own topic: what the operator knows. The claim's may be a whole log.
            Arrived::Row(message) | Arrived::Linked(message, _) => {
                let topic = message.topic.clone().unwrap_or_else(|| claim.topic.clone());
                // Whoever forges a message may have given it the id of a real one.
                let meta = if poison.cause == Cause::Forged { Meta::default() } else { message.effect(&claim.consumer, now) };
                (topic, message.key.clone(), meta, message.kind.clone())
            }
            Arrived::Raw(record) => {
                let kind = record.header("ce_type").unwrap_or("unknown").chars().filter(|c| !c.is_control()).take(200).collect();
                (claim.topic.clone(), None, Meta::default(), kind)
            }
        };
        // PostgreSQL takes no NUL in a text.
        let error = poison.error.replace('\0', "\u{fffd}");
        let (consumer, partition, cause) = (claim.consumer.clone(), claim.partition, poison.cause);
        let mut letter = DeadLetter { consumer, topic, partition, offset, cause, error, attempts: 1, replays: 0, record };
        let stream = format!("dead-letter-{id}");
        let key = key.unwrap_or_else(|| format!("{}-{partition}-{offset}", letter.topic));
        let to = Some((topics::dead_letters(&letter.topic), key));
        let row = Row::new(row_id.into(), stream.clone(), 1, to, letter.encode(), meta);
        // The row has it; of what may be large no more copies are kept than are written.
        letter.record = Record::default();
        (row, (stream, letter, kind))
    }
}

/// Appends the dead letters to the unit and lists them for operators.
pub(crate) async fn keep(unit: &mut Unit<'_>, letters: Vec<Letter<'_>>) -> Result<(), Error> {
    let now = unit.now();
    let (mut rows, mut listed) = (Vec::with_capacity(letters.len()), Vec::with_capacity(letters.len()));
    for letter in letters {
        let (row, of_it) = letter.write(unit.id(), unit.id(), now);
        rows.push(row);
        listed.push(of_it);
    }
    let listed: Vec<_> = listed.into_iter().zip(&rows).map(|(of_it, row)| (of_it, row.payload.data.as_str())).collect();
    insert(unit.conn(), &listed, now.0).await?;
    unit.rows.extend(rows);
    Ok(())
}

/// What lists a dead letter, and its row's data.
type Listed<'r> = ((String, DeadLetter, String), &'r str);

async fn insert(conn: &mut Conn<'_>, letters: &[Listed<'_>], now_us: i64) -> Result<(), sqlx::Error> {
    insert_many!(
        conn,
        "INSERT INTO dead_letters (stream, consumer, topic, partition, message_offset, kind, cause, error, message, replays, time_us)",
        letters,
        |r| [
            r.0.0.as_str(),
            r.0.1.consumer.as_str(),
            r.0.1.topic.as_str(),
            r.0.1.partition,
            r.0.1.offset,
            r.0.2.as_str(),
            r.0.1.cause.as_str(),
            r.0.1.error.as_str(),
            r.1,
            i64::from(r.0.1.replays),
            now_us
        ],
        ""
    )
}
