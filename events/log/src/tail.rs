//! The newest rows in memory, so that whoever follows the log closely need not read them back from the database.
//!
//! Between those that this process committed other replicas' rows are missing, until somebody has read them. Never here: the reading.

use std::{collections::BTreeMap, sync::Arc};

use contract::Message;

use crate::weight;

/// Rows kept, if they are not bounded by their bytes before. Whoever lags further reads from the database.
const ROWS_MAX: usize = 4_096;

/// Rows by position; some may be missing.
pub(crate) struct Tail {
    rows: BTreeMap<i64, Arc<Message>>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { rows: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Takes up rows that were committed or read just now. Another row in the place of one that is here means that the log has lost
    /// commits: all the rest is forgotten then.
    pub(crate) fn take_up(&mut self, rows: &[Arc<Message>]) {
        if rows.iter().any(|row| !self.is_same(row)) {
            self.clear();
        }
        for row in rows {
            self.bytes += weight(row);
            if let Some(same) = self.rows.insert(row.position, row.clone()) {
                self.bytes -= weight(&same);
            }
        }
        // The newest may be too large by itself: then it is read from the database like any old one.
        while (self.rows.len() > ROWS_MAX || self.bytes > self.bytes_max)
            && let Some((_, oldest)) = self.rows.pop_first()
        {
            self.bytes -= weight(&oldest);
        }
    }

    /// Whether there is no other row in its place.
    fn is_same(&self, row: &Message) -> bool {
        self.rows.get(&row.position).is_none_or(|here| here.id == row.id)
    }

    /// Those of the next rows after `after` that are here, at most `limit`: up to the first that is missing.
    pub(crate) fn after(&self, after: i64, limit: usize) -> Vec<Arc<Message>> {
        let rows = self.rows.range(after + 1..).zip(after + 1..);
        rows.take_while(|((position, _), wanted)| *position == wanted).take(limit).map(|((_, row), _)| row.clone()).collect()
    }

    /// The position of the first row here after `after`.
    pub(crate) fn first_after(&self, after: i64) -> Option<i64> {
        self.rows.range(after + 1..).next().map(|(position, _)| *position)
    }

    /// Takes up what was read from the row at `from` on, and tells whether it joins what is here. If not, the log has lost commits.
    pub(crate) fn join(&mut self, from: i64, read: &[Arc<Message>]) -> bool {
        let is_begun = !self.rows.contains_key(&from) || read.first().is_some_and(|first| first.position == from);
        let joins = is_begun && read.iter().all(|row| self.is_same(row));
        if joins {
            self.take_up(read);
        } else {
            self.clear();
        }
        joins
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [i64; 0] = [];

    fn row(position: i64, id: u128) -> Arc<Message> {
        Arc::new(Message {
            position,
            id: uuid::Uuid::from_u128(id).into(),
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

    fn rows(positions: impl IntoIterator<Item = i64>) -> Vec<Arc<Message>> {
        positions.into_iter().map(|position| row(position, position as u128)).collect()
    }

    fn positions(rows: Vec<Arc<Message>>) -> Vec<i64> {
        rows.iter().map(|row| row.position).collect()
    }

    #[test]
    fn answers_what_it_holds_up_to_a_gap() {
        let mut tail = Tail::new(usize::MAX);
        assert_eq!(positions(tail.after(0, 9)), NONE);
        tail.take_up(&rows(5..=8));
        assert_eq!(positions(tail.after(5, 2)), [6, 7]);
        assert_eq!(positions(tail.after(3, 9)), NONE, "row 4 is not here");
        assert_eq!(tail.first_after(3), Some(5));
        assert_eq!(positions(tail.after(8, 9)), NONE, "nothing newer");
        assert_eq!(tail.first_after(8), None);
        tail.take_up(&rows([11]));
        assert_eq!(positions(tail.after(6, 9)), [7, 8], "rows 9 and 10 are another replica's");
        assert_eq!(tail.first_after(8), Some(11));
        tail.take_up(&rows([9, 10]));
        assert_eq!(positions(tail.after(6, 9)), [7, 8, 9, 10, 11], "they have been read");
        tail.take_up(&rows(12..12 + ROWS_MAX as i64));
        assert_eq!(positions(tail.after(10, 9)), NONE, "bounded");
        tail.take_up(&rows([11]));
        assert_eq!(positions(tail.after(10, 9)), NONE, "the newest are kept");
    }

    #[test]
    fn is_bounded_in_bytes_and_keeps_the_newest() {
        let large = |position: i64, bytes: usize| {
            let mut row = (*row(position, position as u128)).clone();
            row.data = "x".repeat(bytes);
            Arc::new(row)
        };
        let mut tail = Tail::new(10_000);
        tail.take_up(&[large(1, 4_000), large(2, 4_000), large(3, 4_000)]);
        assert_eq!(positions(tail.after(0, 9)), NONE);
        assert_eq!(positions(tail.after(1, 9)), [2, 3]);
        // The same row again takes no more than once.
        tail.take_up(&[large(3, 4_000)]);
        assert_eq!(positions(tail.after(1, 9)), [2, 3]);
        tail.take_up(&[large(4, 20_000)]);
        assert_eq!(tail.first_after(0), None, "larger than all that there is room for");
        tail.take_up(&[large(5, 4_000)]);
        assert_eq!(positions(tail.after(4, 9)), [5], "and what comes after it finds room again");
        assert_eq!(tail.bytes, weight(&large(5, 4_000)));
    }

    #[test]
    fn forgets_what_the_log_has_lost() {
        let mut tail = Tail::new(usize::MAX);
        tail.take_up(&rows(1..=4));
        assert!(tail.join(0, &rows(1..=2)), "row 0 was never here");
        assert!(tail.join(4, &rows(4..=6)));
        assert_eq!(positions(tail.after(0, 9)), [1, 2, 3, 4, 5, 6]);
        for (read, why) in [
            (rows(5..=6), "row 4 is lost"),
            (Vec::new(), "row 4 is lost"),
            (vec![row(4, 44)], "another one is in the place of row 4"),
            (vec![row(4, 4), row(7, 77)], "another one is in the place of row 7"),
        ] {
            let mut tail = Tail::new(usize::MAX);
            tail.take_up(&rows([3, 4, 7]));
            assert!(!tail.join(4, &read), "{why}");
            assert_eq!(positions(tail.after(2, 9)), NONE, "{why}");
        }
        tail.take_up(&[row(3, 33)]);
        assert_eq!(positions(tail.after(0, 9)), NONE, "another one was committed in the place of row 3");
        assert_eq!(positions(tail.after(2, 9)), [3]);
    }
}
