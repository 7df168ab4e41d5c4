//! Messages that arrive: whose progress moves, and which of them are next, came before, wait for another or are forged.
//!
//! Part of the writer's transaction, before anything is handled. Never here: what a message means; `group.rs` hands on what is left.

use std::sync::atomic::Ordering;

use contract::{Cause, record::Link};

use crate::{
    Arrived, Claim, Error, Handler, Item, Log, Place, Poison, Todo, Unit,
    chain::{self, Chains, Parked},
    dead_letter, on,
    writer::Entry,
};

/// Claims moved by one statement.
const CLAIMS_MAX: usize = 64;

/// What came of the places of messages in their chains.
#[derive(Default)]
pub(crate) struct Arrivals {
    /// By their causes, in the order of [`Cause::ALL`].
    dead_letters: [u64; Cause::ALL.len()],
    repeats: u64,
    parked: i64,
    /// The first message behind each gap, what was seen before it, and the newest one that waits behind it.
    gaps: Vec<(Claim, Link, i64, i64)>,
}

impl Arrivals {
    /// Finds the place of every message, keeps what has been seen and what must wait, and leaves for each delivery what is to be
    /// handled, or set aside for being forged. A gap that nobody has asked about a second time is none yet: [`Error::Missing`].
    pub(crate) async fn place<'b, W>(
        &mut self,
        unit: &mut Unit<'_>,
        log: &Log,
        mut chains: Chains<'b>,
        deliveries: &[(&'b Claim, &'b [Item<W>])],
    ) -> Result<Vec<Vec<(&'b Item<W>, Option<&'static str>)>>, Error> {
        let mut parked: Vec<Parked<'_>> = Vec::new();
        let mut released = Vec::new();
        let placed = deliveries.iter().map(|(claim, items)| {
            let mut left = Vec::with_capacity(items.len());
            for item in *items {
                let Arrived::Linked(_, link) = &item.message else {
                    left.push((item, None));
                    continue;
                };
                // It was forged before it came here: whatever place it claims, it has none.
                if let Todo::SetAside(Poison { cause: Cause::Forged, .. }) = &item.todo {
                    left.push((item, None));
                    if claim.is_drain() {
                        released.push((*claim, link));
                    }
                    continue;
                }
                let chain = chains.get(claim);
                let place = chain.place(link);
                match place {
                    Place::Next => left.push((item, None)),
                    Place::Repeat => self.repeats += 1,
                    Place::Forged(why) => left.push((item, Some(why))),
                    Place::Gap => {
                        if claim.is_drain() {
                            continue;
                        }
                        match self.gaps.iter_mut().find(|(other, first, ..)| other == *claim && first.source == link.source) {
                            Some((.., newest)) => *newest = link.sequence,
                            None => self.gaps.push(((*claim).clone(), link.clone(), chain.last(&link.source), link.sequence)),
                        }
                        parked.push(Parked {
                            claim,
                            offset: item.offset,
                            link,
                            record: dead_letter::record(claim, &item.message),
                        });
                    }
                }
                if claim.is_drain() && place != Place::Gap {
                    released.push((*claim, link));
                }
            }
            left
        });
        let placed = placed.collect();
        if let Some((_, link, last, _)) = self.gaps.iter().find(|(claim, link, ..)| !log.believes(claim, link)) {
            return Err(Error::Missing { previous: link.previous, last: *last });
        }
        chains.save(unit).await?;
        if !parked.is_empty() {
            let now_us = unit.now().0;
            chain::park(unit.conn(), &parked, now_us).await?;
        }
        self.parked = parked.len() as i64;
        for (claim, link) in &released {
            // Two readers of one partition may drain the same message: counted twice, another one that waits would be forgotten.
            self.parked -= i64::from(chain::unpark(unit.conn(), claim, link).await?);
        }
        Ok(placed)
    }

    /// Takes note of a message that is set aside.
    pub(crate) fn set_aside(&mut self, cause: Cause) {
        let place = Cause::ALL.iter().position(|known| *known == cause).expect("all of them");
        self.dead_letters[place] += 1;
    }

    /// Counts and tells, once the transaction has committed.
    pub(crate) fn tell(self, log: &Log) {
        let counts = log.counts();
        for (count, made) in counts.dead_letters.iter().zip(self.dead_letters) {
            count.fetch_add(made, Ordering::Relaxed);
        }
        counts.repeats.fetch_add(self.repeats, Ordering::Relaxed);
        counts.parked.fetch_add(self.parked, Ordering::Relaxed);
        for (claim, link, last, newest) in self.gaps {
            let Claim { consumer, topic, partition, .. } = &claim;
            let Link { source, sequence, previous, .. } = &link;
            // What comes behind a gap that has been told of is no other gap.
            if log.tell_gap((topic.clone(), *partition, source.to_string()), newest) == Some(*previous) {
                continue;
            }
            tracing::error!(
                consumer, topic, partition, %source, sequence, previous, last,
                "messages are missing: message {previous} of {topic} partition {partition} never came after {last}. What follows is \
                 kept and waits. To publish the missing ones again: skald relay rewind --to {last} --database <that of the \
                 {service} service>",
                service = source.service,
            );
        }
    }
}

