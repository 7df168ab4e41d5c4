//! Rows that a service has to look at again at an instant (`due_us`): found when they are due, and kept from standing in each other's way.
//!
//! Two kinds never become due by themselves. An instant *further ahead than its own wait allows* was written by a clock that ran ahead:
//! it is pulled in. A row that *this build can't read* is set aside: its instant lies past all time and says who could not read it, so
//! that it stands before nobody, and every other build, and every new start, takes it up again. Never here: what is done when a row is
//! due, which is the service's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use contract::{Fault, Timestamp};
use sqlx::QueryBuilder;
use uuid::Uuid;

use crate::{Conn, Error, Log, Unit, on};

/// From here on an instant is the mark of a reader: the year 294247.
const ASIDE: i64 = i64::MAX - 0xffff;
/// What the clocks of two replicas may differ by.
const SKEW: Duration = Duration::from_secs(5);
/// How often to look for rows that other builds could not read.
const TAKE_UP_EVERY: Duration = Duration::from_secs(60);
/// Rows pulled in in one transaction.
const PULLED_MAX: i64 = 1_000;

/// Whether a row with this instant waits for a build that can read it.
pub fn is_set_aside(due: Timestamp) -> bool {
    due.0 >= ASIDE
}

/// Which rows a build can read: what it knows the words of. Two builds that know the same are the same reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader(i64);

impl Reader {
    pub fn of<'w>(words: impl IntoIterator<Item = &'w str>) -> Self {
        // FNV-1a.
        let bytes = |word: &'w str| word.bytes().chain([0]);
        let words = words.into_iter().flat_map(bytes).chain(bytes(env!("CARGO_PKG_VERSION")));
        let hash = words.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(i64::MAX - (hash % 0xffff) as i64)
    }
}

/// The due rows of one table.
#[derive(Debug)]
pub struct Due {
    table: &'static str,
    key: &'static str,
    /// What they are, for people.
    what: &'static str,
    /// No wait that this service writes is longer.
    longest: Duration,
    /// What is left of one that is.
    again: Duration,
    reader: Reader,
    /// Nobody has looked yet since the process started for what was set aside before.
    is_first: AtomicBool,
    looked: AtomicI64,
    /// There is something to pull in or to take up.
    is_untidy: AtomicBool,
    pulled_in: AtomicU64,
}

impl Due {
    /// Rows of `table`, which has a column `due_us` with an index, by the column `key`. A row that claims to wait for longer than
    /// `longest` waits `again`.
    pub fn new(
        table: &'static str,
        key: &'static str,
        what: &'static str,
        longest: Duration,
        again: Duration,
        reader: Reader,
    ) -> Arc<Self> {
        let (is_first, looked, is_untidy, pulled_in) =
            (AtomicBool::new(true), AtomicI64::new(0), AtomicBool::default(), AtomicU64::new(0));
        Arc::new(Self { table, key, what, longest, again, reader, is_first, looked, is_untidy, pulled_in })
    }

    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Instants that were pulled in by this process.
    pub fn pulled_in(&self) -> u64 {
        self.pulled_in.load(Relaxed)
    }

    /// No instant of this table lies past this one.
    fn furthest(&self, now: Timestamp) -> i64 {
        if Fault::InstantsUnclamped.is_planted() { ASIDE } else { now.plus(self.longest).plus(SKEW).0.min(ASIDE) }
    }

    /// When the first row is due, as far as is committed; at once if there are some to tidy up, which [`Due::claim`] does.
    ///
    /// # Errors
    /// What the database said.
    pub async fn first(&self, log: &Log) -> Result<Option<Timestamp>, Error> {
        let (table, now) = (self.table, log.env().now());
        let mut reader = log.reader().await?;
        let conn = &mut reader.conn();
        let (first, last): (Option<i64>, Option<i64>) = on!(conn, |c| {
            let mut query = QueryBuilder::<DB>::new("SELECT ");
            for (order, comma) in [("", ", "), (" DESC", "")] {
                query.push(format_args!("(SELECT due_us FROM {table} WHERE due_us IS NOT NULL AND due_us < "));
                query.push_bind(ASIDE).push(format_args!(" ORDER BY due_us{order} LIMIT 1){comma}"));
            }
            query.build_query_as().fetch_one(c).await
        })?;
        let is_time = now.since(Timestamp(self.looked.load(Relaxed))) >= TAKE_UP_EVERY;
        let mut is_untidy = last.is_some_and(|last| last > self.furthest(now));
        if self.is_first.load(Relaxed) || is_time {
            is_untidy |= self.others(conn).await?;
            self.looked.store(now.0, Relaxed);
        }
        if is_untidy {
            self.is_untidy.store(true, Relaxed);
            // Before any instant that whoever asks has taken for now.
            return Ok(Some(Timestamp(0)));
        }
        Ok(first.map(Timestamp))
    }

