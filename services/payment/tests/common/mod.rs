//! A payment service on a temporary database that can be stopped and opened again, and a provider that does as it is told.
//!
//! Never here: assertions about rules. With `SKALD_TEST_POSTGRES` every test gets a database of its own there.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bus::Consumer;
use contract::{
    CustomerId, Message, MessageId, Meta, Money, OrderId, Trace,
    payment::{AuthorizePayment, CapturePayment, Command, Event, Operation, VoidPayment},
    topics,
};
use eventlog::{Claim, Database, Delivered, Env, Item, Log, on, testing::TestDatabase};
use skald_payment::{
    Config, Deps, MIGRATIONS, Service, build,
    provider::{Answer, BoxFuture, Call, PaymentProvider, Provider, Verdict},
};

pub(crate) const AMOUNT: Money = Money { amount_minor: 1_999, currency: contract::Currency::EUR };
/// Longer than anything here takes; only a failing test waits it out.
const DEADLINE: Duration = Duration::from_secs(30);

/// Everything quick, so that what is unknown is soon asked again.
pub(crate) fn quick() -> Config {
    Config { timeout_ms: 40, retry_first_ms: 5, retry_cap_ms: 20, slow_ms: 150, ..Config::default() }
}

pub(crate) struct House {
    test: TestDatabase,
    running: Option<(Service, kit::Tasks)>,
}

impl House {
    pub(crate) async fn open(provider: Provider, config: Config) -> Self {
        let mut house = Self { test: TestDatabase::fresh().await, running: None };
        house.start(provider, config).await;
        house
    }

    pub(crate) async fn start(&mut self, provider: Provider, config: Config) {
        self.running = Some(self.replica(provider, config).await);
    }

    /// Another service on the same database, which only PostgreSQL allows.
    pub(crate) async fn replica(&self, provider: Provider, config: Config) -> (Service, kit::Tasks) {
        let opened = Log::open(self.test.database.clone(), "payment", MIGRATIONS, Env::system()).await.unwrap();
        let (tasks, metrics) = (kit::Tasks::new(), kit::Metrics::new());
        (build(Deps { opened, tasks: tasks.clone(), metrics, provider, config }), tasks)
    }

