//! `skald serve`: one service as a process of its own, which speaks to the others through Kafka.
//!
//! Never here: what a service does, or how one is built (`assemble.rs`). Any number of replicas of a service may run on one
//! PostgreSQL database.

use std::{fmt::Debug, fs::File, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use bus::{
    Consumer,
    kafka::{self, Group, Health, Kafka, Locator, Spawn},
};
use clap::Subcommand;
use contract::topics::TOPICS;
use eventlog::{Database, Log, Memory, Opened, Writer};
use kit::{
    auth::{JwksUrl, Verifier},
    http::{Check, Routes},
};
use order::stock::{Address, Stock};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use tokio::net::TcpListener;

use crate::{
    assemble::{self, Name},
    cli,
    database::DatabaseArgs,
    kafka::{KafkaArgs, KeyArgs, tell_whom_it_believes},
    process::{Error, Process, listen, lock_file},
    traces::TraceArgs,
    up::first_admin,
};

/// Which service, with its own flags.
#[derive(Subcommand)]
pub(crate) enum Service {
    /// Takes orders and runs their sagas
    Order(Order),
    /// Keeps the catalogue and the stock, and answers stock checks over gRPC
    Product(Product),
    /// Authorizes, captures, voids and refunds at a payment provider
    Payment(Payment),
    /// Keeps accounts, and signs the tokens that all services take
    User(User),
    /// Tells customers how their orders ended
    Notification(Notification),
}

#[derive(clap::Args)]
pub(crate) struct Order {
    #[command(flatten)]
    keys: Keys,
    /// Where the product service answers stock checks, such as http://127.0.0.1:50052; several replicas are asked in turn
    #[arg(long, env = "SKALD_STOCK_CHECK", value_name = "URL", value_delimiter = ',', required = true)]
    stock_check: Vec<Address>,
    #[command(flatten)]
    shared: Shared,
    #[command(flatten, next_help_heading = "Orders and their sagas")]
    config: order::Config,
}

#[derive(clap::Args)]
pub(crate) struct Product {
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    shared: Shared,
    #[command(flatten, next_help_heading = "Products and stock checks")]
    config: product::Config,
}

#[derive(clap::Args)]
pub(crate) struct Payment {
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    shared: Shared,
    #[command(flatten, next_help_heading = "Payments")]
    config: payment::Config,
}

#[derive(clap::Args)]
pub(crate) struct User {
    #[command(flatten)]
    shared: Shared,
    #[command(flatten, next_help_heading = "Users")]
    config: user::Config,
}

#[derive(clap::Args)]
pub(crate) struct Notification {
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    shared: Shared,
    #[command(flatten, next_help_heading = "Notifications")]
    config: notification::Config,
}

/// What every service takes.
#[derive(clap::Args, Clone, Debug)]
struct Shared {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Where to serve REST, probes and metrics; port 0 takes a free one
    #[arg(long, env = "SKALD_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How many messages may wait for Kafka before new requests are answered 503
    #[arg(long, env = "SKALD_BACKLOG_MAX", value_name = "MESSAGES", default_value_t = 100_000,
          value_parser = clap::value_parser!(i64).range(1..))]
    backlog_max: i64,
    /// How much memory messages and requests on their way may take, in MiB, beside the 50 or so of a process that has nothing to do:
    /// each buffer has its part
    #[arg(long, env = "SKALD_MEMORY_MIB", value_name = "MIB", default_value_t = Memory::DEFAULT_MIB,
          value_parser = clap::value_parser!(u32).range(i64::from(Memory::LEAST_MIB)..=i64::from(Memory::MOST_MIB)))]
    memory_mib: u32,
    /// How long /readyz says 503 before requests stop being taken, once told to stop, in milliseconds: so that they go elsewhere
    #[arg(long, env = "SKALD_STOP_DELAY_MS", value_name = "MS", default_value_t = 1_000)]
    stop_delay_ms: u64,
    #[command(flatten, next_help_heading = "Kafka")]
    kafka: KafkaArgs,
    #[command(flatten)]
    message_keys: KeyArgs,
    #[command(flatten, next_help_heading = "Traces")]
    traces: TraceArgs,
}

#[derive(clap::Args, Clone, Debug)]
struct Keys {
    /// Where the user service publishes the keys of its tokens, such as http://127.0.0.1:8080/.well-known/jwks.json
    #[arg(long, env = "SKALD_JWKS", value_name = "URL")]
    jwks: JwksUrl,
}

