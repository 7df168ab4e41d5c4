//! The order service: takes orders, and runs their sagas.
//!
//! `domain` prices a basket; `handler` decides requests and replies by the saga's table (`sagas/core/src/order.rs`); `http` is the
//! door; `stock` asks product before; `follow` wakes who waits. From here commands go over the bus to product and payment.

pub mod config;
pub mod domain;
mod follow;
pub mod handler;
mod http;
pub mod stock;
mod store;

use std::sync::Arc;

use engine::{Engine, watch_deadlines};
use eventlog::{Job, Migration, Opened, Writer, WriterLimits};
use kit::{Idempotency, Metrics, Tasks, http::Routes, metrics::in_time};
use saga::order::OrderSaga;

pub use config::Config;
pub use handler::Handler;
pub use http::links::{Locate, Page};

/// The schema of the order service's database.
pub const MIGRATIONS: &[Migration] = &store::MIGRATIONS;

/// What it consumes, by the service whose log it is in.
pub const CONSUMES: [(&str, &[&str]); 2] =
    [("product", &[contract::topics::PRODUCT_EVENTS]), ("payment", &[contract::topics::PAYMENT_EVENTS])];

/// What the order service is made of.
pub struct Deps {
    pub opened: Opened,
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub idempotency: Idempotency,
    pub stock: stock::Stock,
    /// How to find what was published; `None` where nothing is.
    pub locate: Option<Locate>,
    pub config: Config,
}

/// The running order service.
pub struct Service {
    pub writer: Writer<Handler>,
    pub handler: Arc<Handler>,
    pub routes: Routes,
}

/// What the service decides, without anything running: for a dead letter that is redriven beside it.
pub fn handler(config: &Config) -> Handler {
    Handler { engine: Engine::new(config.patience(), engine::Metrics::default()) }
}

/// Starts the service's writer and timers; its consumers and its door are the caller's to start.
pub fn build(deps: Deps) -> Service {
    let Deps { opened, tasks, metrics, idempotency, stock, locate, config } = deps;
    let sagas = engine::Metrics::default();
    metrics.with_registry(|registry| sagas.register(registry));
    let handler = Arc::new(Handler { engine: Engine::new(config.patience(), sagas.clone()) });
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    tasks.spawn("order writer", task);
    let looked = writer.log().clone();
    metrics.look_before_reading(move || {
        let (sagas, log) = (sagas.clone(), looked.clone());
        // Without an answer they are missing; `/health` tells why.
        async move { sagas.show::<OrderSaga>(in_time(engine::open::<OrderSaga>(&log)).await.as_deref()) }
    });
    metrics.register("circuit_breaker_state", "0 closed, 1 half open, 2 open", stock.breaker_state());
    let watchers = follow::Watchers::default();
    let log = writer.log().clone();
    tasks.spawn("order log follower", follow::follow(log.clone(), watchers.clone(), tasks.stopping()));
    let due = writer.clone();
    let fire = move || {
        let due = due.clone();
        async move { due.submit(Job { work: handler::Work::Due, meta: contract::Meta::default() }).await.map(drop) }
    };
    log.watch_due(handler.engine.due().clone());
    tasks.spawn("saga deadlines", watch_deadlines(log, handler.engine.due().clone(), fire, tasks.stopping()));
    let links = http::links::Links { jaeger: config.jaeger_url, kafdrop: config.kafdrop_url, locate };
    let shop = http::Shop { writer: writer.clone(), stock, watchers, idempotency, links, stopping: tasks.stopping() };
    Service { writer, handler, routes: http::routes(shop) }
}
