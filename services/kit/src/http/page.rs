//! Lists in pages: `limit`, `cursor`, `next`.
//!
//! Never here: the SQL of a page; a store reads `limit + 1` rows after `after`. From here the page goes out as JSON.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Problem;

const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 100;

/// `limit` and `cursor` as they came. Text, so that it can be flattened into a service's own query.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many items at most: 1 to 100, 20 if not given.
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<String>,
    /// `next` of the page before.
    #[param(min_length = 22, max_length = 22, pattern = "^[A-Za-z0-9_-]{21}[AQgw]$")]
    pub cursor: Option<String>,
}

/// Which items to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// 1 to 100. Read one more, to know whether there is a next page.
    pub limit: i64,
    /// The last item of the page before.
    pub after: Option<Uuid>,
}

impl PageQuery {
    /// # Errors
    /// 422 where the limit is out of range or the cursor is none of ours.
    pub fn page(&self) -> Result<Page, Problem> {
        let limit = match self.limit.as_deref() {
            None => LIMIT_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or_else(|| Problem::invalid("limit", format!("must be a whole number from 1 to {LIMIT_MAX}")))?,
        };
        let after = match self.cursor.as_deref() {
            None => None,
            Some(text) => Some(read_cursor(text).ok_or_else(|| Problem::invalid("cursor", "must be `next` of an earlier page"))?),
        };
        Ok(Page { limit, after })
    }
}

fn read_cursor(text: &str) -> Option<Uuid> {
    Uuid::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct List<T> {
    pub items: Vec<T>,
    /// `cursor` of the next page; null on the last one.
    #[schema(required)]
    pub next: Option<String>,
}

impl<T> List<T> {
    /// Cuts `limit + 1` fetched rows to a page; the cursor is the last row's id.
    pub fn of(mut rows: Vec<T>, limit: i64, id: impl Fn(&T) -> Uuid) -> Self {
        let limit = usize::try_from(limit).expect("a limit is 1 to 100");
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|row| URL_SAFE_NO_PAD.encode(id(row).as_bytes()));
        Self { items: rows, next }
    }

    /// The same page of something else, such as DTOs made from rows.
    pub fn map<U>(self, mut into: impl FnMut(T) -> U) -> List<U> {
        self.filter_map(|item| Some(into(item)))
    }

    /// The same without what can't be shown; the cursor goes on past it.
    pub fn filter_map<U>(self, into: impl FnMut(T) -> Option<U>) -> List<U> {
        List { items: self.items.into_iter().filter_map(into).collect(), next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(limit: Option<&str>, cursor: Option<&str>) -> PageQuery {
        PageQuery { limit: limit.map(Into::into), cursor: cursor.map(Into::into) }
    }

    #[test]
    fn a_cursor_leads_to_the_next_page_and_the_last_page_has_none() {
        let ids: Vec<Uuid> = (1..=5).map(Uuid::from_u128).collect();
        let first = List::of(ids[..3].to_vec(), 2, |id| *id);
        assert_eq!(first.items, ids[..2]);
        let page = query(Some("2"), first.next.as_deref()).page().unwrap();
        assert_eq!(page, Page { limit: 2, after: Some(ids[1]) });
        assert_eq!(List::of(ids[2..4].to_vec(), 2, |id| *id).next, None);
    }

    #[test]
    fn a_limit_out_of_range_and_an_unreadable_cursor_are_refused() {
        assert_eq!(query(None, None).page().unwrap(), Page { limit: 20, after: None });
        for limit in ["0", "101", "-1", "x", "", "1.5"] {
            assert_eq!(query(Some(limit), None).page().unwrap_err().errors[0].field, "limit", "{limit}");
        }
        for cursor in ["", "!", "AAAA", "ä"] {
            assert_eq!(query(None, Some(cursor)).page().unwrap_err().errors[0].field, "cursor", "{cursor}");
        }
    }
}