impl Service {
    fn shared(&self) -> &Shared {
        match self {
            Self::Order(order) => &order.shared,
            Self::Product(product) => &product.shared,
            Self::Payment(payment) => &payment.shared,
            Self::User(user) => &user.shared,
            Self::Notification(notification) => &notification.shared,
        }
    }
}

pub(crate) async fn run(service: Service) -> ExitCode {
    let shared = service.shared().clone();
    let (database, kafka, keys) = match (shared.database.database(), shared.kafka.settings(), shared.message_keys.keys()) {
        (Ok(database), Ok(kafka), Ok(keys)) => (database, kafka, keys),
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => return cli::usage(&why),
    };
    let kafka = Kafka::new(kafka).with_keys(keys.clone());
    let delay = Duration::from_millis(shared.stop_delay_ms);
    let running = match start(service, Start { shared, database, kafka }).await {
        Ok(running) => running,
        // A rolling restart may stop what still waits for its database: nothing was begun, so nothing went wrong.
        Err(error @ Error::Stopped) => {
            tracing::info!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return cli::environment(&error),
    };
    tell_whom_it_believes(&keys);
    crate::out::text(format_args!("{}", running.told));
    let told = running.process.until_told_to_stop(std::slice::from_ref(&running.log)).await;
    let code = match &told {
        Ok(()) => {
            running.process.env.sleep(delay).await;
            ExitCode::SUCCESS
        }
        Err(error) => cli::environment(error),
    };
    let in_time = running.process.stop(&[running.log]).await;
    if in_time { code } else { ExitCode::from(cli::EXIT_ENVIRONMENT) }
}

/// What a service starts from, read and checked.
struct Start {
    shared: Shared,
    database: Database,
    kafka: Kafka,
}

/// A process whose port is taken, and whose database is open or was handed on.
struct House {
    start: Start,
    process: Process,
    listener: TcpListener,
    lock: Option<[File; 2]>,
    /// Where everything is, for the person at the keyboard.
    told: String,
}

struct Running {
    process: Process,
    log: Log,
    told: String,
    _lock: Option<[File; 2]>,
}

async fn start(service: Service, start: Start) -> Result<Running, Error> {
    match service {
        Service::Order(Order { keys, stock_check, config, .. }) => {
            let (house, opened) = start.open(Name::Order).await?;
            let Process { env, tasks, .. } = &house.process;
            let stock = Stock::grpc(&stock_check, config.stock_check_timeout(), env.clone(), tasks);
            let locator = Locator::new(house.start.kafka.clone(), env.clone());
            let locate: order::Locate = Arc::new(move |rows| {
                let locator = locator.clone();
                Box::pin(async move { locator.locate(rows).await })
            });
            let order = assemble::order(&house.process, opened, stock, Some(locate), config.clone());
            house.serve_with(keys, order.handler, order.writer, order.routes, &config).await
        }
        Service::Product(Product { keys, config, .. }) => {
            let (mut house, opened) = start.open(Name::Product).await?;
            let product = assemble::product(&house.process, opened, config.clone()).await?;
            house.told += &format!("stock checks   grpc://{}\n", product.grpc);
            house.serve_with(keys, product.handler, product.writer, product.routes, &config).await
        }
        Service::Payment(Payment { keys, config, .. }) => {
            let (house, opened) = start.open(Name::Payment).await?;
            let payment = assemble::payment(&house.process, opened, config.clone());
            house.serve_with(keys, payment.handler, payment.writer, payment.routes, &config).await
        }
        Service::User(User { config, .. }) => {
            let (mut house, opened) = start.open(Name::User).await?;
            let user = assemble::user(&house.process, opened, config.clone()).await?;
            house.told += &first_admin(&config.admin_email, user.first_admin.as_ref().map(|admin| admin.password.as_str()));
            house.serve(user.verifier, Vec::new(), user.handler, user.writer, user.routes, &config).await
        }
        Service::Notification(Notification { keys, config, .. }) => {
            let (house, opened) = start.open(Name::Notification).await?;
            let notification = assemble::notification(&house.process, opened, config.clone());
            house.serve_with(keys, notification.handler, notification.writer, notification.routes, &config).await
        }
    }
}

impl Start {
    async fn open(self, name: Name) -> Result<(House, Opened), Error> {
        let process = Process::start(self.shared.traces.start(true).with_memory(Memory::mib(self.shared.memory_mib)))?;
        let lock = match &self.database {
            Database::Sqlite(path) => Some(lock_file(path)?),
            Database::Postgres(_) => None,
        };
        let (listener, http) = listen(self.shared.listen).await?;
        let opening = async { Ok(self.shared.database.open(name, &self.database, &process.env).await?) };
        let opened = process.unless_stopped(opening).await?;
        let (database, brokers) = (&self.database, self.shared.kafka.brokers());
        let told = format!(
            "API            http://{http}\ndocumentation  http://{http}/docs\ndatabase       {database}\nKafka          {brokers}\n"
        );
        Ok((House { start: self, process, listener, lock, told }, opened))
    }
}

impl House {
    /// Serves with the keys of another process.
    async fn serve_with<H: Consumer>(
        self,
        Keys { jwks }: Keys,
        handler: Arc<H>,
        writer: Writer<H>,
        routes: Routes,
        config: &dyn Debug,
    ) -> Result<Running, Error> {
        let (verifier, check) = Verifier::remote(jwks, self.process.env.clone(), &self.process.tasks);
        self.serve(verifier, vec![check], handler, writer, routes, config).await
    }

    async fn serve<H: Consumer>(
        self,
        verifier: Verifier,
        mut health: Vec<Check>,
        handler: Arc<H>,
        writer: Writer<H>,
        routes: Routes,
        config: &dyn Debug,
    ) -> Result<Running, Error> {
        let Self { start, process, listener, lock, told } = self;
        let log = writer.log().clone();
        log.limit_backlog(start.shared.backlog_max);
        process.tasks.spawn("time", log.clone().keep_time(process.tasks.stopping()));
        process.tasks.spawn("wake-ups", log.clone().exchange_wake_ups(process.tasks.stopping()));
        health.push(process.is_to_stay());
        health.extend(connect(&process, &handler, &writer, start.kafka));
        let door = assemble::door(&process, vec![(log.service(), routes)], verifier, std::slice::from_ref(&log), health);
        process.serve(listener, door);
        let told = told + &assemble::knobs(log.service(), config);
        Ok(Running { process, log, told, _lock: lock })
    }
}

/// Publishes the service's log to Kafka and consumes what the service reads; tells how to look after both.
fn connect<H: Consumer>(process: &Process, handler: &Arc<H>, writer: &Writer<H>, kafka: Kafka) -> Vec<Check> {
    let (log, tasks) = (writer.log().clone(), &process.tasks);
    let (health, stop) = (Health::default(), tasks.stopping());
    tasks.spawn("relay", kafka::relay(log.clone(), kafka.clone(), health.clone(), stop.clone()));
    let consumer = log.service();
    let topics = TOPICS.iter().filter(|topic| topic.readers.contains(&consumer)).map(|topic| topic.name).collect::<Vec<_>>();
    if !topics.is_empty() {
        let spawner = tasks.clone();
        let spawn: Spawn = Arc::new(move |consumer| spawner.spawn("consumer", consumer));
        let group = Group { consumer, topics, kafka, health: health.clone(), spawn, stop };
        tasks.spawn("consumer group", group.consume(handler.clone(), writer.clone()));
    }
    process.metrics.with_registry(|registry| registry.register_collector(Box::new(Lag { consumer, health: health.clone() })));
    let kafka = Check::new("kafka", move || {
        let problem = health.problem();
        async move { problem.map_or(Ok(()), Err) }
    });
    let backlog = Check::new("backlog", move || {
        let full = log.is_backlogged().then(|| format!("{} messages wait for Kafka", log.unpublished()));
        async move { full.map_or(Ok(()), Err) }
    });
    // Orders are taken without Kafka: the log keeps what there is to say, up to its bound.
    vec![kafka.that_can_wait(), backlog]
}

/// How far the consumers are behind their topics, when it is asked.
#[derive(Debug)]
struct Lag {
    consumer: &'static str,
    health: Health,
}

impl Collector for Lag {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Messages that this process is assigned and has not handled";
        let mut lag = encoder.encode_descriptor("consumer_lag_messages", help, None, MetricType::Gauge)?;
        for (topic, partition, messages) in self.health.lag() {
            let labels = [("consumer", self.consumer), ("topic", &topic), ("partition", &partition.to_string())];
            lag.encode_family(&labels)?.encode_gauge(&messages)?;
        }
        Ok(())
    }
}