    pub(crate) fn has_replicas(&self) -> bool {
        matches!(self.test.database, Database::Postgres(_))
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

    /// Delivers commands as one batch, as the bus would.
    pub(crate) async fn deliver(&self, commands: impl IntoIterator<Item = Command>) {
        let from = self.log().progress("payment", "log:order", 0).await.unwrap();
        let mut next = from.max(1);
        let items = commands.into_iter().map(|command| {
            let (offset, message) = (next, Arc::new(self.message(next, &command)));
            next += 1;
            let work = self.service().handler.accept(&message);
            Item::row("payment", offset, message, work)
        });
        let items: Vec<_> = items.collect();
        let claim = Claim { consumer: "payment".into(), topic: "log:order".into(), partition: 0, from, next };
        assert_eq!(self.service().writer.deliver(claim, items).await.unwrap(), Delivered::Committed);
    }

    fn message(&self, position: i64, command: &Command) -> Message {
        let (env, payload) = (self.log().env(), command.encode());
        let order = match command {
            Command::AuthorizePayment(command) => command.order_id,
            Command::CapturePayment(command) => command.order_id,
            Command::VoidPayment(command) => command.order_id,
        };
        let trace = Trace { parent: Some(TRACEPARENT.into()), state: None };
        let meta = Meta { correlation: Some(order.0), trace, ..Meta::default() };
        Message {
            position,
            id: MessageId(env.id()),
            stream: format!("saga-{order}"),
            version: position,
            topic: Some(topics::PAYMENT_COMMANDS.into()),
            key: Some(order.to_string()),
            kind: payload.kind.into(),
            schema: payload.schema,
            data: payload.data,
            time: env.now(),
            meta,
        }
    }

    /// The payment's history, with how each row was published.
    pub(crate) async fn rows(&self, order: OrderId) -> Vec<Arc<Message>> {
        self.log().stream(&format!("payment-{order}"), 1).await.unwrap()
    }

    pub(crate) async fn history(&self, order: OrderId) -> Vec<Event> {
        let rows = self.rows(order).await;
        rows.iter().map(|row| Event::decode(&row.kind, row.schema, &row.data).unwrap()).collect()
    }

    /// Waits until the payment's history is told by these words.
    #[track_caller]
    pub(crate) fn tells(&self, order: OrderId, wanted: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let mut head = self.log().head();
            let told = tokio::time::timeout(DEADLINE, async {
                loop {
                    head.mark_unchanged();
                    if words(&self.history(order).await) == wanted {
                        return;
                    }
                    head.changed().await.unwrap();
                }
            });
            if told.await.is_err() {
                panic!("{caller}: the history is {:?}, not {wanted:?}", words(&self.history(order).await));
            }
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

    /// What the built-in provider has of an order: held, captured, refunded, captures.
    pub(crate) async fn charge(&self, order: OrderId) -> (i64, i64, i64, i64) {
        let mut reader = self.log().reader().await.unwrap();
        on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (i64, i64, i64, i64)>(
            "SELECT held_minor, captured_minor, refunded_minor, captures FROM provider_charges WHERE order_id = $1"
        )
        .bind(order.0)
        .fetch_one(c)
        .await)
        .unwrap()
    }
}

pub(crate) const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(crate) fn order(number: u128) -> OrderId {
    OrderId(uuid::Uuid::from_u128(number))
}

pub(crate) fn customer(number: u128) -> CustomerId {
    CustomerId(uuid::Uuid::from_u128(1_000 + number))
}

/// An authorization; the customer has the order's number.
pub(crate) fn authorize(number: u128, token: &str) -> Command {
    let (order_id, customer_id) = (order(number), customer(number));
    AuthorizePayment { order_id, customer_id, amount: AMOUNT, token: token.into() }.into()
}

pub(crate) fn capture(number: u128) -> Command {
    CapturePayment { order_id: order(number) }.into()
}

pub(crate) fn void(number: u128) -> Command {
    VoidPayment { order_id: order(number) }.into()
}

/// A history in words: an intent is `authorize?`, a reply given again has a `+`.
pub(crate) fn words(history: &[Event]) -> String {
    let word = |event: &Event| {
        let (word, repeated) = match event {
            Event::CallIntended(call) => return format!("{}?", call.operation.as_str()),
            Event::VoidRequested(_) => return "void-requested".to_owned(),
            Event::PaymentAuthorized(reply) => ("authorized".to_owned(), reply.repeated),
            Event::PaymentDeclined(reply) => (format!("declined:{}", reply.code), reply.repeated),
            Event::PaymentCaptured(reply) => ("captured".to_owned(), reply.repeated),
            Event::CaptureRefused(reply) => (format!("refused:{}", reply.code), reply.repeated),
            Event::PaymentVoided(reply) => {
                (if reply.refunded.is_some() { "refunded".to_owned() } else { "voided".to_owned() }, reply.repeated)
            }
        };
        if repeated.is_first() { word } else { word + "+" }
    };
    history.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// A provider that answers as scripted, then as one that grants everything. It remembers every key it was asked with.
#[derive(Default)]
pub(crate) struct Scripted {
    pub(crate) script: Mutex<VecDeque<Option<Answer>>>,
    pub(crate) found: Mutex<Vec<Verdict>>,
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) looked_up: AtomicUsize,
    /// How many calls were under way at the same time, at most.
    pub(crate) together_max: AtomicUsize,
    together: AtomicUsize,
}

impl Scripted {
    /// `None` is a call that is never answered.
    pub(crate) fn new(script: impl IntoIterator<Item = Option<Answer>>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    pub(crate) fn provider(self: &Arc<Self>) -> Provider {
        Provider::Given(self.clone())
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How often each key was asked.
    pub(crate) fn tally(&self) -> HashMap<String, usize> {
        let mut tally = HashMap::new();
        self.asked().into_iter().for_each(|key| *tally.entry(key).or_default() += 1);
        tally
    }
}

impl PaymentProvider for Scripted {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Answer> {
        self.asked.lock().unwrap().push(call.key.clone());
        let scripted = self.script.lock().unwrap().pop_front();
        Box::pin(async move {
            let together = self.together.fetch_add(1, Ordering::SeqCst) + 1;
            self.together_max.fetch_max(together, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.together.fetch_sub(1, Ordering::SeqCst);
            match scripted {
                Some(Some(answer)) => answer,
                Some(None) => std::future::pending().await,
                None => Answer::Definitive(match call.operation {
                    Operation::Authorize => Verdict::Authorized,
                    Operation::Capture => Verdict::Captured,
                    Operation::Void => Verdict::Voided,
                    Operation::Refund => Verdict::Refunded,
                }),
            }
        })
    }

    fn lookup(&self, _: OrderId) -> BoxFuture<'_, Result<Vec<Verdict>, String>> {
        self.looked_up.fetch_add(1, Ordering::SeqCst);
        let found = self.found.lock().unwrap().clone();
        Box::pin(async move { Ok(found) })
    }
}
