//! A commit whose answer is lost on the wire: settled by looking it up, never by deciding anew.
//!
//! A proxy stands before PostgreSQL; told to, it lets the next COMMIT through and cuts the connection instead of passing on the
//! answer. SQLite has no wire.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use skald_log::{Answer, Database, testing::TestDatabase};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::fixture::{assert_without_gaps, count, job, key, start, start_on};

#[derive(Default)]
struct Cutter {
    armed: AtomicBool,
    cuts: AtomicUsize,
}

/// How the server's answer to a COMMIT ends.
const COMMITTED: &[u8] = b"COMMIT\0";

async fn pass_on(mut client: TcpStream, server: String, cutter: Arc<Cutter>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut asked, mut answered) = ([0; 16_384], [0; 16_384]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(n) if n > 0 && server.write_all(&asked[..n]).await.is_ok() => {}
                _ => return,
            },
            read = server.read(&mut answered) => {
                let Ok(n) = read else { return };
                let is_commit = answered[..n].windows(COMMITTED.len()).any(|window| window == COMMITTED);
                if is_commit && cutter.armed.swap(false, Ordering::SeqCst) {
                    cutter.cuts.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if n == 0 || client.write_all(&answered[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
async fn proxy(server: String, cutter: Arc<Cutter>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, server.clone(), cutter.clone()));
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
