//! What is told of transactions: once each, after the commit, and never of what was rolled back.

use std::sync::{Arc, Mutex};

use contract::{Cause, Message, Timestamp, Trace};
use skald_log::{
    Carried, Claim, Committed, Delivered, Env, Error, Item, Job, Observer, Poison, Span, WriterLimits, testing::TestDatabase,
};

use crate::fixture::{Running, Work, at, job, start, start_as};

/// What was told of one transaction.
#[derive(Debug, Default)]
struct Told {
    /// Rows with the spans of their contexts and of those under which they were appended.
    rows: Vec<(String, String)>,
    handled: Vec<(i64, String, Option<&'static str>)>,
    requests: usize,
}

#[derive(Default)]
struct Ear(Mutex<Vec<Told>>);

impl Observer for Ear {
    fn samples(&self, _: u128) -> bool {
        true
    }

    fn committed(&self, commit: &Committed<'_>) {
        let span = |trace: &Trace| trace.span().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push(Told {
            rows: commit.rows.iter().map(|(row, parent)| (span(&row.meta.trace), span(parent))).collect(),
            handled: commit.handled.iter().map(|handled| (handled.offset, span(&handled.trace), handled.error)).collect(),
            requests: commit.requests.len(),
        });
    }

    fn carried(&self, _: &Carried<'_>) {}

    fn told(&self, _: &'static str, _: Span) {}
}

async fn heard(database: &TestDatabase) -> (Running, Arc<Ear>) {
    let ear = Arc::new(Ear::default());
    (start_as(database, Env::system().with_observer(ear.clone()), WriterLimits::default()).await, ear)
}

fn traced(work: Work, span: u64) -> Job<Work> {
    let mut job = job(work);
    job.meta.trace = Trace::of(1, span, true);
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_rolled_back_and_redone_tells_of_each_row_once() {
    let database = TestDatabase::fresh().await;
    let (log, ear) = heard(&database).await;
    // The last one loses, and the others are redone without it.
    let jobs = [(at("a", 1), 11), (at("b", 1), 12), (at("b", 1), 13)];
    let done = futures_util::future::join_all(jobs.map(|(work, span)| log.writer.submit(traced(work, span)))).await;
    assert!(matches!(done[..], [Ok(_), Ok(_), Err(Error::Conflict(_))]), "{done:?}");
    let told = std::mem::take(&mut *ear.0.lock().unwrap());
    let mut rows: Vec<(String, String)> = told.into_iter().flat_map(|told| told.rows).collect();
    rows.sort_by(|one, other| one.1.cmp(&other.1));
    let mut expected = Vec::new();
    for (row, parent) in log.rows().await.iter().zip([11, 12]) {
        expected.push((format!("{:016x}", row.id.span()), format!("{parent:016x}")));
    }
    assert_eq!(rows, expected);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handled_refused_or_set_aside_is_told_under_the_span_that_its_effects_are_under() {
    let (source, database) = (TestDatabase::fresh().await, TestDatabase::fresh().await);
    let (from, (log, ear)) = (start(&source).await, heard(&database).await);
    for (version, span) in [(1, 11), (2, 12), (3, 13)] {
        from.writer.submit(traced(at("a", version), span)).await.unwrap();
    }
    let messages: Vec<Arc<Message>> = from.rows().await;
    let works = [Ok(Some(at("b", 1))), Ok(Some(Work::Refuse)), Err(Poison::new(Cause::Undecodable, "not today")), Ok(None)];
    let items = messages.iter().cloned().chain(messages.last().cloned()).zip(works).enumerate();
    let items = items.map(|(offset, (message, work))| Item::row("sink", offset as i64 + 1, message, work)).collect();
    let claim = Claim { consumer: "sink".into(), topic: "log:test".into(), partition: 0, from: 0, next: 5 };
    assert_eq!(log.writer.deliver(claim, items).await.unwrap(), Delivered::Committed);

    let told = std::mem::take(&mut *ear.0.lock().unwrap());
    let [Told { rows, handled, requests: 0 }] = &told[..] else { panic!("{told:?}") };
    let spans: Vec<String> =
        messages.iter().map(|message| message.effect("sink", message.time).trace.span().unwrap().to_owned()).collect();
    let error = [None, Some("refused"), Some("undecodable")];
    let expected: Vec<_> = (1..).zip(&spans).zip(error).map(|((offset, span), error)| (offset, span.clone(), error)).collect();
    assert_eq!(*handled, expected);
    // What was done, and a dead letter for each that was not.
    let mut parents: Vec<&String> = rows.iter().map(|(_, parent)| parent).collect();
    parents.sort();
    let mut expected: Vec<&String> = spans.iter().collect();
    expected.sort();
    assert_eq!(parents, expected);
    log.stop().await;
    from.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_to_see_is_not_told_and_late_or_redriven_messages_begin_traces_of_their_own() {
    let database = TestDatabase::fresh().await;
    let (log, ear) = heard(&database).await;
    let mut unseen = job(at("a", 1));
    unseen.meta.trace = Trace::of(1, 11, false);
    log.writer.submit(unseen).await.unwrap();
    assert!(ear.0.lock().unwrap().is_empty());

    log.writer.submit(traced(at("a", 2), 12)).await.unwrap();
    let message = log.rows().await.pop().unwrap();
    let Timestamp(now_us) = message.time;
    let minutes = |minutes: i64| message.effect("sink", Timestamp(now_us + minutes * 60_000_000)).trace;
    assert_eq!(minutes(14).id(), message.meta.trace.id());
    assert_ne!(minutes(16).id(), message.meta.trace.id());
    assert_eq!(minutes(16), minutes(17), "a batch that is done again is told once");
    let redriven = |replays, minutes: i64| message.redriven("sink", replays, Timestamp(now_us + minutes * 60_000_000));
    let (soon, act) = redriven(0, 14);
    assert_eq!(soon.trace.id(), message.meta.trace.id(), "it goes on in the trace of its message");
    assert_ne!(act.id(), message.meta.trace.id());
    let (late, same_act) = redriven(0, 16);
    assert_eq!((late.trace.id(), &same_act), (act.id(), &act), "in that of the redrive");
    let all = [minutes(14), minutes(16), soon.trace, late.trace, act, redriven(1, 14).0.trace, redriven(1, 14).1];
    assert!(all.iter().all(Trace::is_sampled));
    let distinct: std::collections::HashSet<_> = all.iter().map(|trace| (trace.id(), trace.span())).collect();
    assert_eq!(distinct.len(), all.len());
    log.stop().await;
}
