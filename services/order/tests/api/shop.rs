//! The shop that every test opens: a router, a moved clock, a shelf that answers stock checks, and the participants' voices.
//!
//! Never here: what is right. What is asked goes in by [`Shop::get`] and [`Shop::post`], replies by [`Shop::say`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bus::Consumer;
use contract::{
    Currency, CustomerId, Message, MessageId, Meta, Money, OrderId, ProductId, Timestamp, Trace, payment, product, topics,
};
use ed25519_dalek::SigningKey;
use eventlog::{
    Claim, Delivered, Env, Item, Log, Writer,
    testing::{TestClock, TestDatabase},
};
use kit::{
    Idempotency, Metrics, Tasks,
    auth::{Role, Signer, Verifier},
    http::AppConfig,
};
use serde_json::{Value, json};
use skald_order::{
    Config, Deps, Handler, MIGRATIONS,
    domain::{Offer, Quote, Wanted},
    stock::{Away, Stock},
};
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use crate::shop::asking::{Answer, Asked};

#[path = "asking.rs"]
mod asking;

/// Longer than anything here takes; only a failing test waits it out.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait for a change before looking again.
const MOMENT: Duration = Duration::from_millis(50);
/// The longest that the timer sleeps between two looks for due sagas, and a little more.
const NUDGE: Duration = Duration::from_millis(60);

pub(crate) const TEA: u128 = 1;
pub(crate) const MUG: u128 = 2;
/// A payment token that can be told from every other text.
pub(crate) const TOKEN: &str = "tok_nobody_elses_business";

/// Somebody with a token.
#[derive(Clone, Copy)]
pub(crate) struct Who {
    pub number: u128,
    pub role: Role,
}

pub(crate) const ALICE: Who = Who { number: 11, role: Role::Customer };
pub(crate) const BOB: Who = Who { number: 12, role: Role::Customer };
pub(crate) const OPERATOR: Who = Who { number: 13, role: Role::Operator };
pub(crate) const ADMIN: Who = Who { number: 14, role: Role::Admin };

impl Who {
    pub(crate) fn id(self) -> CustomerId {
        Uuid::from_u128(self.number).into()
    }

    pub(crate) fn actor(self) -> String {
        format!("{}:{}", self.role.as_str(), self.id())
    }
}

pub(crate) fn product_id(number: u128) -> ProductId {
    Uuid::from_u128(number).into()
}

pub(crate) fn euro(amount_minor: i64) -> Money {
    Money::new(amount_minor, Currency::EUR)
}

/// A body that orders so many pieces of these products.
pub(crate) fn basket(lines: &[(u128, i64)]) -> Value {
    let items = lines.iter().map(|(product, quantity)| json!({ "product_id": product_id(*product), "quantity": quantity }));
    json!({ "items": items.collect::<Vec<_>>(), "payment": { "token": TOKEN } })
}

/// What the product service would say to stock checks.
pub(crate) struct Shelf {
    offers: Mutex<BTreeMap<ProductId, Offer>>,
    mood: watch::Sender<Mood>,
    calls: watch::Sender<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Answering,
    /// Takes calls, and keeps them waiting.
    Silent,
    Away,
}

impl Shelf {
    fn new() -> Self {
        let (mood, calls) = (watch::Sender::new(Mood::Answering), watch::Sender::new(0));
        let shelf = Self { offers: Mutex::default(), mood, calls };
        shelf.put(TEA, euro(499), 1_000);
        shelf.put(MUG, euro(1_250), 1_000);
        shelf
    }

