//! The commands and their flags. Every flag is also an environment variable.
//!
//! Exit codes: 0; 1 a verdict failed; 2 usage; 3 the environment (a port, a lock, the disk, a newer schema, a server that is away).

use std::{error::Error, fmt::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use eventlog::Database;
use kit::Secret;
use tracing::level_filters::LevelFilter;

use crate::{
    assemble::Name,
    audit,
    database::{self, MigrateArgs},
    demo,
    operate::{self, DeadLetters, LogCommand, Relay, Topics},
    out, serve,
    traces::TraceArgs,
    up,
    users::{self, Users},
};

/// Event-sourced sagas on Kafka: orders that are confirmed or cancelled, whatever crashes in between.
#[derive(Parser)]
#[command(name = "skald", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SKALD_COMMIT"), ")"))]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log to stderr: off, error, warn, info, debug or trace [default: info; demo, audit, migrate: warn]
    #[arg(long, global = true, env = "SKALD_LOG", value_name = "LEVEL")]
    log: Option<LevelFilter>,
    /// Log as JSON, one object a line
    #[arg(long, global = true, env = "SKALD_LOG_JSON")]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the whole shop, places orders through its REST door, and shows how each of them ended
    Demo(demo::Args),
    /// Serves all five services in one process until Ctrl-C: no broker, no database server
    Up(UpArgs),
    /// Serves one service, which speaks to the others through Kafka, until SIGTERM or Ctrl-C
    #[command(subcommand)]
    Serve(serve::Service),
    /// Brings the schema of one service's database up to date, which `serve` does at its start too
    Migrate(MigrateArgs),
    /// Checks the databases of all services: nothing lost, nothing twice
    Audit(AuditArgs),
    /// Makes or checks the Kafka topics that the services speak over
    #[command(subcommand)]
    Topics(Topics),
    /// Lists, shows, redrives or discards the messages that one service could not handle
    DeadLetters(DeadLetters),
    /// Has messages published again that Kafka has lost
    #[command(subcommand)]
    Relay(Relay),
    /// Lets a log go on that has lost commits which Kafka still holds, and has its readers believe it
    #[command(subcommand)]
    Log(LogCommand),
    /// Gives accounts other roles, on the database of the user service
    #[command(subcommand)]
    Users(Users),
}

#[derive(clap::Args)]
struct UpArgs {
    /// Where the databases are; made if it is missing
    #[arg(long, env = "SKALD_DATA", value_name = "DIR", default_value = "./skald-data")]
    data: PathBuf,
    /// Where to serve REST; port 0 takes a free one
    #[arg(long, env = "SKALD_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten, next_help_heading = "Traces")]
    traces: TraceArgs,
    #[command(flatten)]
    services: up::Services,
}

#[derive(clap::Args)]
struct AuditArgs {
    /// Where the databases are
    #[arg(long, env = "SKALD_DATA", value_name = "DIR", default_value = "./skald-data")]
    data: PathBuf,
    /// Databases elsewhere, instead of --data: once each for order, product, payment, user and notification
    #[arg(long, env = "SKALD_DATABASES", hide_env_values = true, value_name = "SERVICE=URL", value_delimiter = ',')]
    database: Vec<Secret>,
    /// Also require that everything has come to rest: all sagas ended, nothing open, nothing unread
    #[arg(long, env = "SKALD_SETTLED")]
    settled: bool,
    /// Print one JSON object instead of the table
    #[arg(long, env = "SKALD_JSON")]
    json: bool,
}

pub(crate) const EXIT_VERDICT: u8 = 1;
const EXIT_USAGE: u8 = 2;
pub(crate) const EXIT_ENVIRONMENT: u8 = 3;

pub(crate) fn run(cli: Cli) -> ExitCode {
    // Beside a table and a progress bar only what goes wrong is worth a line.
    let level = match cli.command {
        Command::Up(_) | Command::Serve(_) => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    kit::log::init_logging(cli.log_json, cli.log.unwrap_or(level));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return environment(&error),
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Up(args) => up(args).await,
            Command::Serve(service) => serve::run(service).await,
            Command::Migrate(args) => database::migrate(args).await,
            Command::Audit(args) => check(args).await,
            Command::Topics(command) => operate::topics(command).await,
            Command::DeadLetters(command) => operate::dead_letters(command).await,
            Command::Relay(command) => operate::relay(command).await,
            Command::Log(command) => operate::log(command).await,
            Command::Users(command) => users::users(command).await,
        }
    });
    // All that was worth waiting for has ended; a library that blocks, such as one that asks a Kafka which is away, has not.
    runtime.shutdown_background();
    code
}

