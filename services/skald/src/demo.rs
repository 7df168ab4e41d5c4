//! `skald demo`: starts the whole shop, places orders through its REST door, and shows how each of them ended.
//!
//! Never here: a way round the door. The system is the one of `skald up`; orders are planned in `demo/mix.rs`, placed by
//! `demo/load.rs`, summed up in `demo/report.rs`. This is also the benchmark: `skald demo --mix happy --concurrency 256`.

pub(crate) mod client;
mod door;
mod load;
mod mix;
mod report;
mod story;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use eventlog::{Database, Env};
use indicatif::{ProgressBar, ProgressStyle};
use kit::{Secret, Tasks};

use self::{
    client::Doors,
    door::Door,
    load::{Load, Tally},
    mix::Mix,
    report::{Found, Report, worth_telling},
    story::Story,
};
use crate::{assemble::Name, audit, cli, out, traces::TraceArgs, up};

/// What `skald demo` takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many orders to place
    #[arg(long, env = "SKALD_DEMO_ORDERS", value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    orders: u32,
    /// How many clients place them, each on a connection of its own and one order at a time
    #[arg(long, env = "SKALD_DEMO_CONCURRENCY", value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// What the orders follow from: the same seed places the same orders
    #[arg(long, env = "SKALD_DEMO_SEED", value_name = "N", default_value_t = 1)]
    seed: u64,
    /// What the customers do
    #[arg(long, env = "SKALD_DEMO_MIX", value_enum, default_value_t = Mix::Shop)]
    mix: Mix,
    /// Print one JSON object instead of the tables
    #[arg(long, env = "SKALD_DEMO_JSON")]
    json: bool,
    /// Go on serving afterwards, until Ctrl-C
    #[arg(long, env = "SKALD_DEMO_STAY")]
    stay: bool,
    /// Where the databases are; a temporary directory, removed at the end, if not given
    #[arg(long, env = "SKALD_DEMO_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to serve REST meanwhile; port 0 takes a free one
    #[arg(long, env = "SKALD_DEMO_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The first admin's password, for a data directory that was used before
    #[arg(long, env = "SKALD_ADMIN_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    admin_password: Option<String>,
    /// Do it at services that run already, such as order=127.0.0.1:8082; each once for every replica
    #[arg(long, env = "SKALD_DEMO_AT", value_name = "SERVICE=ADDRESS", value_delimiter = ',', value_parser = place,
          requires_all = ["databases", "admin_password"], conflicts_with_all = ["data", "stay"])]
    at: Vec<(String, SocketAddr)>,
    /// The databases of those services, for the audit at the end, as `skald audit` takes them
    #[arg(
        id = "databases",
        long = "database",
        env = "SKALD_DATABASES",
        hide_env_values = true,
        value_name = "SERVICE=URL",
        value_delimiter = ',',
        requires = "at"
    )]
    databases: Vec<Secret>,
    /// The admin of those services
    #[arg(long, env = "SKALD_ADMIN_EMAIL", value_name = "EMAIL", default_value = "admin@localhost")]
    admin_email: String,
    #[command(flatten, next_help_heading = "Traces")]
    traces: TraceArgs,
}

/// Where a service is.
fn place(text: &str) -> Result<(String, SocketAddr), String> {
    let expected = || "expected SERVICE=ADDRESS, such as order=127.0.0.1:8082".to_owned();
    let (service, address) = text.split_once('=').ok_or_else(expected)?;
    if !Name::all().iter().any(|name| name.as_str() == service) {
        return Err(format!("there is no service {service}"));
    }
    Ok((service.to_owned(), address.parse().map_err(|_| expected())?))
}

/// The services' knobs: their own defaults, or SKALD_… variables, but for what `DEMO` names.
#[derive(Parser)]
struct Knobs {
    #[command(flatten)]
    services: up::Services,
}

