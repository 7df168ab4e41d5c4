//! `limit` and `cursor` of a list, in two lines.

#![no_main]

use kit::http::{List, PageQuery};
use uuid::Uuid;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (limit, cursor) = text.split_once('\n').unwrap_or(("1", text));
    let query = PageQuery { limit: Some(limit.to_owned()), cursor: Some(cursor.to_owned()) };
    match query.page() {
        Ok(page) => {
            assert!((1..=100).contains(&page.limit));
            // It is `next` of a page that ended there, and of no other.
            let after = page.after.expect("a cursor was given");
            let list = List::of(vec![after, Uuid::nil()], 1, |id| *id);
            assert_eq!(list.next.as_deref(), Some(cursor));
        }
        Err(problem) => {
            assert_eq!(problem.status, 422);
            assert!(["limit", "cursor"].contains(&problem.errors[0].field.as_str()));
        }
    }
});