    pub(crate) fn put(&self, number: u128, price: Money, available: i64) {
        let offer = Offer { title: format!("Product {number}"), price, available };
        self.offers.lock().unwrap().insert(product_id(number), offer);
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn calls(&self) -> usize {
        *self.calls.borrow()
    }

    /// Waits until so many checks have come.
    pub(crate) async fn was_asked(&self, calls: usize) {
        let mut seen = self.calls.subscribe();
        tokio::time::timeout(DEADLINE, seen.wait_for(|seen| *seen >= calls)).await.expect("a stock check comes").unwrap();
    }

    async fn quote(&self, wanted: Vec<Wanted>) -> Result<Vec<Quote>, Away> {
        self.calls.send_modify(|calls| *calls += 1);
        let mood = *self.mood.subscribe().wait_for(|mood| *mood != Mood::Silent).await.expect("the shelf outlives its calls");
        if mood == Mood::Away {
            return Err(Away("nobody is there".to_owned()));
        }
        let offers = self.offers.lock().unwrap();
        Ok(wanted
            .iter()
            .map(|line| Quote { product_id: line.product_id, offer: offers.get(&line.product_id).cloned() })
            .collect())
    }
}

/// An order service that can be stopped and opened again.
pub(crate) struct Shop {
    pub shelf: Arc<Shelf>,
    pub clock: Arc<TestClock>,
    pub config: Config,
    env: Env,
    signer: Signer,
    database: Arc<TestDatabase>,
    running: Option<Running>,
    keys: AtomicU32,
}

struct Running {
    router: Router,
    writer: Writer<Handler>,
    handler: Arc<Handler>,
    tasks: Tasks,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        let clock = TestClock::start();
        Self::open_in(Env::seeded(clock.clone(), 1), clock, Arc::new(TestDatabase::fresh().await), Arc::new(Shelf::new())).await
    }

    /// One whose clock goes on by itself.
    pub(crate) async fn open_in_real_time() -> Self {
        let (env, clock) = (Env::system(), TestClock::start());
        Self::open_in(env, clock, Arc::new(TestDatabase::fresh().await), Arc::new(Shelf::new())).await
    }

    /// A second process on the same database.
    pub(crate) async fn replica(&self) -> Self {
        let (env, clock) = (Env::seeded(self.clock.clone(), 2), self.clock.clone());
        Self::open_in(env, clock, self.database.clone(), self.shelf.clone()).await
    }

    async fn open_in(env: Env, clock: Arc<TestClock>, database: Arc<TestDatabase>, shelf: Arc<Shelf>) -> Self {
        let signer = Signer::new("k1", &SigningKey::from_bytes(&[7; 32]), "skald", "skald", env.clone());
        let config = Config {
            step_deadline_ms: 5_000,
            step_tries: 3,
            step_backoff_max_ms: 60_000,
            stuck_after: 4,
            stock_check_timeout_ms: 30_000,
            jaeger_url: None,
            kafdrop_url: None,
        };
        let mut shop = Self { shelf, clock, config, env, signer, database, running: None, keys: AtomicU32::new(0) };
        shop.start().await;
        shop
    }

    async fn start(&mut self) {
        let (env, tasks) = (self.env.clone(), Tasks::new());
        let opened = Log::open(self.database.database.clone(), "order", MIGRATIONS, env.clone()).await.unwrap();
        let shelf = self.shelf.clone();
        let ask = move |wanted, _| {
            let shelf = shelf.clone();
            async move { shelf.quote(wanted).await }
        };
        let (metrics, config) = (Metrics::new(), self.config.clone());
        let service = skald_order::build(Deps {
            idempotency: Idempotency::new(opened.log.secret()),
            opened,
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            stock: Stock::start(ask, config.stock_check_timeout(), env.clone(), &tasks),
            locate: Some(Arc::new(|rows| {
                Box::pin(async move { Ok(rows.iter().map(|row| (row.id, (3, row.position))).collect()) })
            })),
            config,
        });
        let router = kit::http::app(AppConfig {
            title: "Skald: orders",
            services: vec![("order", service.routes)],
            verifier: Verifier::new(vec![self.signer.public()], "skald", "skald", env.clone()),
            metrics,
            health: Vec::new(),
            env,
        });
        self.running = Some(Running { router, writer: service.writer, handler: service.handler, tasks });
    }

    /// Stops the service and opens it again on the same database.
    pub(crate) async fn restart(&mut self) {
        let Running { router, writer, handler, tasks } = self.running.take().expect("it runs");
        let log = writer.log().clone();
        drop((router, writer, handler));
        assert!(tasks.stop(DEADLINE).await, "all tasks end");
        assert_eq!(tasks.panicked(), None);
        log.close().await;
        self.start().await;
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    pub(crate) fn log(&self) -> &Log {
        self.running().writer.log()
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.running().tasks
    }

    /// A request by Alice, unless it says otherwise.
    pub(crate) fn get(&self, path: impl AsRef<str>) -> Asked<'_> {
        Asked::new(self, "GET", path.as_ref())
    }

