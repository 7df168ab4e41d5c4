//! What can go wrong with a database, sorted by what the caller should do: wait, set the data aside, or stop.
//!
//! Never here: what is done about it; consumers, writer and doors sort by [`Error::verdict`].

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc};

use contract::Fault;
use sqlx::postgres::PgDatabaseError;

/// A failed operation on the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else appended to the stream first, or the database gave this transaction up for another one's sake. Load again and
    /// decide anew.
    #[error("a concurrent change came first: {}", Words(.0))]
    Conflict(Arc<sqlx::Error>),
    /// The database is away, full, busy, or not as this build needs it: a login, a permission, a table, a column. Nothing about the
    /// work is to blame, and the same call may work later; an outage is never poison.
    #[error("the database is unavailable: {}", Words(.0))]
    Unavailable(Arc<sqlx::Error>),
    /// The database will never take this data: a constraint, a value that its type does not hold. A bug or poison.
    #[error("the database refused the change: {}", Words(.0))]
    Refused(Arc<sqlx::Error>),
    /// The database has lost what it kept. Waiting is no help, and going on would lose more.
    #[error("the database is damaged: {}", Words(.0))]
    Damaged(Arc<sqlx::Error>),
    /// A stored row does not have the form that this build writes.
    #[error("unreadable stored data: {0}")]
    Corrupt(String),
    /// A row is larger than its topic takes, in bytes. It would stop the relay for ever, so it is never appended.
    #[error("a {kind} of {bytes} bytes is too large for {topic}, which takes {bytes_max}")]
    TooLarge { kind: &'static str, topic: String, bytes: usize, bytes_max: usize },
    /// A delivery has a message whose predecessor did not come. Before that is believed, what is claimed has to be read once more:
    /// [`Log::asked_again`](crate::Log::asked_again).
    #[error("message {previous} did not come after {last}")]
    Missing { previous: i64, last: i64 },
    /// The commit's answer was lost and could not be settled in time. Ask again under the same idempotency key.
    #[error("the outcome of the commit is unknown")]
    OutcomeUnknown,
    /// The queue in front of the writer is full. Ask again later.
    #[error("too many changes are waiting for the database")]
    Overloaded,
    /// Too many rows wait to be published. Ask again later.
    #[error("too many messages are waiting for Kafka")]
    Backlogged,
    /// The writer has stopped.
    #[error("the service is shutting down")]
    Closed,
}

/// What to do about an error. Whoever handles messages sorts each error by it, without a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Wait and try again, for ever.
    Outage,
    /// The data is to blame: it will never be taken.
    Poison,
    /// Waiting is no help, and going on would lose: the process ends.
    Stop,
}

impl Error {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Conflict(_)
            | Self::Unavailable(_)
            | Self::OutcomeUnknown
            | Self::Overloaded
            | Self::Backlogged
            | Self::Closed => Verdict::Outage,
            Self::Refused(_) | Self::Corrupt(_) | Self::TooLarge { .. } => Verdict::Poison,
            // This entry's own doing, and nobody else's; its consumer reads it once more before it is sorted by this.
            Self::Missing { .. } => Verdict::Poison,
            Self::Damaged(_) => Verdict::Stop,
        }
    }

    /// Whether the same call may succeed later without anything about it being changed.
    pub fn is_transient(&self) -> bool {
        self.verdict() == Verdict::Outage
    }

    /// Whether a row is there already that this would have written: if it always is, it is this work's own doing. A deadlock or a
    /// serialization failure is a conflict too, and never anybody's own doing.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Conflict(source) if source.as_database_error().is_some_and(|error| error.is_unique_violation()))
    }

    /// Whether the connection's plans were made for other tables than there are now: a new connection makes them anew.
    pub(crate) fn is_stale_plan(&self) -> bool {
        matches!(self, Self::Unavailable(source) if is_stale_plan(source))
    }

    /// Whether the connection that met this can go on. Most outages are worth a new one: it may reach another server, or log in again.
    pub(crate) fn spares_connection(&self) -> bool {
        let Self::Unavailable(source) = self else {
            return self.verdict() == Verdict::Poison || matches!(self, Self::Conflict(_));
        };
        let Some(code) = code(source) else { return false };
        // A permission, a table, a column, a full disk, a lock, a statement that took too long; of SQLite's all but those of its file.
        if code.len() == 5 {
            ["42501", "42P01", "42703", "53100", "55P03", "57014"].contains(&&*code)
        } else {
            primary(&code).is_some_and(|primary| ![READONLY, IOERR, CANTOPEN].contains(&primary))
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_stale_plan(&error) {
            crate::db::plans_are_stale();
        }
        match &error {
            sqlx::Error::Database(database) => match sort(&database.code().unwrap_or_default()) {
                Kind::Conflict => Self::Conflict(error.into()),
                Kind::Outage => Self::Unavailable(error.into()),
                Kind::Data => Self::Refused(error.into()),
                Kind::Damage => Self::Damaged(error.into()),
            },
            // A value that has no form in the database.
            sqlx::Error::Encode(_) => Self::Refused(error.into()),
            // A column of the right type with a value that nobody here writes. One of another type is a table that is not ours to read.
            sqlx::Error::ColumnDecode { source, .. } if !is_mismatch(&**source) => Self::Corrupt(error.to_string()),
            sqlx::Error::Decode(_) => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error.into()),
        }
    }
}

