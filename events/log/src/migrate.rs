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

const LOG: [Migration; 3] = [
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
    Migration {
        version: 3,
        name: "seen",
        sqlite: include_str!("../migrations/0003_seen.sqlite.sql"),
        postgres: include_str!("../migrations/0003_seen.postgres.sql"),
    },
];

/// Brings the schema up to date, or refuses a database that is ahead of this build.
pub(crate) async fn run(database: &Database, connection: &mut Owned, service: &[Migration]) -> Result<(), OpenError> {
    apply(database, connection, LOG.iter().chain(service)).await
}

async fn apply(
    database: &Database,
    connection: &mut Owned,
    migrations: impl Iterator<Item = &Migration>,
) -> Result<(), OpenError> {
    let migrations = migrations.map(|migration| {
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

/// The tables that a migration makes, by name. One that a later migration has dropped is not there to ask for rights on.
pub(crate) fn tables(sql: &'static str) -> impl Iterator<Item = &'static str> {
    sql.lines().filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split([' ', '(']).next())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::{on, testing::TestDatabase};

    #[tokio::test]
    async fn what_was_seen_is_taken_along_into_the_progress() {
        let test = TestDatabase::fresh().await;
        let mut connection = test.database.connect().await.unwrap();
        apply(&test.database, &mut connection, LOG[..2].iter()).await.unwrap();
        on!(&mut connection.conn(), |c| {
            for sql in [
                "INSERT INTO progress VALUES ('sink', 'a', 0, 7), ('sink', 'a', 1, 3)",
                "INSERT INTO seen VALUES ('sink', 'a', 0, '/skald/order/x/1', 9), ('sink', 'a', 0, '/skald/order/x/2', 12)",
            ] {
                sqlx::query::<DB>(sql).execute(&mut *c).await.unwrap();
            }
        });
        run(&test.database, &mut connection, &[]).await.unwrap();
        on!(&mut connection.conn(), |c| {
            let sql = "SELECT partition, source, last_sequence FROM seen ORDER BY source";
            let seen = sqlx::query_as::<DB, (i64, String, i64)>(sql).fetch_all(&mut *c).await.unwrap();
            assert_eq!(seen, [(0, "/skald/order/x/1".to_owned(), 9), (0, "/skald/order/x/2".to_owned(), 12)]);
            let sql = "SELECT next_offset, seen FROM progress ORDER BY partition";
            let progress = sqlx::query_as::<DB, (i64, String)>(sql).fetch_all(c).await.unwrap();
            assert_eq!((progress[0].0, &progress[1]), (7, &(3, "{}".to_owned())));
        });
    }
}
