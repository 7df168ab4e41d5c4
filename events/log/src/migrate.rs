//! Schema changes: numbered, once each, per dialect.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr,
    migrate::{MigrateError, MigrationType, Migrator},
};

use crate::{Database, OpenError, db::Owned};

/// One step of a service's schema. The log's own steps have versions below 100, a service's from 100 on.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    pub version: i64,
    pub name: &'static str,
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

const LOG: [Migration; 2] = [
    Migration {
        version: 1,
        name: "log",
        sqlite: include_str!("../migrations/0001_log.sqlite.sql"),
        postgres: include_str!("../migrations/0001_log.postgres.sql"),
    },
    Migration {
        version: 2,
        name: "broker",
        sqlite: include_str!("../migrations/0002_broker.sqlite.sql"),
        postgres: include_str!("../migrations/0002_broker.postgres.sql"),
    },
];

/// Brings the schema up to date, or refuses a database that is ahead of this build.
pub(crate) async fn run(database: &Database, connection: &mut Owned, service: &[Migration]) -> Result<(), OpenError> {
    let migrations = LOG.iter().chain(service).map(|migration| {
        let sql = match connection {
            Owned::Sqlite(_) => migration.sqlite,
            Owned::Postgres(_) => migration.postgres,
        };
        let kind = MigrationType::Simple;
        sqlx::migrate::Migration::new(migration.version, Cow::Borrowed(migration.name), kind, sql.into_sql_str(), false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    let done = match connection {
        Owned::Sqlite(connection) => migrator.run(&mut **connection).await,
        Owned::Postgres(connection) => migrator.run(&mut **connection).await,
    };
    done.map_err(|source| match source {
        MigrateError::VersionMissing(found) => OpenError::NewerSchema { database: database.to_string(), found },
        source => OpenError::Migrate { database: database.to_string(), source },
    })
}