/// What a code of the database says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Conflict,
    Outage,
    Data,
    Damage,
}

/// SQLite's primary result codes that are told apart. Source: <https://sqlite.org/rescode.html>.
const READONLY: u32 = 8;
const IOERR: u32 = 10;
const CORRUPT: u32 = 11;
const CANTOPEN: u32 = 14;
const TOOBIG: u32 = 18;
const CONSTRAINT: u32 = 19;
const MISMATCH: u32 = 20;
const RANGE: u32 = 25;
const NOTADB: u32 = 26;
/// Extended codes of a key that is there already: PRIMARYKEY, UNIQUE, ROWID.
const TAKEN: [&str; 3] = ["1555", "2067", "2579"];

/// Sorts an SQLSTATE (five characters) or an SQLite result code (a number). The list names what the data is to blame for; all else is an
/// outage, as nobody can tell what a database that is not well will say.
///
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn sort(code: &str) -> Kind {
    if code.len() == 5 {
        return match (code.get(..2).unwrap_or_default(), code) {
            // unique violation; serialization failure, deadlock
            (_, "23505") | ("40", _) => Kind::Conflict,
            (_, "42501") if Fault::PermissionIsPoison.is_planted() => Kind::Data,
            // cardinality, data exception, integrity, check option, a limit of the program that a value passes
            ("21" | "22" | "23" | "44" | "54", _) => Kind::Data,
            // a page, an index
            (_, "XX001" | "XX002") => Kind::Damage,
            _ => Kind::Outage,
        };
    }
    match primary(code) {
        Some(CONSTRAINT) if TAKEN.contains(&code) => Kind::Conflict,
        Some(CONSTRAINT | MISMATCH | TOOBIG | RANGE) => Kind::Data,
        Some(CORRUPT | NOTADB) => Kind::Damage,
        _ => Kind::Outage,
    }
}

/// An SQLite result code without its extension.
fn primary(code: &str) -> Option<u32> {
    code.parse::<u32>().ok().map(|code| code & 0xff)
}

fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// "cached plan must not change result type"; a prepared statement that is not there, or there already.
fn is_stale_plan(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| ["0A000", "26000", "42P05"].contains(&&*code))
}

