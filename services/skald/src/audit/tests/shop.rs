//! A small shop whose services are the real ones, without doors: what the audit is tried on.
//!
//! Never here: laws. It leaves orders that went every way: confirmed, declined, sold out, refused at the capture, answered late,
//! cancelled on the way, and one that an operator ended by their word.

use std::{sync::Arc, time::Duration};

use bus::{Consumer, Embedded, consume};
use contract::{
    Currency, CustomerId, Meta, Money, OrderId, ProductId,
    order::Line,
    product::{ProductAdded, StockChanged},
    topics,
};
use eventlog::{
    Answer, Database, Env, IdempotencyKey, Job, Log, Migration, Opened, Writer, WriterLimits, on, testing::TestDatabase,
};
use kit::{Idempotency, Metrics, Tasks};
use order::handler::{By, Done, Place, Work};
use product::{domain::catalogue::Command, handler::Work as ProductWork};
use saga::order::Input;
use uuid::Uuid;

/// When the provider grants what was paid with `tok_slow`: long enough to be cancelled before.
const SLOW_MS: u64 = 1_500;
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(5);

/// The databases of five services.
pub(super) struct Shop {
    databases: Vec<(&'static str, TestDatabase)>,
}

/// The services, running on those databases.
pub(super) struct Running {
    pub orders: Writer<order::Handler>,
    products: Writer<product::Handler>,
    env: Env,
    tasks: Tasks,
    logs: Vec<Log>,
}

/// Everything at its default.
fn config<C: clap::Args>() -> C {
    let command = C::augment_args(clap::Command::new("shop"));
    C::from_arg_matches(&command.get_matches_from(["shop"])).expect("every knob has a default")
}

fn product(number: u128) -> ProductId {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number).into()
}

impl Shop {
    pub(super) async fn fresh() -> Self {
        let mut databases = Vec::new();
        for service in ["order", "product", "payment", "user", "notification"] {
            databases.push((service, TestDatabase::fresh().await));
        }
        Self { databases }
    }

    pub(super) fn services(&self) -> Vec<(&'static str, Database)> {
        self.databases.iter().map(|(service, test)| (*service, test.database.clone())).collect()
    }

    async fn open(&self, service: &'static str, migrations: &[Migration]) -> Opened {
        let (_, test) = self.databases.iter().find(|(name, _)| *name == service).expect("all five are there");
        Log::open(test.database.clone(), service, migrations, Env::system()).await.unwrap()
    }

    pub(super) async fn start(&self) -> Running {
        let (env, tasks, metrics) = (Env::system(), Tasks::new(), Metrics::new());
        let opened = self.open("product", &product::MIGRATIONS).await;
        let (products, task) = Writer::new(opened, Arc::new(product::Handler), WriterLimits::default());
        tasks.spawn("products", task);
        let payment = payment::build(payment::Deps {
            opened: self.open("payment", payment::MIGRATIONS).await,
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            provider: payment::provider::Provider::BuiltIn,
            config: payment::Config {
                timeout_ms: 50,
                retry_first_ms: 20,
                retry_cap_ms: 100,
                slow_ms: SLOW_MS,
                ..Default::default()
            },
        });
        let notification = notification::build(notification::Deps {
            opened: self.open("notification", notification::MIGRATIONS).await,
            tasks: tasks.clone(),
            channel: Arc::new(notification::channel::Console),
            config: Default::default(),
        });
        let user = user::build(user::Deps {
            opened: self.open("user", &user::MIGRATIONS).await,
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            config: config(),
        });
        let user = user.await.unwrap();
        let opened = self.open("order", order::MIGRATIONS).await;
        let order = order::build(order::Deps {
            idempotency: Idempotency::new(opened.log.secret()),
            opened,
            tasks: tasks.clone(),
            metrics,
            stock: order::stock::Stock::grpc(&[], PATIENCE, env.clone(), &tasks),
            locate: None,
            config: config(),
        });
        let (order_log, payment_log) = (order.writer.log(), payment.writer.log());
        join("product", &Arc::new(product::Handler), &products, order_log, &[topics::PRODUCT_COMMANDS], &tasks).await;
        join("payment", &payment.handler, &payment.writer, order_log, &[topics::PAYMENT_COMMANDS], &tasks).await;
        join("order", &order.handler, &order.writer, products.log(), &[topics::PRODUCT_EVENTS], &tasks).await;
        join("order", &order.handler, &order.writer, payment_log, &[topics::PAYMENT_EVENTS], &tasks).await;
        join("notification", &notification.handler, &notification.writer, order_log, &[topics::ORDER_EVENTS], &tasks).await;
        let logs =
            [order_log, products.log(), payment_log, user.writer.log(), notification.writer.log()].map(Clone::clone).into();
        Running { orders: order.writer, products, env, tasks, logs }
    }
}

