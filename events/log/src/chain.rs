//! The chain of what one log publishes to one partition: which message comes next, which one came before, and where one is missing.
//!
//! Every message names the sequence before it. Never here: a broker, or how missing messages are published again. What is found
//! here is kept in `progress` and `parked`, in the transaction that handles the messages.

use std::collections::BTreeMap;

use contract::{
    Fault,
    record::{Link, Record, Source},
};

use crate::{Claim, Conn, Error, Unit, insert_many, on, write_many};

/// Epochs of one log that are kept: a new one comes when a log has lost commits, which is seldom. What comes of an older one can only be
/// a repeat.
const EPOCHS_KEPT: usize = 8;

/// What a message is to a consumer that has seen its source up to some sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one that follows: to be handled.
    Next,
    /// Not newer than what was seen: published again.
    Repeat,
    /// Its predecessor has not come.
    Gap,
    /// What no relay of this log publishes.
    Forged(&'static str),
}

/// What has been seen of each source in one partition.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    sources: Vec<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    source: Source,
    last: i64,
    moved: bool,
}

impl Chain {
    /// The last sequence of a source; 0 before its first.
    pub fn last(&self, source: &Source) -> i64 {
        self.sources.iter().find(|seen| seen.source == *source).map_or(0, |seen| seen.last)
    }

    /// Finds a message's place, and goes on to it if it is the next one.
    pub fn place(&mut self, link: &Link) -> Place {
        let found = self.sources.iter().position(|seen| seen.source == link.source);
        if found.is_none()
            && let Some(place) = self.place_of_a_stranger(link)
        {
            return place;
        }
        let last = found.map_or(0, |index| self.sources[index].last);
        if link.sequence <= last {
            return if Fault::RepeatsAreHandled.is_planted() { Place::Next } else { Place::Repeat };
        }
        if link.previous > last && !Fault::GapsAreSkipped.is_planted() {
            return Place::Gap;
        }
        if link.previous < last {
            return Place::Forged("it names a predecessor that another message has followed already");
        }
        match found {
            Some(index) => {
                let seen = &mut self.sources[index];
                (seen.last, seen.moved) = (link.sequence, true);
            }
            None => self.sources.push(Seen { source: link.source.clone(), last: link.sequence, moved: true }),
        }
        Place::Next
    }

    /// What becomes of a message of a source that was never seen here; nothing is amiss with the first of a topic, nor with a new epoch
    /// that only the log can have begun.
    fn place_of_a_stranger(&self, link: &Link) -> Option<Place> {
        if self.sources.is_empty() {
            return None;
        }
        let epochs = || self.sources.iter().filter(|seen| seen.source.log == link.source.log).map(|seen| seen.source.epoch);
        let Some(oldest) = epochs().min() else {
            return Some(Place::Forged(
                "it comes from another log than the one this topic has carried so far; if that log was made anew, a person says so: \
                 skald log trust",
            ));
        };
        if link.source.epoch < oldest && epochs().count() >= EPOCHS_KEPT {
            return Some(Place::Repeat);
        }
        if link.seal.is_good() || Fault::EpochOfAnybody.is_planted() {
            return None;
        }
        Some(Place::Forged(
            "it is of an epoch of its log that is not known here, and without a message key anybody could have made one up; if the log \
             has begun it, a person says so: skald log trust",
        ))
    }

    /// What `progress` keeps: the last sequence of each source, as JSON; of each log the newest epochs, and what has just moved.
    fn to_json(&self) -> String {
        let is_kept = |seen: &&Seen| {
            let newer = |other: &&Seen| other.source.log == seen.source.log && other.source.epoch > seen.source.epoch;
            seen.moved || self.sources.iter().filter(newer).count() < EPOCHS_KEPT
        };
        let kept = self.sources.iter().filter(is_kept).map(|seen| (seen.source.to_string(), seen.last));
        serde_json::to_string(&kept.collect::<BTreeMap<String, i64>>()).expect("a map of strings")
    }

