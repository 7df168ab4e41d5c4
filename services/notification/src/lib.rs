//! The notification service: one message to the customer for each outcome of an order, delivered at least once.
//!
//! | room | holds |
//! |---|---|
//! | `domain` | when a notification is queued, delivered, given up; open first |
//! | `template` | the texts |
//! | `handler` | outcomes, results and due rows, in the writer's transactions |
//! | `delivery` | the letters that go out after the commit, and again until they end |
//! | `channel` | the port to whatever carries them, and the console that is built in (seen with `--log debug`) |
//! | `store`, `http`, `config` | rows, routes, knobs |

pub mod channel;
mod config;
mod delivery;
pub mod domain;
mod handler;
mod http;
mod store;
mod template;

use std::sync::Arc;

use eventlog::{Migration, Opened, Writer, WriterLimits};

pub use config::Config;
pub use handler::{Done, Handler, Work};

use channel::{BoxFuture, Channel};
use delivery::Delivery;
use kit::outgoing::{self, Queue};

/// The service's tables.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 100,
    name: "notification",
    sqlite: include_str!("../migrations/0100_notification.sqlite.sql"),
    postgres: include_str!("../migrations/0100_notification.postgres.sql"),
}];

/// What the service is built from.
pub struct Deps {
    pub opened: Opened,
    pub tasks: kit::Tasks,
    /// Usually [`channel::Console`].
    pub channel: Arc<dyn Channel>,
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
    Handler::new(Queue::new().0, config.clone())
}

/// The service with nothing running: for who decides what happens next, which is the simulation.
pub struct Parts {
    pub handler: Arc<Handler>,
    pub writer: Writer<Handler>,
    /// The writer's task.
    pub task: BoxFuture<'static, ()>,
    pub letters: Box<dyn outgoing::Steps>,
}

/// Builds the service and starts nothing.
pub fn parts(opened: Opened, channel: Arc<dyn Channel>, config: Config) -> Parts {
    let (queue, letters) = Queue::new();
    let handler = Arc::new(Handler::new(queue.clone(), config.clone()));
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    let lease = config.lease();
    let delivery = Delivery { channel, writer: writer.clone(), due: handler.due.clone(), config };
    Parts { handler, writer, task: Box::pin(task), letters: outgoing::steps(delivery, queue, letters, lease) }
}

/// Builds the service and starts its writer and its deliveries; whatever was queued goes on.
pub fn build(deps: Deps) -> Service {
    let Deps { opened, tasks, channel, config } = deps;
    let (queue, letters) = Queue::new();
    let handler = Arc::new(Handler::new(queue.clone(), config.clone()));
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    tasks.spawn("notification writer", task);
    writer.log().watch_due(handler.due.clone());
    let (concurrency, lease) = (config.concurrency, config.lease());
    outgoing::start(
        Delivery { channel, writer: writer.clone(), due: handler.due.clone(), config },
        queue,
        letters,
        concurrency,
        lease,
        &tasks,
    );
    let routes = http::routes(writer.log().clone());
    Service { handler, writer, routes }
}
