//! What a database may say, and what is made of it: only the data is ever poison; whatever else, waiting is enough.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use skald_log::{
    Answer, Commit, Disk, Env, Error, Verdict, WriterLimits, on,
    testing::{Guest, TestClock, TestDatabase},
};

use crate::fixture::{Running, Work, assert_without_gaps, count, job, key, start, start_as, start_on};

/// What is taken from a service, and how it is given back; `{role}` and `{name}` are its role and database.
const TROUBLES: [(&str, &str, &str); 7] = [
    ("42501", "REVOKE ALL ON counts FROM {role}", "GRANT ALL ON counts TO {role}"),
    ("42501", "REVOKE ALL ON log FROM {role}", "GRANT ALL ON log TO {role}"),
    ("42P01", "ALTER TABLE counts RENAME TO away", "ALTER TABLE away RENAME TO counts"),
    ("42703", "ALTER TABLE head RENAME COLUMN position TO away", "ALTER TABLE head RENAME COLUMN away TO position"),
    // A plan that is no good any more, and a type that this build does not read; then once more a plan.
    ("INT4", "ALTER TABLE counts ALTER COLUMN n TYPE integer", "ALTER TABLE counts ALTER COLUMN n TYPE bigint"),
    ("25006", "ALTER ROLE {role} SET default_transaction_read_only = on; {end}", "ALTER ROLE {role} RESET ALL; {end}"),
    ("28000", "ALTER ROLE {role} NOLOGIN; {end}", "ALTER ROLE {role} LOGIN"),
];
/// The role's sessions end.
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'";

