//! The commands and their flags. Every flag is also an environment variable.
//!
//! Exit codes: 0; 1 a verdict failed; 2 usage; 3 the environment (a port, a lock, the disk, a newer schema, a server that is away).

use std::{fmt::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use tracing::level_filters::LevelFilter;

use crate::{audit, demo, up};

/// Event-sourced sagas on Kafka: orders that are confirmed or cancelled, whatever crashes in between.
#[derive(Parser)]
#[command(name = "skald", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SKALD_COMMIT"), ")"))]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log to stderr: off, error, warn, info, debug or trace [default: info; demo and audit: warn]
    #[arg(long, global = true, env = "SKALD_LOG")]
    log: Option<LevelFilter>,
    /// Log as JSON, one object a line
    #[arg(long, global = true, env = "SKALD_LOG_JSON")]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the whole shop, places orders through its REST door, and shows how each of them ended
    Demo(demo::Args),
    /// Serves all five services in one process until Ctrl-C
    Up(UpArgs),
    /// Checks the databases of all services: nothing lost, nothing twice
    Audit(AuditArgs),
}

#[derive(clap::Args)]
struct UpArgs {
    /// Where the databases are; made if it is missing
    #[arg(long, env = "SKALD_DATA", default_value = "./skald-data")]
    data: PathBuf,
    /// Where to serve REST; port 0 takes a free one
    #[arg(long, env = "SKALD_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    services: up::Services,
}

#[derive(clap::Args)]
struct AuditArgs {
    /// Where the databases are
    #[arg(long, env = "SKALD_DATA", default_value = "./skald-data")]
    data: PathBuf,
    /// Also require that everything has come to rest: all sagas ended, nothing open, nothing unread
    #[arg(long, env = "SKALD_SETTLED")]
    settled: bool,
    /// Print one JSON object instead of the table
    #[arg(long, env = "SKALD_JSON")]
    json: bool,
}

pub(crate) const EXIT_VERDICT: u8 = 1;
pub(crate) const EXIT_ENVIRONMENT: u8 = 3;

pub(crate) fn run(cli: Cli) -> ExitCode {
    // Beside a table and a progress bar only what goes wrong is worth a line.
    let level = match cli.command {
        Command::Up(_) => LevelFilter::INFO,
        Command::Demo(_) | Command::Audit(_) => LevelFilter::WARN,
    };
    kit::log::init_logging(cli.log_json, cli.log.unwrap_or(level));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return environment(&error),
    };
    runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Up(args) => serve(args).await,
            Command::Audit(args) => check(args).await,
        }
    })
}

/// One clear sentence, with its causes behind it.
pub(crate) fn environment(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let mut sentence = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some libraries repeat their cause in their own words.
        let cause_text = cause.to_string();
        if !sentence.ends_with(&cause_text) {
            let _ = write!(sentence, ": {cause_text}");
        }
        source = cause.source();
    }
    eprintln!("error: {sentence}");
    ExitCode::from(EXIT_ENVIRONMENT)
}

async fn serve(args: UpArgs) -> ExitCode {
    let options = up::Options { data: args.data, listen: args.listen, services: args.services };
    let running = match up::start(options).await {
        Ok(running) => running,
        Err(error) => return environment(&error),
    };
    print!("{}", running.told());
    let code = match running.until_told_to_stop().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => environment(&error),
    };
    if running.stop().await { code } else { ExitCode::from(EXIT_ENVIRONMENT) }
}

async fn check(args: AuditArgs) -> ExitCode {
    let options = audit::Options { settled: args.settled, services: up::databases(&args.data) };
    match audit::run(&options).await {
        Ok(report) => {
            println!("{}", if args.json { report.to_json().to_string() } else { report.print_table() });
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_VERDICT) }
        }
        Err(error) => environment(&error),
    }
}