    pub(crate) fn knows(&self, source: &Source) -> bool {
        self.sources.iter().any(|seen| seen.source == *source)
    }

    /// Takes what is known from elsewhere.
    pub fn know(&mut self, source: Source, last: i64) {
        self.sources.push(Seen { source, last, moved: false });
    }
}

/// The chains of the partitions that a transaction has claimed.
#[derive(Default)]
pub(crate) struct Chains<'c> {
    of: Vec<(&'c Claim, Chain)>,
}

impl<'c> Chains<'c> {
    /// Takes what the claim's row says of a partition; what is known of it already, by a claim before, is newer.
    pub(crate) fn know(&mut self, claim: &'c Claim, seen: &str) -> Result<(), Error> {
        if self.of.iter().any(|(known, _)| known.is_of_row(claim)) {
            return Ok(());
        }
        self.of.push((claim, read(seen)?));
        Ok(())
    }

    /// Takes what is known of the topic's other partitions: a log that one of them carries, in the epochs that it knows, is none that
    /// somebody has made up. Only the very first message of a topic is believed unseen.
    pub(crate) async fn know_the_topic(&mut self, unit: &mut Unit<'_>, claim: &'c Claim) -> Result<(), Error> {
        let others: Vec<String> = on!(unit.conn(), |c| sqlx::query_scalar::<DB, String>(
            "SELECT seen FROM progress WHERE consumer = $1 AND topic = $2 AND seen <> '{}'"
        )
        .bind(claim.consumer.as_str())
        .bind(claim.topic.as_str())
        .fetch_all(c)
        .await)?;
        let chain = self.get(claim);
        for other in others {
            for seen in read(&other)?.sources {
                if !chain.knows(&seen.source) {
                    chain.know(seen.source, 0);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn get(&mut self, claim: &Claim) -> &mut Chain {
        let found = self.of.iter_mut().find(|(known, _)| known.is_of_row(claim));
        &mut found.expect("a delivery has claimed its partition").1
    }

    /// Keeps what has been seen in the rows that the claims have locked.
    pub(crate) async fn save(&self, unit: &mut Unit<'_>) -> Result<(), Error> {
        let moved = self.of.iter().filter(|(_, chain)| chain.sources.iter().any(|seen| seen.moved));
        let moved: Vec<(&Claim, String)> = moved.map(|(claim, chain)| (*claim, chain.to_json())).collect();
        // The rows are there and locked; that nothing but `seen` is written to them is said by the tail.
        write_many!(
            unit,
            "INSERT INTO progress (consumer, topic, partition, next_offset, seen)",
            &moved,
            |r| [r.0.consumer.as_str(), r.0.topic.as_str(), r.0.partition, r.0.next, r.1.as_str()],
            "ON CONFLICT (consumer, topic, partition) DO UPDATE SET seen = excluded.seen"
        )?;
        Ok(())
    }
}

/// Reads what `progress` keeps.
fn read(seen: &str) -> Result<Chain, Error> {
    // Quoted only as far as it can be looked at.
    let corrupt = || {
        let shown: String = seen.chars().take(200).collect();
        Error::Corrupt(format!("progress: {shown:?} is not what has been seen"))
    };
    let sources: BTreeMap<String, i64> = serde_json::from_str(seen).map_err(|_| corrupt())?;
    let mut chain = Chain::default();
    for (source, last) in sources {
        chain.know(source.parse().map_err(|_| corrupt())?, last);
    }
    Ok(chain)
}

/// What a partition keeps, with one source more; `None` where it is known already.
pub(crate) fn with_source(seen: &str, source: &Source) -> Result<Option<String>, Error> {
    let mut chain = read(seen)?;
    if chain.knows(source) {
        return Ok(None);
    }
    chain.sources.push(Seen { source: source.clone(), last: 0, moved: true });
    Ok(Some(chain.to_json()))
}

/// A message that waits for the one before it.
pub(crate) struct Parked<'m> {
    pub claim: &'m Claim,
    pub offset: i64,
    pub link: &'m Link,
    pub record: Record,
}

/// Keeps messages until the gap before them closes; one that waits already stays as it is.
pub(crate) async fn park(conn: &mut Conn<'_>, parked: &[Parked<'_>], now_us: i64) -> Result<(), Error> {
    insert_many!(
        conn,
        "INSERT INTO parked (consumer, topic, partition, source, sequence, previous, message_offset, record, time_us)",
        parked,
        |r| [
            r.claim.consumer.as_str(),
            r.claim.topic.as_str(),
            r.claim.partition,
            r.link.source.to_string(),
            r.link.sequence,
            r.link.previous,
            r.offset,
            serde_json::to_string(&r.record).expect("a record has string keys only"),
            now_us
        ],
        "ON CONFLICT (consumer, topic, partition, source, sequence) DO NOTHING"
    )?;
    Ok(())
}

/// Forgets a parked message that has found its place; false if somebody else has before.
pub(crate) async fn unpark(conn: &mut Conn<'_>, claim: &Claim, link: &Link) -> Result<bool, Error> {
    let gone = on!(conn, |c| sqlx::query::<DB>(
        "DELETE FROM parked WHERE consumer = $1 AND topic = $2 AND partition = $3 AND source = $4 AND sequence = $5"
    )
    .bind(claim.consumer.as_str())
    .bind(claim.topic.as_str())
    .bind(claim.partition)
    .bind(link.source.to_string())
    .bind(link.sequence)
    .execute(c)
    .await
    .map(|result| result.rows_affected()))?;
    Ok(gone > 0)
}

/// Up to `limit` parked messages of a partition whose gap has closed, in their order: offset and record. No more than `bytes_max` of
/// them, but for the last, which may be larger than that by itself.
pub(crate) async fn released(
    conn: &mut Conn<'_>,
    consumer: &str,
    topic: &str,
    partition: i64,
    limit: i64,
    bytes_max: i64,
) -> Result<Vec<(i64, Record)>, Error> {
    let rows: Vec<(i64, String)> = on!(conn, |c| {
        sqlx::query_as::<DB, (i64, String)>(
        "SELECT message_offset, record FROM (SELECT p.message_offset, p.record, p.sequence, \
         SUM(octet_length(p.record)) OVER (ORDER BY p.sequence, p.source) - octet_length(p.record) AS before FROM parked p JOIN seen s \
         ON s.consumer = p.consumer AND s.topic = p.topic AND s.partition = p.partition AND s.source = p.source \
         WHERE p.consumer = $1 AND p.topic = $2 AND p.partition = $3 AND p.previous <= s.last_sequence) AS found \
         WHERE before < $5 ORDER BY sequence LIMIT $4"
    )
    .bind(consumer)
    .bind(topic)
    .bind(partition)
    .bind(limit)
    .bind(bytes_max)
    .fetch_all(c)
    .await
    })?;
    let record = |text: String| serde_json::from_str(&text).map_err(|error| Error::Corrupt(format!("parked: {error}")));
    rows.into_iter().map(|(offset, text)| Ok((offset, record(text)?))).collect()
}

#[cfg(test)]
mod tests {
    use contract::Seal;

    use super::*;

    fn source(log: u128, epoch: i64) -> Source {
        Source { service: "order".into(), log: uuid::Uuid::from_u128(log), epoch }
    }

    fn link(epoch: i64, previous: i64, sequence: i64) -> Link {
        Link { source: source(1, epoch), sequence, previous, seal: Seal::None }
    }

    fn signed(epoch: i64, previous: i64, sequence: i64) -> Link {
        Link { seal: Seal::Good("key:signature".into()), ..link(epoch, previous, sequence) }
    }

    #[test]
    fn tells_the_next_from_a_repeat_a_gap_and_a_forgery() {
        let mut chain = Chain::default();
        assert_eq!(chain.place(&link(1, 3, 5)), Place::Gap, "the first of a source has no predecessor");
        assert_eq!(chain.place(&link(1, 0, 3)), Place::Next);
        assert_eq!(chain.place(&link(1, 3, 5)), Place::Next);
        assert_eq!(chain.place(&link(1, 3, 5)), Place::Repeat);
        assert_eq!(chain.place(&link(1, 0, 3)), Place::Repeat);
        assert_eq!(chain.place(&link(1, 7, 9)), Place::Gap);
        assert!(matches!(chain.place(&link(1, 3, 9)), Place::Forged(_)), "3 was followed by 5");
        assert_eq!(chain.last(&source(1, 1)), 5, "only what is next moves it");
    }

    #[test]
    fn each_epoch_of_a_log_has_a_chain_of_its_own_and_other_logs_are_strangers() {
        let mut chain = Chain::default();
        chain.know(source(1, 1), 150);
        assert_eq!(chain.place(&signed(2, 0, 101)), Place::Next);
        assert_eq!(chain.place(&signed(2, 150, 160)), Place::Gap);
        assert_eq!(chain.place(&signed(1, 140, 150)), Place::Repeat, "a late repeat of the old epoch");
        for seal in [Seal::None, Seal::Good("key:signature".into())] {
            let stranger = Link { source: source(2, 1), sequence: 1, previous: 0, seal };
            assert!(matches!(chain.place(&stranger), Place::Forged(_)));
        }
    }

    #[test]
    fn an_epoch_that_only_a_header_tells_of_moves_nothing_until_a_person_vouches_for_it() {
        let mut chain = Chain::default();
        assert_eq!(chain.place(&link(1, 0, 3)), Place::Next, "the very first is believed");
        for made_up in 2..20_000 {
            assert!(matches!(chain.place(&link(made_up, 0, 3)), Place::Forged(_)));
        }
        let checked_by_nobody = Link { seal: Seal::Unchecked("key:signature".into()), ..link(7, 0, 3) };
        assert!(matches!(chain.place(&checked_by_nobody), Place::Forged(_)));
        assert_eq!(chain.place(&link(1, 3, 5)), Place::Next);
        let trusted = with_source(&chain.to_json(), &source(1, 7)).unwrap().unwrap();
        assert_eq!(with_source(&trusted, &source(1, 7)).unwrap(), None, "twice is once");
        let mut chain = read(&trusted).unwrap();
        assert_eq!(chain.place(&link(7, 4, 6)), Place::Gap);
        assert_eq!(chain.place(&link(7, 0, 4)), Place::Next);
        assert_eq!((chain.last(&source(1, 1)), chain.last(&source(1, 7))), (5, 4));
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_comes_of_a_forgotten_epoch_is_a_repeat() {
        let mut chain = Chain::default();
        for epoch in 1..=300 {
            assert_eq!(chain.place(&signed(epoch, 0, 10 * epoch)), Place::Next);
            chain = read(&chain.to_json()).unwrap();
        }
        assert_eq!(chain.sources.len(), EPOCHS_KEPT);
        assert!(chain.to_json().len() < 1_000);
        assert_eq!(chain.place(&signed(292, 2_920, 2_921)), Place::Repeat);
        assert_eq!(chain.place(&signed(293, 2_930, 2_931)), Place::Next);
        // A row that was flooded before there was a bound: what goes on is kept, however old its epoch is.
        for epoch in 1_000..3_000 {
            chain.know(source(1, epoch), 1);
        }
        assert_eq!(chain.place(&link(293, 2_931, 2_940)), Place::Next);
        assert_eq!(read(&chain.to_json()).unwrap().last(&source(1, 293)), 2_940);
        assert!(chain.to_json().len() < 1_000);
    }
}
