//! Bounds in bytes: of what is read at a time, and of what shares a transaction. What is larger than a bound passes alone.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use contract::record::Record;
use skald_log::{Arrived, Claim, Delivered, Env, Item, Memory, Poison, Todo, WriterLimits, testing::TestDatabase, weight};

use crate::fixture::{Work, assert_without_gaps, start, start_as};

/// This only bounds a test that fails.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_given_so_many_bytes_at_a_time_and_gets_on_whatever_a_row_takes() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    // Small ones, two that are larger than a whole read, small ones again.
    let sizes = [100, 100, 400, 60_000, 60_000, 100, 9_000, 9_000, 9_000, 9_000, 100];
    for (number, bytes) in sizes.into_iter().enumerate() {
        log.submit(Work::Publish { stream: format!("s-{number}"), bytes }).await.unwrap();
    }
    // Reads of 20,000 bytes, and no row in memory.
    let memory = Memory::of(32 * 20_000);
    let reader = start_as(&database, Env::system().with_memory(memory), WriterLimits::default()).await;
    let mut seen = Vec::new();
    loop {
        // As the relay does: from one earlier, so that the last row comes again.
        let after = (seen.len() as i64 - 1).max(0);
        let rows = reader.log().after(after, 1_000).await.unwrap();
        let bytes: usize = rows.iter().map(|row| weight(row)).sum();
        assert!(bytes < 20_000 + 3 * 61_000, "{bytes} bytes after {after}");
        let new: Vec<_> = rows.into_iter().filter(|row| row.position > seen.len() as i64).collect();
        if new.is_empty() {
            break;
        }
        seen.extend(new);
    }
    assert_without_gaps(&seen);
    assert_eq!(seen.iter().map(|row| row.data.len()).collect::<Vec<_>>(), sizes);
    log.stop().await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_that_comes_together_is_set_aside_in_transactions_of_so_many_bytes() {
    let database = TestDatabase::fresh().await;
    // 20,000 bytes in a transaction.
    let memory = Memory::of(64 * 20_000);
    let log = start_as(&database, Env::system().with_memory(memory), WriterLimits::default()).await;
    let junk = |bytes: usize| {
        let record = Arc::new(Record { key: None, headers: Vec::new(), value: Some(vec![b'"'; bytes]) });
        let poison = Poison::new(contract::Cause::Undecodable, "junk");
        Item::<Work> { offset: 0, message: Arrived::Raw(record), todo: Todo::SetAside(poison) }
    };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let before = log.log().commits();
    let delivered = tokio::time::timeout(SOON, async {
        // What comes while this one waits may share a transaction.
        let wait = log.submit(Work::Wait(gate.clone()));
        let deliveries = [9_000, 9_000, 100_000, 9_000, 9_000, 9_000].into_iter().enumerate().map(|(partition, bytes)| {
            let (consumer, topic) = ("test".to_owned(), contract::topics::ORDER_EVENTS.to_owned());
            log.writer.deliver(Claim { consumer, topic, partition: partition as i64, from: 0, next: 1 }, vec![junk(bytes)])
        });
        let ((), waited, delivered) =
            tokio::join!(async { gate.add_permits(1) }, wait, futures_util::future::join_all(deliveries));
        waited.unwrap();
        delivered.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    });
    assert_eq!(delivered.await.unwrap(), [Delivered::Committed; 6]);
    // Two, the large one alone, two, and the one that is left; the first two may share theirs with the one that waited.
    let commits = log.log().commits() - before;
    assert!((4..=5).contains(&commits), "{commits} transactions");
    assert_eq!(log.log().dead_letters(), 6);
    assert_eq!(log.handler.batches.load(Ordering::Relaxed), 1, "only the one that waited was anything to handle");
    log.stop().await;
}
