//! All five services in one process: opens the databases, builds each service, and joins them by the embedded bus.
//!
//! Never here: what a service does. This is the one place that knows all of them.

use std::{
    fmt::Write,
    fs::{File, TryLockError},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bus::{Consumer, Embedded, consume};
use eventlog::{Database, Env, Log, Migration, OpenError, Opened, Writer};
use kit::{
    Idempotency, Metrics, Tasks,
    http::{AppConfig, Check},
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// How long requests and messages under way may take to end, once told to stop.
const DRAIN: Duration = Duration::from_secs(5);
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// The services' own knobs.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Services {
    #[command(flatten, next_help_heading = "Orders and their sagas")]
    pub order: order::Config,
    #[command(flatten, next_help_heading = "Products and stock checks")]
    pub product: product::Config,
    #[command(flatten, next_help_heading = "Payments")]
    pub payment: payment::Config,
    #[command(flatten, next_help_heading = "Users")]
    pub user: user::Config,
    #[command(flatten, next_help_heading = "Notifications")]
    pub notification: notification::Config,
}

pub(crate) struct Options {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub services: Services,
}

/// The system can't start. Each is one sentence for the person at the keyboard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("can't create the data directory {path}; name another with --data")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("another process is using {path}; stop it, or name another directory with --data")]
    Locked { path: PathBuf },
    #[error("can't lock {path}")]
    Lock {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Ahead(#[from] bus::Ahead),
    #[error("can't read how far {consumer} has come")]
    Progress {
        consumer: &'static str,
        #[source]
        source: eventlog::Error,
    },
    #[error("can't listen on {address}; is another process serving there? Choose another with --listen")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Product(#[from] product::Error),
    #[error(transparent)]
    User(#[from] user::Error),
    #[error("can't use the address of the stock check")]
    Stock(#[source] tonic::transport::Error),
    #[error("the task {0:?} panicked; its message is in the log above. Start again: nothing that was answered is lost")]
    Panicked(&'static str),
    #[error("can't wait for a signal")]
    Signal(#[source] std::io::Error),
}

/// The running system.
pub(crate) struct Running {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub admin_email: String,
    /// Set when the first admin was made just now.
    pub admin_password: Option<String>,
    data: PathBuf,
    services: Services,
    tasks: Tasks,
    logs: Vec<Log>,
    /// Ctrl-C or SIGTERM came.
    told_to_stop: CancellationToken,
    _lock: File,
}

/// Where each service's database is, in the order in which an audit reads them: orders first, participants after.
pub(crate) fn databases(data: &Path) -> Vec<(&'static str, Database)> {
    ["order", "product", "payment", "user", "notification"]
        .map(|service| (service, Database::Sqlite(data.join(format!("{service}.db")))))
        .into()
}

pub(crate) async fn start(options: Options) -> Result<Running, Error> {
    let Options { data, listen, services } = options;
    // First of all: whoever has seen it start may tell it to stop.
    let signals =
        (signal(SignalKind::interrupt()).map_err(Error::Signal)?, signal(SignalKind::terminate()).map_err(Error::Signal)?);
    let lock = lock(&data)?;
    // Taken before anything is opened: a taken port must not cost a start.
    let listener = TcpListener::bind(listen).await.map_err(|source| Error::Listen { address: listen, source })?;
    let http = listener.local_addr().map_err(|source| Error::Listen { address: listen, source })?;

    let (env, tasks, metrics) = (Env::system(), Tasks::new(), Metrics::new());
    let open = async |service: &'static str, migrations: &[Migration]| -> Result<Opened, OpenError> {
        let database = Database::Sqlite(data.join(format!("{service}.db")));
        Log::open(database, service, migrations, env.clone()).await
    };
    let (orders, products, payments, users, notifications) = tokio::try_join!(
        open("order", order::MIGRATIONS),
        open("product", &product::MIGRATIONS),
        open("payment", payment::MIGRATIONS),
        open("user", &user::MIGRATIONS),
        open("notification", notification::MIGRATIONS),
    )?;

    let keys = |opened: &Opened| Idempotency::new(opened.log.secret());
    let user =
        user::build(user::Deps { opened: users, tasks: tasks.clone(), metrics: metrics.clone(), config: services.user.clone() })
            .await?;
    let product =
        product::Deps { idempotency: keys(&products), opened: products, tasks: tasks.clone(), config: services.product.clone() };
    let product = product::build(product).await?;
    let address = format!("http://{}", product.grpc);
    let timeout = services.order.stock_check_timeout();
    let stock = order::stock::Stock::grpc(&address, timeout, env.clone(), &tasks).map_err(Error::Stock)?;
    let order = order::build(order::Deps {
        idempotency: keys(&orders),
        opened: orders,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        stock,
        config: services.order.clone(),
    });
    let payment = payment::build(payment::Deps {
        opened: payments,
        tasks: tasks.clone(),
        metrics: metrics.clone(),
        provider: payment::provider::Provider::BuiltIn,
        config: services.payment.clone(),
    });
    let notification = notification::build(notification::Deps {
        opened: notifications,
        tasks: tasks.clone(),
        config: services.notification.clone(),
        channel: Arc::new(notification::channel::Console),
    });

    // Each consumer reads the logs of the services that write what it waits for.
    let (order_log, product_log, payment_log) = (order.writer.log(), product.writer.log(), payment.writer.log());
    use contract::topics::{ORDER_EVENTS, PAYMENT_COMMANDS, PAYMENT_EVENTS, PRODUCT_COMMANDS, PRODUCT_EVENTS};
    join("product", &product.handler, &product.writer, order_log, &[PRODUCT_COMMANDS], &tasks).await?;
    join("payment", &payment.handler, &payment.writer, order_log, &[PAYMENT_COMMANDS], &tasks).await?;
    join("order", &order.handler, &order.writer, product_log, &[PRODUCT_EVENTS], &tasks).await?;
    join("order", &order.handler, &order.writer, payment_log, &[PAYMENT_EVENTS], &tasks).await?;
    join("notification", &notification.handler, &notification.writer, order_log, &[ORDER_EVENTS], &tasks).await?;
    forget_keys(order.writer.clone(), &tasks);
    forget_keys(product.writer.clone(), &tasks);

    let logs: Vec<Log> =
        [order_log, product_log, payment_log, user.writer.log(), notification.writer.log()].map(Clone::clone).into();
    metrics.watch_logs(logs.clone());
    let app = kit::http::app(AppConfig {
        title: "Skald",
        services: vec![
            ("user", user.routes),
            ("product", product.routes),
            ("order", order.routes),
            ("payment", payment.routes),
            ("notification", notification.routes),
        ],
        verifier: user.verifier,
        metrics,
        health: logs.iter().map(check).collect(),
        env,
    });
    let told_to_stop = CancellationToken::new();
    tasks.spawn("signals", hear(signals, told_to_stop.clone(), tasks.stopping()));
    let serving = tasks.clone();
    tasks.spawn("http", async move { kit::http::serve(listener, app, &serving).await });
    Ok(Running {
        http,
        grpc: product.grpc,
        admin_email: services.user.admin_email.clone(),
        admin_password: user.first_admin.map(|admin| admin.password),
        data,
        services,
        tasks,
        logs,
        told_to_stop,
        _lock: lock,
    })
}

/// Waits for Ctrl-C or SIGTERM.
async fn hear((mut interrupt, mut terminate): (Signal, Signal), told_to_stop: CancellationToken, stopping: CancellationToken) {
    tokio::select! {
        _ = interrupt.recv() => told_to_stop.cancel(),
        _ = terminate.recv() => told_to_stop.cancel(),
        () = stopping.cancelled() => {}
    }
}

/// One process a data directory: two would both believe that they are the one writer.
fn lock(data: &Path) -> Result<File, Error> {
    std::fs::create_dir_all(data).map_err(|source| Error::Directory { path: data.to_owned(), source })?;
    let path = data.join("lock");
    let failed = |source| Error::Lock { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: data.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Lets a service consume topics out of another service's log.
async fn join<H: Consumer>(
    consumer: &'static str,
    handler: &Arc<H>,
    writer: &Writer<H>,
    source: &Log,
    topics: &'static [&'static str],
    tasks: &Tasks,
) -> Result<(), Error> {
    let progress = writer.log().progress(consumer, &Embedded::topic(source), 0).await;
    let progress = progress.map_err(|source| Error::Progress { consumer, source })?;
    let source = Embedded::new(consumer, source.clone(), topics, progress)?;
    tasks.spawn("consumer", consume(consumer, source, handler.clone(), writer.clone(), tasks.stopping()));
    Ok(())
}

/// Deletes idempotency keys that are past their time, a few at a time.
fn forget_keys<H: eventlog::Handler>(writer: Writer<H>, tasks: &Tasks) {
    let stop = tasks.stopping();
    tasks.spawn("old idempotency keys", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = writer.log().env().sleep(FORGET_EVERY) => {}
            }
            if let Err(error) = writer.forget_old_keys().await {
                tracing::warn!(service = writer.log().service(), %error, "can't delete old idempotency keys; trying again later");
            }
        }
    });
}

/// A service's database answers.
fn check(log: &Log) -> Check {
    let (name, log) = (format!("{} database", log.service()), log.clone());
    let probe = move || -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        let log = log.clone();
        Box::pin(async move { log.refresh().await.map_err(|error| error.to_string()) })
    };
    Check { name, probe: Arc::new(probe) }
}

impl Running {
    /// Where everything is, and the configuration in force.
    pub(crate) fn told(&self) -> String {
        let Self { http, grpc, data, services, .. } = self;
        let mut told = String::new();
        let _ = writeln!(told, "API            http://{http}");
        let _ = writeln!(told, "documentation  http://{http}/docs");
        let _ = writeln!(told, "stock checks   grpc://{grpc}");
        let _ = writeln!(told, "data           {}", data.display());
        let _ = match &self.admin_password {
            Some(password) => writeln!(told, "first admin    {} with the password {password} (shown only now)", self.admin_email),
            None => writeln!(told, "first admin    {}", self.admin_email),
        };
        let knobs: [(&str, &dyn std::fmt::Debug); 5] = [
            ("order", &services.order),
            ("product", &services.product),
            ("payment", &services.payment),
            ("user", &services.user),
            ("notification", &services.notification),
        ];
        for (service, config) in knobs {
            let config = format!("{config:?}");
            let values = config.strip_prefix("Config { ").and_then(|config| config.strip_suffix(" }")).unwrap_or(&config);
            let _ = writeln!(told, "{service:<14} {values}");
        }
        told
    }

    /// Waits for Ctrl-C, SIGTERM, or a task that panicked.
    pub(crate) async fn until_told_to_stop(&self) -> Result<(), Error> {
        tokio::select! {
            () = self.told_to_stop.cancelled() => Ok(()),
            () = self.tasks.stopping().cancelled_owned() => match self.tasks.panicked() {
                Some(task) => Err(Error::Panicked(task)),
                None => Ok(()),
            }
        }
    }

    /// Lets what is under way end, and closes the databases; tells whether all ended in time.
    pub(crate) async fn stop(self) -> bool {
        let in_time = self.tasks.stop(DRAIN).await;
        for log in &self.logs {
            log.close().await;
        }
        in_time
    }
}
