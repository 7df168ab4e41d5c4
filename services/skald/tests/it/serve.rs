//! `skald serve` and `skald migrate` where neither Kafka nor a PostgreSQL is needed: flags, files, probes, the end, and tokens that
//! cross from process to process.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use bytes::Bytes;
use eventlog::{Database, testing::TestDatabase};
use hyper::{Method, header::HeaderValue};
use serde_json::{Value, json};

use crate::support::{
    client::{Client, IDEMPOTENCY_KEY, Reply, uri},
    eventually, home, run, skald,
};

/// Nobody listens on port 1.
const NO_KAFKA: &str = "127.0.0.1:1";
const PASSWORD: &str = "correct horse battery staple";

/// Runs a command that must fail; what it says.
fn refused(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    said
}

#[test]
fn flags_that_cannot_be_followed_are_usage_errors_which_name_them() {
    let home = home();
    let file = |name: &str, content: &str| {
        let path = home.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (url, wrong, empty) = (file("url", "sqlite:x.db\n"), file("wrong", "mysql://u:hidden@h/d\n"), file("empty", "\n"));
    let user = ["serve", "user", "--kafka", NO_KAFKA];
    let place = ["--database", "sqlite:x.db"];
    let cases: &[(&[&str], &[&str])] = &[
        (&["serve"], &["order", "notification"]),
        (&["serve", "barber"], &["barber"]),
        (&user, &["--database", "--database-file"]),
        (&[&user[..], &place, &["--database-file", &url]].concat(), &["--database", "--database-file", "cannot be used with"]),
        (&[&user[..], &["--database-file", "/nowhere/at-all"]].concat(), &["--database-file", "/nowhere/at-all", "No such file"]),
        (&[&user[..], &["--database-file", &empty]].concat(), &["--database-file", "empty"]),
        (&[&user[..], &["--database-file", &wrong]].concat(), &["--database-file", "postgres://", "sqlite:PATH"]),
        (&[&user[..], &["--database", "mysql://u:hidden@h/d"]].concat(), &["--database", "postgres://", "sqlite:PATH"]),
        (&[&user[..], &place, &["--jwks", "http://h/jwks"]].concat(), &["--jwks"]),
        (&[&user[..], &place, &["--admin-password-file", "/nowhere"]].concat(), &["--admin-password-file", "/nowhere"]),
        (&[&user[..], &place, &["--kafka-security", "ssl"]].concat(), &["--kafka-security ssl", "--features tls"]),
        (&[&user[..], &place, &["--kafka-security", "sasl_plaintext"]].concat(), &["sasl_plaintext", "--features tls"]),
        (&[&user[..], &place, &["--kafka-user", "skald"]].concat(), &["--kafka-password-file"]),
        (&[&user[..], &place, &["--accept-unsigned"]].concat(), &["--accept-unsigned", "--message-key-file"]),
        (&[&user[..], &place, &["--message-key-file", "/nowhere"]].concat(), &["--message-key-file", "/nowhere"]),
        (&[&["serve", "user", "--kafka", "nowhere"], &place[..]].concat(), &["nowhere", "HOST:PORT"]),
        (&[&["serve", "user"], &place[..]].concat(), &["--kafka"]),
        (&[&["serve", "product", "--kafka", NO_KAFKA], &place[..]].concat(), &["--jwks"]),
        (&["serve", "product", "--kafka", NO_KAFKA, "--jwks", "https://h/jwks"], &["https://h/jwks", "http://"]),
        (&["serve", "order", "--kafka", NO_KAFKA, "--jwks", "http://h/jwks", place[0], place[1]], &["--stock-check"]),
        (&["serve", "order", "--stock-check", "product:50052"], &["product:50052", "http://HOST:PORT"]),
        (&["migrate", "barber", place[0], place[1]], &["barber"]),
        (&["migrate", "order"], &["--database"]),
        (&["audit", "--database", "barber=sqlite:x.db"], &["barber"]),
        (&["audit", "--database", "order:sqlite:x.db"], &["SERVICE=URL"]),
        (&["audit", "--database", "order=mysql://u:hidden@h/d"], &["order", "postgres://"]),
    ];
    for (arguments, words) in cases {
        let said = refused(2, arguments);
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
        assert!(!said.contains("hidden"), "{arguments:?}: {said}");
    }
    assert!(!Path::new("x.db").exists());
}

#[test]
fn a_database_that_stays_away_or_can_never_be_opened_ends_the_start() {
    let start = ["serve", "user", "--kafka", NO_KAFKA, "--listen", "127.0.0.1:0", "--start-timeout-s", "2", "--database"];
    let away = refused(3, &[&start[..], &["postgres://skald:hidden@127.0.0.1:1/user"]].concat());
    let (attempts, last): (Vec<&str>, Vec<&str>) = away.lines().partition(|line| line.contains("trying again"));
    assert!(attempts.len() >= 2, "{away}");
    assert!(matches!(last[..], [line] if line.starts_with("error: can't open postgres://***@127.0.0.1:1/user: ")), "{away}");
    let never = refused(3, &[&start[..], &["postgres://skald:hidden@nonsense:port/user"]].concat());
    assert!(!never.contains("trying again"), "{never}");
    let nowhere = refused(3, &[&start[..], &["sqlite:/proc/nowhere/user.db"]].concat());
    assert!(nowhere.contains("/proc/nowhere") && !nowhere.contains("trying again"), "{nowhere}");
    assert!(!(away + &never).contains("hidden"));
}

#[test]
fn migrate_brings_a_database_up_to_date_and_says_what_that_took() {
    let home = home();
    let url = format!("sqlite:{}", home.path().join("order.db").display());
    let migrate = |service: &str| run(&["migrate", service, "--database", &url]);
    let told = |output: std::process::Output| {
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let first = told(migrate("order"));
    assert!(first.starts_with("order: applied 1 log, 2 ") && first.contains("50 sagas, 100 order"), "{first}");
    assert_eq!(told(migrate("order")), "order: nothing to do, its schema has version 100\n");
    assert_eq!(migrate("payment").status.code(), Some(3));
}

/// SQLite has one process a database.
#[tokio::test]
async fn two_replicas_may_migrate_an_empty_postgresql_at_the_same_time() {
    let test = TestDatabase::fresh().await;
    let Database::Postgres(url) = &test.database else { return };
    let start = || skald().args(["migrate", "order", "--database", url]).stdout(Stdio::piped()).spawn().unwrap();
    let both: Vec<Child> = (0..4).map(|_| start()).collect();
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout.starts_with(b"order: "), "{output:?}");
    }
}