/// Moves the progress of every delivery, in key order; tells which entries lost, and what has been seen where the others begin.
///
/// That comes out of the very row that is locked: read by a statement of its own beside it, it could be older than the lock.
pub(crate) async fn claim<'b, H: Handler>(unit: &mut Unit<'_>, batch: &'b [Entry<H>]) -> Result<(Vec<bool>, Chains<'b>), Error> {
    let (mut lost, mut chains) = (vec![false; batch.len()], Chains::default());
    let mut claims: Vec<(usize, &Claim)> = batch
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| match entry {
            Entry::Delivery { claim, .. } => Some((index, claim)),
            Entry::Request { .. } | Entry::Forget { .. } => None,
        })
        .collect();
    claims.sort_by_key(|(_, claim)| (&claim.consumer, &claim.topic, claim.partition));
    let (first, later): (Vec<_>, Vec<_>) = claims.into_iter().partition(|(_, claim)| claim.from == 0);
    for (index, claim) in first {
        let seen: Option<String> = on!(unit.conn(), |c| {
            sqlx::query_scalar::<DB, String>(
            "INSERT INTO progress (consumer, topic, partition, next_offset) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (consumer, topic, partition) DO UPDATE SET next_offset = excluded.next_offset WHERE progress.next_offset = 0 \
             RETURNING seen"
        )
        .bind(claim.consumer.as_str())
        .bind(claim.topic.as_str())
        .bind(claim.partition)
        .bind(claim.next)
        .fetch_optional(c)
        .await
        })?;
        match seen {
            Some(seen) => chains.know(claim, &seen)?,
            None => lost[index] = true,
        }
    }
    // One statement moves a row once, so what follows in the same partition takes the next one.
    let mut left = later;
    while !left.is_empty() {
        let mut claims: Vec<(usize, &Claim)> = Vec::new();
        left.retain(|(index, claim)| {
            let is_same = claims.last().is_some_and(|(_, last)| last.is_of_row(claim));
            let is_later = is_same || claims.len() == CLAIMS_MAX;
            if !is_later {
                claims.push((*index, claim));
            }
            is_later
        });
        let moved = on!(unit.conn(), |c| {
            let mut query = sqlx::QueryBuilder::<DB>::new("UPDATE progress SET next_offset = v.column5 FROM (");
            query.push_values(&claims, |mut row, (_, claim)| {
                row.push_bind(claim.consumer.as_str()).push_bind(claim.topic.as_str()).push_bind(claim.partition);
                row.push_bind(claim.from).push_bind(claim.next);
            });
            query.push(
                ") AS v WHERE progress.consumer = v.column1 AND progress.topic = v.column2 AND progress.partition = v.column3 \
                 AND progress.next_offset = v.column4 \
                 RETURNING progress.consumer, progress.topic, progress.partition, progress.seen",
            );
            query.build_query_as::<(String, String, i64, String)>().fetch_all(c).await
        })?;
        for (index, claim) in claims {
            let is_moved = |(consumer, topic, partition, _): &&(String, String, i64, String)| {
                (consumer, topic, *partition) == (&claim.consumer, &claim.topic, claim.partition)
            };
            match moved.iter().find(is_moved) {
                Some((.., seen)) => chains.know(claim, seen)?,
                None => lost[index] = true,
            }
        }
    }
    for (entry, lost) in batch.iter().zip(&lost) {
        let Entry::Delivery { claim, items, .. } = entry else { continue };
        let mut links =
            items.iter().filter_map(|item| if let Arrived::Linked(_, link) = &item.message { Some(link) } else { None });
        if !lost && links.any(|link| !chains.get(claim).knows(&link.source)) {
            chains.know_the_topic(unit, claim).await?;
        }
    }
    Ok((lost, chains))
}
