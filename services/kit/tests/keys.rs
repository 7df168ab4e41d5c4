//! The keys of tokens out of another process: a real server that rotates, goes away, talks nonsense, or takes its time.

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use common::{Answered, send, signer, small_service};
use contract::CustomerId;
use eventlog::{Env, testing::TestClock};
use futures_util::future::join_all;
use skald_kit::{
    Metrics, Tasks,
    auth::{Role, Roles, Signer, Verifier, jwks, jwks_with},
    http::{AppConfig, app},
};
use tokio::net::TcpListener;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(20);
/// Past every pause of the one who fetches.
const LONG: Duration = Duration::from_secs(400);

/// What the server of the keys does.
#[derive(Clone)]
enum Mood {
    Says(StatusCode, String),
    Silent,
}

impl Mood {
    fn keys(signers: &[&Signer]) -> Self {
        let keys: Vec<_> = signers.iter().map(|signer| signer.public()).collect();
        Self::Says(StatusCode::OK, jwks(&keys).to_string())
    }
}

struct House {
    app: Router,
    clock: Arc<TestClock>,
    env: Env,
    tasks: Tasks,
    mood: Arc<Mutex<Mood>>,
    fetches: Arc<AtomicUsize>,
    listener: Option<TcpListener>,
}

impl House {
    /// A service that fetches its keys from a server which is not there yet.
    async fn before(mood: Mood) -> Self {
        let clock = TestClock::start();
        let (env, tasks) = (Env::seeded(clock.clone(), 1), Tasks::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap()).parse().unwrap();
        let (verifier, check) = Verifier::remote(url, env.clone(), &tasks);
        let (services, health) = (vec![("order", small_service())], vec![check]);
        let app = app(AppConfig { title: "Skald", services, verifier, metrics: Metrics::new(), health, env: env.clone() });
        Self { app, clock, env, tasks, mood: Arc::new(Mutex::new(mood)), fetches: Arc::default(), listener: Some(listener) }
    }

    async fn new(mood: Mood) -> Self {
        let mut house = Self::before(mood).await;
        house.open();
        house
    }