async fn join<H: Consumer>(
    consumer: &'static str,
    handler: &Arc<H>,
    writer: &Writer<H>,
    source: &Log,
    topics: &'static [&'static str],
    tasks: &Tasks,
) {
    let progress = writer.log().progress(consumer, &Embedded::topic(source), 0).await.unwrap();
    let source = Embedded::new(consumer, source.clone(), topics, progress).unwrap();
    tasks.spawn("consumer", consume(consumer, source, handler.clone(), writer.clone(), tasks.stopping()));
}

impl Running {
    /// Two products, and orders that go every way; the last of them may still be on their way.
    pub(super) async fn trade(&self) {
        for (number, stock) in [(1, 50), (2, 5)] {
            let (sku, title, category) = (format!("SKU-{number}"), format!("product {number}"), "things".to_owned());
            let price = Money::new(1_250, Currency::EUR);
            self.administer(Command::Add(ProductAdded { product_id: product(number), sku, title, category, price, stock })).await;
        }
        let delivery = StockChanged { product_id: product(1), change: 25, reason: "delivery".to_owned() };
        self.administer(Command::ChangeStock(delivery)).await;

        let mut key = 0;
        for (token, lines) in [
            ("tok_ok", &[(1, 2), (2, 1)][..]),
            ("tok_ok", &[(1, 1)]),
            ("tok_lost", &[(1, 3)]),
            ("tok_declined", &[(1, 1)]),
            ("tok_capture_refused", &[(1, 1), (2, 1)]),
            ("tok_ok", &[(2, 500)]),
        ] {
            key += 1;
            self.place(key, token, lines).await;
        }
        let cancelled = self.place(100, "tok_slow", &[(1, 4)]).await;
        let waived = self.place(101, "tok_slow", &[(1, 5)]).await;
        for (order_id, key) in [(cancelled, 102), (waived, 103)] {
            self.until(order_id, "AuthorizingPayment").await;
            self.ask(Work::Cancel { order_id, by: By { id: uuid::Uuid::max().into(), is_operator: true } }, Some(key), |done| {
                *done == Done::Accepted(order_id)
            })
            .await;
        }
        let note = Some("the customer was paid in cash".to_owned());
        let work = Work::Steer { order_id: waived, verb: Input::CompletionForced, note };
        self.ask(work, None, |done| *done == Done::Accepted(waived)).await;
    }

    async fn administer(&self, command: Command) {
        let job = Job { work: ProductWork::Admin(command), meta: Meta::default() };
        assert!(matches!(self.products.request(job, None).await.unwrap(), Answer::Done(_)));
    }

    pub(super) async fn place(&self, key: u8, token: &str, lines: &[(u128, u32)]) -> OrderId {
        let order_id = OrderId(self.env.id());
        let unit_price = Money::new(1_250, Currency::EUR);
        let line = |(number, quantity): &(u128, u32)| {
            let title = format!("product {number}");
            Line { product_id: product(*number), title, quantity: *quantity, unit_price }
        };
        let lines: Vec<Line> = lines.iter().map(line).collect();
        let pieces: u32 = lines.iter().map(|line| line.quantity).sum();
        let place = Place {
            order_id,
            customer_id: CustomerId(self.env.id()),
            lines,
            total: unit_price.times(pieces).unwrap(),
            payment_token: token.to_owned(),
        };
        self.ask(Work::Place(place), Some(key), |done| matches!(done, Done::Placed(id, _) if *id == order_id)).await;
        order_id
    }

    async fn ask(&self, work: Work, key: Option<u8>, is_expected: impl Fn(&Done) -> bool) {
        let meta = Meta { actor: Some("operator:somebody".to_owned()), ..Meta::default() };
        let key = key.map(|key| IdempotencyKey { key: [key; 32], fingerprint: [0; 32] });
        match self.orders.request(Job { work, meta }, key).await.unwrap() {
            Answer::Done(done) => assert!(is_expected(&done), "{done:?}"),
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, order_id: OrderId, wanted: &str) {
        let began = self.env.now();
        loop {
            let mut reader = self.orders.log().reader().await.unwrap();
            let state: String =
                on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, String>("SELECT state FROM sagas WHERE id = $1")
                    .bind(order_id.0)
                    .fetch_one(c)
                    .await)
                .unwrap();
            if state == wanted {
                return;
            }
            self.pause(began, &state).await;
        }
    }

    /// Waits a moment, unless it has taken too long since `began`.
    pub(super) async fn pause(&self, began: contract::Timestamp, still: &str) {
        assert!(self.env.now().since(began) < PATIENCE, "still {still}");
        self.env.sleep(TICK).await;
    }

    pub(super) async fn stop(self) {
        let Self { orders, products, env, tasks, logs } = self;
        drop((orders, products, env));
        assert!(tasks.stop(PATIENCE).await);
        for log in logs {
            log.close().await;
        }
    }
}
