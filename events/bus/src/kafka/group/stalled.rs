//! A partition that has more than comes of it: asked why, told, and led past what no client can read.
//!
//! Never here: a reason to pass over anything but that. What Kafka refuses, or does not answer, waits.

use std::ops::Range;

use contract::Timestamp;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
};

use super::{
    super::unreadable::{Asking, Why, in_place_of},
    ASK, Assigned, Member, OUT_OF_RANGE, STALLED, Session,
};

impl Member {
    /// Finds out why nothing comes of a partition that has more. What no client can read is passed over; anything else is told, or ends
    /// the client.
    pub(super) fn ask_why(&self, client: &BaseConsumer<Session>) -> Result<(), String> {
        let session = client.context();
        let Some((place, offset)) = session.stalled() else { return Ok(()) };
        let (topic, partition) = (&place.0, place.1);
        let asking =
            Asking::begin(&self.kafka, self.log.env()).map_err(|error| format!("can't make a Kafka consumer: {error}"))?;
        let why = match asking.ask(&place, offset) {
            Why::Readable => {
                return Err(format!("nothing is received of {topic} partition {partition}; joining the group again"));
            }
            Why::Unreadable { until, code } => return session.pass_over(client, &place, offset..until, code),
            Why::OutOfRange => return Err(OUT_OF_RANGE.to_owned()),
            Why::Refused(why) => why,
        };
        self.health.tell(STALLED, Some(format!("{topic} partition {partition} can't be read on from offset {offset}: {why}")));
        Ok(())
    }

    /// Kafka's client has met something that it can't read, and does not say where: each partition is asked for the offset that comes
    /// next, those first in which there is more.
    pub(super) fn find_unreadable(
        &self,
        client: &BaseConsumer<Session>,
        asked_in_vain: &mut Option<Timestamp>,
    ) -> Result<(), String> {
        let (session, now) = (client.context(), self.log.env().now());
        if asked_in_vain.is_some_and(|asked| now.since(asked) < ASK) {
            return Ok(());
        }
        let asking =
            Asking::begin(&self.kafka, self.log.env()).map_err(|error| format!("can't make a Kafka consumer: {error}"))?;
        let mut found = false;
        for (place, offset) in session.awaited() {
            if let Why::Unreadable { until, code } = asking.ask(&place, offset) {
                session.pass_over(client, &place, offset..until, code)?;
                found = true;
            }
            if self.stop.is_cancelled() || self.log.env().now().since(now) > ASK {
                break;
            }
        }
        if !found {
            tracing::warn!(
                consumer = self.consumer,
                "something came from Kafka that can't be read, and can be when it is asked for again"
            );
        }
        *asked_in_vain = (!found).then_some(now);
        Ok(())
    }
}

impl Assigned {
    /// Nothing can be made of what lies at these offsets, if anything does.
    fn miss(&self, (topic, partition): &(String, i32), Range { start: first, end: until }: Range<i64>, code: RDKafkaErrorCode) {
        // What was passed over before is read once more with each assignment.
        if first >= until || until <= self.buffer.stored() {
            return;
        }
        tracing::error!(
            topic,
            partition,
            offset = first,
            until,
            "{topic} partition {partition} can't be read from offset {first} up to {until}: {code}. It is passed over, and kept in mind by a \
             dead letter. What was in it is told below as missing, with the command that publishes it again"
        );
        self.buffer.push(in_place_of(first, until, code));
    }
}

impl Session {
    /// Whether something came that can't be read, since that was asked last.
    pub(super) fn has_met_unreadable(&self) -> bool {
        std::mem::take(&mut self.state().has_met_unreadable)
    }

    /// The offset that comes next in each partition.
    fn awaited(&self) -> Vec<((String, i32), i64)> {
        let state = self.state();
        let mut awaited: Vec<_> =
            state.assigned.iter().map(|(place, of)| (!of.has_more, place.clone(), of.awaited.max(of.received + 1))).collect();
        awaited.sort();
        awaited.into_iter().map(|(_, place, offset)| (place, offset)).collect()
    }

    /// A partition that has stalled, and the offset that does not come: once each time that it is to be asked about.
    fn stalled(&self) -> Option<((String, i32), i64)> {
        let mut state = self.state();
        let (place, assigned) = state.assigned.iter_mut().find(|(_, assigned)| assigned.is_asked)?;
        assigned.is_asked = false;
        Some((place.clone(), assigned.awaited))
    }

    /// Goes on behind what can't be read, if nothing of it has come meanwhile.
    fn pass_over(
        &self,
        client: &BaseConsumer<Self>,
        place: &(String, i32),
        offsets: Range<i64>,
        code: RDKafkaErrorCode,
    ) -> Result<(), String> {
        let until = offsets.end;
        {
            let mut state = self.state();
            let Some(assigned) = state.assigned.get_mut(place) else { return Ok(()) };
            if assigned.lost.is_cancelled() || assigned.received >= offsets.start {
                return Ok(());
            }
            assigned.miss(place, offsets, code);
            (assigned.received, assigned.stalled) = (until - 1, 0);
        }
        self.go_to(client, &[(place, until)])
    }
}
