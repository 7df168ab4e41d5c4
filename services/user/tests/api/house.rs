//! The service as the tests have it, and how it is asked.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Request, StatusCode},
};
use eventlog::{
    Env, Log, Writer,
    testing::{TestClock, TestDatabase},
};
use http_body_util::BodyExt;
use kit::{Metrics, Tasks, auth::Verifier, http::AppConfig};
use serde_json::{Value, json};
use skald_user as user;
use tower::ServiceExt;
use user::{Config, Deps, FirstAdmin, MIGRATIONS};

pub(crate) const EMAIL: &str = "ann@example.com";
pub(crate) const PASSWORD: &str = "correct horse battery";
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct House {
    pub(crate) app: Router,
    pub(crate) verifier: Verifier,
    pub(crate) log: Log,
    pub(crate) first_admin: Option<FirstAdmin>,
    pub(crate) writer: Writer<user::Handler>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) tasks: Tasks,
    pub(crate) database: Arc<TestDatabase>,
}

pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_else(|| panic!("no {member} in {}", self.body)).to_owned()
    }

    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.text("code").as_str()), (status, code), "{}", self.body);
    }

    pub(crate) fn wrong_fields(&self) -> Vec<String> {
        self.is_problem(422, "invalid");
        self.json()["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }
}

pub(crate) fn cheap() -> Config {
    Config::default().with_cheap_passwords()
}

pub(crate) async fn house() -> House {
    house_of(cheap()).await
}

pub(crate) async fn house_of(config: Config) -> House {
    let clock = TestClock::start();
    house_in(TestDatabase::fresh().await, clock, config).await.unwrap()
}

pub(crate) async fn house_in(database: TestDatabase, clock: Arc<TestClock>, config: Config) -> Result<House, user::Error> {
    house_seeded(Arc::new(database), clock, config, 1).await
}

pub(crate) async fn house_seeded(
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
    pub(crate) async fn send(&self, mut request: Request<Body>, address: [u8; 4]) -> Answered {
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((address, 1))));
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answered { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub(crate) async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Option<Value>) -> Answered {
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

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answered {
        self.call("POST", path, None, Some(body)).await
    }

    pub(crate) async fn register(&self, email: &str) -> Answered {
        self.post("/v1/register", json!({"email": email, "password": PASSWORD, "name": "Ann"})).await
    }

    pub(crate) async fn login(&self, email: &str, password: &str) -> Answered {
        self.post("/v1/login", json!({"email": email, "password": password})).await
    }

    pub(crate) async fn login_from(&self, email: &str, password: &str, address: [u8; 4]) -> Answered {
        let body = json!({"email": email, "password": password}).to_string();
        let request = Request::post("/v1/login").header("content-type", "application/json").body(Body::from(body)).unwrap();
        self.send(request, address).await
    }

    pub(crate) async fn refresh(&self, token: &str) -> Answered {
        self.post("/v1/refresh", json!({"refresh_token": token})).await
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Ends its process: nobody may have its writer then.
    pub(crate) async fn stop(self) {
        drop((self.app, self.writer));
        assert!(self.tasks.stop(SOON).await);
    }

    pub(crate) async fn restarted(self, config: Config) -> House {
        let (database, clock) = (self.database.clone(), self.clock.clone());
        self.stop().await;
        house_seeded(database, clock, config, 1).await.unwrap()
    }
}

impl House {
    pub(crate) async fn login_from_owned(&self, email: String, address: [u8; 4]) -> Answered {
        self.login_from(&email, "not the password", address).await
    }
}

/// So many calls at once, in their order.
pub(crate) async fn futures<F: Future<Output = Answered>>(count: usize, call: impl Fn(usize) -> F) -> Vec<Answered> {
    futures_util::future::join_all((0..count).map(call)).await
}