    pub(crate) fn post(&self, path: impl AsRef<str>) -> Asked<'_> {
        Asked::new(self, "POST", path.as_ref())
    }

    /// What is no JSON.
    pub(crate) async fn text(&self, path: &str) -> String {
        self.get(path).by(None).text().await
    }

    /// A placement with a key of its own.
    pub(crate) fn placing(&self) -> Asked<'_> {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        self.post("/v1/orders").key(&format!("key-of-its-own-{number}"))
    }

    /// Places Alice's order for a tea; each is a millisecond newer than the one before.
    pub(crate) async fn place(&self) -> OrderId {
        self.place_for(ALICE).await
    }

    pub(crate) async fn place_for(&self, who: Who) -> OrderId {
        self.clock.advance(Duration::from_millis(1));
        self.placing().by(who).json(basket(&[(TEA, 1)])).await.accepted()
    }

    /// Places an order and answers for the participants until its saga is in this state.
    pub(crate) async fn place_until(&self, state: &str) -> OrderId {
        let id = self.place().await;
        self.answer_until(id, state).await;
        id
    }

    /// Answers for the participants until the order's saga is in this state.
    pub(crate) async fn answer_until(&self, id: OrderId, state: &str) {
        let way: &[fn(OrderId) -> Reply] = match state {
            "ReservingStock" => &[],
            "AuthorizingPayment" => &[reserved],
            "CapturingPayment" => &[reserved, authorized],
            "CommittingStock" => &[reserved, authorized, captured],
            "Confirmed" => &[reserved, authorized, captured, committed],
            "ReleasingStock" => &[reserved, declined],
            "VoidingPayment" => &[reserved, authorized, capture_refused],
            "Cancelled" => &[reserved, declined, released],
            other => panic!("no way to {other}"),
        };
        for reply in way {
            self.say(reply(id)).await;
        }
        assert_eq!(self.order(id).await["saga"]["state"], state);
    }

    /// The order as an operator sees it, which is as anybody does.
    pub(crate) async fn order(&self, id: OrderId) -> Value {
        self.get(format!("/v1/orders/{id}")).by(OPERATOR).empty().await.is(200).body.clone()
    }

    /// Everything that is in the log.
    pub(crate) async fn rows(&self) -> Vec<Arc<Message>> {
        // Another process may have appended too.
        self.log().refresh().await.unwrap();
        let mut rows: Vec<Arc<Message>> = Vec::new();
        loop {
            let more = self.log().after(rows.last().map_or(0, |row| row.position), 1_000).await.unwrap();
            if more.is_empty() {
                return rows;
            }
            rows.extend(more);
        }
    }

    pub(crate) async fn published(&self, topic: &str) -> Vec<Arc<Message>> {
        let mut rows = self.rows().await;
        rows.retain(|row| row.topic.as_deref() == Some(topic));
        rows
    }

    /// The commands that an order's saga has asked so far.
    pub(crate) async fn asked(&self, id: OrderId) -> Vec<String> {
        let (rows, key) = (self.rows().await, id.to_string());
        let is_command = |row: &&Arc<Message>| {
            let topic = row.topic.as_deref().unwrap_or_default();
            row.key.as_ref() == Some(&key) && [topics::PRODUCT_COMMANDS, topics::PAYMENT_COMMANDS].contains(&topic)
        };
        rows.iter().filter(is_command).map(|row| row.kind.clone()).collect()
    }

    /// Waits until so many rows of this type are in the log, and gives the key of the last.
    pub(crate) async fn logged(&self, kind: &str, count: usize) -> OrderId {
        let mut head = self.log().head();
        let logged = async {
            loop {
                head.mark_unchanged();
                let rows = self.rows().await;
                if let Some(row) = rows.iter().filter(|row| row.kind == kind).nth(count - 1) {
                    return row.meta.correlation.expect("it belongs to an order").into();
                }
                head.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, logged).await.unwrap_or_else(|_| panic!("{count} rows of {kind} come"))
    }

    /// Lets deadlines pass, one every `time`, until the order is as wanted.
    pub(crate) async fn passes(&self, time: Duration, id: OrderId, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let order = self.order(id).await;
            if wanted(&order) {
                return order;
            }
            self.asks_again(time, id).await;
        }
    }

    /// Moves the clock on, so that one more command is asked.
    pub(crate) async fn asks_again(&self, time: Duration, id: OrderId) {
        let mut head = self.log().head();
        let before = self.asked(id).await.len();
        self.clock.advance(time);
        let asked = async {
            loop {
                head.mark_unchanged();
                if self.asked(id).await.len() > before {
                    return;
                }
                // The timer may have been looking just when the clock was moved; then it sleeps once more.
                if tokio::time::timeout(MOMENT, head.changed()).await.is_err() {
                    self.clock.advance(NUDGE);
                }
            }
        };
        tokio::time::timeout(DEADLINE, asked).await.expect("a command is asked");
    }

    /// Delivers a participant's reply, as the bus would.
    pub(crate) async fn say(&self, reply: impl Into<Reply>) {
        self.say_all([reply.into()]).await;
    }

    /// Delivers replies of one participant as one batch.
    pub(crate) async fn say_all(&self, replies: impl IntoIterator<Item = Reply>) {
        let messages = replies.into_iter().map(|reply| self.message(&reply)).collect();
        self.deliver(messages).await;
    }

    pub(crate) async fn deliver(&self, messages: Vec<Message>) {
        let (consumer, source) = ("order".to_owned(), messages[0].topic.clone().unwrap());
        let topic = format!("log:{}", source.split('.').next().unwrap());
        let from = self.log().progress(&consumer, &topic, 0).await.unwrap();
        let mut next = from.max(1);
        let mut items = Vec::new();
        for message in messages {
            let work = self.running().handler.accept(&message);
            items.push(Item::row(&consumer, next, Arc::new(message), work));
            next += 1;
        }
        let claim = Claim { consumer, topic, partition: 0, from, next };
        assert_eq!(self.running().writer.deliver(claim, items).await.unwrap(), Delivered::Committed);
    }

    pub(crate) fn message(&self, reply: &Reply) -> Message {
        let (topic, id, payload) = match reply {
            Reply::Product(id, event) => (topics::PRODUCT_EVENTS, *id, event.encode()),
            Reply::Payment(id, event) => (topics::PAYMENT_EVENTS, *id, event.encode()),
        };
        Message {
            position: 1,
            id: MessageId(self.env.id()),
            stream: format!("reply-{id}"),
            version: 1,
            topic: Some(topic.to_owned()),
            key: Some(id.to_string()),
            kind: payload.kind.to_owned(),
            schema: payload.schema,
            data: payload.data,
            time: Timestamp(1),
            meta: Meta { correlation: Some(id.0), trace: Trace::default(), ..Meta::default() },
        }
    }
}

