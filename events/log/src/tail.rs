//! The newest rows in memory, so that whoever follows the log closely need not read them back from the database.

use std::{collections::VecDeque, sync::Arc};

use contract::Message;

/// Rows kept; about 3 MiB of them. Whoever lags further reads from the database.
const ROWS_MAX: usize = 4_096;

/// A contiguous run of rows that ends at the newest row this process committed.
#[derive(Default)]
pub(crate) struct Tail(VecDeque<Arc<Message>>);

impl Tail {
    pub(crate) fn extend(&mut self, rows: impl IntoIterator<Item = Arc<Message>>) {
        for row in rows {
            // Another replica committed in between: what is here no longer joins.
            if self.0.back().is_some_and(|last| last.position + 1 != row.position) {
                self.0.clear();
            }
            if self.0.len() == ROWS_MAX {
                self.0.pop_front();
            }
            self.0.push_back(row);
        }
    }

    /// The rows after `after`, at most `limit`; `None` when some of them are not here.
    pub(crate) fn after(&self, after: i64, limit: usize) -> Option<Vec<Arc<Message>>> {
        let first = self.0.front()?.position;
        let skip = usize::try_from(after + 1 - first).ok()?;
        (skip < self.0.len()).then(|| self.0.range(skip..self.0.len().min(skip + limit)).cloned().collect())
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

    fn positions(rows: Option<Vec<Arc<Message>>>) -> Option<Vec<i64>> {
        Some(rows?.iter().map(|row| row.position).collect())
    }

    #[test]
    fn answers_only_what_it_holds_without_a_gap() {
        let mut tail = Tail::default();
        assert_eq!(positions(tail.after(0, 9)), None);
        tail.extend((5..=8).map(row));
        assert_eq!(positions(tail.after(5, 2)), Some(vec![6, 7]));
        assert_eq!(positions(tail.after(3, 9)), None, "row 4 is not here");
        assert_eq!(positions(tail.after(8, 9)), None, "nothing newer");
        tail.extend([row(11)]);
        assert_eq!(positions(tail.after(7, 9)), None, "rows 9 and 10 are another replica's");
        assert_eq!(positions(tail.after(10, 9)), Some(vec![11]));
        tail.extend((12..12 + ROWS_MAX as i64).map(row));
        assert_eq!(positions(tail.after(10, 9)), None, "bounded");
    }
}
