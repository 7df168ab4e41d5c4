//! What can happen next, and how likely each of it is.
//!
//! Never here: doing it, which is `act.rs`. What does not move anything on is offered only while there are faults.

use std::collections::BTreeSet;

use crate::{broker::Lane, replica::Name, world::World};

/// One step of the world. Numbers are slots, then places within them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Ask,
    AskAgain,
    Cancel,
    Steer,
    Start(usize),
    Assign(Name),
    Relay(usize),
    Arrive(Lane),
    Poll(usize, usize),
    Handle(usize, usize),
    /// Whoever polls notices that an assignment is over.
    Notice(usize, usize),
    Send(usize, usize),
    Look(Name),
    Provide(u64),
    Rewind(Name),
    // From here on: faults.
    Crash(usize),
    Rebalance(usize),
    Lose(Lane),
    Garbage,
    Cut,
    Jump,
    Forget(usize),
    Newer,
}

impl World {
    /// Everything that can happen now, with its weight.
    pub(crate) fn steps(&self) -> Vec<(Step, u32)> {
        let mut steps = Vec::new();
        let now = self.clock.now();
        for (index, slot) in self.slots.iter().enumerate() {
            let head = self.services[&slot.name].head;
            let Some(replica) = &slot.up else {
                if now >= slot.down_until {
                    steps.push((Step::Start(index), 30));
                }
                continue;
            };
            let has_leader = self.running(slot.name).iter().any(|other| self.leads(*other));
            if replica.relay.has_work(slot.clock.now(), head) && (replica.relay.is_leading() || !has_leader) {
                steps.push((Step::Relay(index), 30));
            }
            for (place, assigned) in replica.assigned.iter().enumerate() {
                let is_ready = assigned.parked.as_ref().is_none_or(|parked| parked.until <= now);
                let has_more = assigned.buffer.waiting() > 0 || replica.log.parked() > 0 && assigned.may_have_more();
                if is_ready && (assigned.parked.is_some() || has_more) {
                    steps.push((Step::Handle(index, place), 20));
                }
                if assigned.is_over() {
                    steps.push((Step::Notice(index, place), 5));
                }
                let has_fetched = assigned.fetched == self.broker.end(assigned.topic.name, assigned.partition);
                if !has_fetched && assigned.is_polled() {
                    steps.push((Step::Poll(index, place), 20));
                }
            }
            for (place, sending) in replica.sending.iter().enumerate() {
                if sending.until <= now {
                    steps.push((Step::Send(index, place), 20));
                }
            }
        }
        for lane in self.broker.lanes() {
            steps.push((Step::Arrive(lane), 20));
        }
        for call in self.provider.waiting() {
            steps.push((Step::Provide(call), 15));
        }
        for (name, service) in &self.services {
            let is_running = !self.running(*name).is_empty();
            if is_running && !self.unassigned(*name).is_empty() {
                steps.push((Step::Assign(*name), 40));
            }
            if is_running && service.due.is_some_and(|due| due <= now) {
                steps.push((Step::Look(*name), 30));
            }
        }
        if !self.running(Name::Order).is_empty() && !self.running(Name::Product).is_empty() && self.shop.has_open() {
            steps.push((Step::Ask, 25));
        }
        for name in self.to_rewind.keys() {
            steps.push((Step::Rewind(*name), 10));
        }
        if !self.is_calm {
            self.faults(&mut steps);
        }
        steps
    }

    fn faults(&self, steps: &mut Vec<(Step, u32)>) {
        for (index, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.up.is_some()) {
            steps.push((Step::Crash(index), 1));
            steps.push((Step::Rebalance(index), 2));
            if slot.name == Name::Order {
                steps.push((Step::Forget(index), 2));
            }
            if !slot.up.as_ref().is_some_and(|replica| replica.relay.is_leading()) {
                steps.push((Step::Relay(index), 1));
            }
        }
        for lane in self.broker.lanes() {
            steps.push((Step::Lose(lane), 1));
        }
        if !self.running(Name::Order).is_empty() && self.shop.has_orders() {
            steps.extend([(Step::AskAgain, 2), (Step::Cancel, 3), (Step::Steer, 5)]);
        }
        steps.extend([(Step::Garbage, 2), (Step::Cut, u32::from(self.may_cut)), (Step::Jump, 6)]);
        // Once, and late: what it leaves is in the way of all that follow.
        if !self.has_newer && self.shop.has_orders() {
            steps.push((Step::Newer, 1));
        }
    }

    fn leads(&self, index: usize) -> bool {
        self.slots[index].up.as_ref().is_some_and(|replica| replica.relay.is_leading())
    }

    /// Partitions of a service that no process reads.
    pub(crate) fn unassigned(&self, name: Name) -> BTreeSet<(String, i32)> {
        let all =
            name.topics().flat_map(|topic| (0..topic.settings.partitions).map(move |number| (topic.name.to_owned(), number)));
        let mut left: BTreeSet<(String, i32)> = all.collect();
        for replica in self.slots.iter().filter(|slot| slot.name == name).filter_map(|slot| slot.up.as_ref()) {
            for assigned in &replica.assigned {
                left.remove(&(assigned.topic.name.to_owned(), assigned.partition));
            }
        }
        left
    }
}