/// Whether a column has another type than this build reads, or may be null: the driver tells it in words only.
fn is_mismatch(source: &(dyn std::error::Error + 'static)) -> bool {
    source.is::<sqlx::error::UnexpectedNullError>() || source.to_string().starts_with("mismatched types")
}

/// What a database said, for a log line and a dead letter: its code, what it is about, and its words where they hold no data.
struct Words<'a>(&'a sqlx::Error);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(error) = self.0.as_database_error() else { return self.0.fmt(f) };
        let code = error.code().unwrap_or_default();
        let Some(postgres) = error.try_downcast_ref::<PgDatabaseError>() else {
            return write!(f, "code {code}, {}", error.message());
        };
        match (code.get(..2).unwrap_or_default(), postgres.constraint(), postgres.table(), postgres.column()) {
            ("23", Some(constraint), ..) => write!(f, "{code} on constraint {constraint}"),
            ("22" | "23", _, Some(table), Some(column)) => write!(f, "{code} on column {column} of {table}"),
            // Its words may quote the value.
            ("22" | "23", ..) => write!(f, "{code}"),
            _ => write!(f, "{code} {}", error.message()),
        }
    }
}

/// A log could not be opened. Each one is for the person at the keyboard.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("can't open {database}")]
    Connect {
        database: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("{database} was written by a newer Skald (its schema has version {found}); start that one instead")]
    NewerSchema { database: String, found: i64 },
    #[error("can't bring the schema of {database} up to date")]
    Migrate {
        database: String,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    #[error("{database} belongs to the service {found}, not to {wanted}")]
    OtherService { database: String, found: String, wanted: String },
    #[error("{database} does not keep what it acknowledges: {setting} is {value}; set it to on")]
    NotDurable { database: String, setting: &'static str, value: String },
    #[error(
        "{database} has the encoding {encoding}, which has no letters for most names and titles; make it anew with ENCODING 'UTF8'"
    )]
    Encoding { database: String, encoding: String },
    #[error(
        "{database} is reached through a connection pooler, which {does}; connect to PostgreSQL itself: a process keeps a handful of \
         connections, with timeouts, prepared statements and LISTEN of its own"
    )]
    Pooler { database: String, does: &'static str },
    #[error("the role {role} may not do in {database} what the service does there; as the owner of the tables: {grants}")]
    Rights { database: String, role: String, grants: String },
    #[error("can't create the data directory {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("can't read {database}")]
    Read {
        database: String,
        #[source]
        source: Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_data_is_to_blame_for_is_poison() {
        for data in
            ["22021", "22003", "23502", "23503", "23514", "23P01", "21000", "54000", "19", "275", "1299", "18", "20", "25"]
        {
            assert_eq!(sort(data), Kind::Data, "{data}");
        }
        for conflict in ["23505", "40001", "40P01", "1555", "2067", "2579"] {
            assert_eq!(sort(conflict), Kind::Conflict, "{conflict}");
        }
        for damage in ["XX001", "XX002", "11", "26", "267"] {
            assert_eq!(sort(damage), Kind::Damage, "{damage}");
        }
    }

    #[test]
    fn whatever_else_a_database_says_is_an_outage() {
        let postgres = [
            "08006", "08P01", "0A000", "25006", "25P02", "25P03", "26000", "28000", "28P01", "3D000", "3F000", "42501", "42703",
            "42804", "42883", "42P01", "42P05", "53100", "53300", "55000", "55P03", "57014", "57P01", "57P03", "58030", "P0001",
            "XX000", "99999", "?????",
        ];
        let sqlite = ["1", "3", "5", "6", "7", "8", "10", "13", "14", "15", "17", "23", "1546", "778", "", "no number"];
        for outage in postgres.iter().chain(&sqlite) {
            assert_eq!(sort(outage), Kind::Outage, "{outage}");
        }
    }

    #[test]
    fn a_table_that_is_not_as_it_was_is_an_outage_and_a_value_that_nobody_writes_is_not() {
        let decode = |why: &str| sqlx::Error::ColumnDecode { index: "0".into(), source: why.into() };
        let changed = Error::from(decode("mismatched types; Rust type `i64` (as SQL type `INT8`) is not compatible with `TEXT`"));
        assert!(matches!(&changed, Error::Unavailable(_)) && !changed.spares_connection(), "{changed:?}");
        assert!(matches!(Error::from(decode("invalid length: expected 16 bytes, found 3")), Error::Corrupt(_)));
        assert!(matches!(Error::from(sqlx::Error::ColumnNotFound("state".into())), Error::Unavailable(_)));
    }
}
