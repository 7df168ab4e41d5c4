//! All five services behind their one door, in memory as far as they can be: requests go in, answers come out.
//!
//! Never here: a bus; orders stay where they begin. The clock stands, and goes on only while somebody waits for it.

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
};
use contract::{Currency, CustomerId, Money};
use ed25519_dalek::SigningKey;
use eventlog::{Database, Env, Log, Migration, Opened, testing::TestClock};
use http_body_util::BodyExt;
use kit::{
    Idempotency, Metrics, Tasks,
    auth::{AUDIENCE, ISSUER, Role, Signer, Verifier},
    http::{AppConfig, Routes},
};
use order::{
    domain::{Offer, Quote, Wanted},
    stock::Stock,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;
use uuid::Uuid;

/// Real time that a request gets before the clock goes on for it.
const MOMENT: Duration = Duration::from_millis(50);

/// A clock that stands, and ids and tokens that follow from it.
pub struct Desk {
    pub clock: Arc<TestClock>,
    pub env: Env,
    pub signer: Signer,
    pub tasks: Tasks,
    runtime: Runtime,
    _directory: TempDir,
    directory: std::path::PathBuf,
}

impl Default for Desk {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let clock = TestClock::start();
        let env = Env::seeded(clock.clone(), 1);
        // Memory where there is a directory of it: nothing here has to outlive a crash.
        let memory = std::path::Path::new("/dev/shm");
        let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let directory = made.expect("a temporary directory");
        let signer = signer("k1", 7, &env);
        Self { clock, env, signer, tasks: Tasks::new(), runtime, directory: directory.path().to_owned(), _directory: directory }
    }
}

pub fn signer(kid: &str, seed: u8, env: &Env) -> Signer {
    Signer::new(kid, &SigningKey::from_bytes(&[seed; 32]), ISSUER, AUDIENCE, env.clone())
}

