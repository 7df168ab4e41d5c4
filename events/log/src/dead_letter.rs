//! Dead letters: messages a consumer could not decode or refused for good, kept whole in the consumer's own log.

use contract::{Encoded, Message, MessageId, Meta, topics};
use serde::{Deserialize, Serialize};

use crate::{Conn, Error, Unit, insert_many, unit::Row};

/// A message that could not be handled, with where it was found and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub consumer: String,
    pub topic: String,
    pub partition: i64,
    pub offset: i64,
    pub message_id: MessageId,
    pub kind: String,
    pub schema: i64,
    pub data: String,
    pub error: String,
    /// How often it was redriven.
    pub replays: u32,
}

impl DeadLetter {
    /// The type of its row.
    pub const KIND: &'static str = "skald.DeadLetter";

    pub(crate) fn new(claim: &crate::Claim, offset: i64, message: &Message, error: &str) -> (Self, Meta) {
        let letter = Self {
            consumer: claim.consumer.clone(),
            // The message's own topic: what the operator knows. The claim's may be a whole log.
            topic: message.topic.clone().unwrap_or_else(|| claim.topic.clone()),
            partition: claim.partition,
            offset,
            message_id: message.id,
            kind: message.kind.clone(),
            schema: message.schema,
            data: message.data.clone(),
            error: error.to_owned(),
            replays: 0,
        };
        (letter, message.effect())
    }

    /// One stream a coordinate: the same message can't become two dead letters of one consumer.
    pub(crate) fn stream(&self) -> String {
        format!("dead-letter-{}-{}-{}-{}", self.consumer, self.topic, self.partition, self.offset)
    }

    pub(crate) fn row(&self, id: MessageId, key: Option<String>, meta: Meta) -> Row {
        let data = serde_json::to_string(self).expect("a dead letter has string keys only");
        Row {
            id,
            stream: self.stream(),
            version: 1,
            topic: Some(topics::dead_letters(&self.topic)),
            key,
            payload: Encoded { kind: Self::KIND, schema: 1, data },
            meta,
        }
    }
}

/// Appends the dead letters to the unit and lists them for operators.
pub(crate) async fn keep(unit: &mut Unit<'_>, letters: Vec<(DeadLetter, Option<String>, Meta)>) -> Result<(), Error> {
    let now = unit.now();
    let mut listed = Vec::with_capacity(letters.len());
    for (letter, key, meta) in letters {
        let row = letter.row(unit.id().into(), key, meta);
        listed.push((letter, row.payload.data.clone()));
        unit.rows.push(row);
    }
    insert(unit.conn(), &listed, now.0).await?;
    Ok(())
}

async fn insert(conn: &mut Conn<'_>, letters: &[(DeadLetter, String)], now_us: i64) -> Result<(), sqlx::Error> {
    insert_many!(
        conn,
        "INSERT INTO dead_letters (stream, consumer, topic, partition, message_offset, kind, error, message, replays, time_us)",
        letters,
        |r| [
            r.0.stream(),
            r.0.consumer.as_str(),
            r.0.topic.as_str(),
            r.0.partition,
            r.0.offset,
            r.0.kind.as_str(),
            r.0.error.as_str(),
            r.1.as_str(),
            i64::from(r.0.replays),
            now_us
        ],
        ""
    )
}