    /// Whether rows are set aside that may be readable here.
    async fn others(&self, conn: &mut Conn<'_>) -> Result<bool, Error> {
        let (table, but) = (self.table, self.but());
        let found: Option<i64> = on!(conn, |c| {
            let mut query =
                QueryBuilder::<DB>::new(format!("SELECT due_us FROM {table} WHERE due_us IS NOT NULL AND due_us >= "));
            query.push_bind(ASIDE).push(" AND due_us <> ").push_bind(but).push(" LIMIT 1");
            query.build_query_scalar().fetch_optional(c).await
        })?;
        if found.is_none() {
            self.is_first.store(false, Relaxed);
        }
        Ok(found.is_some())
    }

    /// The mark that is passed over: this reader's own, but not right after the start.
    fn but(&self) -> i64 {
        if self.is_first.load(Relaxed) { 0 } else { self.reader.0 }
    }

    /// The keys of rows that were due before an instant, the longest overdue first. Load and lock them before acting: another replica
    /// may come first.
    ///
    /// # Errors
    /// What the database said.
    pub async fn claim(self: &Arc<Self>, unit: &mut Unit<'_>, before: Timestamp, limit: i64) -> Result<Vec<Uuid>, Error> {
        if self.is_untidy.swap(false, Relaxed) {
            self.tidy(unit).await?;
        }
        let (table, key) = (self.table, self.key);
        Ok(on!(unit.conn(), |c| {
            let mut query = QueryBuilder::<DB>::new(format!("SELECT {key} FROM {table} WHERE due_us IS NOT NULL AND due_us < "));
            query.push_bind(before.0.min(ASIDE)).push(" ORDER BY due_us LIMIT ").push_bind(limit);
            query.build_query_scalar().fetch_all(c).await
        })?)
    }

    async fn tidy(self: &Arc<Self>, unit: &mut Unit<'_>) -> Result<(), Error> {
        let (table, key, now, furthest, but) = (self.table, self.key, unit.now(), self.furthest(unit.now()), self.but());
        let again = now.plus(self.again).0;
        let pulled_in: u64 = on!(unit.conn(), |c| {
            let mut query = QueryBuilder::<DB>::new(format!("UPDATE {table} SET due_us = "));
            query
                .push_bind(again)
                .push(format_args!(" WHERE {key} IN (SELECT {key} FROM {table} WHERE due_us IS NOT NULL AND due_us > "));
            query.push_bind(furthest).push(" AND due_us < ").push_bind(ASIDE);
            query.push(" ORDER BY due_us LIMIT ").push_bind(PULLED_MAX).push(") AND due_us > ").push_bind(furthest);
            query.push(" AND due_us < ").push_bind(ASIDE);
            query.build().execute(c).await.map(|done| done.rows_affected())
        })?;
        let taken_up: u64 = on!(unit.conn(), |c| {
            let mut query = QueryBuilder::<DB>::new(format!("UPDATE {table} SET due_us = "));
            query.push_bind(now.0).push(" WHERE due_us IS NOT NULL AND due_us >= ").push_bind(ASIDE);
            query.push(" AND due_us <> ").push_bind(but);
            query.build().execute(c).await.map(|done| done.rows_affected())
        })?;
        let told = self.clone();
        unit.once_committed(move || {
            told.is_first.store(false, Relaxed);
            let what = told.what;
            if pulled_in > 0 {
                told.pulled_in.fetch_add(pulled_in, Relaxed);
                tracing::warn!(
                    what,
                    count = pulled_in,
                    "they were to wait for longer than they ever do: a clock was wrong when they were \
                    written; they wait as long as they may"
                );
            }
            if taken_up > 0 {
                tracing::info!(what, count = taken_up, "what another start could not read is tried again");
            }
        });
        Ok(())
    }

    /// Takes rows out of everybody's way that this build can't read, each with its key and why; says so once. Only what is due or will
    /// be is touched.
    ///
    /// # Errors
    /// What the database said.
    pub async fn set_aside(self: &Arc<Self>, unit: &mut Unit<'_>, unreadable: &[(Uuid, String)]) -> Result<(), Error> {
        if unreadable.is_empty() || Fault::UnreadableBlocks.is_planted() {
            return Ok(());
        }
        let (table, key, mark) = (self.table, self.key, self.reader.0);
        on!(unit.conn(), |c| {
            let mut query = QueryBuilder::<DB>::new(format!("UPDATE {table} SET due_us = "));
            query.push_bind(mark).push(format_args!(" WHERE due_us IS NOT NULL AND {key} IN ("));
            let mut keys = query.separated(", ");
            for (key, _) in unreadable {
                keys.push_bind(*key);
            }
            query.push(")").build().execute(c).await.map(drop)
        })?;
        let (what, unreadable) = (self.what, unreadable.to_vec());
        unit.once_committed(move || {
            for (id, why) in unreadable {
                tracing::error!(what, %id, why, "this build can't read a row; it waits for one that can, and the others go on");
            }
        });
        Ok(())
    }

    /// How many rows are set aside.
    ///
    /// # Errors
    /// What the database said.
    pub async fn aside(&self, conn: &mut Conn<'_>) -> Result<i64, Error> {
        let table = self.table;
        Ok(on!(conn, |c| {
            let mut query =
                QueryBuilder::<DB>::new(format!("SELECT COUNT(*) FROM {table} WHERE due_us IS NOT NULL AND due_us >= "));
            query.push_bind(ASIDE).build_query_scalar().fetch_one(c).await
        })?)
    }
}
