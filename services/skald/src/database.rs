//! A service's database as flags, opened with patience, and `skald migrate`.
//!
//! Never here: SQL of a service; the migrations are the log's and the services' own.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use eventlog::{Database, Env, OpenError, Opened, backoff, on};
use kit::{Secret, outgoing::within};
use sqlx::migrate::MigrateError;

use crate::{
    assemble::Name,
    cli, out,
    process::{Error, Process},
    traces::Traced,
};

/// How long one attempt to connect may take.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// Which database.
#[derive(clap::Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The service's own database: postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH
    #[arg(long, env = "SKALD_DATABASE", hide_env_values = true, value_name = "URL")]
    database: Option<Secret>,
    /// File with that URL in it, as a secret is mounted
    #[arg(long, env = "SKALD_DATABASE_FILE", value_name = "FILE", value_parser = Secret::read)]
    database_file: Option<Secret>,
}

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DatabaseArgs {
    #[command(flatten)]
    which: Which,
    /// How long to wait at the start for a PostgreSQL that is away, in seconds: containers start in any order
    #[arg(long, env = "SKALD_START_TIMEOUT_S", value_name = "S", default_value_t = 60)]
    start_timeout_s: u64,
}

impl Which {
    /// # Errors
    /// What is wrong with the URL, without showing it: it may hold a password.
    pub(crate) fn database(&self) -> Result<Database, String> {
        let Self { database, database_file } = self;
        let (flag, Secret(url)) = match (database, database_file) {
            (Some(url), _) => ("--database", url),
            (None, Some(url)) => ("--database-file", url),
            (None, None) => unreachable!("one of them is required"),
        };
        parse(url).map_err(|why| format!("{flag}: {why}"))
    }
}

impl DatabaseArgs {
    /// # Errors
    /// What is wrong with the URL, without showing it: it may hold a password.
    pub(crate) fn database(&self) -> Result<Database, String> {
        self.which.database()
    }

    /// Opens the log of a service. A server that is away may still be starting; whatever else is wrong stays wrong.
    pub(crate) async fn open(&self, name: Name, database: &Database, env: &Env) -> Result<Opened, OpenError> {
        let until = env.now().plus(Duration::from_secs(self.start_timeout_s));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match open(name, database, env).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let pause = backoff(env, attempt, RETRY_FIRST, RETRY_CAP);
            if !is_passing(&error) || env.now().plus(pause) > until {
                return Err(error);
            }
            tracing::warn!(error = cli::sentence(&error), attempt, "the database is away; trying again");
            env.sleep(pause).await;
        }
    }
}

/// Opens a database that is there, for an operator.
pub(crate) async fn once(name: Name, database: &Database, env: &Env) -> Result<Opened, OpenError> {
    open(name, database, env).await
}

async fn open(name: Name, database: &Database, env: &Env) -> Result<Opened, OpenError> {
    // A server that never answers is met here: what follows may take its time.
    if within(env, ATTEMPT, database.connect()).await.is_none() {
        let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time").into();
        return Err(OpenError::Connect { database: database.to_string(), source });
    }
    name.open(database.clone(), env.clone()).await
}

/// Whether the same call may succeed once the server has started.
fn is_passing(error: &OpenError) -> bool {
    let is_outage = |error: &sqlx::Error| match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // connection, read-only (a standby that is about to be promoted), resources, intervention (it is starting up), system
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["08", "25", "53", "57", "58"].iter().any(|class| code.starts_with(class)))
        }
        _ => false,
    };
    match error {
        OpenError::Connect { source, .. } => is_outage(source),
        OpenError::Migrate { source: MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _), .. } => {
            is_outage(source)
        }
        // A login, a permission or a table that is not there is told at once: whoever starts a service is there to mend it.
        OpenError::Read { source: eventlog::Error::Unavailable(source), .. } => is_outage(source),
        _ => false,
    }
}

/// Reads a database's URL.
///
/// # Errors
/// What it should look like.
pub(crate) fn parse(url: &str) -> Result<Database, String> {
    let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    let (server, parameters) = url.split_once('?').unwrap_or((url, ""));
    let hosts = server.rsplit_once('@').map_or(server, |(_, hosts)| hosts);
    if is_postgres && (hosts.contains(',') || parameters.contains("target_session_attrs")) {
        return Err(
            "the driver follows one host: give a name or an address that moves to whichever server is the primary".to_owned()
        );
    }
    match url.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path)) {
        Some(path) if !path.is_empty() => Ok(Database::Sqlite(path.into())),
        None if is_postgres => Ok(Database::Postgres(url.to_owned())),
        _ => Err("a database is postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH".to_owned()),
    }
}

/// What `skald migrate` takes.
#[derive(clap::Args)]
pub(crate) struct MigrateArgs {
    /// Whose database it is
    #[arg(value_enum, value_name = "SERVICE")]
    service: Name,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Brings the schema of one database up to date, and says what that took.
pub(crate) async fn migrate(MigrateArgs { service, database: args }: MigrateArgs) -> ExitCode {
    let database = match args.database() {
        Ok(database) => database,
        Err(why) => return cli::usage(&why),
    };
    let migrated = async {
        let process = Process::start(Traced::by_nobody())?;
        let before = applied(&database).await;
        let opened = process.unless_stopped(async { Ok(args.open(service, &database, &process.env).await?) }).await?;
        let after = applied(&database).await;
        process.stop(&[opened.log]).await;
        Ok::<_, Error>((before, after))
    };
    match migrated.await {
        Ok((before, after)) => {
            let newest = after.last_key_value().map_or(0, |(version, _)| *version);
            let new = after.iter().filter(|(version, _)| !before.contains_key(version));
            let new: Vec<String> = new.map(|(version, name)| format!("{version} {name}")).collect();
            match new.is_empty() {
                true => out::line(format_args!("{}: nothing to do, its schema has version {newest}", service.as_str())),
                false => {
                    let new = new.join(", ");
                    out::line(format_args!("{}: applied {new}; its schema has version {newest}", service.as_str()));
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => cli::environment(&error),
    }
}

/// The steps that a database has had; none where there is no database yet.
async fn applied(database: &Database) -> BTreeMap<i64, String> {
    let Ok(mut connection) = database.connect().await else { return BTreeMap::new() };
    let rows: Result<Vec<(i64, String)>, sqlx::Error> = on!(&mut connection.conn(), |c| {
        sqlx::query_as::<DB, (i64, String)>("SELECT version, description FROM _sqlx_migrations").fetch_all(c).await
    });
    rows.unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_told_by_its_url() {
        for (url, path) in [("sqlite:a/b.db", "a/b.db"), ("sqlite:///tmp/b.db", "/tmp/b.db"), ("sqlite:/tmp/b.db", "/tmp/b.db")] {
            assert!(matches!(parse(url), Ok(Database::Sqlite(found)) if found == std::path::Path::new(path)), "{url}");
        }
        for url in ["postgres://u:p@h:1/d", "postgresql://h/d"] {
            assert!(matches!(parse(url), Ok(Database::Postgres(found)) if found == url), "{url}");
        }
        let many = ["postgres://u:p@h,i:1/d", "postgres://u:p@h/d?target_session_attrs=read-write"];
        for bad in ["", "sqlite:", "sqlite://", "mysql://h/d", "/tmp/b.db", "Postgres"].into_iter().chain(many) {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
