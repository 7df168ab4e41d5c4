//! The user service from outside: the real router on a fresh database.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, SaltString},
};
use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Request, StatusCode},
};
use contract::{CustomerId, Meta, topics};
use eventlog::{
    Env, Job, Log, Writer,
    testing::{TestClock, TestDatabase},
};
use http_body_util::BodyExt;
use kit::{
    Metrics, Secret, Tasks,
    auth::{Role, Verifier},
    http::AppConfig,
};
use serde_json::{Value, json};
use skald_user as user;
use tower::ServiceExt;
use user::{
    Config, Deps, FirstAdmin, MIGRATIONS,
    domain::User,
    handler::{Done, Work},
};

const EMAIL: &str = "ann@example.com";
const PASSWORD: &str = "correct horse battery";
const SOON: Duration = Duration::from_secs(20);

struct House {
    app: Router,
    verifier: Verifier,
    log: Log,
    first_admin: Option<FirstAdmin>,
    writer: Writer<user::Handler>,
    clock: Arc<TestClock>,
    tasks: Tasks,
    database: Arc<TestDatabase>,
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member} in {}", self.body)).to_owned()
    }

    fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.text("code").as_str()), (status, code), "{}", self.body);
    }

    fn wrong_fields(&self) -> Vec<String> {
        self.is_problem(422, "invalid");
        self.json()["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }
}

fn cheap() -> Config {
    Config::default().with_cheap_passwords()
}

async fn house() -> House {
    house_of(cheap()).await
}

async fn house_of(config: Config) -> House {
    let clock = TestClock::start();
    house_in(TestDatabase::fresh().await, clock, config).await.unwrap()
}

async fn house_in(database: TestDatabase, clock: Arc<TestClock>, config: Config) -> Result<House, user::Error> {
    house_seeded(Arc::new(database), clock, config, 1).await
}

async fn house_seeded(
    database: Arc<TestDatabase>,
    clock: Arc<TestClock>,
    config: Config,
    seed: u64,
) -> Result<House, user::Error> {
    let env = Env::seeded(clock.clone(), seed);
    let opened = Log::open(database.database.clone(), user::NAME, &MIGRATIONS, env.clone()).await.unwrap();
    let (log, tasks, metrics) = (opened.log.clone(), Tasks::new(), Metrics::new());
    let service = user::build(Deps { opened, tasks: tasks.clone(), metrics: metrics.clone(), config }).await?;
    let (verifier, services, health) = (service.verifier.clone(), vec![(user::NAME, service.routes)], vec![service.check]);
    let app = kit::http::app(AppConfig { title: "Skald", services, verifier: verifier.clone(), metrics, health, env });
    Ok(House { app, verifier, log, first_admin: service.first_admin, writer: service.writer, clock, tasks, database })
}

impl House {
    async fn send(&self, mut request: Request<Body>, address: [u8; 4]) -> Answered {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((address, 1))));
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answered { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answered {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap(), [127, 0, 0, 1]).await
    }

    async fn post(&self, path: &str, body: Value) -> Answered {
        self.call("POST", path, None, Some(body)).await
    }

    async fn register(&self, email: &str) -> Answered {
        self.post("/v1/register", json!({"email": email, "password": PASSWORD, "name": "Ann"})).await
    }

    async fn login(&self, email: &str, password: &str) -> Answered {
        self.post("/v1/login", json!({"email": email, "password": password})).await
    }

    async fn login_from(&self, email: &str, password: &str, address: [u8; 4]) -> Answered {
        let body = json!({"email": email, "password": password}).to_string();
        let request = Request::post("/v1/login").header("content-type", "application/json").body(Body::from(body)).unwrap();
        self.send(request, address).await
    }

    async fn refresh(&self, token: &str) -> Answered {
        self.post("/v1/refresh", json!({"refresh_token": token})).await
    }

    fn forward(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn restarted(self, config: Config) -> House {
        drop(self.app);
        assert!(self.tasks.stop(SOON).await);
        house_seeded(self.database, self.clock, config, 1).await.unwrap()
    }
}

#[tokio::test]
async fn a_customer_registers_logs_in_and_reads_their_profile() {
    let house = house().await;
    let registered = house.register("Ann@Example.com").await;
    assert_eq!(registered.status, StatusCode::CREATED, "{}", registered.body);
    assert_eq!((registered.text("email").as_str(), registered.text("role").as_str()), (EMAIL, "customer"));
    assert!(!registered.body.contains("argon2"));

    let tokens = house.login("ANN@example.COM", PASSWORD).await;
    assert_eq!(tokens.status, StatusCode::OK);
    assert_eq!((tokens.text("token_type").as_str(), tokens.json()["expires_in"].as_i64()), ("Bearer", Some(900)));
    assert_eq!(tokens.headers["cache-control"], "no-store");
    let caller = house.verifier.verify(&tokens.text("access_token")).unwrap();
    assert_eq!((caller.id.to_string(), caller.role), (registered.text("id"), Role::Customer));

    let profile = house.call("GET", "/v1/profile", Some(&tokens.text("access_token")), None).await;
    assert_eq!(profile.json(), registered.json());
    house.call("GET", "/v1/profile", None, None).await.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn an_address_has_one_account_however_it_is_written() {
    let house = house().await;
    house.register(EMAIL).await;
    house.register(EMAIL).await.is_problem(409, "email_taken");
    house.register("ANN@EXAMPLE.COM").await.is_problem(409, "email_taken");
}

#[tokio::test]
async fn an_address_and_a_password_are_the_same_however_their_accents_are_composed() {
    let house = house().await;
    let (composed, decomposed) = ("jos\u{e9}@example.com", "jose\u{301}@EXAMPLE.com");
    let password = |accent: &str| format!("caf{accent} au lait, s'il");
    let account = |email: &str, password: String| json!({"email": email, "password": password, "name": "Jose\u{301} "});
    let made = house.post("/v1/register", account(decomposed, password("e\u{301}"))).await;
    assert_eq!((made.text("email"), made.text("name")), (composed.to_owned(), "Jos\u{e9}".to_owned()));
    house.post("/v1/register", account(composed, password("\u{e9}"))).await.is_problem(409, "email_taken");
    for email in [composed, decomposed] {
        for accent in ["\u{e9}", "e\u{301}"] {
            assert_eq!(house.login(email, &password(accent)).await.status, StatusCode::OK, "{email} {accent}");
        }
    }
}

#[tokio::test]
async fn nothing_hides_in_an_address_a_name_or_a_password() {
    let house = house().await;
    for hidden in ["\u{200b}", "\u{2060}", "\u{202e}", "\u{ad}", "\u{7}"] {
        let body = json!({"email": format!("an{hidden}n@example.com"), "password": format!("{PASSWORD}{hidden}"), "name": format!("A{hidden}nn")});
        assert_eq!(house.post("/v1/register", body).await.wrong_fields(), ["email", "password", "name"], "{hidden:?}");
    }
    let nothing = json!({"email": EMAIL, "password": PASSWORD, "name": "\u{3164}\u{200d}"});
    assert_eq!(house.post("/v1/register", nothing).await.wrong_fields(), ["name"]);
}

/// Accounts from before addresses and passwords were composed.
#[tokio::test]
async fn an_account_that_is_kept_as_it_was_typed_is_found_by_any_spelling_and_holds_its_address() {
    let house = house().await;
    let (composed, decomposed, hidden) = ("jos\u{e9}@example.com", "jose\u{301}@example.com", "an\u{200b}n@example.com");
    let password = "caf\u{65}\u{301} au lait, s'il";
    for email in [decomposed, hidden] {
        house.keep(email, password).await;
    }
    for email in [composed, decomposed, hidden] {
        assert_eq!(house.login(email, password).await.status, StatusCode::OK, "{email:?}");
    }
    house.register(composed).await.is_problem(409, "email_taken");
    house.login("ann@example.com", password).await.is_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn of_many_registrations_of_one_address_at_once_one_wins() {
    let house = house().await;
    let answers = futures(20, |_| house.register(EMAIL)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count(), 19);
}

#[tokio::test]
async fn what_is_wrong_with_a_registration_is_told_field_by_field() {
    let house = house().await;
    let answer = house.post("/v1/register", json!({"email": "x", "password": "short", "name": ""})).await;
    assert_eq!(answer.wrong_fields(), ["email", "password", "name"]);
    let long = "x".repeat(129);
    let answer = house.post("/v1/register", json!({"email": EMAIL, "password": long, "name": "A"})).await;
    assert_eq!(answer.wrong_fields(), ["password"]);
    let answer = house.post("/v1/register", json!({"email": EMAIL, "password": PASSWORD, "name": "A", "role": "admin"})).await;
    assert_eq!(answer.wrong_fields(), ["role"]);
    let answer = house.post("/v1/register", json!({"email": EMAIL, "password": PASSWORD, "name": "A\0"})).await;
    answer.is_problem(422, "invalid");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_look_the_same() {
    let house = house().await;
    house.register(EMAIL).await;
    let (wrong, unknown) = (house.login(EMAIL, "not the password").await, house.login("bob@example.com", PASSWORD).await);
    wrong.is_problem(401, "invalid_credentials");
    unknown.is_problem(401, "invalid_credentials");
    assert_eq!(wrong.text("detail"), unknown.text("detail"));
}

#[tokio::test]
async fn ten_failed_logins_of_an_account_make_it_wait_and_an_unknown_one_too() {
    let house = house().await;
    house.register(EMAIL).await;
    for email in [EMAIL, "nobody@example.com"] {
        for _ in 0..10 {
            house.login(email, "not the password").await.is_problem(401, "invalid_credentials");
        }
        let limited = house.login(email, PASSWORD).await;
        limited.is_problem(429, "too_many_logins");
        assert_eq!(limited.headers["retry-after"], "900");
    }
    house.forward(Duration::from_secs(900));
    assert_eq!(house.login(EMAIL, PASSWORD).await.status, StatusCode::OK);
}

#[tokio::test]
async fn failed_logins_at_once_are_no_way_round_the_limit() {
    let house = house().await;
    house.register(EMAIL).await;
    let answers = futures(40, |_| house.login(EMAIL, "not the password")).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::UNAUTHORIZED).count(), 10);
}

#[tokio::test]
async fn a_hundred_failed_logins_from_an_address_make_it_wait_and_no_other() {
    let house = house().await;
    house.register(EMAIL).await;
    let answers = futures(100, |number| house.login_from_owned(format!("{number}@example.com"), [10, 0, 0, 1])).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::UNAUTHORIZED));
    house.login_from(EMAIL, PASSWORD, [10, 0, 0, 1]).await.is_problem(429, "too_many_logins");
    assert_eq!(house.login_from(EMAIL, PASSWORD, [10, 0, 0, 2]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_address_registers_so_often_and_then_waits_and_no_other_does() {
    let house = house_of(Config { registrations_per_address: 3, ..cheap() }).await;
    let register = |number: usize, address| {
        let account = json!({"email": format!("ann{number}@example.com"), "password": PASSWORD, "name": "Ann"}).to_string();
        let request = Request::post("/v1/register").header("content-type", "application/json").body(Body::from(account)).unwrap();
        house.send(request, address)
    };
    for number in 0..3 {
        assert_eq!(register(number, [1, 2, 3, 4]).await.status, StatusCode::CREATED);
    }
    let limited = register(3, [1, 2, 3, 4]).await;
    limited.is_problem(429, "too_many_registrations");
    assert_eq!(limited.headers["retry-after"], "900");
    assert_eq!(register(3, [1, 2, 3, 5]).await.status, StatusCode::CREATED);
    assert_eq!(house.login_from("ann0@example.com", PASSWORD, [1, 2, 3, 4]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn logins_that_succeed_are_not_limited() {
    let house = house().await;
    house.register(EMAIL).await;
    let answers = futures(150, |_| house.login(EMAIL, PASSWORD)).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_reuse_ends_the_family() {
    let house = house().await;
    house.register(EMAIL).await;
    let other_login = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    let first = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    let refreshed = house.refresh(&first).await;
    assert_eq!(refreshed.status, StatusCode::OK, "{}", refreshed.body);
    assert!(house.verifier.verify(&refreshed.text("access_token")).is_ok());
    let second = refreshed.text("refresh_token");
    assert_ne!(first, second);

    house.refresh(&first).await.is_problem(401, "invalid_refresh_token");
    house.refresh(&second).await.is_problem(401, "invalid_refresh_token");
    assert_eq!(house.refresh(&other_login).await.status, StatusCode::OK, "another login is another family");
}

#[tokio::test]
async fn of_many_refreshes_at_once_with_one_token_one_wins_and_the_family_ends() {
    let house = house().await;
    house.register(EMAIL).await;
    let token = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    let answers = futures(20, |_| house.refresh(&token)).await;
    let won: Vec<&Answered> = answers.iter().filter(|answer| answer.status == StatusCode::OK).collect();
    assert_eq!(won.len(), 1);
    house.refresh(&won[0].text("refresh_token")).await.is_problem(401, "invalid_refresh_token");
}

#[tokio::test]
async fn a_refresh_token_ends_after_thirty_days_and_nonsense_is_none() {
    let house = house().await;
    house.register(EMAIL).await;
    let token = house.login(EMAIL, PASSWORD).await.text("refresh_token");
    house.forward(Duration::from_secs(30 * 86_400));
    for token in [token.as_str(), "", "nonsense"] {
        house.refresh(token).await.is_problem(401, "invalid_refresh_token");
    }
}

#[tokio::test]
async fn a_logout_ends_one_session_by_its_token_or_all_by_the_caller() {
    let house = house().await;
    house.register(EMAIL).await;
    let (one, two, three) =
        (house.login(EMAIL, PASSWORD).await, house.login(EMAIL, PASSWORD).await, house.login(EMAIL, PASSWORD).await);
    for _ in 0..2 {
        let body = json!({"refresh_token": one.text("refresh_token")});
        assert_eq!(house.post("/v1/logout", body).await.status, StatusCode::NO_CONTENT, "also again");
    }
    house.refresh(&one.text("refresh_token")).await.is_problem(401, "invalid_refresh_token");
    let two = house.refresh(&two.text("refresh_token")).await;
    assert_eq!(two.status, StatusCode::OK);

    house.call("POST", "/v1/logout", None, None).await.is_problem(401, "unauthorized");
    let all = house.call("POST", "/v1/logout", Some(&two.text("access_token")), None).await;
    assert_eq!(all.status, StatusCode::NO_CONTENT);
    for token in [two.text("refresh_token"), three.text("refresh_token")] {
        house.refresh(&token).await.is_problem(401, "invalid_refresh_token");
    }
}

#[tokio::test]
async fn a_profile_changes_its_name_freely_and_its_address_and_password_by_password() {
    let house = house().await;
    house.register(EMAIL).await;
    house.register("bob@example.com").await;
    let login = house.login(EMAIL, PASSWORD).await;
    let token = login.text("access_token");
    let patch = async |body: Value| house.call("PATCH", "/v1/profile", Some(&token), Some(body)).await;

    assert_eq!(patch(json!({"name": " Anna "})).await.text("name"), "Anna");
    assert_eq!(patch(json!({})).await.text("name"), "Anna");
    assert_eq!(patch(json!({"email": "anna@example.com"})).await.wrong_fields(), ["current_password"]);
    let wrong = json!({"email": "anna@example.com", "current_password": "not the password"});
    assert_eq!(patch(wrong).await.wrong_fields(), ["current_password"]);
    patch(json!({"email": "bob@example.com", "current_password": PASSWORD})).await.is_problem(409, "email_taken");
    let moved = patch(json!({"email": "Anna@example.com", "current_password": PASSWORD})).await;
    assert_eq!(moved.text("email"), "anna@example.com");
    assert_eq!(house.register(EMAIL).await.status, StatusCode::CREATED, "the old address is free");

    let changed = patch(json!({"password": "another horse battery", "current_password": PASSWORD})).await;
    assert_eq!(changed.status, StatusCode::OK);
    house.refresh(&login.text("refresh_token")).await.is_problem(401, "invalid_refresh_token");
    house.login("anna@example.com", PASSWORD).await.is_problem(401, "invalid_credentials");
    assert_eq!(house.login("anna@example.com", "another horse battery").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_log_tells_who_and_never_a_person() {
    let house = house().await;
    let id = house.register(EMAIL).await.text("id");
    let token = house.login(EMAIL, PASSWORD).await.text("access_token");
    house.call("PATCH", "/v1/profile", Some(&token), Some(json!({"name": "Ann Example"}))).await;
    let rows = house.log.stream(&format!("user-{id}"), 1).await.unwrap();
    let kinds: Vec<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds, ["user.UserRegistered", "user.ProfileChanged"]);
    for row in rows {
        assert_eq!((row.topic.as_deref(), row.key.as_deref()), (Some(topics::USER_EVENTS), Some(id.as_str())));
        assert_eq!(row.meta.actor, Some(format!("customer:{id}")));
        assert_eq!(row.meta.trace.id().map(str::len), Some(32));
        assert!(!row.data.contains("nn"), "{}", row.data);
    }
}

#[tokio::test]
async fn tokens_and_accounts_outlive_a_restart() {
    let house = house().await;
    house.register(EMAIL).await;
    let tokens = house.login(EMAIL, PASSWORD).await;
    let keys = house.call("GET", "/.well-known/jwks.json", None, None).await.json();
    let house = house.restarted(cheap()).await;
    assert!(house.first_admin.is_none(), "there is one from before");
    assert!(house.verifier.verify(&tokens.text("access_token")).is_ok());
    assert_eq!(house.refresh(&tokens.text("refresh_token")).await.status, StatusCode::OK);
    assert_eq!(house.call("GET", "/.well-known/jwks.json", None, None).await.json(), keys);
}

#[tokio::test]
async fn keys_rotate_to_the_one_that_was_published_ahead_also_while_serving() {
    let house = house().await;
    let kids = async || {
        let keys = house.call("GET", "/.well-known/jwks.json", None, None).await.json();
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = kids().await;
    assert_eq!(before.len(), 2);
    house.register(EMAIL).await;
    house.forward(Duration::from_secs(30 * 86_400 - 60));
    let token = house.login(EMAIL, PASSWORD).await.text("access_token");
    let rotated = tokio::time::timeout(SOON, async {
        while kids().await.len() < 3 {
            house.forward(Duration::from_secs(60));
            tokio::task::yield_now().await;
        }
    });
    rotated.await.expect("housekeeping rotates the keys");
    let after = kids().await;
    assert_eq!(after[0], before[1]);
    assert!(after.contains(&before[0]), "what the retired key signed holds until it expires");
    let by_new = house.login(EMAIL, PASSWORD).await.text("access_token");
    assert!(house.verifier.verify(&by_new).is_ok());
    house.forward(Duration::from_secs(900));
    assert!(house.verifier.verify(&token).is_err(), "it expired meanwhile");
}

/// SQLite has one process a database; PostgreSQL many replicas.
#[tokio::test]
async fn replicas_that_start_together_have_one_admin_and_the_same_keys_also_after_these_rotate() {
    for seed in 0..8_u64 {
        let (database, clock) = (Arc::new(TestDatabase::fresh().await), TestClock::start());
        if matches!(database.database, eventlog::Database::Sqlite(_)) {
            return;
        }
        let config = |replica: bool| Config { admin_email: format!("admin-{}@example.com", u8::from(replica)), ..cheap() };
        let start = |replica: bool| house_seeded(database.clone(), clock.clone(), config(replica), seed * 2 + u64::from(replica));
        let (one, two) = tokio::join!(start(false), start(true));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one.first_admin.is_some(), two.first_admin.is_some(), "one of them made an admin");
        let keys = async |house: &House| house.call("GET", "/.well-known/jwks.json", None, None).await.json();
        let before = keys(&one).await;
        assert_eq!(before, keys(&two).await);
        assert_eq!(before["keys"].as_array().unwrap().len(), 2);
        one.register(EMAIL).await;
        for (signs, verifies) in [(&one, &two), (&two, &one)] {
            assert!(verifies.verifier.verify(&signs.login(EMAIL, PASSWORD).await.text("access_token")).is_ok());
        }

        let token = one.login(EMAIL, PASSWORD).await.text("refresh_token");
        let (first, second) = tokio::join!(one.refresh(&token), two.refresh(&token));
        let statuses = [first.status, second.status];
        assert!(statuses.contains(&StatusCode::OK) && statuses.contains(&StatusCode::UNAUTHORIZED), "{statuses:?}");

        clock.advance(Duration::from_secs(30 * 86_400));
        let rotated = tokio::time::timeout(SOON, async {
            while keys(&one).await == before || keys(&one).await != keys(&two).await {
                clock.advance(Duration::from_secs(1));
                tokio::task::yield_now().await;
            }
        });
        rotated.await.expect("both go over to the same keys");
        for (signs, verifies) in [(&one, &two), (&two, &one)] {
            assert!(verifies.verifier.verify(&signs.login(EMAIL, PASSWORD).await.text("access_token")).is_ok());
        }
    }
}

#[tokio::test]
async fn the_first_admin_is_made_once_with_a_password_of_its_own() {
    let house = house().await;
    let FirstAdmin { email, password } = house.first_admin.as_ref().unwrap();
    let login = house.login(email, password).await;
    let caller = house.verifier.verify(&login.text("access_token")).unwrap();
    assert_eq!((caller.role, email.as_str()), (Role::Admin, "admin@localhost"));
}

#[tokio::test]
async fn the_first_admin_may_come_from_the_configuration() {
    let config = |password: &str| Config {
        admin_email: "Boss@Example.com".into(),
        admin_password: Some(Secret(password.into())),
        ..cheap()
    };
    let house = house_of(config(PASSWORD)).await;
    assert!(house.first_admin.is_none(), "whoever set the password knows it");
    assert_eq!(house.login("boss@example.com", PASSWORD).await.status, StatusCode::OK);
    let house = house.restarted(config("some other password")).await;
    assert_eq!(house.login("boss@example.com", PASSWORD).await.status, StatusCode::OK, "only the first one is");

    let clock = TestClock::start();
    let refused = house_in(TestDatabase::fresh().await, clock, config("short")).await;
    assert!(matches!(refused, Err(user::Error::Admin(why)) if why.contains("12 to 128")));
}

#[tokio::test]
async fn an_admin_gives_and_takes_roles_and_tokens_of_the_old_one_are_refused() {
    let house = house_of(Config { admin_password: Some(Secret(PASSWORD.to_owned())), ..cheap() }).await;
    let admin = house.login("admin@localhost", PASSWORD).await.text("access_token");
    let ann = house.register(EMAIL).await.text("id");
    let of_ann = house.login(EMAIL, PASSWORD).await;
    let path = format!("/v1/users/{ann}/role");
    let give = async |token: &str, path: &str, role: &str, reason: &str| {
        house.call("PATCH", path, Some(token), Some(json!({"role": role, "reason": reason}))).await
    };
    give(&of_ann.text("access_token"), &path, "admin", "I want to").await.is_problem(403, "forbidden");
    assert_eq!(house.call("GET", "/v1/users?email=ANN@example.com", Some(&admin), None).await.text("id"), ann);
    for (role, reason) in [("operator", " "), ("operator", "\u{200b}"), ("king", "why not")] {
        assert_eq!(give(&admin, &path, role, reason).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    give(&admin, &format!("/v1/users/{}/role", CustomerId(uuid::Uuid::nil())), "operator", "helps")
        .await
        .is_problem(404, "not_found");

    assert_eq!(give(&admin, &path, "operator", "joins the support team").await.text("role"), "operator");
    house.call("GET", "/v1/profile", Some(&of_ann.text("access_token")), None).await.is_problem(401, "unauthorized");
    let fresh = house.refresh(&of_ann.text("refresh_token")).await.text("access_token");
    assert_eq!(house.verifier.verify(&fresh).unwrap().role, Role::Operator);
    let newest = house.log.stream(&format!("user-{ann}"), 1).await.unwrap().last().cloned().unwrap();
    assert_eq!(newest.kind, "user.RoleChanged");
    assert!(newest.data.contains(r#""from":"customer","to":"operator","reason":"joins the support team""#), "{}", newest.data);
    assert!(newest.meta.actor.as_deref().is_some_and(|actor| actor.starts_with("admin:")));
    assert_eq!(house.call("GET", "/.well-known/jwks.json", None, None).await.json()["roles"][&ann], "operator");

    assert_eq!(give(&admin, &path, "customer", "left us").await.text("role"), "customer");
    house.call("GET", "/v1/profile", Some(&fresh), None).await.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn the_last_admin_can_t_lose_it_also_when_two_are_taken_away_at_once() {
    let house = house_of(Config { admin_password: Some(Secret(PASSWORD.to_owned())), ..cheap() }).await;
    let admin = house.login("admin@localhost", PASSWORD).await.text("access_token");
    let me = house.call("GET", "/v1/profile", Some(&admin), None).await.text("id");
    let take = |id: String| {
        let (house, admin) = (&house, &admin);
        async move {
            let body = json!({"role": "customer", "reason": "left us"});
            house.call("PATCH", &format!("/v1/users/{id}/role"), Some(admin), Some(body)).await
        }
    };
    take(me.clone()).await.is_problem(409, "last_admin");
    let ann = house.register(EMAIL).await.text("id");
    let body = json!({"role": "admin", "reason": "takes over"});
    assert_eq!(house.call("PATCH", &format!("/v1/users/{ann}/role"), Some(&admin), Some(body)).await.status, StatusCode::OK);
    let (one, other) = futures_util::future::join(take(me), take(ann)).await;
    let codes = [one.status.as_u16(), other.status.as_u16()];
    assert!(codes == [200, 409] || codes == [409, 200] || codes == [200, 401], "{codes:?}");
}

/// Another replica learns of it from the database.
#[tokio::test]
async fn a_role_that_was_taken_away_is_known_to_other_replicas_within_a_minute() {
    let (clock, database) = (TestClock::start(), Arc::new(TestDatabase::fresh().await));
    let config = || Config { admin_password: Some(Secret(PASSWORD.to_owned())), ..cheap() };
    let one = house_seeded(database.clone(), clock.clone(), config(), 2).await.unwrap();
    let other = house_seeded(database.clone(), clock.clone(), config(), 3).await.unwrap();
    let admin = one.login("admin@localhost", PASSWORD).await.text("access_token");
    let ann = one.register(EMAIL).await.text("id");
    let of_ann = one.login(EMAIL, PASSWORD).await.text("access_token");
    assert_eq!(other.call("GET", "/v1/profile", Some(&of_ann), None).await.status, StatusCode::OK);
    let body = json!({"role": "operator", "reason": "helps"});
    assert_eq!(one.call("PATCH", &format!("/v1/users/{ann}/role"), Some(&admin), Some(body)).await.status, StatusCode::OK);
    let refused = async {
        while other.call("GET", "/v1/profile", Some(&of_ann), None).await.status != StatusCode::UNAUTHORIZED {
            clock.advance(Duration::from_millis(50));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("it takes note");
    assert!(one.tasks.stop(SOON).await && other.tasks.stop(SOON).await);
}

#[tokio::test]
async fn signing_keys_that_lay_open_are_encrypted_once_there_is_a_key_file_and_need_it_from_then_on() {
    let clock = TestClock::start();
    let with = |text: Option<&str>| Config { signing_key_file: text.map(|text| Secret(text.to_owned())), ..cheap() };
    let house = house_in(TestDatabase::fresh().await, clock.clone(), with(None)).await.unwrap();
    house.register(EMAIL).await;
    let token = house.login(EMAIL, PASSWORD).await.text("access_token");
    let database = house.database.clone();
    assert!(house.tasks.stop(SOON).await);
    for (seed, file) in [(2, "one key file"), (3, "one key file")] {
        let again = house_seeded(database.clone(), clock.clone(), with(Some(file)), seed).await.unwrap();
        assert_eq!(again.call("GET", "/v1/profile", Some(&token), None).await.status, StatusCode::OK, "the same keys");
        assert!(again.tasks.stop(SOON).await);
    }
    for (seed, file, said) in [(4, None, "--signing-key-file"), (5, Some("another key file"), "another file")] {
        let refused = house_seeded(database.clone(), clock.clone(), with(file), seed).await;
        assert!(matches!(refused, Err(user::Error::Seeds(why)) if why.contains(said)), "{said}");
    }
}

#[tokio::test]
async fn an_account_that_is_gone_has_no_profile() {
    let house = house().await;
    let other = house_of(cheap()).await;
    let id = other.register(EMAIL).await.text("id");
    assert!(id.parse::<CustomerId>().is_ok());
    let foreign = other.login(EMAIL, PASSWORD).await.text("access_token");
    house.call("GET", "/v1/profile", Some(&foreign), None).await.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn the_service_is_healthy_counts_logins_and_documents_every_route() {
    let house = house().await;
    house.register(EMAIL).await;
    house.login(EMAIL, PASSWORD).await;
    house.login(EMAIL, "not the password").await;
    let health = house.call("GET", "/health", None, None).await;
    assert_eq!(health.json()["checks"], json!([{"name": "user", "status": "ok"}]));
    let metrics = house.call("GET", "/metrics", None, None).await.body;
    for line in [r#"user_logins_total{outcome="succeeded"} 1"#, r#"user_logins_total{outcome="failed"} 1"#] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let document = house.call("GET", "/openapi.json", None, None).await.json();
    for (path, method) in [
        ("/v1/register", "post"),
        ("/v1/login", "post"),
        ("/v1/refresh", "post"),
        ("/v1/logout", "post"),
        ("/v1/profile", "get"),
        ("/v1/profile", "patch"),
        ("/.well-known/jwks.json", "get"),
        ("/v1/users", "get"),
        ("/v1/users/{id}/role", "patch"),
    ] {
        assert!(document["paths"][path][method]["summary"].is_string(), "{method} {path}");
    }
}

impl House {
    /// Keeps an account as it was kept before text was composed.
    async fn keep(&self, email: &str, password: &str) {
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let hash = argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string();
        let id = CustomerId(self.log.env().id());
        let (email, name) = (email.to_owned(), "Ann".to_owned());
        let user = User { id, version: 0, email, name, password: hash, role: Role::Customer, registered: self.log.env().now() };
        let job = Job { work: Work::Register(Box::new(user)), meta: Meta::default() };
        assert!(matches!(self.writer.submit(job).await.unwrap(), Done::User(_)));
    }

    async fn login_from_owned(&self, email: String, address: [u8; 4]) -> Answered {
        self.login_from(&email, "not the password", address).await
    }
}

/// So many calls at once, in their order.
async fn futures<F: Future<Output = Answered>>(count: usize, call: impl Fn(usize) -> F) -> Vec<Answered> {
    futures_util::future::join_all((0..count).map(call)).await
}
