//! Appending: order, conflicts, group commit, idempotency keys.

use std::sync::{Arc, atomic::Ordering};

use contract::{Meta, Trace, topics};
use futures_util::future::join_all;
use skald_log::{Answer, Error, Job, WriterLimits, on, testing::TestDatabase};
use tokio::sync::Semaphore;

use crate::fixture::{Work, assert_without_gaps, at, count, job, key, start, start_with};

#[tokio::test(flavor = "multi_thread")]
async fn positions_have_no_gap_and_follow_the_commits() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    join_all((0..500).map(|n| log.submit(count(&format!("stream-{}", n % 7)))))
        .await
        .into_iter()
        .for_each(|done| _ = done.unwrap());
    let rows = log.rows().await;
    assert_eq!(rows.len(), 500);
    assert_without_gaps(&rows);
    assert!(log.handler.batches.load(Ordering::Relaxed) < 250, "what gathers shares a transaction");
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_database_append_one_log() {
    let database = TestDatabase::fresh().await;
    let (one, two) = (start(&database).await, start(&database).await);
    let both = (0..200).map(|n| if n % 2 == 0 { one.submit(count("shared")) } else { two.submit(count("shared")) });
    for done in join_all(both).await {
        done.unwrap();
    }
    assert_without_gaps(&one.rows().await);
    assert_eq!(one.rows().await.len(), 200);
    assert_eq!(two.rows().await, one.rows().await, "from memory and from the database");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_version_loses_and_its_neighbours_commit() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    log.submit(at("a", 1)).await.unwrap();
    let jobs = [at("b", 1), at("a", 1), at("c", 1), Work::Break, at("d", 1)];
    let done = join_all(jobs.map(|work| log.submit(work))).await;
    assert!(matches!(done[1], Err(Error::Conflict(_))), "{:?}", done[1]);
    assert!(matches!(done[3], Err(Error::Refused(_))), "{:?}", done[3]);
    for good in [0, 2, 4] {
        assert!(done[good].is_ok());
    }
    assert_without_gaps(&log.rows().await);
    assert_eq!(log.rows().await.len(), 4);
    assert_eq!(log.handler.appended.load(Ordering::Relaxed), 4, "told once each, however often the batch was decided");
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_its_topic_would_refuse_is_not_appended_and_its_neighbours_are() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let bytes_max = topics::value_bytes_max(topics::ORDER_EVENTS).unwrap();
    let publish = |stream: &str, bytes| Work::Publish { stream: stream.to_owned(), bytes };
    let jobs = [publish("a", bytes_max), publish("b", bytes_max + 1), publish("c", 10)];
    let done = join_all(jobs.map(|work| log.submit(work))).await;
    assert!(done[0].is_ok() && done[2].is_ok(), "{done:?}");
    let Err(error) = &done[1] else { panic!("{done:?}") };
    assert!(matches!(error, Error::TooLarge { .. }) && !error.is_transient(), "{error:?}");
    assert_without_gaps(&log.rows().await);
    assert_eq!(log.rows().await.len(), 2);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_comes_back_as_it_was_appended() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let trace =
        Trace { parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()), state: Some("a=b".into()) };
    let meta = Meta {
        cause: Some(log.log().env().id().into()),
        correlation: Some(log.log().env().id()),
        trace,
        actor: Some("customer:1".into()),
    };
    log.writer.submit(Job { work: at("a", 1), meta: meta.clone() }).await.unwrap();
    let [row] = &log.rows().await[..] else { panic!("one row") };
    // But for its span, which is its own.
    let meta = Meta { trace: meta.trace.child(row.id.span()), ..meta };
    assert_eq!((&row.meta, row.kind.as_str(), row.data.as_str()), (&meta, "test.Appended", "{\"version\":1}"));
    assert_eq!((row.topic.as_deref(), row.key.as_deref()), (Some("test.events.v1"), Some("a")));
    log.stop().await;
    // Now from the database, in another process as it were.
    let log = start(&database).await;
    assert_eq!(log.log().after(0, 9).await.unwrap(), log.log().stream("a", 1).await.unwrap());
    assert_eq!(log.rows().await[0].meta, meta);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_its_first_answer_again_and_never_another_body() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let first = log.writer.request(job(count("a")), Some(key(1, 1))).await.unwrap();
    assert!(matches!(first, Answer::Done(1)));
    for _ in 0..2 {
        match log.writer.request(job(count("a")), Some(key(1, 1))).await.unwrap() {
            Answer::Repeated(stored) => assert_eq!((stored.status, stored.location.as_deref()), (202, Some("/1"))),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(log.writer.request(job(count("a")), Some(key(1, 2))).await.unwrap(), Answer::KeyReused));
    assert_eq!(log.rows().await.len(), 1);
    assert_eq!(log.log().stored(&key(1, 1)).await.unwrap().unwrap().location.as_deref(), Some("/1"));
    assert_eq!(log.log().stored(&key(2, 1)).await.unwrap(), None);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_do_one_key_once() {
    let database = TestDatabase::fresh().await;
    let (one, two) = (start(&database).await, start(&database).await);
    let requests = (0..100).map(|n| {
        let replica = if n % 2 == 0 { &one } else { &two };
        replica.writer.request(job(count("a")), Some(key(n / 2, 1)))
    });
    let done = join_all(requests).await.into_iter().filter(|answer| matches!(answer, Ok(Answer::Done(_)))).count();
    assert_eq!(done, 50);
    assert_eq!(one.rows().await.len(), 50);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_answered_is_answered_again_to_all_who_repeat_it_at_once() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    log.writer.request(job(count("a")), Some(key(1, 1))).await.unwrap();
    // Their clients gave up and asked again, so that they gather behind one that takes its time.
    let gate = Arc::new(Semaphore::new(0));
    let slow = log.writer.request(job(Work::Wait(gate.clone())), None);
    let repeats = join_all((0..20).map(|_| log.writer.request(job(count("a")), Some(key(1, 1)))));
    let other = log.writer.request(job(count("a")), Some(key(1, 2)));
    let open = async {
        tokio::task::yield_now().await;
        gate.close();
    };
    let (_, repeats, other, ()) = tokio::join!(slow, repeats, other, open);
    for repeat in repeats {
        assert!(matches!(repeat.unwrap(), Answer::Repeated(_)));
    }
    assert!(matches!(other.unwrap(), Answer::KeyReused));
    assert_eq!(log.rows().await.len(), 1);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_requests_at_once() {
    let database = TestDatabase::fresh().await;
    let log = start_with(&database, WriterLimits { queue_max: 2, batch_max: 1 }).await;
    let gate = Arc::new(Semaphore::new(0));
    let requests: Vec<_> = (0..20).map(|_| log.writer.request(job(Work::Wait(gate.clone())), None)).collect();
    let open = async {
        // Let go once the requests have been tried.
        tokio::task::yield_now().await;
        gate.close();
    };
    let (answers, ()) = tokio::join!(join_all(requests), open);
    let refused = answers.iter().filter(|answer| matches!(answer, Err(Error::Overloaded))).count();
    assert!((1..20).contains(&refused), "{refused} of 20 refused");
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_where_it_stopped() {
    let database = TestDatabase::fresh().await;
    for round in 1..=3 {
        let log = start(&database).await;
        log.submit(count("a")).await.unwrap();
        assert_eq!(*log.log().head().borrow(), round);
        assert_eq!(log.rows().await.len(), usize::try_from(round).unwrap());
        log.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_two_replicas_come_in_their_order_and_none_that_the_log_has_lost_with_what_took_its_place() {
    let database = TestDatabase::fresh().await;
    let (one, two) = (start(&database).await, start(&database).await);
    for version in 1..=6 {
        let replica = if version % 2 == 0 { &one } else { &two };
        replica.submit(at("a", version)).await.unwrap();
    }
    let stored = two.log().stream("a", 1).await.unwrap();
    assert_eq!(one.rows().await, stored);
    assert_eq!(two.rows().await, stored);

    // What a failover to a standby that had not received them leaves behind. `one` still has all six in memory.
    let mut connection = database.database.connect().await.unwrap();
    for sql in ["DELETE FROM log WHERE position > 3", "UPDATE head SET position = 3"] {
        on!(&mut connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
    }
    for version in 1..=4 {
        two.submit(at("b", version)).await.unwrap();
    }
    one.log().refresh().await.unwrap();
    let now = [two.log().stream("a", 1).await.unwrap(), two.log().stream("b", 1).await.unwrap()].concat();
    assert_eq!(one.log().after(2, 9).await.unwrap(), now[2..]);
    assert_eq!(one.rows().await, now);
    assert_eq!(two.rows().await, now);
    one.stop().await;
    two.stop().await;
}
