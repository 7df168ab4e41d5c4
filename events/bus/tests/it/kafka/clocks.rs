//! Rows of a clock that ran ahead, over a real Kafka: it takes them at once, whoever stamps them.

use eventlog::{Env, on, testing::TestDatabase};
use rdkafka::{
    Message as _,
    admin::{AdminOptions, NewTopic, TopicReplication},
};

use super::{COMMANDS, PARTITIONS, Running, TURN, admin, clean, delete, read, until};

/// Three hours: more than Kafka takes (`message.timestamp.after.max.ms`).
const AHEAD: &str = "UPDATE log SET time_us = time_us + 10800000000";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka: ci/kafka.sh test"]
async fn rows_of_a_clock_that_was_hours_ahead_are_published_at_once_and_bear_a_time_that_has_come() {
    let _turn = TURN.lock().await;
    for stamped_by_us in [false, true] {
        clean().await;
        if stamped_by_us {
            delete(&[COMMANDS]).await;
            // As it was made before, or by somebody else.
            let other =
                NewTopic::new(COMMANDS, PARTITIONS, TopicReplication::Fixed(1)).set("message.timestamp.type", "CreateTime");
            until("the topic is made", async || {
                admin().create_topics([&other], &AdminOptions::new()).await.is_ok_and(|made| made.iter().all(Result::is_ok))
            })
            .await;
            until("its difference is told", async || {
                let differs = skald_bus::kafka::check(&super::cluster(), None).await.unwrap_or_default();
                differs
                    .iter()
                    .any(|differs| differs.to_string().contains("message.timestamp.type is CreateTime, not LogAppendTime"))
            })
            .await;
        }
        let database = TestDatabase::fresh().await;
        let source = Running::start("order", &database.database).await;
        source.append_many(40).await;
        source.stop().await;
        let mut connection = database.database.connect().await.unwrap();
        on!(&mut connection.conn(), |c| sqlx::query::<DB>(AHEAD).execute(c).await.map(drop)).unwrap();
        drop(connection);
        let source = Running::start("order", &database.database).await;
        source.relay();
        source.until_published().await;
        let (published, now) = (read(COMMANDS), Env::system().now().0 / 1_000);
        assert_eq!(published.len(), 40);
        assert!(published.iter().all(|message| message.timestamp().to_millis().is_some_and(|millis| millis <= now)));
        source.stop().await;
    }
    clean().await;
}
