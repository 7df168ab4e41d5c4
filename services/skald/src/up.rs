//! `skald up`: all five services in one process, joined by the embedded bus.
//!
//! Never here: what a service does, or how one is built (`assemble.rs`).

use std::{
    fmt::Write,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use bus::{Consumer, Embedded, consume};
use eventlog::{Database, Log, Writer};
use kit::Tasks;
use order::stock::Stock;

pub(crate) use crate::process::Error;
use crate::{
    assemble::{self, Name},
    process::{Process, listen, lock_directory},
    traces::TraceArgs,
};

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
    pub traces: TraceArgs,
    pub services: Services,
}

/// The running system.
pub(crate) struct Running {
    pub http: SocketAddr,
    pub admin_email: String,
    /// Set when the first admin was made just now.
    pub admin_password: Option<String>,
    grpc: SocketAddr,
    data: PathBuf,
    services: Services,
    process: Process,
    logs: Vec<Log>,
    _lock: File,
}

/// Where each service's database is.
pub(crate) fn databases(data: &Path) -> Vec<(&'static str, Database)> {
    Name::all().iter().map(|name| (name.as_str(), database(data, *name))).collect()
}

fn database(data: &Path, name: Name) -> Database {
    Database::Sqlite(data.join(format!("{}.db", name.as_str())))
}

pub(crate) async fn start(Options { data, listen: address, traces, services }: Options) -> Result<Running, Error> {
    let process = Process::start(traces.start())?;
    let lock = lock_directory(&data)?;
    let (listener, http) = listen(address).await?;
    let open = |name: Name| name.open(database(&data, name), process.env.clone());
    let (orders, products, payments, users, notifications) = tokio::try_join!(
        open(Name::Order),
        open(Name::Product),
        open(Name::Payment),
        open(Name::User),
        open(Name::Notification),
    )?;

    let user = assemble::user(&process, users, services.user.clone()).await?;
    let product = assemble::product(&process, products, services.product.clone()).await?;
    let replicas = [format!("http://{}", product.grpc).parse().expect("an address of our own is one of a stock check")];
    let stock = Stock::grpc(&replicas, services.order.stock_check_timeout(), process.env.clone(), &process.tasks);
    let order = assemble::order(&process, orders, stock, None, services.order.clone());
    let payment = assemble::payment(&process, payments, services.payment.clone());
    let notification = assemble::notification(&process, notifications, services.notification.clone());

    // Each consumer reads the logs of the services that write what it waits for.
    let (order_log, product_log, payment_log) = (order.writer.log(), product.writer.log(), payment.writer.log());
    use contract::topics::{ORDER_EVENTS, PAYMENT_COMMANDS, PAYMENT_EVENTS, PRODUCT_COMMANDS, PRODUCT_EVENTS};
    let tasks = &process.tasks;
    join("product", &product.handler, &product.writer, order_log, &[PRODUCT_COMMANDS], tasks).await?;
    join("payment", &payment.handler, &payment.writer, order_log, &[PAYMENT_COMMANDS], tasks).await?;
    join("order", &order.handler, &order.writer, product_log, &[PRODUCT_EVENTS], tasks).await?;
    join("order", &order.handler, &order.writer, payment_log, &[PAYMENT_EVENTS], tasks).await?;
    join("notification", &notification.handler, &notification.writer, order_log, &[ORDER_EVENTS], tasks).await?;

    let logs = [order_log, product_log, payment_log, user.writer.log(), notification.writer.log()].map(Clone::clone).to_vec();
    let routes = vec![
        ("user", user.routes),
        ("product", product.routes),
        ("order", order.routes),
        ("payment", payment.routes),
        ("notification", notification.routes),
    ];
    process.serve(listener, assemble::door(&process, routes, user.verifier, &logs, Vec::new()));
    Ok(Running {
        http,
        admin_email: services.user.admin_email.clone(),
        admin_password: user.first_admin.map(|admin| admin.password),
        grpc: product.grpc,
        data,
        services,
        process,
        logs,
        _lock: lock,
    })
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

impl Running {
    /// Where everything is, and the configuration in force.
    pub(crate) fn told(&self) -> String {
        let Self { http, grpc, data, services, .. } = self;
        let mut told = format!("API            http://{http}\ndocumentation  http://{http}/docs\nstock checks   grpc://{grpc}\n");
        let _ = writeln!(told, "data           {}", data.display());
        told += &first_admin(&self.admin_email, self.admin_password.as_deref());
        told += &assemble::knobs("order", &services.order);
        told += &assemble::knobs("product", &services.product);
        told += &assemble::knobs("payment", &services.payment);
        told += &assemble::knobs("user", &services.user);
        told + &assemble::knobs("notification", &services.notification)
    }

    /// Waits for Ctrl-C, SIGTERM, a task that panicked, or a database that is damaged.
    pub(crate) async fn until_told_to_stop(&self) -> Result<(), Error> {
        self.process.until_told_to_stop(&self.logs).await
    }

    /// Lets what is under way end, and closes the databases; tells whether all ended in time.
    pub(crate) async fn stop(self) -> bool {
        self.process.stop(&self.logs).await
    }
}

/// Who the first admin is, with the password if it was made just now.
pub(crate) fn first_admin(email: &str, password: Option<&str>) -> String {
    match password {
        Some(password) => format!("first admin    {email} with the password {password} (shown only now)\n"),
        None => format!("first admin    {email}\n"),
    }
}