/// An answer whose head and body have come.
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Desk {
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub async fn open(&self, service: &'static str, migrations: &[Migration]) -> Opened {
        let database = Database::Sqlite(self.directory.join(format!("{service}.db")));
        Log::open(database, service, migrations, self.env.clone()).await.expect("a fresh database")
    }

    /// These routes behind the door.
    pub fn door(&self, services: Vec<(&'static str, Routes)>, metrics: Metrics) -> Router {
        let verifier = Verifier::new(vec![self.signer.public()], ISSUER, AUDIENCE, self.env.clone());
        kit::http::app(AppConfig { title: "fuzz", services, verifier, metrics, health: Vec::new(), env: self.env.clone() })
    }

    pub fn token(&self, role: Role) -> String {
        let id = CustomerId(Uuid::from_u128(role as u128 + 1));
        self.signer.sign(id, role, Duration::from_secs(i32::MAX as u64))
    }

    /// Sends one request; an event stream is answered by its head alone.
    pub fn send(&self, app: &Router, request: Request<Body>) -> Answered {
        self.run(async {
            let answering = async {
                let response = app.clone().oneshot(request).await.expect("the door always answers");
                let (head, body) = response.into_parts();
                let is_stream = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
                let body = if is_stream { Bytes::new() } else { body.collect().await.expect("a whole body").to_bytes() };
                Answered { status: head.status, headers: head.headers, body }
            };
            let mut answering = std::pin::pin!(answering);
            loop {
                if let Ok(answered) = tokio::time::timeout(MOMENT, &mut answering).await {
                    return answered;
                }
                self.clock.advance(Duration::from_secs(5));
            }
        })
    }
}

/// The shop, with a product and an order that inputs may name.
pub struct House {
    pub desk: Desk,
    pub app: Router,
    /// What stands in an input, and what is sent for it.
    names: Vec<(&'static str, String)>,
}

pub static HOUSE: LazyLock<Mutex<House>> = LazyLock::new(|| Mutex::new(House::open()));

impl House {
    fn open() -> Self {
        let desk = Desk::default();
        let app = desk.run(build(&desk));
        let mut house = Self { desk, app, names: Vec::new() };
        let added = house.send(
            "POST /v1/products\nauthorization: admin\ncontent-type: application/json\n\n{\"sku\":\"TEA\",\"title\":\"Tea\",\
             \"category\":\"drinks\",\"price\":{\"amount_minor\":499,\"currency\":\"EUR\"},\"stock\":1000}",
        );
        let placed = house.send(
            "POST /v1/orders\nauthorization: customer\ncontent-type: application/json\nidempotency-key: first\n\n{\"items\":\
             [{\"product_id\":\"00000000-0000-0000-0000-000000000001\",\"quantity\":1}],\"payment\":{\"token\":\"tok_ok\"}}",
        );
        let id = |answered: Answered| {
            let body: serde_json::Value = serde_json::from_slice(&answered.body).expect("an answer is JSON");
            body["id"].as_str().unwrap_or_else(|| panic!("no id in {body}")).to_owned()
        };
        house.names = vec![("{product}", id(added)), ("{order}", id(placed))];
        house
    }

    fn send(&self, text: &str) -> Answered {
        self.answer(text.as_bytes()).expect("a request")
    }

    /// Sends what the input says, with its names replaced; `None` if it is no request.
    pub fn answer(&self, input: &[u8]) -> Option<Answered> {
        let request = self.request(input)?;
        Some(self.desk.send(&self.app, request))
    }

    /// The request that the input says. `authorization: admin` is that role's token.
    pub fn request(&self, input: &[u8]) -> Option<Request<Body>> {
        let mut bytes = input.to_vec();
        for (name, real) in &self.names {
            while let Some(at) = bytes.windows(name.len()).position(|found| found == name.as_bytes()) {
                bytes.splice(at..at + name.len(), real.bytes());
            }
        }
        let mut request = crate::lines::request(&bytes)?;
        for (name, value) in request.headers_mut() {
            let role = value.to_str().ok().and_then(Role::parse);
            if let Some(role) = role.filter(|_| *name == header::AUTHORIZATION) {
                *value = HeaderValue::try_from(format!("Bearer {}", self.desk.token(role))).expect("a token is ASCII");
            }
        }
        Some(request)
    }
}

/// What product would say: there is one product, and enough of it.
async fn quote(wanted: Vec<Wanted>) -> Result<Vec<Quote>, order::stock::Away> {
    let offer = || Offer { title: "Tea".to_owned(), price: Money::new(499, Currency::EUR), available: i64::MAX };
    let quote = |line: &Wanted| Quote { product_id: line.product_id, offer: (line.product_id.0.as_u128() == 1).then(offer) };
    Ok(wanted.iter().map(quote).collect())
}

async fn build(desk: &Desk) -> Router {
    let (tasks, metrics, env) = (&desk.tasks, Metrics::new(), &desk.env);
    let orders = desk.open("order", order::MIGRATIONS).await;
    let config = order::Config {
        step_deadline_ms: 5_000,
        step_tries: 3,
        step_backoff_max_ms: 60_000,
        stuck_after: 10,
        stock_check_timeout_ms: 30_000,
        jaeger_url: None,
        kafdrop_url: None,
    };
    let orders = order::build(order::Deps {
        idempotency: Idempotency::new(orders.log.secret()),
        opened: orders,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        stock: Stock::start(|wanted, _| quote(wanted), config.stock_check_timeout(), env.clone(), tasks),
        locate: None,
        config,
    });
    let products = desk.open("product", &product::MIGRATIONS).await;
    let products = product::Deps {
        idempotency: Idempotency::new(products.log.secret()),
        opened: products,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        config: product::Config { grpc_listen: ([127, 0, 0, 1], 0).into() },
    };
    let products = product::build(products).await.expect("a free port");
    let payments = payment::build(payment::Deps {
        opened: desk.open("payment", payment::MIGRATIONS).await,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        provider: payment::provider::Provider::BuiltIn,
        config: payment::Config::default(),
    });
    let users = user::build(user::Deps {
        opened: desk.open("user", &user::MIGRATIONS).await,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        config: user::Config::default().with_cheap_passwords(),
    });
    let users = users.await.expect("the first admin");
    let notifications = notification::build(notification::Deps {
        opened: desk.open("notification", notification::MIGRATIONS).await,
        tasks: tasks.clone(),
        channel: Arc::new(notification::channel::Console),
        config: notification::Config::default(),
    });
    let services = vec![
        ("order", orders.routes),
        ("product", products.routes),
        ("payment", payments.routes),
        ("user", users.routes),
        ("notification", notifications.routes),
    ];
    desk.door(services, metrics)
}