/// What a participant says of an order.
#[derive(Clone)]
pub(crate) enum Reply {
    Product(OrderId, product::Event),
    Payment(OrderId, payment::Event),
}

pub(crate) fn reserved(order_id: OrderId) -> Reply {
    let lines = vec![product::StockLine { product_id: product_id(TEA), quantity: 1 }];
    Reply::Product(order_id, product::StockReserved { order_id, lines, repeated: Default::default() }.into())
}

pub(crate) fn refused(order_id: OrderId) -> Reply {
    let (reason, products) = (product::StockRefusal::NotEnough, vec![product_id(TEA)]);
    Reply::Product(order_id, product::StockRefused { order_id, reason, products, repeated: Default::default() }.into())
}

pub(crate) fn committed(order_id: OrderId) -> Reply {
    let lines = vec![product::StockLine { product_id: product_id(TEA), quantity: 1 }];
    Reply::Product(order_id, product::StockCommitted { order_id, lines, repeated: Default::default() }.into())
}

pub(crate) fn released(order_id: OrderId) -> Reply {
    let (lines, restocked) = (Vec::new(), false);
    Reply::Product(order_id, product::StockReleased { order_id, lines, restocked, repeated: Default::default() }.into())
}

pub(crate) fn authorized(order_id: OrderId) -> Reply {
    let amount = euro(499);
    Reply::Payment(order_id, payment::PaymentAuthorized { order_id, amount, repeated: Default::default() }.into())
}

pub(crate) fn declined(order_id: OrderId) -> Reply {
    let code = "card_declined".to_owned();
    Reply::Payment(order_id, payment::PaymentDeclined { order_id, code, repeated: Default::default() }.into())
}

pub(crate) fn captured(order_id: OrderId) -> Reply {
    let amount = euro(499);
    Reply::Payment(order_id, payment::PaymentCaptured { order_id, amount, repeated: Default::default() }.into())
}

pub(crate) fn capture_refused(order_id: OrderId) -> Reply {
    let code = "expired".to_owned();
    Reply::Payment(order_id, payment::CaptureRefused { order_id, code, repeated: Default::default() }.into())
}

pub(crate) fn voided(order_id: OrderId) -> Reply {
    let refunded = None;
    Reply::Payment(order_id, payment::PaymentVoided { order_id, refunded, repeated: Default::default() }.into())
}
