//! How each service is built, whatever process it runs in: its database opened, its tasks started, its routes behind a door.
//!
//! Never here: a bus, or what a service does. `up.rs` joins all services by the embedded bus, `serve.rs` one of them by Kafka.

use std::{sync::Arc, time::Duration};

use axum::Router;
use clap::ValueEnum;
use eventlog::{Database, Env, Handler, Log, Migration, OpenError, Opened, Writer};
use kit::{
    Idempotency, Tasks,
    auth::Verifier,
    http::{AppConfig, Check, Routes},
};
use order::stock::Stock;

use crate::process::Process;

const FORGET_EVERY: Duration = Duration::from_secs(60);

/// The services by name, in the order in which an audit reads them: orders first, participants after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    Order,
    Product,
    Payment,
    User,
    Notification,
}

impl Name {
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Product => "product",
            Self::Payment => "payment",
            Self::User => "user",
            Self::Notification => "notification",
        }
    }

    fn migrations(self) -> &'static [Migration] {
        match self {
            Self::Order => order::MIGRATIONS,
            Self::Product => &product::MIGRATIONS,
            Self::Payment => payment::MIGRATIONS,
            Self::User => &user::MIGRATIONS,
            Self::Notification => notification::MIGRATIONS,
        }
    }

    /// Opens the service's log; makes or updates its schema.
    pub(crate) async fn open(self, database: Database, env: Env) -> Result<Opened, OpenError> {
        Log::open(database, self.as_str(), self.migrations(), env).await
    }
}

pub(crate) fn order(
    process: &Process,
    opened: Opened,
    stock: Stock,
    locate: Option<order::Locate>,
    config: order::Config,
) -> order::Service {
    let idempotency = Idempotency::new(opened.log.secret());
    let (tasks, metrics) = (process.tasks.clone(), process.metrics.clone());
    let service = order::build(order::Deps { opened, tasks, metrics, idempotency, stock, locate, config });
    forget_keys(&service.writer, &process.tasks);
    service
}

pub(crate) async fn product(
    process: &Process,
    opened: Opened,
    config: product::Config,
) -> Result<product::Service, product::Error> {
    let idempotency = Idempotency::new(opened.log.secret());
    let (tasks, metrics) = (process.tasks.clone(), process.metrics.clone());
    let service = product::build(product::Deps { opened, tasks, metrics, idempotency, config }).await?;
    forget_keys(&service.writer, &process.tasks);
    Ok(service)
}

pub(crate) fn payment(process: &Process, opened: Opened, config: payment::Config) -> payment::Service {
    let (tasks, metrics, provider) = (process.tasks.clone(), process.metrics.clone(), payment::provider::Provider::BuiltIn);
    payment::build(payment::Deps { opened, tasks, metrics, provider, config })
}

pub(crate) async fn user(process: &Process, opened: Opened, config: user::Config) -> Result<user::Service, user::Error> {
    let (tasks, metrics) = (process.tasks.clone(), process.metrics.clone());
    user::build(user::Deps { opened, tasks, metrics, config }).await
}

pub(crate) fn notification(process: &Process, opened: Opened, config: notification::Config) -> notification::Service {
    let (tasks, channel) = (process.tasks.clone(), Arc::new(notification::channel::Console));
    notification::build(notification::Deps { opened, tasks, channel, config })
}

/// The one door of a process: the routes of its services, probes, metrics and documentation.
pub(crate) fn door(
    process: &Process,
    services: Vec<(&'static str, Routes)>,
    verifier: Verifier,
    logs: &[Log],
    mut health: Vec<Check>,
) -> Router {
    let (env, metrics) = (process.env.clone(), process.metrics.clone());
    metrics.watch_logs(logs.to_vec());
    health.extend(logs.iter().flat_map(|log| [answers(log), commits(log)]));
    health.extend(logs.iter().filter(|log| log.due().is_some()).map(is_readable));
    health.push(is_on_time(&env));
    kit::http::app(AppConfig { title: "Skald", services, verifier, metrics, health, env })
}

/// A service's database answers.
fn answers(log: &Log) -> Check {
    let (name, log) = (format!("{} database", log.service()), log.clone());
    Check::new(name, move || {
        let log = log.clone();
        async move { log.refresh().await.map_err(|error| error.to_string()) }
    })
}

/// None of a service's rows waits for another build.
fn is_readable(log: &Log) -> Check {
    let (name, log) = (format!("{} rows", log.service()), log.clone());
    let check = Check::new(name, move || {
        let log = log.clone();
        async move {
            let (Some(due), survey) = (log.due(), log.survey().await.map_err(|error| error.to_string())?) else { return Ok(()) };
            let (count, what, build) = (survey.unreadable, due.what(), env!("CARGO_PKG_VERSION"));
            if count == 0 {
                return Ok(());
            }
            let how =
                "start a build that can, which takes them up by itself; the log names each of them and says what is not known";
            Err(format!("{count} {what} can't be read by this build ({build}) and stand still, all others go on: {how}"))
        }
    });
    check.that_can_wait()
}

/// The machine's clock and that of the process are one.
fn is_on_time(env: &Env) -> Check {
    let env = env.clone();
    let check = Check::new("clock", move || {
        let stand = env.clock();
        async move { if stand.is_apart() { Err(stand.to_string()) } else { Ok(()) } }
    });
    check.that_can_wait()
}

/// What a service decides becomes durable: not while somebody else has the head's lock, the disk is full or the database refuses.
fn commits(log: &Log) -> Check {
    let (name, log) = (format!("{} writer", log.service()), log.clone());
    Check::new(name, move || {
        let trouble = log.trouble();
        async move { trouble.map_or(Ok(()), Err) }
    })
}

/// Deletes idempotency keys that are past their time, a few at a time.
fn forget_keys<H: Handler>(writer: &Writer<H>, tasks: &Tasks) {
    let (writer, stop) = (writer.clone(), tasks.stopping());
    tasks.spawn("old idempotency keys", async move {
        while stop.run_until_cancelled(writer.log().env().sleep(FORGET_EVERY)).await.is_some() {
            if let Err(error) = writer.forget_old_keys(FORGET_EVERY).await {
                tracing::warn!(service = writer.log().service(), %error, "can't delete old idempotency keys; trying again later");
            }
        }
    });
}

/// The knobs of a service in force, one line, without secrets.
pub(crate) fn knobs(service: &str, config: &dyn std::fmt::Debug) -> String {
    let config = format!("{config:?}");
    let values = config.strip_prefix("Config { ").and_then(|config| config.strip_suffix(" }")).unwrap_or(&config);
    format!("{service:<14} {values}\n")
}
