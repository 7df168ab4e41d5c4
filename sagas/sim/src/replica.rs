//! One process of one service: its production log, writer, consumers, relay and couriers, with nothing running by itself.
//!
//! Never here: what happens next. The world takes one step at a time; a crash drops all of this, and a restart knows what the
//! database knows.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bus::{
    Batch, Consumer, Source,
    kafka::{Buffer, Look, Partition, Places, Room, begin_at, incoming_with},
};
use contract::{
    Timestamp,
    topics::{TOPICS, Topic},
};
use eventlog::{Database, Error, Log, Writer, WriterLimits};
use kit::outgoing::Steps;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Broker,
    drive::Operation,
    provider::{Post, Provider},
    relay::Relay,
};

/// Records taken from the broker in one step.
pub(crate) const POLLED_MAX: usize = 64;

/// The services that are simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Order,
    Product,
    Payment,
    Notification,
}

impl Name {
    pub(crate) const ALL: [Self; 4] = [Self::Order, Self::Product, Self::Payment, Self::Notification];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Product => "product",
            Self::Payment => "payment",
            Self::Notification => "notification",
        }
    }

    /// Topics that the service consumes.
    pub(crate) fn topics(self) -> impl Iterator<Item = &'static Topic> {
        TOPICS.iter().filter(move |topic| topic.readers.contains(&self.as_str()))
    }
}

/// Where requests come in.
pub(crate) enum Door {
    Order(Writer<order::Handler>, Arc<order::Handler>),
    Product(Writer<product::Handler>),
    None,
}

/// An operation that waits for the clock.
pub(crate) struct Parked {
    pub until: Timestamp,
    /// The provider's number of the call that it waits for.
    pub call: Option<u64>,
    pub operation: Operation,
}

/// A partition that this process reads.
pub(crate) struct Assigned {
    pub topic: &'static Topic,
    pub partition: i32,
    pub buffer: Arc<Buffer>,
    /// The next offset to take from the broker.
    pub fetched: i64,
    pub parked: Option<Parked>,
    /// It is polled no more until its buffer has room.
    is_paused: bool,
    /// There may be more to handle although the buffer is empty.
    look_again: Arc<AtomicBool>,
    source: Arc<tokio::sync::Mutex<Partition>>,
    lost: CancellationToken,
}

impl Assigned {
    pub(crate) fn may_have_more(&self) -> bool {
        self.look_again.load(Relaxed)
    }

    /// Whether it is polled now.
    pub(crate) fn is_polled(&self) -> bool {
        !self.is_paused || self.buffer.has_room()
    }

    /// It has to be assigned anew, which whoever polls notices a while later.
    pub(crate) fn is_over(&self) -> bool {
        self.parked.is_none() && self.is_lost()
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Takes at most `limit` records from the broker; tells how many.
    pub(crate) fn poll(&mut self, broker: &Broker, limit: usize) -> usize {
        if self.fetched > broker.end(self.topic.name, self.partition) {
            // Out of range: the broker has lost records that were read.
            self.lost.cancel();
            self.buffer.close();
            return 0;
        }
        let (records, mut count) = (broker.read(self.topic.name, self.partition, self.fetched, limit), 0);
        self.is_paused = false;
        for (offset, record) in records {
            self.buffer.push(incoming_with(&broker.keys, self.topic, self.partition, offset, record));
            self.fetched = offset + 1;
            count += 1;
            if self.buffer.is_full() {
                self.is_paused = true;
                break;
            }
        }
        count
    }
}

/// A partition as a source of one batch.
struct Once {
    source: Arc<tokio::sync::Mutex<Partition>>,
    look_again: Arc<AtomicBool>,
    is_done: bool,
    /// The process is stopped for so long once it has the batch in its hands.
    frozen: Option<(eventlog::Env, Duration)>,
}

impl Source for Once {
    async fn next(&mut self) -> Result<Option<Batch>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let looked = self.source.lock().await.look().await?;
        self.is_done = true;
        let Look::Batch(batch) = looked else {
            self.look_again.store(false, Relaxed);
            return Ok(None);
        };
        if let Some((env, wait)) = self.frozen.take() {
            env.sleep(wait).await;
        }
        Ok(Some(batch))
    }

    fn seek(&mut self, topic: &str, partition: i64, next: i64) {
        self.look_again.store(true, Relaxed);
        self.source.try_lock().expect("one operation a partition").seek(topic, partition, next);
    }

    fn pass_over(&mut self, _: &str, _: i64, _: i64) {
        unreachable!("what comes over a broker is never passed over")
    }
}

/// A running process.
pub(crate) struct Replica {
    pub name: Name,
    pub log: Log,
    pub door: Door,
    /// The writer's task.
    pub writer: Operation,
    pub steps: Option<Box<dyn Steps>>,
    /// Calls and letters under way.
    pub sending: Vec<Parked>,
    pub assigned: Vec<Assigned>,
    pub relay: Relay,
    consume: Box<dyn Fn(Once) -> Operation + Send + Sync>,
    made_anew: Places,
    room: Room,
}

