//! The real binary as its users meet it: a process, its data directory and its REST door.
//!
//! Never here: what a test expects of an order. The tests in `it/` and `crash.rs` start a [`System`] of their own each.

#![allow(dead_code, reason = "each test binary uses a part of this")]

#[path = "../../src/demo/client.rs"]
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod otlp;
pub(crate) mod prometheus;
pub(crate) mod trace;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use bytes::Bytes;
use eventlog::Env;
use hyper::{
    Method,
    header::{HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use client::{Client, Doors, IDEMPOTENCY_KEY, NoAnswer, PREFER, Reply, uri};
use cluster::Cluster;

pub(crate) const ADMIN: (&str, &str) = ("admin@shop.example", "correct horse battery staple");
/// Answers lost by the provider are asked for again soon; everything else is as it is by default.
pub(crate) const QUICK: &[(&str, &str)] = &[("SKALD_PAYMENT_TIMEOUT_MS", "200")];
/// A condition that does not come about by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// The binary under test: the one that cargo just built, or the one that `SKALD_BIN` names.
pub(crate) fn skald() -> Command {
    let binary = std::env::var_os("SKALD_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_skald").into());
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SKALD_")) {
        command.env_remove(name);
    }
    command.env("SKALD_PRODUCT_GRPC_LISTEN", "127.0.0.1:0");
    command
}

