//! What can go wrong with a database, sorted by what the caller should do.

use std::{path::PathBuf, sync::Arc};

/// A failed operation on the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else appended to the stream first. Load again and decide anew.
    #[error("a concurrent change came first")]
    Conflict(#[source] Arc<sqlx::Error>),
    /// The database is away, full or busy. The same call may work later; an outage is never poison.
    #[error("the database is unavailable")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The database will never take this: a constraint, a type, a row that can't be read. A bug or poison.
    #[error("the database refused the change")]
    Refused(#[source] Arc<sqlx::Error>),
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

impl Error {
    /// Whether the same call may succeed later without anything about it being changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Conflict(_)
            | Self::Unavailable(_)
            | Self::OutcomeUnknown
            | Self::Overloaded
            | Self::Backlogged
            | Self::Closed => true,
            Self::Refused(_) | Self::Corrupt(_) | Self::TooLarge { .. } | Self::Missing { .. } => false,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::error::ErrorKind;
        match &error {
            sqlx::Error::Database(database) => match database.kind() {
                ErrorKind::UniqueViolation => Self::Conflict(error.into()),
                ErrorKind::ForeignKeyViolation | ErrorKind::NotNullViolation | ErrorKind::CheckViolation => {
                    Self::Refused(error.into())
                }
                // Serialization failures and deadlocks: PostgreSQL rolled the transaction back for another one's sake.
                _ if database.code().is_some_and(|code| code.len() == 5 && code.starts_with("40")) => {
                    Self::Conflict(error.into())
                }
                _ if is_outage(database.code().as_deref().unwrap_or_default()) => Self::Unavailable(error.into()),
                _ => Self::Refused(error.into()),
            },
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::TypeNotFound { .. } => Self::Refused(error.into()),
            _ => Self::Unavailable(error.into()),
        }
    }
}

/// Whether an SQLSTATE (five characters) or an SQLite result code (a number) means "not now" rather than "never".
///
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>, <https://sqlite.org/rescode.html>.
fn is_outage(code: &str) -> bool {
    if code.len() == 5 {
        let class = &code[..2];
        // connection, transaction state, resources, object state, intervention, system
        return ["08", "25", "53", "55", "57", "58"].contains(&class);
    }
    // The low byte is the primary code: BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
    code.parse::<u32>().is_ok_and(|code| [5, 6, 7, 8, 9, 10, 13, 14, 15].contains(&(code & 0xff)))
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
    use super::is_outage;

    #[test]
    fn outages_are_told_from_refusals() {
        for outage in ["5", "13", "10", "1546", "778", "57P01", "53100", "08006"] {
            assert!(is_outage(outage), "{outage}");
        }
        for refusal in ["1", "19", "275", "22021", "42P01", "23514"] {
            assert!(!is_outage(refusal), "{refusal}");
        }
    }
}