impl Replica {
    /// Opens the service's database and builds the service on it.
    pub(crate) async fn open(
        name: Name,
        database: Database,
        env: eventlog::Env,
        provider: &Provider,
        post: &Post,
    ) -> Result<Self, eventlog::OpenError> {
        let migrations = match name {
            Name::Order => order::MIGRATIONS,
            Name::Product => &product::MIGRATIONS,
            Name::Payment => payment::MIGRATIONS,
            Name::Notification => notification::MIGRATIONS,
        };
        let opened = Log::open(database, name.as_str(), migrations, env).await?;
        Ok(match name {
            Name::Order => {
                let handler = Arc::new(order::handler(&order_config()));
                let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
                let door = Door::Order(writer.clone(), handler.clone());
                Self::of(name, handler, writer, Box::pin(task), None, door)
            }
            Name::Product => {
                let handler = Arc::new(product::Handler);
                let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
                Self::of(name, handler, writer.clone(), Box::pin(task), None, Door::Product(writer))
            }
            Name::Payment => {
                let parts = payment::parts(opened, Arc::new(provider.clone()), payment::Config::default());
                Self::of(name, parts.handler, parts.writer, parts.task, Some(parts.calls), Door::None)
            }
            Name::Notification => {
                let parts = notification::parts(opened, Arc::new(post.clone()), notification::Config::default());
                Self::of(name, parts.handler, parts.writer, parts.task, Some(parts.letters), Door::None)
            }
        })
    }

    fn of<H: Consumer>(
        name: Name,
        handler: Arc<H>,
        writer: Writer<H>,
        task: Operation,
        steps: Option<Box<dyn Steps>>,
        door: Door,
    ) -> Self {
        let log = writer.log().clone();
        let consume = Box::new(move |source: Once| -> Operation {
            let stop = CancellationToken::new();
            Box::pin(bus::consume(name.as_str(), source, handler.clone(), writer.clone(), stop))
        });
        let relay = Relay::new(log.clone());
        let (sending, assigned, made_anew) = (Vec::new(), Vec::new(), Places::default());
        let room = Room::new(log.env().memory());
        Self { name, log, door, writer: task, steps, sending, assigned, relay, consume, made_anew, room }
    }

    /// Begins to read partitions where the database says.
    pub(crate) async fn assign(&mut self, places: &BTreeSet<(String, i32)>, broker: &Broker) -> Result<(), Error> {
        let progress = self.log.progress_of(self.name.as_str()).await?;
        self.log.count_parked().await?;
        for (topic, partition, first) in self.log.first_parked(self.name.as_str()).await? {
            self.made_anew.look_back(&(topic, partition), first);
        }
        for (topic, partition) in places {
            let topic = TOPICS.iter().find(|found| found.name == topic).expect("a topic of the contract");
            let at = (topic.name.to_owned(), i64::from(*partition));
            let stored = progress.iter().find(|(name, number, _)| (name, number) == (&at.0, &at.1)).map_or(0, |found| found.2);
            let again = self.made_anew.from(&at);
            let (from, joined) = begin_at(stored, 0, broker.end(topic.name, *partition), again);
            let (buffer, lost) = (Buffer::new(stored, &self.room), CancellationToken::new());
            let (name, log, anew) = (self.name.as_str(), self.log.clone(), self.made_anew.clone());
            let source = Partition::new(name, at, buffer.clone(), log, lost.clone(), anew, joined || stored == 0);
            let source = source.with_keys(broker.keys.clone());
            self.assigned.push(Assigned {
                topic,
                partition: *partition,
                buffer,
                fetched: from,
                parked: None,
                is_paused: false,
                look_again: Arc::new(AtomicBool::new(true)),
                source: Arc::new(tokio::sync::Mutex::new(source)),
                lost,
            });
        }
        Ok(())
    }

    /// Handles one batch of a partition; perhaps it is stopped for a while with the batch in its hands.
    pub(crate) fn handle(&self, index: usize, frozen: Option<Duration>) -> Operation {
        let (assigned, frozen) = (&self.assigned[index], frozen.map(|wait| (self.log.env().clone(), wait)));
        let (source, look_again) = (assigned.source.clone(), assigned.look_again.clone());
        (self.consume)(Once { source, look_again, is_done: false, frozen })
    }
}

/// As `skald` starts it when nothing is said.
pub(crate) fn order_config() -> order::Config {
    order::Config {
        step_deadline_ms: 5_000,
        step_tries: 3,
        step_backoff_max_ms: 60_000,
        stuck_after: 10,
        stock_check_timeout_ms: 1_000,
        jaeger_url: None,
        kafdrop_url: None,
    }
}