/// A directory of the test's own.
pub(crate) fn home() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("skald-test-").tempdir().unwrap()
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    skald().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The same with environment variables.
pub(crate) fn run_with(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    skald().args(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

/// `skald up` on a data directory that cannot be served; gives its exit code and what it said.
pub(crate) fn up_in_vain(data: &Path, listen: &str) -> (Option<i32>, String) {
    let output = run(&["up", "--data", data.to_str().unwrap(), "--listen", listen]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A running `skald up`. Dropped, it is killed.
pub(crate) struct System {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) data: PathBuf,
    log: PathBuf,
}

impl System {
    /// Starts on `home/data`; what was there before is gone on with. `knobs` are environment variables.
    pub(crate) fn start(home: &Path, knobs: &[(&str, &str)]) -> Self {
        Self::start_by(skald(), home, knobs)
    }

    /// The same where no file may grow past so many kilobytes: to SQLite that is a disk that is full.
    pub(crate) fn start_on_a_small_disk(home: &Path, kilobytes: u32) -> Self {
        let whole = skald();
        let mut command = Command::new("sh");
        // Without the trap the signal would end the process, where a full disk only fails the write. `ulimit` counts 512 bytes.
        let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kilobytes * 2);
        command.args(["-c", &limited]).arg(whole.get_program());
        for (name, value) in whole.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self::start_by(command, home, &[])
    }

    fn start_by(mut command: Command, home: &Path, knobs: &[(&str, &str)]) -> Self {
        let (data, log) = (home.join("data"), home.join("log"));
        let mut child = command
            .args(["up", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .envs([("SKALD_ADMIN_EMAIL", ADMIN.0), ("SKALD_ADMIN_PASSWORD", ADMIN.1)])
            .envs(knobs.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = said.find_map(|line| line.split_once("http://")?.1.split(['/', ' ']).next()?.parse().ok());
        // What else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || said.for_each(drop));
        let mut system = Self { child, address: ([0; 4], 0).into(), data, log };
        system.address = address.unwrap_or_else(|| panic!("it did not start"));
        system
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        self.child.wait().unwrap()
    }

    pub(crate) fn shop(&self) -> Shop {
        Shop { doors: self.address.into() }
    }

    pub(crate) fn anybody(&self) -> Person {
        self.shop().anybody()
    }

    pub(crate) async fn admin(&self) -> Person {
        self.shop().admin().await
    }

    pub(crate) async fn customer(&self, name: &str) -> Person {
        self.shop().customer(name).await
    }

    pub(crate) async fn token(&self, name: &str) -> String {
        self.shop().token(name).await
    }

    /// Asks the settled audit until it holds; whatever runs behind an order's end has its time.
    pub(crate) async fn settles(&self) {
        let data = self.data.to_str().unwrap();
        eventually("the settled audit holds", async || {
            let output = run(&["audit", "--settled", "--data", data]);
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
        })
        .await;
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(50).collect();
            eprintln!("the end of its log:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The whole shop, in one process; or, where `ci/e2e.sh` has set the stage, as processes on Kafka and PostgreSQL.
pub(crate) enum Whole {
    Up(Box<System>),
    Cluster(Box<Cluster>),
}

impl Whole {
    pub(crate) async fn start(home: &Path, knobs: &[(&str, &str)]) -> Self {
        if cluster::is_wanted() {
            Self::Cluster(Box::new(Cluster::start(home, knobs, &[("order", 2), ("payment", 2)]).await))
        } else {
            Self::Up(Box::new(System::start(home, knobs)))
        }
    }

    pub(crate) fn shop(&self) -> Shop {
        match self {
            Self::Up(system) => system.shop(),
            Self::Cluster(cluster) => Shop { doors: cluster.doors() },
        }
    }

    pub(crate) async fn settles(&self) {
        match self {
            Self::Up(system) => system.settles().await,
            Self::Cluster(cluster) => cluster.settles().await,
        }
    }
}

/// Where people come in.
pub(crate) struct Shop {
    pub(crate) doors: Doors,
}

impl Shop {
    pub(crate) fn anybody(&self) -> Person {
        Person { client: Client::new(self.doors.clone(), None) }
    }

    pub(crate) async fn admin(&self) -> Person {
        self.login(ADMIN.0, ADMIN.1).await
    }

    /// A newly registered customer.
    pub(crate) async fn customer(&self, name: &str) -> Person {
        Person { client: Client::new(self.doors.clone(), Some(&self.token(name).await)) }
    }

    /// The access token of a newly registered customer.
    pub(crate) async fn token(&self, name: &str) -> String {
        let (email, password) = (format!("{name}@shop.example"), format!("the password of {name}"));
        let account = json!({"email": email, "password": password, "name": name});
        let registered = self.anybody().post("/v1/register", &email, &account).await;
        assert_eq!(registered.status, 201, "{registered:?}");
        self.access(&email, &password).await
    }

    async fn login(&self, email: &str, password: &str) -> Person {
        Person { client: Client::new(self.doors.clone(), Some(&self.access(email, password).await)) }
    }

    async fn access(&self, email: &str, password: &str) -> String {
        let login = json!({"email": email, "password": password});
        let answer = self.anybody().post("/v1/login", email, &login).await;
        answer.body["access_token"].as_str().unwrap_or_else(|| panic!("no login: {answer:?}")).to_owned()
    }
}

/// Asks again and again until it is so; fails with the last reason why not.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let env = Env::system();
    let began = env.now();
    loop {
        match ask().await {
            Ok(value) => return value,
            Err(why) if env.now().since(began) > PATIENCE => panic!("not so after {PATIENCE:?}: {what}; {why}"),
            Err(_) => env.sleep(PAUSE).await,
        }
    }
}

/// What came back, as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: Value,
}

impl Answer {
    /// The id of what was created.
    pub(crate) fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id: {self:?}")).to_owned()
    }

    /// Status and reason of an order; status code and code of a problem.
    pub(crate) fn told(&self) -> (u16, &str, &str) {
        let text = |key: &str| self.body[key].as_str().unwrap_or_default();
        if self.status < 300 { (self.status, text("status"), text("reason")) } else { (self.status, text("code"), "") }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        let location = reply.headers.get("location").map(|value| value.to_str().unwrap().to_owned());
        Self { status: reply.status.as_u16(), location, body: serde_json::from_slice(&reply.body).unwrap_or_default() }
    }
}

/// One caller.
pub(crate) struct Person {
    client: Client,
}

impl Person {
    pub(crate) fn with(doors: impl Into<Doors>, token: &str) -> Self {
        Self { client: Client::new(doors, Some(token)) }
    }

    /// Sends this header with every request from now on.
    pub(crate) fn says(&mut self, name: HeaderName, value: HeaderValue) {
        self.client.headers.insert(name, value);
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.client.get(path).await.unwrap().into()
    }

    /// A body that is not JSON.
    pub(crate) async fn text(&mut self, path: &str) -> String {
        String::from_utf8_lossy(&self.client.get(path).await.unwrap().body).into_owned()
    }

    pub(crate) async fn post(&mut self, path: &str, key: &str, body: &Value) -> Answer {
        self.try_post(path, key, body, 0).await.unwrap()
    }

    /// A request that may get no answer.
    pub(crate) async fn try_post(&mut self, path: &str, key: &str, body: &Value, wait_s: u32) -> Result<Answer, NoAnswer> {
        let key = HeaderValue::try_from(key).unwrap();
        let prefer = HeaderValue::try_from(format!("wait={wait_s}")).unwrap();
        let headers = [(IDEMPOTENCY_KEY, key), (PREFER, prefer)];
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        Ok(self.client.send(Method::POST, uri(path), headers, body).await?.into())
    }

    /// A new product with so many pieces; for admins.
    pub(crate) async fn product(&mut self, sku: &str, stock: u32) -> String {
        let price = json!({"amount_minor": 1_999, "currency": "EUR"});
        let product = json!({"sku": sku, "title": sku, "category": "test", "price": price, "stock": stock});
        let created = self.post("/v1/products", sku, &product).await;
        assert_eq!(created.status, 201, "{created:?}");
        created.id()
    }

    /// Places an order and waits for its end, at most `wait_s`.
    pub(crate) async fn place(&mut self, key: &str, order: &Value, wait_s: u32) -> Answer {
        self.try_post("/v1/orders", key, order, wait_s).await.unwrap()
    }

    pub(crate) async fn cancel(&mut self, order: &str, key: &str) -> Answer {
        self.post(&format!("/v1/orders/{order}/cancel"), key, &Value::Null).await
    }

    /// Asks for the order with its key until it has ended.
    pub(crate) async fn ended(&mut self, key: &str, order: &Value) -> Answer {
        loop {
            let answer = self.place(key, order, 20).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            if answer.body["status"] != "pending" {
                return answer;
            }
        }
    }
}

/// The body of an order.
pub(crate) fn order(product: &str, quantity: u32, token: &str) -> Value {
    json!({"items": [{"product_id": product, "quantity": quantity}], "payment": {"token": token}})
}
