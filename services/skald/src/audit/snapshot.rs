//! Reading one service's database: one connection that only reads, one transaction, so that all of it is of one instant.
//!
//! Never here: what a row means. Rows come in pages by their key, so that a large database needs no more memory than a small one.

use eventlog::{Conn, Database, Reader, Readers, on};
use serde_json::Value;
use sqlx::Row as _;
use uuid::Uuid;

use super::{Error, value::parsed};

/// Rows of one page.
pub(super) const PAGE: i64 = 1_024;
/// What rows of a page may hold: a dead letter is as large as the record that it keeps.
const PAGE_BYTES: i64 = 16 * 1024 * 1024;

/// A service's database as it was at one instant, while the service may go on.
pub(super) struct Snapshot {
    pub service: &'static str,
    /// The position of the newest row.
    pub head: i64,
    /// Where it is, without secrets.
    database: String,
    readers: Readers,
    reader: Reader,
}

/// A row of a log, as far as the audit looks at it.
pub(super) struct Entry {
    pub position: i64,
    pub id: u128,
    pub stream: String,
    pub version: i64,
    /// Where it is published, and under which key.
    pub topic: Option<String>,
    pub key: String,
    pub kind: String,
    /// Null if it is not JSON.
    pub data: Value,
    pub cause: Option<u128>,
    pub time_us: i64,
    pub actor: Option<String>,
}

impl Entry {
    /// What the stream is about: such as `saga`, and the order's id.
    pub(super) fn subject(&self) -> Option<(&str, u128)> {
        subject(&self.stream)
    }
}

pub(super) fn subject(stream: &str) -> Option<(&str, u128)> {
    let (prefix, id) = stream.split_at_checked(stream.len().checked_sub(36)?)?;
    Some((prefix.strip_suffix('-')?, parsed(id)?))
}

impl Snapshot {
    pub(super) async fn open(service: &'static str, database: &Database) -> Result<Self, Error> {
        let place = database.to_string();
        if let Database::Sqlite(path) = database
            && !path.exists()
        {
            return Err(Error::Missing { service, database: place });
        }
        let readers = database.readers().map_err(Error::Open)?;
        let failed = |source| Error::Read { service, database: place.clone(), source };
        let mut reader = readers.acquire().await.map_err(failed)?;
        let (head, owner) = begin(&mut reader.conn()).await.map_err(failed)?;
        if owner != service {
            return Err(Error::OtherService { service, database: place, owner });
        }
        Ok(Self { service, head, database: place, readers, reader })
    }

    pub(super) fn conn(&mut self) -> Conn<'_> {
        self.reader.conn()
    }

    /// Lets go of the instant, so that the service may tidy up behind it, and hands on what was read.
    pub(super) async fn close<T>(mut self, read: Result<T, sqlx::Error>) -> Result<T, Error> {
        let ended = on!(&mut self.conn(), |c| sqlx::query::<DB>("ROLLBACK").execute(c).await.map(drop));
        drop(self.reader);
        self.readers.close().await;
        let (service, database) = (self.service, self.database);
        let read = read.and_then(|read| ended.map(|()| read));
        read.map_err(|error| Error::Read { service, database, source: error.into() })
    }

    /// Every row of the log from after `after` to the head, in order.
    pub(super) async fn log(&mut self, after: i64, mut take: impl FnMut(Entry)) -> Result<(), sqlx::Error> {
        let (mut last, head) = (after, self.head);
        loop {
            let mut rows = 0;
            on!(&mut self.conn(), |c| {
                let found = sqlx::query::<DB>(
                    "SELECT position, id, stream, version, topic, key, kind, data, cause, time_us, actor FROM log \
                     WHERE position > $1 AND position <= (SELECT MAX(position) FROM \
                     (SELECT position, SUM(bytes) OVER (ORDER BY position) - bytes AS before FROM \
                     (SELECT position, octet_length(data) AS bytes FROM log WHERE position > $1 AND position <= $2 \
                     ORDER BY position LIMIT $3) AS found) AS summed WHERE before < $4) ORDER BY position",
                )
                .bind(last)
                .bind(head)
                .bind(PAGE)
                .bind(PAGE_BYTES)
                .fetch_all(c)
                .await?;
                for row in found {
                    last = row.try_get(0)?;
                    rows += 1;
                    take(Entry {
                        position: last,
                        id: row.try_get::<Uuid, _>(1)?.as_u128(),
                        stream: row.try_get(2)?,
                        version: row.try_get(3)?,
                        topic: row.try_get(4)?,
                        key: row.try_get::<Option<String>, _>(5)?.unwrap_or_default(),
                        kind: row.try_get(6)?,
                        data: serde_json::from_str(row.try_get(7)?).unwrap_or_default(),
                        cause: row.try_get::<Option<Uuid>, _>(8)?.map(|cause| cause.as_u128()),
                        time_us: row.try_get(9)?,
                        actor: row.try_get(10)?,
                    });
                }
            });
            if rows == 0 {
                return Ok(());
            }
        }
    }
}

/// Begins the snapshot: in SQLite the first read takes it, in PostgreSQL the first statement.
async fn begin(conn: &mut Conn<'_>) -> Result<(i64, String), eventlog::Error> {
    let sql = match conn {
        Conn::Sqlite(_) => "BEGIN",
        Conn::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    };
    on!(&mut *conn, |c| sqlx::query::<DB>(sql).execute(c).await.map(drop))?;
    Ok(on!(conn, |c| sqlx::query_as::<DB, (i64, String)>("SELECT position, service FROM head").fetch_one(c).await)?)
}

/// Walks a table in pages: `pages!(snapshot, (Uuid, i64), "SELECT id, n FROM t WHERE id > $1 ORDER BY id LIMIT $2", Uuid::nil(), |row| …)`.
///
/// The first column is the key, and what is given is a value below every key.
macro_rules! pages {
    ($snapshot:expr, $row:ty, $sql:literal, $below:expr, |$pattern:pat_param| $take:expr) => {{
        let mut last = $below;
        loop {
            let found: Vec<$row> = eventlog::on!(&mut $snapshot.conn(), |c| sqlx::query_as::<DB, $row>($sql)
                .bind(last.clone())
                .bind($crate::audit::snapshot::PAGE)
                .fetch_all(c)
                .await)?;
            let full = found.len() as i64 == $crate::audit::snapshot::PAGE;
            if let Some(row) = found.last() {
                last = row.0.clone();
            }
            for $pattern in found {
                $take
            }
            if !full {
                break;
            }
        }
    }};
}
pub(super) use pages;