/// Asks until it is answered otherwise than by an outage.
async fn once_given_back(log: &Running, work: Work) -> i64 {
    let asking = async {
        loop {
            match log.submit(work.clone()).await {
                Ok(done) => return done,
                Err(error) => assert_eq!(error.verdict(), Verdict::Outage, "{error}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("it is answered in the end")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_from_a_service_and_given_back_is_an_outage_and_never_a_refusal() {
    let Some(guest) = Guest::fresh().await else { return };
    let log = start_on(guest.database.clone()).await;
    assert_eq!(log.submit(count("a")).await.unwrap(), 1);
    for (round, (said, take, give)) in (2..).zip(TROUBLES) {
        guest.within(&take.replace("{end}", END)).await;
        // The first to notice may be a connection that has just been ended.
        let asking = async {
            loop {
                let error = log.submit(count("a")).await.expect_err(take);
                assert_eq!(error.verdict(), Verdict::Outage, "{take}: {error}");
                if error.to_string().contains(said) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap_or_else(|_| panic!("{take}: never {said}"));
        guest.within(&give.replace("{end}", END)).await;
        assert_eq!(once_given_back(&log, count("a")).await, round, "{give}: once, and only once");
    }
    assert_without_gaps(&log.rows().await);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_renamed_and_a_password_that_is_changed_are_outages() {
    let Some(guest) = Guest::fresh().await else { return };
    let log = start_on(guest.database.clone()).await;
    for (round, (said, take, give)) in (1..).zip([
        ("3D000", "{end}; ALTER DATABASE {name} RENAME TO {name}_away", "ALTER DATABASE {name}_away RENAME TO {name}"),
        ("28P01", "ALTER ROLE {role} PASSWORD 'second'; {end}", "ALTER ROLE {role} PASSWORD 'first'"),
    ]) {
        guest.beside(&take.replace("{end}", END)).await;
        let asking = async { while !log.submit(count("a")).await.expect_err(take).to_string().contains(said) {} };
        tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap_or_else(|_| panic!("{take}: never {said}"));
        guest.beside(give).await;
        assert_eq!(once_given_back(&log, count("a")).await, round);
    }
    assert_without_gaps(&log.rows().await);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_has_changed_under_plans_costs_readers_one_answer_and_writers_none() {
    let Some(guest) = Guest::fresh().await else { return };
    let log = start_on(guest.database.clone()).await;
    for (round, column) in ["location", "body"].into_iter().enumerate() {
        let key = key(u8::try_from(round).unwrap(), 1);
        log.writer.request(job(count("a")), Some(key)).await.unwrap();
        assert!(log.log().stored(&key).await.unwrap().is_some(), "now there is a plan");
        guest.within(&format!("ALTER TABLE idempotency ALTER COLUMN {column} TYPE varchar")).await;
        // The writer reads what is stored as well.
        let again = log.writer.request(job(count("a")), Some(key)).await.unwrap();
        assert!(matches!(again, Answer::Repeated(_)), "{again:?}");
        let reading = async {
            loop {
                match log.log().stored(&key).await {
                    Ok(stored) => return stored,
                    Err(error) => assert_eq!(error.verdict(), Verdict::Outage, "{error}"),
                }
            }
        };
        let stored = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("readers have new plans");
        assert!(stored.is_some());
    }
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_its_code_and_constraint_and_never_a_value() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let refused = log.submit(Work::Break).await.unwrap_err();
    assert_eq!(refused.verdict(), Verdict::Poison);
    let told = refused.to_string();
    let is_named = told.contains("23514 on constraint counts_n_check") || told.contains("code 275, CHECK constraint failed");
    assert!(is_named && !told.contains("broken"), "{told}");
    log.stop().await;
}

/// A disk that is full for as long as it is told to be.
#[derive(Default)]
struct Full(AtomicBool);

impl Disk for Full {
    fn commit<'a>(&'a self, commit: Commit<'a>) -> Commit<'a> {
        Box::pin(async move {
            if self.0.load(Ordering::SeqCst) {
                return Err(sqlx::Error::Io(std::io::ErrorKind::StorageFull.into()));
            }
            commit.await
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_cannot_commit_says_so_and_finds_out_by_itself_that_it_can_again() {
    let database = TestDatabase::fresh().await;
    let (clock, disk) = (TestClock::start(), Arc::new(Full::default()));
    let env = Env::seeded(clock.clone(), 1).with_disk(disk.clone());
    let log = start_as(&database, env, WriterLimits::default()).await;
    log.submit(count("a")).await.unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!(log.log().trouble(), None, "nothing to do is no trouble");

    disk.0.store(true, Ordering::SeqCst);
    log.submit(count("a")).await.unwrap_err();
    assert_eq!(log.log().trouble(), None, "not at once");
    clock.advance(Duration::from_secs(3));
    let trouble = log.log().trouble().expect("it has lasted");
    assert!(trouble.contains("for 3 s"), "{trouble}");

    disk.0.store(false, Ordering::SeqCst);
    // Nobody asks for anything but how it is.
    let passed = async {
        while log.log().trouble().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), passed).await.expect("it has passed");
    assert_eq!(log.submit(count("a")).await.unwrap(), 2);
    assert_without_gaps(&log.rows().await);
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_falls_silent_with_the_heads_lock_is_ended_by_the_server_and_the_others_go_on() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let mut silent = database.database.connect_to_write().await.unwrap();
    if let skald_log::Conn::Sqlite(_) = silent.conn() {
        // Who has SQLite's lock is this process.
        return log.stop().await;
    }
    let run = async |silent: &mut skald_log::Owned, sql: &'static str| {
        on!(&mut silent.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).map_err(Error::from)
    };
    run(&mut silent, "BEGIN").await.unwrap();
    run(&mut silent, "SELECT position FROM head FOR UPDATE").await.unwrap();
    let mut was_told = false;
    let waiting = async {
        let mut waiting = std::pin::pin!(log.submit(count("a")));
        loop {
            tokio::select! {
                biased;
                done = &mut waiting => return done,
                () = tokio::task::yield_now() => was_told |= log.log().trouble().is_some(),
            }
        }
    };
    assert_eq!(waiting.await.expect("it waits, and then it is done"), 1);
    assert!(was_told, "meanwhile it says that it can't commit");
    assert_eq!(log.log().trouble(), None, "and then that it can");
    let ended = run(&mut silent, "COMMIT").await.unwrap_err();
    assert_eq!(ended.verdict(), Verdict::Outage, "the silent one begins anew: {ended}");
    log.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_told_to_who_ends_the_process() {
    let database = TestDatabase::fresh().await;
    let log = start(&database).await;
    let damage = Error::Damaged(Arc::new(sqlx::Error::WorkerCrashed));
    assert_eq!(damage.verdict(), Verdict::Stop);
    log.log().tell_damage(&Error::OutcomeUnknown);
    let told = async {
        tokio::select! {
            biased;
            told = log.log().damaged() => told,
            () = async { log.log().tell_damage(&damage); std::future::pending().await } => unreachable!("it is told"),
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await.expect("it is told");
    assert!(told.contains("damaged"), "{told}");
    log.stop().await;
}
