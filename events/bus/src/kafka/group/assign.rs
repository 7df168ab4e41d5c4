//! Where the partitions of an assignment begin, and begin again.
//!
//! Never here: polling. Where to begin is read from the service's database; Kafka is only asked what it holds.

use std::collections::HashMap;

use contract::topics::{TOPICS, Topic};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::partition::{Buffer, Partition, begin_at},
    ASK, ASK_AGAIN, Assigned, Session, wait_for,
};

/// Where a partition begins.
struct Begun {
    place: (String, i32),
    topic: &'static Topic,
    stored: i64,
    from: i64,
    /// Whether that joins the stored progress.
    joined: bool,
}

impl Session {
    /// Begins where the database says; the group's own offsets are never asked.
    pub(super) fn assign(&self, client: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) -> Result<(), String> {
        let places = partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        let begun = self.begin(client, places)?;
        let to = offsets(begun.iter().map(|begun| (&begun.place, begun.from)))?;
        client.incremental_assign(&to).map_err(|error| format!("can't take an assignment: {error}"))?;
        self.start(begun);
        let partitions = self.state().assigned.len();
        tracing::info!(consumer = self.consumer, partitions, "consuming");
        self.health.tell("topics", None);
        self.health.tell("consumer", None);
        Ok(())
    }

    /// Begins partitions again whose buffer no longer joins their progress. The others go on.
    pub(super) fn begin_again(&self, client: &BaseConsumer<Self>) -> Result<(), String> {
        let is_lost = |(_, assigned): &(&(String, i32), &Assigned)| assigned.lost.is_cancelled();
        let lost: Vec<_> = self.state().assigned.iter().filter(is_lost).map(|(place, _)| place.clone()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let begun = self.begin(client, lost)?;
        let to: Vec<_> = begun.iter().map(|begun| (&begun.place, begun.from)).collect();
        self.go_to(client, &to)?;
        self.start(begun);
        Ok(())
    }

    /// Reads on from these offsets, and nothing of what was fetched before.
    pub(super) fn go_to(&self, client: &BaseConsumer<Self>, to: &[(&(String, i32), i64)]) -> Result<(), String> {
        let failed = |error: KafkaError| format!("can't go to an offset: {error}; joining the group again");
        let to = offsets(to.iter().copied())?;
        client.resume(&to).map_err(failed)?;
        let sought = client.seek_partitions(to.clone(), ASK);
        if sought.is_ok_and(|sought| sought.elements().iter().all(|element| element.error().is_ok())) {
            return Ok(());
        }
        // It has stopped by itself, as it does where it has lost its place: it is given up, and taken anew.
        client.incremental_unassign(&to).and_then(|()| client.incremental_assign(&to)).map_err(failed)
    }

    /// Finds where partitions begin.
    fn begin(&self, client: &BaseConsumer<Self>, places: Vec<(String, i32)>) -> Result<Vec<Begun>, String> {
        let progress = wait_for(&self.runtime, &self.stop, self.log.progress_of(self.consumer))
            .map_err(|error| format!("can't read the progress: {error}"))?;
        let progress: HashMap<_, _> = progress.into_iter().map(|(topic, partition, next)| ((topic, partition), next)).collect();
        wait_for(&self.runtime, &self.stop, self.log.count_parked())
            .map_err(|error| format!("can't read what is parked: {error}"))?;
        let parked = wait_for(&self.runtime, &self.stop, self.log.first_parked(self.consumer))
            .map_err(|error| format!("can't read what is parked: {error}"))?;
        for (topic, partition, first) in parked {
            self.made_anew.look_back(&(topic, partition), first);
        }
        let mut begun = Vec::new();
        for place in places {
            let topic = TOPICS.iter().find(|topic| topic.name == place.0).ok_or_else(|| format!("unknown topic {}", place.0))?;
            let at = (place.0.clone(), i64::from(place.1));
            let stored = progress.get(&at).copied().unwrap_or(0);
            let (low, high) = self
                .watermarks(client, &place)
                .map_err(|error| format!("can't ask for the offsets of {} partition {}: {error}", place.0, place.1))?;
            let again = self.made_anew.from(&at);
            let (from, joined) = begin_at(stored, low, high, again);
            if !joined && stored > 0 && again.is_none() {
                tracing::error!(
                    consumer = self.consumer,
                    topic = place.0,
                    partition = place.1,
                    stored,
                    low,
                    high,
                    "offset out of range: {} partition {} holds {low} to {high}, the next to handle would be {stored}. The topic was made \
                     anew, or has lost or dropped records. Reading it from its beginning, where repeats are skipped; what is missing is \
                     told below",
                    place.0,
                    place.1
                );
            }
            // A progress of 0 is where every topic begins, also one that has dropped its first records.
            begun.push(Begun { place, topic, stored, from, joined: joined || stored == 0 });
        }
        Ok(begun)
    }

    /// Starts a consumer for each.
    fn start(&self, begun: Vec<Begun>) {
        for Begun { place, topic, stored, from, joined } in begun {
            tracing::debug!(consumer = self.consumer, topic = place.0, partition = place.1, stored, "partition assigned");
            let (buffer, lost) = (Buffer::new(stored, &self.room), CancellationToken::new());
            let at = (place.0.clone(), i64::from(place.1));
            let (log, made_anew) = (self.log.clone(), self.made_anew.clone());
            let partition = Partition::new(self.consumer, at, buffer.clone(), log, lost.clone(), made_anew, joined);
            (self.start)(partition.with_keys(self.keys.clone()));
            let assigned = Assigned {
                topic,
                buffer,
                lost,
                is_paused: false,
                received: from - 1,
                received_before: from - 1,
                awaited: from,
                stalled: 0,
                is_asked: false,
                has_more: false,
            };
            self.state().assigned.insert(place, assigned);
        }
    }

    /// The first offset that a partition holds, and the next that it will.
    fn watermarks(&self, client: &BaseConsumer<Self>, (topic, partition): &(String, i32)) -> Result<(i64, i64), KafkaError> {
        let until = self.log.env().now().plus(ASK);
        loop {
            match client.fetch_watermarks(topic, *partition, ASK_AGAIN) {
                Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut))
                    if !self.stop.is_cancelled() && self.log.env().now() < until => {}
                answered => return answered,
            }
        }
    }
}

fn offsets<'p>(to: impl IntoIterator<Item = (&'p (String, i32), i64)>) -> Result<TopicPartitionList, String> {
    let mut list = TopicPartitionList::new();
    for (place, from) in to {
        list.add_partition_offset(&place.0, place.1, Offset::Offset(from))
            .map_err(|error| format!("can't set an offset: {error}"))?;
    }
    Ok(list)
}
