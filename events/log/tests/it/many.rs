//! Many rows and many keys in few statements, by the macros that every store uses.

use skald_log::{insert_many, select_in, testing::TestDatabase};

use crate::fixture::open;

#[tokio::test]
async fn whatever_number_of_rows_was_inserted_is_selected_each_once_and_in_order() {
    let database = TestDatabase::fresh().await;
    let mut connection = open(&database).await.unwrap().connection;
    let rows: Vec<(String, i64)> = (0..200).map(|n| (format!("stream-{n:03}"), n)).collect();
    insert_many!(&mut connection.conn(), "INSERT INTO counts (stream, n)", &rows, |r| [r.0.as_str(), r.1], "").unwrap();
    for number in 0..=rows.len() {
        let keys: Vec<String> = rows[..number].iter().map(|(stream, _)| stream.clone()).collect();
        let head = "SELECT stream, n FROM counts WHERE stream";
        let found = select_in!(&mut connection.conn(), (String, i64), head, &keys, "ORDER BY stream").unwrap();
        assert_eq!(found, rows[..number]);
    }
}
