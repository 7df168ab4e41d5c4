//! One step of the world, done.
//!
//! Never here: which one comes next. Every step is said in the trace with what came of it.

use std::{collections::BTreeSet, time::Duration};

use contract::{Meta, Timestamp, topics::TOPICS};
use eventlog::{Desk, Error, Job, on};
use order::handler::Work;
use saga::order::Input;
use uuid::Uuid;

use crate::{
    broker::Lane,
    choose::Step,
    drive::{Driven, Operation},
    relay::Turn,
    replica::{Door, Name, POLLED_MAX, Parked},
    world::World,
};

/// How long nobody looks for what is due, at most.
const LOOK: Duration = Duration::from_secs(5);

impl World {
    pub(crate) async fn act(&mut self, step: Step) -> anyhow::Result<()> {
        self.clock.advance(self.chance.wait(Duration::from_micros(20), Duration::from_millis(2)));
        match step {
            Step::Ask => self.ask().await?,
            Step::AskAgain => self.ask_again().await?,
            Step::Cancel => self.cancel().await?,
            Step::Steer => self.steer().await?,
            Step::Start(index) => {
                let label = self.label(index);
                self.say(format_args!("{label} starts"));
                self.start(index).await?;
            }
            Step::Assign(name) => self.assign(name).await?,
            Step::Relay(index) => self.relay(index).await?,
            Step::Arrive(lane) => {
                let position = self.broker.arrive(&lane);
                self.say(format_args!("{} {}/{} arrives from producer {}", position, lane.1, lane.2, lane.0));
            }
            Step::Poll(index, place) => {
                let broker = self.broker.clone();
                // A broker answers with as much as it likes.
                let limit = if !self.is_calm && self.chance.permille(300) { 1 + self.chance.below(4) } else { POLLED_MAX };
                let assigned = &mut self.replica(index).assigned[place];
                let (topic, partition, count) = (assigned.topic.name, assigned.partition, assigned.poll(&broker, limit));
                let label = self.label(index);
                self.say(format_args!("{label} polls {count} of {topic}/{partition}"));
            }
            Step::Notice(index, place) => {
                let over = self.replica(index).assigned.remove(place);
                let label = self.label(index);
                self.say(format_args!("{label} begins {}/{} again", over.topic.name, over.partition));
            }
            Step::Handle(index, place) => self.handle(index, place).await?,
            Step::Send(index, place) => self.send(index, place).await,
            Step::Look(name) => self.look(name).await?,
            Step::Provide(call) => self.provide(call),
            Step::Rewind(name) => self.rewind(name).await?,
            Step::Crash(index) => {
                let label = self.label(index);
                self.say(format_args!("{label} is killed"));
                self.crash(index);
            }
            Step::Rebalance(index) => self.rebalance(index).await?,
            Step::Lose(lane) => self.lose(&lane),
            Step::Garbage => self.garbage(),
            Step::Cut => self.cut(),
            Step::Forget(index) => self.forget(index).await,
            Step::Newer => self.newer().await?,
            Step::Jump => {
                let wait = self.chance.wait(Duration::from_millis(20), Duration::from_secs(6));
                self.clock.advance(wait);
                self.say(format_args!("time passes: {} ms", wait.as_millis()));
                self.look_up_due().await?;
            }
        }
        Ok(())
    }

    async fn assign(&mut self, name: Name) -> anyhow::Result<()> {
        let (left, running) = (self.unassigned(name), self.running(name));
        let mut shares: Vec<BTreeSet<(String, i32)>> = vec![BTreeSet::new(); running.len()];
        for place in left {
            let share = self.chance.below(running.len());
            shares[share].insert(place);
        }
        for (index, share) in running.into_iter().zip(shares) {
            let broker = self.broker.clone();
            if !share.is_empty() {
                self.replica(index).assign(&share, &broker).await?;
                let label = self.label(index);
                self.say(format_args!("{label} is assigned {} partitions", share.len()));
            }
        }
        Ok(())
    }

    async fn relay(&mut self, index: usize) -> anyhow::Result<()> {
        let (broker, saves) = (self.broker.clone(), self.is_calm || self.chance.permille(300));
        let name = self.slots[index].name;
        let turn = self.replica(index).relay.turn(&broker, saves).await;
        if let Turn::Leads { lost: Some(lost), .. } = turn {
            if !self.may_cut {
                self.wrong.push(format!("relay-unbroken: the broker lacks what came after {lost}, and has lost nothing"));
            }
            let to = self.to_rewind.entry(name).or_insert(lost);
            *to = lost.min(*to);
        }
        let label = self.label(index);
        self.say(format_args!("{label} relay: {turn:?}"));
        if matches!(turn, Turn::Published { is_saved: true, .. }) {
            self.saved(name).await?;
        }
        Ok(())
    }