/// Payments that time out do so before their watcher does, only the tokens decide who is declined, and any free port will do.
const DEMO: [&str; 6] = [
    "skald",
    "--step-deadline-ms=500",
    "--payment-timeout-ms=200",
    "--payment-slow-ms=2000",
    "--payment-success-rate=1",
    "--product-grpc-listen=127.0.0.1:0",
];

/// Access tokens take a password hash each to get: so many customers share all orders.
const CUSTOMERS_MAX: u32 = 32;
/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);
/// How long what follows an order's end may take: notifications, closed calls, the last messages read.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// The demo came to no report. The first kind is the environment's fault, the others are the system's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("can't make a temporary directory; name one with --data")]
    Temporary(#[source] io::Error),
    #[error(transparent)]
    Start(#[from] up::Error),
    #[error(transparent)]
    Audit(#[from] audit::Error),
    #[error(
        "{data} was used before, and its admin's password is not known: give it in SKALD_ADMIN_PASSWORD, or name another --data"
    )]
    AdminPassword { data: PathBuf },
    #[error("{0}")]
    Databases(String),
    #[error("--at says nothing of the {0} service")]
    Nowhere(&'static str),
    #[error("interrupted")]
    Interrupted,
    #[error("{request} got no answer")]
    NoAnswer {
        request: String,
        #[source]
        source: client::NoAnswer,
    },
    #[error("{request} was answered {status}: {body}")]
    Unexpected { request: String, status: u16, body: String },
}

pub(crate) async fn run(args: Args) -> ExitCode {
    match demonstrate(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(cli::EXIT_VERDICT),
        Err(error @ (Error::NoAnswer { .. } | Error::Unexpected { .. } | Error::Interrupted)) => {
            cli::environment(&error);
            ExitCode::from(cli::EXIT_VERDICT)
        }
        Err(error) => cli::environment(&error),
    }
}

/// Whether everything held.
async fn demonstrate(args: &Args) -> Result<bool, Error> {
    if !args.at.is_empty() {
        return there(args).await;
    }
    let (data, temporary) = match &args.data {
        Some(data) => (data.clone(), None),
        None => {
            let directory = tempfile::Builder::new().prefix("skald-demo-").tempdir().map_err(Error::Temporary)?;
            (directory.path().to_owned(), Some(directory))
        }
    };
    let services = Knobs::parse_from(DEMO).services;
    let running =
        up::start(up::Options { data: data.clone(), listen: args.listen, traces: args.traces.clone(), services }).await?;
    if let (Some(password), Some(data)) = (&running.admin_password, &args.data) {
        let email = &running.admin_email;
        out::aside(format_args!("the first admin of {}: {email} with the password {password}", data.display()));
    }
    let password = running.admin_password.as_ref().or(args.admin_password.as_ref());
    let password = password.ok_or_else(|| Error::AdminPassword { data: data.clone() })?;
    let (doors, databases) = (running.http.into(), up::databases(&data));
    let demo = Demo { args, doors, databases, admin: (&running.admin_email, password), env: Env::system(), tasks: Tasks::new() };
    let result = tokio::select! {
        result = demo.play() => result,
        // Also when a task panicked: nothing would come of waiting.
        stopped = running.until_told_to_stop() => Err(stopped.err().map_or(Error::Interrupted, Error::Start)),
    };
    demo.tasks.stop(TICK).await;
    if let Ok(report) = &result {
        print(args, report);
        if args.stay {
            out::aside(format_args!("\nserving until Ctrl-C\n{}", running.told().trim_end()));
            running.until_told_to_stop().await?;
        }
    }
    running.stop().await;
    drop(temporary);
    Ok(result?.held)
}

/// The same at services that run already.
async fn there(args: &Args) -> Result<bool, Error> {
    let databases = cli::databases(&args.databases).map_err(Error::Databases)?;
    if let Some(missing) = Name::all().iter().find(|name| !args.at.iter().any(|(service, _)| service == name.as_str())) {
        return Err(Error::Nowhere(missing.as_str()));
    }
    let doors = Doors::Each(Arc::new(args.at.clone()));
    let password = args.admin_password.as_deref().unwrap_or_default();
    let demo = Demo { args, doors, databases, admin: (&args.admin_email, password), env: Env::system(), tasks: Tasks::new() };
    let report = demo.play().await?;
    demo.tasks.stop(TICK).await;
    print(args, &report);
    Ok(report.held)
}

fn print(args: &Args, report: &Report) {
    let text = if args.json {
        serde_json::to_string_pretty(report).expect("a report has string keys and finite numbers only")
    } else {
        report.to_string()
    };
    out::line(format_args!("{text}"));
}

struct Demo<'a> {
    args: &'a Args,
    doors: Doors,
    /// For the audit.
    databases: Vec<(&'static str, Database)>,
    /// E-mail address and password.
    admin: (&'a str, &'a str),
    env: Env,
    tasks: Tasks,
}

impl Demo<'_> {
    async fn play(&self) -> Result<Report, Error> {
        let Self { args, doors, admin: (email, password), .. } = self;
        let run = format!("{:x}", self.env.id().simple());
        let mut admin = Door::login(doors, &run, email, password).await?;
        let catalogue = admin.catalogue(args.orders).await?;
        let customers = self.customers(&run).await?;
        let load = Arc::new(Load {
            doors: doors.clone(),
            catalogue,
            customers,
            mix: args.mix,
            seed: args.seed,
            orders: args.orders,
            run,
            env: self.env.clone(),
            next: AtomicU32::new(0),
            done: AtomicU32::new(0),
        });
        let began = self.env.now();
        let tally = self.placed(&load).await;
        let took = self.env.now().since(began);
        let mut stories = Vec::new();
        for (order, end) in worth_telling(&tally.ended) {
            let history = admin.history(order).await?;
            stories.extend(Story::read(order, end, history));
        }
        let customers = load.customers.len() as u32;
        Ok(Report::new(args, Found { customers, tally, took, stories, audit: self.settled().await? }))
    }

    /// Registers the customers, in two lanes: hashing a password takes a whole core for a while.
    async fn customers(&self, run: &str) -> Result<Vec<String>, Error> {
        let count = CUSTOMERS_MAX.min(self.args.concurrency);
        let (mut even, mut odd) = (Door::anonymous(&self.doors, run), Door::anonymous(&self.doors, run));
        let (mut tokens, more) = tokio::try_join!(even.customers(0, count), odd.customers(1, count))?;
        tokens.extend(more);
        Ok(tokens)
    }

    /// Places all orders and waits until each has ended.
    async fn placed(&self, load: &Arc<Load>) -> Tally {
        let style =
            ProgressStyle::with_template("{bar:40} {pos}/{len} orders, {per_sec}, {elapsed}").expect("the template is right");
        // Drawn on stderr, and only where that is a terminal.
        let bar = ProgressBar::new(u64::from(load.orders)).with_style(style);
        let mut tallies = load.start(self.args.concurrency, &self.tasks);
        let mut all = Tally::default();
        loop {
            tokio::select! {
                tally = tallies.recv() => match tally {
                    Some(tally) => all.add(tally),
                    None => break,
                },
                () = self.env.sleep(TICK) => bar.set_position(u64::from(load.done.load(Ordering::Relaxed))),
            }
        }
        bar.finish_and_clear();
        all
    }

    /// The settled audit: asked again while what follows the last orders' end is still on its way.
    async fn settled(&self) -> Result<audit::Report, Error> {
        let options = audit::Options { settled: true, services: self.databases.clone() };
        let began = self.env.now();
        loop {
            let report = audit::run(&options).await?;
            if report.is_good() || self.env.now().since(began) > SETTLED_WITHIN {
                return Ok(report);
            }
            self.env.sleep(TICK).await;
        }
    }
}
