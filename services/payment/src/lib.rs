//! The payment service: authorize, capture, void and refund, each at most once, whatever crashes or goes unanswered.
//!
//! | room | holds |
//! |---|---|
//! | `domain` | what a command or an answer leads to; open first |
//! | `handler` | commands, answers and due calls, in the writer's transactions |
//! | `caller` | the calls that go out after the commit, and again until they are answered |
//! | `provider` | the port to whoever moves the money, and the simulator that is built in |
//! | `store`, `http`, `config`, `metrics` | rows, routes, knobs, measures |

mod caller;
mod config;
pub mod domain;
mod handler;
mod http;
mod metrics;
pub mod provider;
mod store;

use std::sync::Arc;

use eventlog::{Migration, Opened, Writer, WriterLimits};

pub use config::Config;
pub use handler::{Done, Handler, Work};

use caller::Calls;
use kit::outgoing::{self, Queue};
use provider::{BoxFuture, PaymentProvider, Provider, simulator::Simulator};

/// The service's tables.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 100,
    name: "payment",
    sqlite: include_str!("../migrations/0100_payment.sqlite.sql"),
    postgres: include_str!("../migrations/0100_payment.postgres.sql"),
}];

/// What the service is built from.
pub struct Deps {
    pub opened: Opened,
    pub tasks: kit::Tasks,
    pub metrics: kit::Metrics,
    pub provider: Provider,
    pub config: Config,
}

/// The running service.
pub struct Service {
    pub handler: Arc<Handler>,
    pub writer: Writer<Handler>,
    pub routes: kit::http::Routes,
}

/// What the service decides, without anything running: for a dead letter that is redriven beside it.
pub fn handler(config: &Config) -> Handler {
    Handler::new(Queue::new().0, config)
}

/// The service with nothing running: for who decides what happens next, which is the simulation.
pub struct Parts {
    pub handler: Arc<Handler>,
    pub writer: Writer<Handler>,
    /// The writer's task.
    pub task: BoxFuture<'static, ()>,
    pub calls: Box<dyn outgoing::Steps>,
}

/// Builds the service and starts nothing.
pub fn parts(opened: Opened, provider: Arc<dyn PaymentProvider>, config: Config) -> Parts {
    let (queue, calls) = Queue::new();
    let handler = Arc::new(Handler::new(queue.clone(), &config));
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    let (lease, metrics) = (config.lease(), metrics::Metrics::new(&kit::Metrics::default()));
    let caller = Calls { provider, writer: writer.clone(), due: handler.due.clone(), config, metrics };
    Parts { handler, writer, task: Box::pin(task), calls: outgoing::steps(caller, queue, calls, lease) }
}

/// Builds the service and starts its writer and its calls; whatever was open goes on.
pub fn build(deps: Deps) -> Service {
    let Deps { opened, tasks, metrics, provider, config } = deps;
    let (queue, calls) = Queue::new();
    let handler = Arc::new(Handler::new(queue.clone(), &config));
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    tasks.spawn("payment writer", task);
    writer.log().watch_due(handler.due.clone());
    let provider = match provider {
        Provider::BuiltIn => Arc::new(Simulator::new(writer.clone(), &config)),
        Provider::Given(provider) => provider,
    };
    let (concurrency, lease, metrics) = (config.concurrency, config.lease(), metrics::Metrics::new(&metrics));
    let caller = Calls { provider, writer: writer.clone(), due: handler.due.clone(), config, metrics };
    outgoing::start(caller, queue, calls, concurrency, lease, &tasks);
    let routes = http::routes(writer.log().clone());
    Service { handler, writer, routes }
}