    /// A checkpoint never moves back, but where an operator sets it back.
    async fn saved(&mut self, name: Name) -> anyhow::Result<()> {
        let service = self.services.get_mut(&name).expect("every service is there");
        let mut reader = service.readers.acquire().await?;
        let sql = "SELECT position FROM relay";
        let position: i64 = on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>(sql).fetch_one(c).await)?;
        if position < service.published {
            let (name, before) = (name.as_str(), service.published);
            self.wrong.push(format!("relay-unbroken: the checkpoint of {name} went back from {before} to {position}"));
        }
        service.published = position;
        Ok(())
    }

    async fn handle(&mut self, index: usize, place: usize) -> anyhow::Result<()> {
        let frozen = if !self.is_calm && self.chance.permille(15) {
            Some(self.chance.wait(Duration::from_millis(100), Duration::from_secs(20)))
        } else {
            None
        };
        let replica = self.replica(index);
        let parked = replica.assigned[place].parked.take();
        let frozen = frozen.filter(|_| parked.is_none());
        let mut operation = parked.map_or_else(|| replica.handle(place, frozen), |parked| parked.operation);
        let (topic, partition) = (replica.assigned[place].topic.name, replica.assigned[place].partition);
        let before = replica.log.commits();
        let said = match self.drive(index, &mut operation).await {
            Driven::Done(()) => "done",
            Driven::Asleep(until) => {
                self.replica(index).assigned[place].parked = Some(Parked { until, call: None, operation });
                if frozen.is_some() { "is stopped with a batch in its hands" } else { "tries again later" }
            }
            Driven::Crashed => return Ok(()),
        };
        let replica = self.replica(index);
        let (commits, is_stopped) = (replica.log.commits() - before, replica.assigned[place].parked.is_some());
        let label = self.label(index);
        self.say(format_args!("{label} handles {topic}/{partition}: {said}, {commits} commits"));
        if frozen.is_some() && is_stopped {
            self.take_over(index, (topic.to_owned(), partition)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, index: usize, place: usize) {
        let Parked { mut operation, call, .. } = self.replica(index).sending.swap_remove(place);
        let before = self.provider.calls();
        let name = self.slots[index].name.as_str();
        match self.drive(index, &mut operation).await {
            Driven::Done(()) => self.say(format_args!("{name} has sent")),
            Driven::Asleep(until) => {
                let made = self.provider.calls();
                let call = if made > before { Some(made) } else { call };
                self.replica(index).sending.push(Parked { until, call, operation });
                self.say(format_args!("{name} calls {}", call.unwrap_or(0)));
            }
            Driven::Crashed => {}
        }
    }

    /// The service looks for what is due.
    async fn look(&mut self, name: Name) -> anyhow::Result<()> {
        let Some(index) = self.any(name) else { return Ok(()) };
        let hurried =
            if name == Name::Order && !self.is_calm && self.chance.permille(300) { self.overdue().await? } else { None };
        let replica = self.replica(index);
        let log = replica.log.clone();
        let mut operation: Operation<Result<(), Error>> = match (&replica.door, &replica.steps) {
            (Door::Order(writer, handler), _) => {
                let (writer, handler) = (writer.clone(), handler.clone());
                let retry = |id: Uuid| Work::Steer { order_id: id.into(), verb: Input::RetryAsked, note: None };
                let retry = hurried.map(|id| Job { work: retry(id), meta: Meta::default() });
                Box::pin(async move {
                    // An operator's retry and the deadline in one transaction: the retry has moved the deadline.
                    if let Some(retry) = retry {
                        let due = writer.submit(Job { work: Work::Due, meta: Meta::default() });
                        let (retried, due) = futures_util::future::join(writer.submit(retry), due).await;
                        return retried.and(due).map(drop);
                    }
                    let fire = || async { writer.submit(Job { work: Work::Due, meta: Meta::default() }).await.map(drop) };
                    handler.look(&log, &fire).await
                })
            }
            (_, Some(steps)) => steps.look(),
            (Door::Product(_) | Door::None, None) => Box::pin(std::future::ready(Ok(()))),
        };
        let driven = self.drive(index, &mut operation).await;
        self.say(format_args!("{} looks for what is due: {}", name.as_str(), matches!(driven, Driven::Done(Ok(())))));
        self.look_up_due().await
    }

    /// An order whose deadline has passed.
    async fn overdue(&mut self) -> anyhow::Result<Option<Uuid>> {
        let (now, mut reader) = (self.clock.now().0, self.services[&Name::Order].readers.acquire().await?);
        let sql = "SELECT id FROM sagas WHERE due_us <= $1 ORDER BY due_us LIMIT 1";
        Ok(on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, Uuid>(sql).bind(now).fetch_optional(c).await)?)
    }

    fn provide(&mut self, call: u64) {
        let roll = if self.is_calm { 1_000 } else { self.chance.below(1_000) };
        let said = match roll {
            0..60 => format!("is lost: {}", self.provider.drop_call(call, false)),
            60..100 => format!("fails: {}", self.provider.drop_call(call, true)),
            100..180 => format!("takes effect unheard: {}", self.provider.take_effect(call, true)),
            // It takes its time.
            180..260 => return,
            _ => {
                let said = self.provider.take_effect(call, false);
                self.wake(call);
                said
            }
        };
        if (60..100).contains(&roll) {
            self.wake(call);
        }
        self.say(format_args!("call {call} {said}"));
    }

    /// Whoever made a call hears of it.
    fn wake(&mut self, call: u64) {
        let now = self.clock.now();
        for replica in self.slots.iter_mut().filter_map(|slot| slot.up.as_mut()) {
            for sending in replica.sending.iter_mut().filter(|sending| sending.call == Some(call)) {
                sending.until = now;
            }
        }
    }

    /// What a person does who was told to: has a log published again.
    async fn rewind(&mut self, name: Name) -> anyhow::Result<()> {
        let Some(to) = self.to_rewind.remove(&name) else { return Ok(()) };
        let mut desk = Desk::open(&self.services[&name].database).await?;
        let moved = desk.rewind(to).await;
        self.counts.rewinds += 1;
        if let Ok(moved) = &moved {
            self.services.get_mut(&name).expect("every service is there").published = moved.position;
        }
        for index in self.running(name) {
            self.replica(index).relay.renew_soon();
        }
        self.say(format_args!("operator: relay rewind --to {to} of {}: {moved:?}", name.as_str()));
        Ok(())
    }

    fn lose(&mut self, lane: &Lane) {
        let position = self.broker.lose(lane);
        self.say(format_args!("{position} {}/{} from producer {} is lost with what follows", lane.1, lane.2, lane.0));
    }

    /// Looks up when the services have to act by themselves.
    pub(crate) async fn look_up_due(&mut self) -> anyhow::Result<()> {
        for (name, service) in &mut self.services {
            let sql = match name {
                Name::Order => "SELECT MIN(due_us) FROM sagas WHERE due_us < 9000000000000000000",
                Name::Payment => "SELECT MIN(due_us) FROM payments",
                Name::Notification => "SELECT MIN(due_us) FROM notifications",
                Name::Product => continue,
            };
            let mut reader = service.readers.acquire().await?;
            let due: Option<i64> = on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, Option<i64>>(sql).fetch_one(c).await)?;
            // What a wrong clock has put far ahead is found by looking, which production does all the time.
            service.due = due.map(|due| Timestamp(due).min(self.clock.now().plus(LOOK)));
        }
        Ok(())
    }

    /// Looks up what waits for a gap to close, and has the missing messages published again, as the consumer's log tells its operator.
    pub(crate) async fn look_up_gaps(&mut self) -> anyhow::Result<()> {
        let mut told = Vec::new();
        for service in self.services.values() {
            let mut reader = service.readers.acquire().await?;
            let gaps: Vec<(String, i64)> = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (String, i64)>(
                "SELECT p.topic, MIN(COALESCE(s.last_sequence, 0)) FROM parked p LEFT JOIN seen s ON s.consumer = p.consumer \
                 AND s.topic = p.topic AND s.partition = p.partition AND s.source = p.source GROUP BY p.topic"
            )
            .fetch_all(c)
            .await)?;
            told.extend(gaps);
        }
        for (topic, last) in told {
            if !self.may_cut {
                self.wrong.push(format!(
                    "relay-unbroken: what came after {last} of {topic} is missing, and the broker has lost nothing"
                ));
            }
            let Some(name) =
                Name::ALL.into_iter().find(|name| TOPICS.iter().any(|of| of.name == topic && of.owner == name.as_str()))
            else {
                continue;
            };
            let to = self.to_rewind.entry(name).or_insert(last);
            *to = last.min(*to);
        }
        Ok(())
    }

    /// Whether every log has a leader and no consumer waits to try again.
    pub(crate) fn has_settled(&self) -> bool {
        Name::ALL.iter().all(|name| {
            let running = self.running(*name);
            let mut replicas = running.iter().filter_map(|index| self.slots[*index].up.as_ref());
            replicas.clone().any(|replica| replica.relay.is_leading())
                && replicas.all(|replica| replica.assigned.iter().all(|assigned| assigned.parked.is_none()))
        })
    }

    /// The next instant at which something happens by itself.
    pub(crate) fn next_instant(&self) -> Option<Timestamp> {
        let due = self.services.values().filter_map(|service| service.due);
        let starts = self.slots.iter().filter(|slot| slot.up.is_none()).map(|slot| slot.down_until);
        let running = || self.slots.iter().filter_map(|slot| slot.up.as_ref());
        let parked = running().flat_map(|replica| {
            let consumers = replica.assigned.iter().filter_map(|assigned| assigned.parked.as_ref());
            consumers.chain(&replica.sending).map(|parked| parked.until)
        });
        let up = || self.slots.iter().filter_map(|slot| Some((&slot.clock, slot.up.as_ref()?)));
        let relays = up().filter(|(_, replica)| {
            let others = self.running(replica.name);
            !others.iter().any(|other| self.slots[*other].up.as_ref().is_some_and(|other| other.relay.is_leading()))
        });
        let relays = relays.map(|(clock, replica)| clock.in_the_world(replica.relay.idle_until));
        let held = up().filter_map(|(clock, replica)| Some(clock.in_the_world(replica.relay.held_until()?)));
        due.chain(starts).chain(parked).chain(relays).chain(held).filter(|instant| *instant > self.clock.now()).min()
    }
}
