//! A commit whose answer is lost on the wire: settled by looking it up, never by deciding anew.
//!
//! A proxy stands before PostgreSQL; told to, it lets the next COMMIT through and cuts the connection instead of passing on the
//! answer. SQLite has no wire.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use skald_log::{
    Answer, Database,
    testing::{TestDatabase, pass_on},
};
use tokio::net::TcpListener;

use crate::fixture::{assert_without_gaps, count, job, key, start, start_on};

#[derive(Default)]
struct Cutter {
    armed: AtomicBool,
    cuts: AtomicUsize,
}

#[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
async fn proxy(server: String, cutter: Arc<Cutter>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let cutter = cutter.clone();
            let cuts = move || {
                let is_armed = cutter.armed.swap(false, Ordering::SeqCst);
                cutter.cuts.fetch_add(usize::from(is_armed), Ordering::SeqCst);
                is_armed
            };
            tokio::spawn(pass_on(client, server.clone(), cuts));
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_looked_up_and_done_once() {
    let database = TestDatabase::fresh().await;
    let Database::Postgres(url) = &database.database else { return };
    // postgres://user:password@host:port/name
    let (login, place) = url.rsplit_once('@').unwrap();
    let (server, name) = place.split_once('/').unwrap();
    let cutter = Arc::new(Cutter::default());
    let port = proxy(server.to_owned(), cutter.clone()).await;
    let log = start_on(Database::Postgres(format!("{login}@127.0.0.1:{port}/{name}"))).await;

    for round in 1..=20 {
        cutter.armed.store(true, Ordering::SeqCst);
        let answer = log.writer.request(job(count("a")), Some(key(round, 1))).await.unwrap();
        assert!(matches!(answer, Answer::Done(n) if n == i64::from(round)), "{answer:?}");
        let again = log.writer.request(job(count("a")), Some(key(round, 1))).await.unwrap();
        assert!(matches!(again, Answer::Repeated(_)), "{again:?}");
        assert_eq!(cutter.cuts.load(Ordering::SeqCst), usize::from(round));
    }
    let direct = start(&database).await;
    let rows = direct.rows().await;
    assert_eq!(rows.len(), 20);
    assert_without_gaps(&rows);
    direct.stop().await;
    log.stop().await;
}