/// One service as a process, on a SQLite file. Dropped, it is killed.
struct Served {
    child: Child,
    address: SocketAddr,
}

impl Served {
    fn start(home: &Path, service: &str, flags: &[&str]) -> Self {
        let mut child = command(home, service, flags)
            .stdout(Stdio::piped())
            .stderr(File::create(home.join(format!("{service}.log"))).unwrap())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = said.find_map(|line| line.split_once("http://")?.1.parse().ok());
        let log = || fs::read_to_string(home.join(format!("{service}.log"))).unwrap_or_default();
        Self { child, address: address.unwrap_or_else(|| panic!("it did not start: {}", log())) }
    }

    fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    async fn get(&self, path: &str) -> Reply {
        Client::new(self.address, None).get(path).await.unwrap()
    }

    async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let (mut client, key) = (Client::new(self.address, token), [(IDEMPOTENCY_KEY, HeaderValue::from_static("k1"))]);
        let reply = client.send(Method::POST, uri(path), key, Bytes::from(body.to_string())).await.unwrap();
        (reply.status.as_u16(), serde_json::from_slice(&reply.body).unwrap_or_default())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(child: &Child, signal: &str) {
    let told = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(told.success());
}

fn command(home: &Path, service: &str, flags: &[&str]) -> Command {
    let url = home.join(format!("{service}.url"));
    fs::write(&url, format!("sqlite:{}\n", home.join(format!("{service}.db")).display())).unwrap();
    let mut command = skald();
    command.args(["serve", service, "--kafka", NO_KAFKA, "--listen", "127.0.0.1:0", "--database-file"]).arg(url).args(flags);
    command.stdin(Stdio::null());
    command
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.to_vec()).unwrap()
}

