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
                #[allow(dead_code, reason = "a body may leave its database to inference")]
                type DB = $crate::__sqlx::Sqlite;
                let $c = &mut **connection;
                $body
            }
            $crate::Conn::Postgres(connection) => {
                #[allow(dead_code, reason = "a body may leave its database to inference")]
                type DB = $crate::__sqlx::Postgres;
                let $c = &mut **connection;
                $body
            }
        }
    };
}

/// Inserts many rows with few statements: `insert_many!(conn, "INSERT INTO t (a, b)", rows, |r| [r.a, r.b], "ON CONFLICT …")`.
///
/// PostgreSQL takes all of them in one statement, an array a column; SQLite in runs of 64, 32 … 1, so that there are seven SQL
/// texts a table and all stay prepared. The head is a literal or made of some by `concat!`.
#[macro_export]
macro_rules! insert_many {
    ($conn:expr, $head:expr, $rows:expr, |$row:ident| [$($value:expr),* $(,)?], $tail:expr) => {{
        let conn: &mut $crate::Conn<'_> = $conn;
        let head: &'static str = $head;
        let mut rest: &[_] = $rows;
        let mut result: Result<(), $crate::__sqlx::Error> = Ok(());
        while !rest.is_empty() && result.is_ok() {
            result = match conn {
                $crate::Conn::Postgres(c) => {
                    let mut query = $crate::__sqlx::QueryBuilder::<$crate::__sqlx::Postgres>::new(head);
                    query.push(" SELECT * FROM ");
                    $crate::unnest!(query, rest, |$row| [$($value),*]);
                    query.push(concat!(" ", $tail));
                    rest = &[];
                    query.build().execute(&mut **c).await.map(drop)
                }
                $crate::Conn::Sqlite(c) => {
                    let (run, after) = rest.split_at($crate::run_length(rest.len()));
                    rest = after;
                    let mut query = $crate::__sqlx::QueryBuilder::<$crate::__sqlx::Sqlite>::new(head);
                    query.push(" ").push_values(run, |mut separated, $row| { $(separated.push_bind($value);)* });
                    query.push(concat!(" ", $tail));
                    query.build().execute(&mut **c).await.map(drop)
                }
            };
        }
        result
    }};
}

/// Writes many rows with the last statement of a unit: like [`insert_many!`], but PostgreSQL does it together with what is appended, so
/// that a message alone waits for one answer. Nothing in the same unit can read these rows, and a row is written once at most.
#[macro_export]
macro_rules! write_many {
    ($unit:expr, $head:expr, $rows:expr, |$row:ident| [$($value:expr),* $(,)?], $tail:expr) => {{
        let unit: &mut $crate::Unit<'_> = $unit;
        let rows: &[_] = $rows;
        if rows.is_empty() {
            Ok(())
        } else if let Some(query) = unit.write_later() {
            query.push($head).push(" SELECT * FROM ");
            $crate::unnest!(*query, rows, |$row| [$($value),*]);
            query.push(concat!(" ", $tail, ")"));
            Ok(())
        } else {
            $crate::insert_many!(unit.conn(), $head, rows, |$row| [$($value),*], $tail)
        }
    }};
}

/// Pushes `UNNEST(…)` to a query of PostgreSQL's: rows as an array a column.
#[macro_export]
macro_rules! unnest {
    ($query:expr, $rows:expr, |$row:ident| [$($value:expr),* $(,)?]) => {{
        let (query, rows) = (&mut $query, $rows);
        let mut columns = query.push("UNNEST(").separated(", ");
        // A column may be the same in every row.
        $(columns.push_bind(rows.iter().map(|$row| { let _ = $row; $value }).collect::<Vec<_>>());)*
        query.push(")");
    }};
}

/// Selects by many keys: `select_in!(conn, (Uuid, i64), "SELECT id, n FROM t WHERE id", keys, "ORDER BY id")`.
///
/// PostgreSQL takes all of them as one array. SQLite takes runs of at most 64, filled up to 64, 32 … 1 with the last of them again: so
/// there are seven SQL texts, and one statement a run. Sort the keys first where the rows get locked. The head is a literal or made of
/// some by `concat!`, and ends with the keys' column.
#[macro_export]
macro_rules! select_in {
    ($conn:expr, $row:ty, $head:expr, $keys:expr, $tail:expr) => {{
        let conn: &mut $crate::Conn<'_> = $conn;
        let (head, mut rest): (&'static str, &[_]) = ($head, $keys);
        let mut result: Result<Vec<$row>, $crate::__sqlx::Error> = Ok(Vec::with_capacity(rest.len()));
        while let (Ok(all), false) = (&mut result, rest.is_empty()) {
            let found: Result<Vec<$row>, $crate::__sqlx::Error> = match conn {
                $crate::Conn::Postgres(c) => {
                    let mut query = $crate::__sqlx::QueryBuilder::<$crate::__sqlx::Postgres>::new(head);
                    query.push(" = ANY(").push_bind(std::mem::take(&mut rest)).push(") ").push($tail);
                    query.build_query_as::<$row>().fetch_all(&mut **c).await
                }
                $crate::Conn::Sqlite(c) => {
                    let (run, after) = rest.split_at(rest.len().min(64));
                    rest = after;
                    let mut query = $crate::__sqlx::QueryBuilder::<$crate::__sqlx::Sqlite>::new(head);
                    let mut list = query.push(" IN (").separated(", ");
                    for key in run.iter().chain(run.last().into_iter().cycle()).take(run.len().next_power_of_two()) {
                        list.push_bind(key.clone());
                    }
                    query.push(") ").push($tail);
                    query.build_query_as::<$row>().fetch_all(&mut **c).await
                }
            };
            match found {
                Ok(found) => all.extend(found),
                Err(error) => result = Err(error),
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
