//! The payment provider that is built in, for the demo, tests and a first look: test tokens, latency, a success rate.
//!
//! Never here: anything the service could not do over the network. From here the flow goes through the writer to
//! `ledger.rs`: what it says is durable before it is said.

use std::{future::pending, time::Duration};

use contract::{Meta, OrderId};
use eventlog::{Job, Writer};

use super::{
    Answer, BoxFuture, Call, PaymentProvider, Verdict,
    ledger::{self, Reply, Rules},
};
use crate::{
    Config,
    handler::{Done, Handler, Kind, Outcome, Work},
};

/// A provider whose books are two tables of the payment database.
pub(crate) struct Simulator {
    writer: Writer<Handler>,
    rules: Rules,
    latency: Duration,
}

impl Simulator {
    pub(crate) fn new(writer: Writer<Handler>, config: &Config) -> Self {
        let rules = Rules { success_rate: config.success_rate, slow: Duration::from_millis(config.slow_ms) };
        Self { writer, rules, latency: Duration::from_millis(config.latency_ms) }
    }

    async fn answer(&self, call: &Call) -> Answer {
        if !self.latency.is_zero() {
            self.writer.log().env().sleep(self.latency).await;
        }
        let work = Work(Kind::Ledger { call: call.clone(), rules: self.rules });
        match self.writer.submit(Job { work, meta: Meta::default() }).await {
            Ok(Done(Outcome::Ledger(Reply::Answer(verdict)))) => Answer::Definitive(verdict),
            Ok(Done(Outcome::Ledger(Reply::Silence))) => pending().await,
            Ok(Done(Outcome::Ledger(Reply::Misused(why)))) => Answer::Unknown(why),
            Ok(Done(Outcome::Nothing | Outcome::Call(_) | Outcome::Claimed(_))) => unreachable!("the books answer with a reply"),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    async fn recorded(&self, order_id: OrderId) -> Result<Vec<Verdict>, String> {
        let mut reader = self.writer.log().reader().await.map_err(|error| error.to_string())?;
        ledger::verdicts(&mut reader.conn(), order_id).await.map_err(|error| error.to_string())
    }
}

impl PaymentProvider for Simulator {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Answer> {
        Box::pin(self.answer(call))
    }

    fn lookup(&self, order_id: OrderId) -> BoxFuture<'_, Result<Vec<Verdict>, String>> {
        Box::pin(self.recorded(order_id))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use contract::{Currency, Money, payment::Operation};
    use eventlog::{Database, Env, Log, WriterLimits, testing::TestDatabase};
    use kit::{Tasks, outgoing::Queue};
    use uuid::Uuid;

    use super::*;
    use crate::MIGRATIONS;

    async fn replica(test: &TestDatabase, tasks: &Tasks) -> Simulator {
        let opened = Log::open(test.database.clone(), "payment", MIGRATIONS, Env::system()).await.unwrap();
        let handler = Arc::new(Handler::new(Queue::new().0, &Config::default()));
        let (writer, task) = Writer::new(opened, handler, WriterLimits::default());
        tasks.spawn("writer", task);
        Simulator::new(writer, &Config { success_rate: 0.5, ..Config::default() })
    }

    /// SQLite has one process a database.
    #[tokio::test(flavor = "multi_thread")]
    async fn one_key_has_one_answer_whichever_replica_asks_and_when() {
        let (test, tasks) = (TestDatabase::fresh().await, Tasks::new());
        if matches!(test.database, Database::Sqlite(_)) {
            return;
        }
        let (one, two) = (replica(&test, &tasks).await, replica(&test, &tasks).await);
        for number in 0..200 {
            let (order_id, operation) = (OrderId(Uuid::from_u128(number)), Operation::Authorize);
            let (token, key) = ("tok_ok".to_owned(), crate::provider::key(order_id, operation));
            let call = Call { operation, order_id, amount: Money::new(1, Currency::EUR), token, key };
            let (first, second) = tokio::join!(one.call(&call), two.call(&call));
            assert_eq!(first, second, "{call:?}");
            let Answer::Definitive(verdict) = first else { panic!("{first:?}") };
            assert_eq!(one.lookup(order_id).await, Ok(vec![verdict]));
        }
        drop((one, two));
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }
}