#[tokio::test]
async fn each_service_is_a_process_with_a_door_of_its_own_and_tokens_cross_between_them() {
    let home = home();
    let password = home.path().join("password");
    fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let user = Served::start(home.path(), "user", &["--admin-password-file", password.to_str().unwrap()]);
    let jwks = format!("http://{}/.well-known/jwks.json", user.address);
    let product = Served::start(home.path(), "product", &["--jwks", &jwks]);

    for served in [&user, &product] {
        assert_eq!(served.get("/livez").await.status, 200);
        // Kafka is away, and the log takes what there is to say.
        eventually("it is ready", async || match served.get("/readyz").await {
            ready if ready.status == 200 => Ok(()),
            not => Err(text(&not)),
        })
        .await;
        assert_eq!(served.get("/docs").await.status, 200);
        assert!(text(&served.get("/metrics").await).contains("log_position"));
    }
    let paths = |document: &Reply| serde_json::from_slice::<Value>(&document.body).unwrap()["paths"].clone();
    let (of_user, of_product) = (paths(&user.get("/openapi.json").await), paths(&product.get("/openapi.json").await));
    assert!(of_user["/v1/login"].is_object() && of_user["/v1/products"].is_null(), "{of_user}");
    assert!(of_product["/v1/login"].is_null() && of_product["/v1/products"].is_object(), "{of_product}");
    assert_eq!(product.get("/v1/orders").await.status, 404);

    let (status, tokens) = user.post("/v1/login", None, &json!({"email": "admin@localhost", "password": PASSWORD})).await;
    assert_eq!(status, 200, "{tokens}");
    let token = tokens["access_token"].as_str().unwrap();
    let tea =
        json!({"sku": "TEA-1", "title": "Tea", "category": "tea", "stock": 1, "price": {"amount_minor": 1, "currency": "EUR"}});
    assert_eq!(product.post("/v1/products", None, &tea).await.0, 401);
    assert_eq!(product.post("/v1/products", Some(token), &tea).await.0, 201);
    // Its keys hold while the user service is away.
    drop(user);
    let other =
        json!({"sku": "TEA-2", "title": "Tea", "category": "tea", "stock": 1, "price": {"amount_minor": 1, "currency": "EUR"}});
    assert_eq!(product.post("/v1/products", Some(token), &other).await.0, 422, "the key was used for other tea");
    assert_eq!(product.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn told_to_stop_it_says_so_first_serves_on_for_a_moment_and_ends_well() {
    let home = home();
    let user = Served::start(home.path(), "user", &["--stop-delay-ms", "2000"]);
    signal(&user.child, "-TERM");
    eventually("it is not ready any more", async || match user.get("/readyz").await.status.as_u16() {
        503 => Ok(()),
        status => Err(status.to_string()),
    })
    .await;
    assert_eq!(user.get("/.well-known/jwks.json").await.status, 200, "whoever comes meanwhile is served");
    let address = user.address;
    assert_eq!(user.wait().code(), Some(0));
    assert!(Client::new(address, None).get("/livez").await.is_err());
}

#[test]
fn told_to_stop_while_it_waits_for_its_database_it_ends_well() {
    let away = "postgres://skald:hidden@127.0.0.1:1/user";
    let mut child = skald()
        .args(["serve", "user", "--kafka", NO_KAFKA, "--listen", "127.0.0.1:0", "--database", away])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("trying again")), "it does not wait");
    signal(&child, "-TERM");
    assert!(said.any(|line| line.contains("told to stop before it had started")));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_sqlite_file_has_one_process_and_its_directory_one_shop() {
    let home = home();
    let user = Served::start(home.path(), "user", &[]);
    let second = command(home.path(), "user", &[]).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(3), "{said}");
    assert!(said.contains("another process is using") && said.contains("user.db"), "{said}");
    refused(3, &["up", "--listen", "127.0.0.1:0", "--data", home.path().to_str().unwrap()]);
    let _beside = Served::start(home.path(), "notification", &["--jwks", "http://127.0.0.1:1/jwks"]);
    signal(&user.child, "-INT");
    assert_eq!(user.wait().code(), Some(0));
    Served::start(home.path(), "user", &[]);
}