/// Flags that can't be followed, for reasons that clap does not know.
pub(crate) fn usage(why: &str) -> ExitCode {
    out::aside(format_args!("error: {why}\n\nFor more information, try '--help'."));
    ExitCode::from(EXIT_USAGE)
}

pub(crate) fn environment(error: &(dyn Error + 'static)) -> ExitCode {
    out::aside(format_args!("error: {}", sentence(error)));
    ExitCode::from(EXIT_ENVIRONMENT)
}

/// One clear sentence, with its causes behind it.
pub(crate) fn sentence(error: &(dyn Error + 'static)) -> String {
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
    sentence
}

async fn up(args: UpArgs) -> ExitCode {
    let options = up::Options { data: args.data, listen: args.listen, traces: args.traces, services: args.services };
    let running = match up::start(options).await {
        Ok(running) => running,
        Err(error) => return environment(&error),
    };
    out::text(format_args!("{}", running.told()));
    let code = match running.until_told_to_stop().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => environment(&error),
    };
    if running.stop().await { code } else { ExitCode::from(EXIT_ENVIRONMENT) }
}

async fn check(args: AuditArgs) -> ExitCode {
    let services = match args.database.is_empty() {
        true => Ok(up::databases(&args.data)),
        false => databases(&args.database),
    };
    let services = match services {
        Ok(services) => services,
        Err(why) => return usage(&why),
    };
    match audit::run(&audit::Options { settled: args.settled, services }).await {
        Ok(report) => {
            out::line(format_args!("{}", if args.json { report.to_json().to_string() } else { report.print_table() }));
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_VERDICT) }
        }
        Err(error) => environment(&error),
    }
}

/// Reads the databases of an audit.
pub(crate) fn databases(named_ones: &[Secret]) -> Result<Vec<(&'static str, Database)>, String> {
    named_ones.iter().map(named).collect()
}

/// Reads `SERVICE=URL`, which may hold a password: it is never shown again.
fn named(Secret(text): &Secret) -> Result<(&'static str, Database), String> {
    let (service, url) = text.split_once('=').ok_or("--database: it is of the form SERVICE=URL, such as order=postgres://…")?;
    let name = Name::all().iter().find(|name| name.as_str() == service);
    let name = name.ok_or_else(|| format!("--database: there is no service {service:?}"))?;
    Ok((name.as_str(), database::parse(url).map_err(|why| format!("--database {service}: {why}"))?))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// What an operator does once is said each time: a position in a variable would be done again.
    const VERBS: [&str; 4] = ["dead-letters", "relay", "log", "users"];

    fn flags_without(command: &clap::Command, is_lacking: fn(&clap::Arg) -> bool) -> Vec<String> {
        let flags =
            command.get_arguments().filter(|flag| flag.get_long().is_some_and(|name| !["help", "version"].contains(&name)));
        let here = flags.filter(|flag| is_lacking(flag)).map(|flag| format!("{} {flag}", command.get_name()));
        let below = command.get_subcommands().filter(|command| !VERBS.contains(&command.get_name()));
        here.chain(below.flat_map(|command| flags_without(command, is_lacking))).collect()
    }

    #[test]
    fn every_flag_is_also_a_variable_and_says_what_it_is() {
        let mut command = Cli::command();
        command.build();
        assert_eq!(flags_without(&command, |flag| flag.get_env().is_none()), [""; 0]);
        assert_eq!(flags_without(&command, |flag| flag.get_help().is_none()), [""; 0]);
        let shows = |flag: &clap::Arg| {
            let is_secret = flag.get_long().is_some_and(|name| ["database", "admin-password"].contains(&name));
            is_secret && !flag.is_hide_env_values_set()
        };
        assert_eq!(flags_without(&command, shows), [""; 0], "a secret in a variable must not stand in the help");
    }
}