    /// Starts the server of the keys.
    fn open(&mut self) {
        let (mood, fetches) = (self.mood.clone(), self.fetches.clone());
        let answer = move || {
            fetches.fetch_add(1, Ordering::Relaxed);
            let mood = mood.lock().unwrap().clone();
            async move {
                match mood {
                    Mood::Says(status, body) => (status, body).into_response(),
                    Mood::Silent => std::future::pending::<Response>().await,
                }
            }
        };
        let (listener, server) = (self.listener.take().unwrap(), Router::new().route("/jwks", get(answer)));
        let stopping = self.tasks.stopping();
        self.tasks.spawn("key server", async move {
            _ = stopping.run_until_cancelled(axum::serve(listener, server).into_future()).await;
        });
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn token(&self, signer: &Signer) -> String {
        signer.sign(CustomerId(Uuid::from_u128(1)), Role::Customer, LONG * 100)
    }

    async fn get(&self, path: &str, token: &str) -> Answered {
        let request = axum::http::Request::get(path).header("authorization", format!("Bearer {token}"));
        send(&self.app, request.body(axum::body::Body::empty()).unwrap()).await
    }

    /// The status of a request, while the clock goes much faster than the world.
    async fn status(&self, token: &str) -> u16 {
        let hurry = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.clock.advance(Duration::from_millis(10));
            }
        };
        tokio::select! {
            answered = self.get("/v1/me", token) => answered.status.as_u16(),
            () = hurry => unreachable!(),
        }
    }

    /// Lets time pass until it is so.
    async fn until(&self, what: &str, mut so: impl AsyncFnMut() -> bool) {
        let waited = async {
            while !so().await {
                self.clock.advance(LONG);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn until_status(&self, token: &str, status: u16) {
        self.until(&format!("status {status}"), async || self.get("/v1/me", token).await.status == status).await;
    }

    /// Waits for another fetch to end, so that the next one follows from what a test does.
    async fn fetched(&self) {
        let before = self.fetches.load(Ordering::Relaxed);
        self.until("a fetch", async || self.fetches.load(Ordering::Relaxed) > before + 1).await;
    }

    async fn end(self) {
        assert!(self.tasks.stop(SOON).await);
        assert_eq!(self.tasks.panicked(), None);
    }
}

fn key(house: &House, kid: &str, seed: u8) -> Signer {
    signer(kid, seed, house.env.clone())
}

#[tokio::test]
async fn a_role_that_was_taken_away_is_not_believed_and_the_new_one_is() {
    let house = House::new(Mood::Silent).await;
    let k1 = key(&house, "k1", 7);
    house.is(Mood::keys(&[&k1]));
    let (id, of_old) = (CustomerId(Uuid::from_u128(1)), house.token(&k1));
    house.until_status(&of_old, 200).await;
    let with = |role| Mood::Says(StatusCode::OK, jwks_with(&[k1.public()], &Roles::from([(id, role)])).to_string());
    house.is(with(Role::Operator));
    house.until_status(&of_old, 401).await;
    let of_new = k1.sign(id, Role::Operator, LONG * 100);
    assert_eq!(house.get("/v1/me", &of_new).await.status, 200);
    house.is(with(Role::Customer));
    house.until_status(&of_new, 401).await;
    assert_eq!(house.get("/v1/me", &of_old).await.status, 200, "that is what they are again");
    house.end().await;
}

#[tokio::test]
async fn until_the_first_keys_have_come_a_token_is_answered_503_and_the_process_is_not_ready() {
    let mut house = House::before(Mood::Silent).await;
    let k1 = key(&house, "k1", 7);
    house.is(Mood::Says(StatusCode::OK, "not JSON".to_owned()));
    let token = house.token(&k1);
    let answer = house.get("/v1/me", &token).await;
    assert_eq!((answer.status.as_u16(), answer.problem().as_str()), (503, "keys_unavailable"));
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(house.get("/v1/me", "nonsense").await.status, StatusCode::UNAUTHORIZED);
    house.open();
    for nonsense in ["not JSON".to_owned(), jwks(&[]).to_string(), " ".repeat(1_100_000) + &jwks(&[k1.public()]).to_string()] {
        house.is(Mood::Says(StatusCode::OK, nonsense));
        house.fetched().await;
        assert_eq!(house.get("/v1/me", &token).await.status, 503);
    }
    let health = house.get("/health", &token).await;
    assert_eq!(health.status, 503);
    assert!(health.body.contains("token keys"), "{}", health.body);
    house.is(Mood::keys(&[&k1]));
    house.until_status(&token, 200).await;
    assert_eq!(house.get("/readyz", &token).await.status, 200);
    house.end().await;
}

#[tokio::test]
async fn a_key_that_is_not_known_is_asked_for_once_for_all_who_wait() {
    let house = House::new(Mood::Silent).await;
    let (k1, k2) = (key(&house, "k1", 7), key(&house, "k2", 8));
    house.is(Mood::keys(&[&k1]));
    let (old, new) = (house.token(&k1), house.token(&k2));
    house.until_status(&old, 200).await;
    house.is(Mood::keys(&[&k1, &k2]));
    // More than the shortest time between two fetches, less than what passes between two without a reason.
    house.clock.advance(Duration::from_secs(10));
    let before = house.fetches.load(Ordering::Relaxed);
    let answers = join_all((0..100).map(|_| house.get("/v1/me", &new))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(house.fetches.load(Ordering::Relaxed), before + 1);
    assert_eq!(house.status(&old).await, 200);
    house.end().await;
}

#[tokio::test]
async fn made_up_keys_make_no_storm() {
    let house = House::new(Mood::Silent).await;
    let k1 = key(&house, "k1", 7);
    house.is(Mood::keys(&[&k1]));
    house.until_status(&house.token(&k1), 200).await;
    house.clock.advance(Duration::from_secs(10));
    let before = house.fetches.load(Ordering::Relaxed);
    for number in 0..100 {
        let made_up = key(&house, &format!("made-up-{number}"), 9);
        assert_eq!(house.status(&house.token(&made_up)).await, 401);
    }
    // Each took a moment of the clock, so that a few may have been worth another look.
    let fetches = house.fetches.load(Ordering::Relaxed) - before;
    assert!((1..10).contains(&fetches), "{fetches} fetches");
    house.end().await;
}

#[tokio::test]
async fn a_key_that_is_gone_is_refused_once_the_set_was_fetched_again() {
    let house = House::new(Mood::Silent).await;
    let (k1, k2) = (key(&house, "k1", 7), key(&house, "k2", 8));
    house.is(Mood::keys(&[&k1, &k2]));
    let (old, new) = (house.token(&k1), house.token(&k2));
    house.until_status(&old, 200).await;
    house.is(Mood::keys(&[&k2]));
    house.until_status(&old, 401).await;
    assert_eq!(house.status(&new).await, 200);
    house.end().await;
}

#[tokio::test]
async fn the_last_good_keys_hold_while_the_user_service_is_away_or_talks_nonsense() {
    let house = House::new(Mood::Silent).await;
    let (k1, k2) = (key(&house, "k1", 7), key(&house, "k2", 8));
    house.is(Mood::keys(&[&k1]));
    let (good, unknown) = (house.token(&k1), house.token(&k2));
    house.until_status(&good, 200).await;
    let nonsense = |text: &str| Mood::Says(StatusCode::OK, text.to_owned());
    let moods = [
        Mood::Says(StatusCode::INTERNAL_SERVER_ERROR, jwks(&[k2.public()]).to_string()),
        nonsense(""),
        nonsense("{\"keys\": []}"),
        nonsense(&" ".repeat(100_000)),
        Mood::Silent,
    ];
    for mood in moods {
        house.is(mood);
        house.fetched().await;
        assert_eq!(house.status(&good).await, 200);
        assert_eq!(house.status(&unknown).await, 401);
        assert_eq!(house.get("/readyz", &good).await.status, 200);
    }
    house.is(Mood::keys(&[&k1, &k2]));
    house.until_status(&unknown, 200).await;
    house.end().await;
}
