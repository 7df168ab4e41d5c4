//! A notification service on a temporary database that can be stopped and opened again, and a channel that does as it is told.
//!
//! Never here: assertions about rules. With `SKALD_TEST_POSTGRES` every test gets a database of its own there.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::Consumer;
use contract::{
    CustomerId, Message, MessageId, Meta, Money, OrderId, Trace,
    order::{CancelReason, Event, OrderCancelled, OrderConfirmed},
    topics,
};
use eventlog::{Claim, Delivered, Env, Item, Log, on, testing::TestDatabase};
use skald_notification::{
    Config, Deps, MIGRATIONS, Service, build,
    channel::{BoxFuture, Channel, Letter},
};

/// Longer than anything here takes; only a failing test waits it out.
const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Everything quick, so that what failed is soon tried again.
pub(crate) fn quick() -> Config {
    Config { timeout_ms: 500, retry_first_ms: 5, retry_cap_ms: 20, attempts_max: 4, ..Config::default() }
}

pub(crate) struct House {
    test: TestDatabase,
    running: Option<(Service, kit::Tasks)>,
}

impl House {
    pub(crate) async fn open(channel: Arc<dyn Channel>, config: Config) -> Self {
        let mut house = Self { test: TestDatabase::fresh().await, running: None };
        house.start(channel, config).await;
        house
    }

    pub(crate) async fn start(&mut self, channel: Arc<dyn Channel>, config: Config) {
        let opened = Log::open(self.test.database.clone(), "notification", MIGRATIONS, Env::system()).await.unwrap();
        let tasks = kit::Tasks::new();
        let service = build(Deps { opened, tasks: tasks.clone(), channel, config });
        self.running = Some((service, tasks));
    }

    /// Drops whatever is under way, as a crash would.
    pub(crate) async fn stop(&mut self) {
        let (service, tasks) = self.running.take().unwrap();
        drop(service);
        assert!(tasks.stop(DEADLINE).await, "all tasks end");
        assert_eq!(tasks.panicked(), None);
    }

    pub(crate) fn service(&self) -> &Service {
        &self.running.as_ref().unwrap().0
    }

    pub(crate) fn log(&self) -> &Log {
        self.service().writer.log()
    }

    /// Delivers events as one batch, as the bus would.
    pub(crate) async fn deliver(&self, events: impl IntoIterator<Item = Event>) {
        let from = self.log().progress("notification", "log:order", 0).await.unwrap();
        let mut next = from.max(1);
        let items = events.into_iter().map(|event| {
            let (offset, message) = (next, Arc::new(self.message(next, &event)));
            next += 1;
            let work = self.service().handler.accept(&message);
            Item::row("notification", offset, message, work)
        });
        let items: Vec<_> = items.collect();
        let claim = Claim { consumer: "notification".into(), topic: "log:order".into(), partition: 0, from, next };
        assert_eq!(self.service().writer.deliver(claim, items).await.unwrap(), Delivered::Committed);
    }

    fn message(&self, position: i64, event: &Event) -> Message {
        let (env, payload) = (self.log().env(), event.encode());
        let order = match event {
            Event::OrderPlaced(event) => event.order_id,
            Event::OrderConfirmed(event) => event.order_id,
            Event::OrderCancelled(event) => event.order_id,
        };
        let trace = Trace { parent: Some(TRACEPARENT.into()), state: None };
        Message {
            position,
            id: MessageId(env.id()),
            stream: format!("order-{order}"),
            version: position,
            topic: Some(topics::ORDER_EVENTS.into()),
            key: Some(order.to_string()),
            kind: payload.kind.into(),
            schema: payload.schema,
            data: payload.data,
            time: env.now(),
            meta: Meta { correlation: Some(order.0), trace, ..Meta::default() },
        }
    }

    /// Every row of the log, in order, once there are so many; readers in memory hear of a commit a moment after it.
    #[track_caller]
    pub(crate) fn rows(&self, wanted: i64) -> impl Future<Output = Vec<Arc<Message>>> {
        let caller = std::panic::Location::caller();
        async move {
            let mut head = self.log().head();
            let waited = tokio::time::timeout(DEADLINE, head.wait_for(|head| *head >= wanted)).await;
            assert!(waited.is_ok(), "{caller}: the log has fewer than {wanted} rows");
            let rows = self.log().after(0, 100_000).await.unwrap();
            assert_eq!(rows.len() as i64, wanted, "{caller}");
            rows
        }
    }

    /// Waits until a query over the database gives this number.
    pub(crate) async fn counts(&self, sql: &'static str, wanted: i64) {
        let polled = tokio::time::timeout(DEADLINE, async {
            while self.number(sql).await != wanted {
                self.log().env().sleep(Duration::from_millis(2)).await;
            }
        });
        if polled.await.is_err() {
            panic!("{sql} is {}, not {wanted}", self.number(sql).await);
        }
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        let mut reader = self.log().reader().await.unwrap();
        on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>(sql).fetch_one(c).await).unwrap()
    }
}

pub(crate) fn order(number: u128) -> OrderId {
    OrderId(uuid::Uuid::from_u128(number))
}

pub(crate) fn customer(number: u128) -> CustomerId {
    CustomerId(uuid::Uuid::from_u128(1_000 + number))
}

pub(crate) fn total() -> Money {
    Money::new(1_999, contract::Currency::EUR)
}

/// An outcome; the customer has the order's number.
pub(crate) fn confirmed(number: u128) -> Event {
    confirmed_for(number, number)
}

pub(crate) fn confirmed_for(number: u128, owner: u128) -> Event {
    OrderConfirmed { order_id: order(number), customer_id: customer(owner), total: total() }.into()
}

pub(crate) fn cancelled(number: u128, reason: CancelReason) -> Event {
    OrderCancelled { order_id: order(number), customer_id: customer(number), total: total(), reason }.into()
}

/// A channel that does as scripted, then takes everything. It remembers every letter it was handed.
#[derive(Default)]
pub(crate) struct Scripted {
    /// `None` is a delivery that never ends.
    script: Mutex<VecDeque<Option<Result<(), String>>>>,
    pub(crate) handed: Mutex<Vec<Letter>>,
    refuses: bool,
}

impl Scripted {
    pub(crate) fn new(script: impl IntoIterator<Item = Option<Result<(), String>>>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    /// A channel that takes nothing.
    pub(crate) fn broken() -> Arc<Self> {
        Arc::new(Self { refuses: true, ..Self::default() })
    }

    pub(crate) fn handed(&self) -> Vec<Letter> {
        self.handed.lock().unwrap().clone()
    }
}

impl Channel for Scripted {
    fn deliver<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>> {
        self.handed.lock().unwrap().push(letter.clone());
        let scripted = self.script.lock().unwrap().pop_front();
        Box::pin(async move {
            match scripted {
                Some(Some(result)) => result,
                Some(None) => std::future::pending().await,
                None if self.refuses => Err("mailbox full".to_owned()),
                None => Ok(()),
            }
        })
    }
}
