//! What a consumer's database may be short of for a while: messages wait, none becomes a dead letter, each has its effects once.

use std::time::Duration;

use eventlog::{
    Env,
    testing::{Guest, TestDatabase},
};
use skald_bus::Embedded;
use tokio_util::sync::CancellationToken;

use crate::{EVENTS, Running, within};

/// The sessions of the role end.
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'";
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn rights_logins_and_tables_that_are_away_for_a_while_make_no_dead_letter() {
    let Some(guest) = Guest::fresh().await else { return };
    let source_db = TestDatabase::fresh().await;
    let source = Running::start("source", &source_db).await;
    let sink = Running::start_at("sink", guest.database.clone(), Env::system()).await;
    let stop = CancellationToken::new();
    let consumer = sink.consume(source.writer.log(), &stop).await;
    let (log, topic) = (sink.writer.log(), Embedded::topic(source.writer.log()));
    let troubles = [
        ("REVOKE ALL ON log FROM {role}", "GRANT ALL ON log TO {role}"),
        ("REVOKE ALL ON progress FROM {role}", "GRANT ALL ON progress TO {role}"),
        ("ALTER TABLE log RENAME TO away", "ALTER TABLE away RENAME TO log"),
        ("ALTER ROLE {role} NOLOGIN; {end}", "ALTER ROLE {role} LOGIN"),
        ("ALTER ROLE {role} PASSWORD 'second'; {end}", "ALTER ROLE {role} PASSWORD 'first'"),
    ];
    let mut next = 1;
    for (take, give) in troubles {
        guest.within(&take.replace("{end}", END)).await;
        source.append(next, &[(EVENTS, "good"); 10]).await;
        next += 10;
        within(LONG, take, async || log.trouble().is_some()).await;
        guest.within(give).await;
        within(LONG, give, async || log.progress("sink", &topic, 0).await.is_ok_and(|at| at == next)).await;
    }
    stop.cancel();
    consumer.await.unwrap();
    let letters = eventlog::dead_letters(&guest.database, true, None, 10).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
    log.refresh().await.unwrap();
    let effects = log.after(0, 1_000).await.unwrap();
    assert_eq!(effects.len(), 50);
    sink.stop().await;
    source.stop().await;
}
