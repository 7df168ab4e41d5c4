//! One SQL text, two databases. The text is written once in the portable subset; these macros expand the call for each
//! driver, so that types stay native and nothing is boxed.

use crate::Conn;

/// Expands `body` once per database, with `$c` the driver's connection and `DB` its type.
///
/// ```text
/// let n: i64 = on!(conn, |c| sqlx::query_scalar::<DB, i64>("SELECT position FROM head").fetch_one(c).await)?;
/// ```
#[macro_export]
macro_rules! on {
    ($conn:expr, |$c:ident| $body:expr) => {
        match $conn {
            $crate::Conn::Sqlite(connection) => {
                #[allow(dead_code)]
                type DB = $crate::__sqlx::Sqlite;
                let $c = &mut **connection;
                $body
            }
            $crate::Conn::Postgres(connection) => {
                #[allow(dead_code)]
                type DB = $crate::__sqlx::Postgres;
                let $c = &mut **connection;
                $body
            }
        }
    };
}

/// Inserts many rows with few statements: `insert_many!(conn, "INSERT INTO t (a, b)", rows, |r| [r.a, r.b], "ON CONFLICT …")`.
///
/// Rows go in runs of 64, 32 … 1, so that there are seven SQL texts a table and all stay prepared.
#[macro_export]
macro_rules! insert_many {
    ($conn:expr, $head:literal, $rows:expr, |$row:ident| [$($value:expr),* $(,)?], $tail:literal) => {{
        let conn: &mut $crate::Conn<'_> = $conn;
        let mut rest: &[_] = $rows;
        let mut result: Result<(), $crate::__sqlx::Error> = Ok(());
        while !rest.is_empty() && result.is_ok() {
            let (run, after) = rest.split_at($crate::run_length(rest.len()));
            rest = after;
            result = $crate::on!(conn, |c| {
                let mut query = $crate::__sqlx::QueryBuilder::<DB>::new(concat!($head, " "));
                query.push_values(run, |mut separated, $row| { $(separated.push_bind($value);)* });
                query.push(concat!(" ", $tail));
                query.build().execute(c).await.map(drop)
            });
        }
        result
    }};
}

/// Selects by many keys: `select_in!(conn, (Uuid, i64), "SELECT id, n FROM t WHERE id IN", keys, "ORDER BY id")`.
///
/// Keys go in runs of 64, 32 … 1 like the rows of [`insert_many!`]; sort them first where the rows get locked.
#[macro_export]
macro_rules! select_in {
    ($conn:expr, $row:ty, $head:literal, $keys:expr, $tail:expr) => {{
        let conn: &mut $crate::Conn<'_> = $conn;
        let mut rest: &[_] = $keys;
        let mut result: Result<Vec<$row>, $crate::__sqlx::Error> = Ok(Vec::with_capacity(rest.len()));
        while !rest.is_empty() {
            let (run, after) = rest.split_at($crate::run_length(rest.len()));
            rest = after;
            let found: Result<Vec<$row>, $crate::__sqlx::Error> = $crate::on!(conn, |c| {
                let mut query = $crate::__sqlx::QueryBuilder::<DB>::new(concat!($head, " ("));
                let mut keys = query.separated(", ");
                for key in run {
                    keys.push_bind(key.clone());
                }
                query.push(") ").push($tail);
                query.build_query_as::<$row>().fetch_all(c).await
            });
            match (found, &mut result) {
                (Ok(found), Ok(all)) => all.extend(found),
                (Ok(_), Err(_)) => {}
                (Err(error), _) => {
                    result = Err(error);
                    break;
                }
            }
        }
        result
    }};
}

/// The longest run of 64, 32 … 1 that fits into `left`.
#[doc(hidden)]
pub fn run_length(left: usize) -> usize {
    if left >= 64 { 64 } else { 1 << left.max(1).ilog2() }
}

/// What a SELECT ends with that loads rows in order to change them. PostgreSQL locks them until the commit; SQLite has
/// one writer, whose transaction is the lock.
pub fn for_update(conn: &Conn<'_>) -> &'static str {
    match conn {
        Conn::Sqlite(_) => "",
        Conn::Postgres(_) => " FOR UPDATE",
    }
}
