//! `Idempotency-Key`: missing, malformed, in flight, repeated, reused, and whose it is.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use contract::Meta;
use eventlog::{Env, Error, Handler, Job, Log, Stored, Unit, Writer, WriterLimits, testing::TestDatabase};
use skald_kit::{
    Idempotency, Tasks,
    http::Problem,
    idempotency::{ANONYMOUS, Begun, InFlight, Outcome},
};

/// A service that answers with what it was given.
struct Echo;

impl Handler for Echo {
    type Work = String;
    type Done = String;

    async fn handle(&self, _: &mut Unit<'_>, jobs: &[&Job<String>]) -> Result<Vec<String>, Error> {
        Ok(jobs.iter().map(|job| job.work.clone()).collect())
    }

    fn answer(&self, done: &String) -> Option<Stored> {
        Some(Stored { fingerprint: [0; 32], status: 201, location: Some("/v1/x".into()), body: done.clone() })
    }

    fn committed(&self, _: Vec<String>) {}
}

struct House {
    idempotency: Idempotency,
    writer: Writer<Echo>,
    _database: TestDatabase,
}

async fn house() -> House {
    let database = TestDatabase::fresh().await;
    let opened = Log::open(database.database.clone(), "echo", &[], Env::system()).await.unwrap();
    let (writer, task) = Writer::new(opened, Arc::new(Echo), WriterLimits::default());
    Tasks::new().spawn("writer", task);
    House { idempotency: Idempotency::new([1; 32]), writer, _database: database }
}

fn headers(key: &str) -> HeaderMap {
    HeaderMap::from_iter([("idempotency-key".parse().unwrap(), HeaderValue::from_bytes(key.as_bytes()).unwrap())])
}

impl House {
    async fn begin(&self, key: &str, scope: &str, body: &str) -> Result<Begun, Problem> {
        self.idempotency.begin(&headers(key), true, scope, "POST /v1/x", body.as_bytes(), self.writer.log()).await
    }

    async fn fresh(&self, key: &str, scope: &str, body: &str) -> InFlight {
        match self.begin(key, scope, body).await {
            Ok(Begun::Fresh(Some(in_flight))) => in_flight,
            Ok(Begun::Fresh(None)) => panic!("the key was not read"),
            Ok(Begun::Repeated(_)) => panic!("not fresh"),
            Err(problem) => panic!("{problem:?}"),
        }
    }

    async fn done(&self, key: &str, scope: &str, body: &str) {
        let in_flight = self.fresh(key, scope, body).await;
        let answer = self.request(&in_flight, body).await.unwrap();
        assert!(matches!(answer, Outcome::Done(_)));
    }

    async fn request(&self, in_flight: &InFlight, body: &str) -> Result<Outcome<String>, Problem> {
        let job = Job { work: body.to_owned(), meta: Meta::default() };
        Idempotency::answer(self.writer.request(job, Some(in_flight.key)).await?)
    }

    async fn refused(&self, key: &str, scope: &str, body: &str) -> (StatusCode, &'static str) {
        match self.begin(key, scope, body).await {
            Err(problem) => (problem.status, problem.code),
            Ok(_) => panic!("not refused"),
        }
    }

    async fn is_repeated(&self, key: &str, scope: &str, body: &str) -> bool {
        match self.begin(key, scope, body).await.unwrap() {
            Begun::Repeated(stored) => {
                assert_eq!((stored.status, stored.location.as_deref(), stored.body.as_str()), (201, Some("/v1/x"), body));
                true
            }
            Begun::Fresh(_) => false,
        }
    }
}

#[tokio::test]
async fn a_missing_key_is_400_only_where_one_is_required() {
    let house = house().await;
    let none = HeaderMap::new();
    let begin = |required| house.idempotency.begin(&none, required, "c", "POST /v1/x", b"", house.writer.log());
    assert!(matches!(begin(false).await, Ok(Begun::Fresh(None))));
    assert!(matches!(begin(true).await, Err(problem) if problem.code == "idempotency_key_missing"));
}

#[tokio::test]
async fn a_malformed_key_is_400() {
    let house = house().await;
    for key in ["", "\"\"", "a b", "\u{e4}", &"x".repeat(256)] {
        assert_eq!(house.refused(key, "c", "{}").await, (StatusCode::BAD_REQUEST, "idempotency_key_invalid"), "{key}");
    }
    let mut two = headers("a");
    two.append("idempotency-key", HeaderValue::from_static("b"));
    let begun = house.idempotency.begin(&two, true, "c", "POST /v1/x", b"", house.writer.log()).await;
    assert!(matches!(begun, Err(problem) if problem.code == "idempotency_key_invalid"));
    house.fresh(&"x".repeat(255), "c", "{}").await;
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_quoted_or_bare() {
    let house = house().await;
    house.done("key", "c", "{}").await;
    assert!(house.is_repeated("key", "c", "{}").await);
    assert!(house.is_repeated("\"key\"", "c", "{}").await);
    assert_eq!(house.refused("key", "c", "{ }").await, (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"));
}

#[tokio::test]
async fn a_second_copy_is_refused_while_the_first_is_under_way_and_not_after() {
    let house = house().await;
    let first = house.fresh("key", "c", "{}").await;
    assert_eq!(house.refused("key", "c", "{}").await, (StatusCode::CONFLICT, "request_in_flight"));
    drop(first);
    house.fresh("key", "c", "{}").await;
}

#[tokio::test]
async fn the_writer_also_knows_a_repeat_that_another_replica_did_meanwhile() {
    let house = house().await;
    let ours = house.fresh("key", "c", "{}").await;
    house.request(&ours, "{}").await.unwrap();
    assert!(matches!(house.request(&ours, "{}").await, Ok(Outcome::Repeated(stored)) if stored.body == "{}"));
    drop(ours);
    let mut ours = house.fresh("other", "c", "1").await;
    house.request(&ours, "1").await.unwrap();
    ours.key.fingerprint = [9; 32];
    assert!(matches!(house.request(&ours, "2").await, Err(problem) if problem.code == "idempotency_key_reused"));
}

#[tokio::test]
async fn keys_belong_to_a_caller_and_a_route_and_without_a_caller_to_a_body() {
    let house = house().await;
    house.done("key", "one", "{}").await;
    assert!(!house.is_repeated("key", "two", "{}").await);
    let elsewhere = house.idempotency.begin(&headers("key"), true, "one", "POST /v1/y", b"{}", house.writer.log()).await;
    assert!(matches!(elsewhere, Ok(Begun::Fresh(_))));
    house.done("key", ANONYMOUS, "1").await;
    assert!(!house.is_repeated("key", ANONYMOUS, "2").await, "another body of nobody in particular is another request");
    assert!(house.is_repeated("key", ANONYMOUS, "1").await);
}

#[tokio::test]
async fn many_lookups_at_once_each_get_their_own_answer() {
    let house = house().await;
    for number in 0..20 {
        house.done(&format!("key-{number}"), "c", &number.to_string()).await;
    }
    let lookups = (0..200).map(|number| {
        let house = &house;
        async move { house.is_repeated(&format!("key-{number}"), "c", &number.to_string()).await }
    });
    let repeated = futures_util::future::join_all(lookups).await;
    assert_eq!(repeated.iter().filter(|is_repeated| **is_repeated).count(), 20);
    assert!(repeated[..20].iter().all(|is_repeated| *is_repeated));
}
