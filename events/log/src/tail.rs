//! The newest rows in memory, so that whoever follows the log closely need not read them back from the database.

use std::{collections::VecDeque, sync::Arc};

use contract::Message;

/// Rows kept; about 3 MiB of them. Whoever lags further reads from the database.
pub(crate) const ROWS_MAX: usize = 4_096;

/// The newest rows, by position: those that this process committed, and those of other replicas that somebody here has read. Some
/// between them may be missing.
#[derive(Default)]
pub(crate) struct Tail(VecDeque<Arc<Message>>);

/// Which rows are not here, of those that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The first one that is here again; `None` where nothing newer is.
    pub before: Option<i64>,
}

impl Tail {
    /// Takes rows that this process has committed.
    pub(crate) fn committed(&mut self, rows: impl IntoIterator<Item = Arc<Message>>) {
        for row in rows {
            // A position is given out again only by a log that has lost commits: what is here may be among them.
            if self.0.back().is_some_and(|newest| newest.position >= row.position) {
                self.0.clear();
            }
            self.0.push_back(row);
        }
        self.trim();
    }

    /// Takes rows that were read from the database, unless they are too old to be kept.
    pub(crate) fn read(&mut self, rows: impl IntoIterator<Item = Arc<Message>>) {
        for row in rows {
            let at = self.0.partition_point(|kept| kept.position < row.position);
            let is_known = self.0.get(at).is_some_and(|kept| kept.position == row.position);
            if !is_known && (at > 0 || self.0.len() < ROWS_MAX) {
                self.0.insert(at, row);
            }
        }
        self.trim();
    }

    fn trim(&mut self) {
        self.0.drain(..self.0.len().saturating_sub(ROWS_MAX));
    }

    /// The rows after `after`, as far as they follow one another here, at most `limit`.
    pub(crate) fn after(&self, after: i64, limit: usize) -> Result<Vec<Arc<Message>>, Missing> {
        let first = self.0.partition_point(|kept| kept.position <= after);
        let here = self.0.range(first..).zip(after + 1..).take_while(|(kept, wanted)| kept.position == *wanted);
        let rows: Vec<Arc<Message>> = here.take(limit).map(|(kept, _)| kept.clone()).collect();
        if rows.is_empty() { Err(Missing { before: self.0.get(first).map(|kept| kept.position) }) } else { Ok(rows) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(position: i64) -> Arc<Message> {
        Arc::new(Message {
            position,
            id: uuid::Uuid::nil().into(),
            stream: String::new(),
            version: 1,
            topic: None,
            key: None,
            kind: String::new(),
            schema: 1,
            data: String::new(),
            time: contract::Timestamp(0),
            meta: contract::Meta::default(),
        })
    }

    fn positions(rows: Result<Vec<Arc<Message>>, Missing>) -> Result<Vec<i64>, Option<i64>> {
        rows.map(|rows| rows.iter().map(|row| row.position).collect()).map_err(|missing| missing.before)
    }

    #[test]
    fn answers_what_it_holds_and_tells_where_a_gap_ends() {
        let mut tail = Tail::default();
        assert_eq!(positions(tail.after(0, 9)), Err(None));
        tail.committed((5..=8).map(row));
        assert_eq!(positions(tail.after(5, 2)), Ok(vec![6, 7]));
        assert_eq!(positions(tail.after(3, 9)), Err(Some(5)), "row 4 is not here");
        assert_eq!(positions(tail.after(8, 9)), Err(None), "nothing newer");
        tail.committed([row(11)]);
        assert_eq!(positions(tail.after(7, 9)), Ok(vec![8]), "rows 9 and 10 are another replica's");
        assert_eq!(positions(tail.after(8, 9)), Err(Some(11)));
        tail.read((8..=10).map(row));
        assert_eq!(positions(tail.after(7, 9)), Ok(vec![8, 9, 10, 11]), "somebody has read them");
        tail.read([row(12)]);
        assert_eq!(positions(tail.after(10, 9)), Ok(vec![11, 12]));
    }

    #[test]
    fn keeps_the_newest_rows_only() {
        let mut tail = Tail::default();
        tail.committed((1..=ROWS_MAX as i64).map(row));
        tail.committed([row(ROWS_MAX as i64 + 1)]);
        assert_eq!(positions(tail.after(0, 1)), Err(Some(2)), "bounded");
        tail.read([row(1)]);
        assert_eq!(positions(tail.after(0, 1)), Err(Some(2)), "whoever lags must not push out what others are about to read");
    }

    #[test]
    fn forgets_everything_where_a_position_comes_again() {
        let mut tail = Tail::default();
        tail.committed((1..=60).map(row));
        tail.committed([row(41)]);
        assert_eq!(positions(tail.after(0, 99)), Err(Some(41)), "the log has lost commits, perhaps more than these");
        assert_eq!(positions(tail.after(40, 99)), Ok(vec![41]));
    }
}
