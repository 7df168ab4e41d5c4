//! What a log rests on, looked at before anything is done with it: the server, its encoding, what stands in between, the role's rights.
//!
//! Never here: the schema (`migrate.rs`). Each finding is one sentence for the person at the keyboard, with what to do.

use sqlx::{PgConnection, Row as _};

use crate::{
    Database, Migration, OpenError,
    db::{Owned, PLANS},
    migrate,
};

/// What a process does with the log's own tables. It may do anything to a service's own.
const RIGHTS: [(&str, &[&str]); 8] = [
    ("log", &["SELECT", "INSERT"]),
    ("head", &["SELECT", "INSERT", "UPDATE"]),
    ("progress", &["SELECT", "INSERT", "UPDATE"]),
    ("idempotency", &["SELECT", "INSERT", "DELETE"]),
    ("dead_letters", &["SELECT", "INSERT", "UPDATE"]),
    ("relay", &["SELECT", "UPDATE"]),
    ("parked", &["SELECT", "INSERT", "DELETE"]),
    ("epochs", &["SELECT"]),
];
const ANYTHING: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Why a database could not be connected to.
pub(crate) fn told(database: &Database, source: sqlx::Error) -> OpenError {
    let refused = source.as_database_error().filter(|error| error.code().as_deref() == Some("08P01"));
    match refused.map(|error| error.message()) {
        // A PostgreSQL knows the parameters that it is sent; what does not stands before it.
        Some(words) if words.contains("startup parameter") => pooler(database, "refuses the settings of a session"),
        _ => OpenError::Connect { database: database.to_string(), source },
    }
}

fn pooler(database: &Database, does: &'static str) -> OpenError {
    OpenError::Pooler { database: database.to_string(), does }
}

/// PostgreSQL itself, which syncs what it acknowledges and takes every script's letters. SQLite is told to when it is opened.
pub(crate) async fn server(database: &Database, connection: &mut Owned) -> Result<(), OpenError> {
    let Owned::Postgres(connection) = connection else { return Ok(()) };
    let (name, wanted) = PLANS;
    if setting(database, connection, name).await? != wanted {
        return Err(pooler(database, "drops the settings of a session"));
    }
    let encoding = setting(database, connection, "server_encoding").await?;
    if encoding != "UTF8" {
        return Err(OpenError::Encoding { database: database.to_string(), encoding });
    }
    for name in ["fsync", "synchronous_commit"] {
        let value = setting(database, connection, name).await?;
        if ["off", "local"].contains(&value.as_str()) {
            return Err(OpenError::NotDurable { database: database.to_string(), setting: name, value });
        }
    }
    Ok(())
}

/// Without a prepared statement, which a pooler may lose between two of ours.
async fn setting(database: &Database, connection: &mut PgConnection, name: &'static str) -> Result<String, OpenError> {
    let sql = sqlx::AssertSqlSafe(format!("SHOW {name}"));
    let row = sqlx::raw_sql(sql).fetch_one(connection).await;
    row.and_then(|row| row.try_get(0)).map_err(|source| told(database, source))
}

/// The role may do to each table what the service does.
pub(crate) async fn rights(database: &Database, connection: &mut Owned, service: &[Migration]) -> Result<(), OpenError> {
    let Owned::Postgres(connection) = connection else { return Ok(()) };
    let own = service.iter().flat_map(|migration| migrate::tables(migration.postgres)).map(|table| (table, ANYTHING));
    let wanted: Vec<(&str, &str)> = RIGHTS
        .into_iter()
        .chain([("seen", &["SELECT"][..])])
        .chain(own)
        .flat_map(|(table, rights)| rights.iter().map(move |right| (table, *right)))
        .collect();
    let (tables, rights): (Vec<&str>, Vec<&str>) = wanted.into_iter().unzip();
    let missing: Vec<(String, String)> = sqlx::query_as(
        "SELECT w.name, w.may FROM UNNEST($1::text[], $2::text[]) AS w (name, may) WHERE NOT has_table_privilege(to_regclass(w.name), w.may)",
    )
    .bind(tables)
    .bind(rights)
    .fetch_all(&mut **connection)
    .await
    .map_err(|source| told(database, source))?;
    if missing.is_empty() {
        return Ok(());
    }
    let role = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut **connection).await;
    let role: String = role.map_err(|source| told(database, source))?;
    Err(OpenError::Rights { database: database.to_string(), grants: grants(&missing, &role), role })
}

/// What has to be granted, as statements.
fn grants(missing: &[(String, String)], role: &str) -> String {
    let of_one = missing.chunk_by(|one, next| one.0 == next.0).map(|rights| {
        let may: Vec<&str> = rights.iter().map(|(_, may)| may.as_str()).collect();
        format!("GRANT {} ON {} TO {role}", may.join(", "), rights[0].0)
    });
    of_one.collect::<Vec<_>>().join("; ")
}
