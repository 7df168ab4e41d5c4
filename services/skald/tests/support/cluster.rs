//! The five services as processes of their own, on a real Kafka and a real PostgreSQL: one or more replicas of each.
//!
//! `SKALD_TEST_KAFKA` and `SKALD_TEST_POSTGRES` say where those are; `ci/e2e.sh` starts them and these tests. Topics have the
//! names of the contract, so that tests take turns.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use eventlog::{Database, Env, on, testing::TestDatabase};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use super::{ADMIN, client::Doors, eventually, skald};

/// The services in the order in which an audit names them.
pub(crate) const SERVICES: [&str; 5] = ["order", "product", "payment", "user", "notification"];
/// How long a process may take to leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
const KAFKA_WAIT: Duration = Duration::from_secs(30);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by ci/e2e.sh, which starts what it names"))
}

pub(crate) fn kafka() -> String {
    variable("SKALD_TEST_KAFKA")
}

/// Whether tests are to run on processes of their own instead of on `skald up`.
pub(crate) fn is_wanted() -> bool {
    std::env::var_os("SKALD_TEST_KAFKA").is_some()
}

/// One process.
pub(crate) struct Replica {
    pub(crate) service: &'static str,
    pub(crate) address: SocketAddr,
    database: String,
    grpc: SocketAddr,
    child: Option<Child>,
    pub(crate) log: PathBuf,
}

pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Replica>,
    databases: Vec<(&'static str, TestDatabase)>,
    knobs: Vec<(String, String)>,
    /// The file with the message key that all of them share.
    pub(crate) message_key: PathBuf,
}

/// Known to no process but those of the cluster.
const MESSAGE_KEY: &str = "test:what a forger in a test does not know\n";

/// A port that nothing listens on now, each time another. Below those that the system gives to whoever connects: one of these may be
/// taken before the process is there that is to listen on it.
pub(crate) fn free() -> SocketAddr {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new((Env::system().random() % 10_000) as u16));
    loop {
        let port = 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

fn url(database: &Database) -> String {
    match database {
        Database::Postgres(url) => url.clone(),
        Database::Sqlite(path) => panic!("SKALD_TEST_POSTGRES is set by ci/e2e.sh; without it this is {}", path.display()),
    }
}

impl Cluster {
    /// Starts on new databases and new topics: so many replicas of each service. `knobs` are environment variables.
    pub(crate) async fn start(home: &Path, knobs: &[(&str, &str)], replicas: &[(&'static str, usize)]) -> Self {
        new_topics().await;
        let mut databases = Vec::new();
        for service in SERVICES {
            databases.push((service, TestDatabase::fresh().await));
        }
        let knobs = knobs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let message_key = home.join("message-key");
        std::fs::write(&message_key, MESSAGE_KEY).unwrap();
        let mut cluster = Self { replicas: Vec::new(), databases, knobs, message_key };
        for service in SERVICES {
            let count = replicas.iter().find(|(name, _)| *name == service).map_or(1, |(_, count)| *count);
            for number in 0..count {
                cluster.add(home, service, number);
            }
        }
        for index in 0..cluster.replicas.len() {
            cluster.spawn(index);
        }
        cluster.is_ready().await;
        cluster
    }

    /// One more replica, which is not started yet; its place in the list.
    pub(crate) fn add(&mut self, home: &Path, service: &'static str, number: usize) -> usize {
        let (_, database) = self.databases.iter().find(|(name, _)| *name == service).unwrap();
        let (address, grpc, database) = (free(), free(), url(&database.database));
        let log = home.join(format!("{service}-{number}.log"));
        self.replicas.push(Replica { service, address, database, grpc, child: None, log });
        self.replicas.len() - 1
    }

    /// Lets all processes of a service reach their database at another address, such as a proxy's.
    pub(crate) fn move_database(&mut self, service: &str, address: SocketAddr) {
        for replica in self.replicas.iter_mut().filter(|replica| replica.service == service) {
            let (login, rest) = replica.database.rsplit_once('@').unwrap();
            let name = rest.split_once('/').unwrap().1.split('?').next().unwrap();
            // Without TLS, as whoever stands in between looks into what passes.
            replica.database = format!("{login}@{address}/{name}?sslmode=disable");
        }
    }

    pub(crate) fn database_address(&self, service: &str) -> String {
        let replica = self.replicas.iter().find(|replica| replica.service == service).unwrap();
        let (_, rest) = replica.database.rsplit_once('@').unwrap();
        rest.split_once('/').unwrap().0.to_owned()
    }

    pub(crate) fn spawn(&mut self, index: usize) {
        let of = |service: &str, port: fn(&Replica) -> SocketAddr| {
            let all = self.replicas.iter().filter(|replica| replica.service == service);
            all.map(|replica| format!("http://{}", port(replica))).collect::<Vec<_>>()
        };
        let jwks = format!("{}/.well-known/jwks.json", of("user", |replica| replica.address)[0]);
        let stock = of("product", |replica| replica.grpc).join(",");
        let Replica { service, address, database, grpc, log, .. } = &self.replicas[index];
        let mut command = skald();
        command
            .args(["serve", service, "--listen", &address.to_string(), "--kafka", &kafka()])
            .env("SKALD_DATABASE", database)
            .env("SKALD_STOP_DELAY_MS", "0")
            .env("SKALD_MESSAGE_KEY_FILE", &self.message_key)
            .envs(self.knobs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(log).unwrap());
        if *service != "user" {
            command.args(["--jwks", &jwks]);
        }
        match *service {
            "order" => drop(command.args(["--stock-check", &stock])),
            "product" => drop(command.env("SKALD_PRODUCT_GRPC_LISTEN", grpc.to_string())),
            "user" => drop(command.envs([("SKALD_ADMIN_EMAIL", ADMIN.0), ("SKALD_ADMIN_PASSWORD", ADMIN.1)])),
            _ => {}
        }
        self.replicas[index].child = Some(command.spawn().unwrap());
    }

    /// Waits until every process that runs takes requests.
    pub(crate) async fn is_ready(&self) {
        for replica in self.replicas.iter().filter(|replica| replica.child.is_some()) {
            eventually(&format!("a replica of {} is ready", replica.service), async || {
                let mut client = super::client::Client::new(replica.address, None);
                match client.get("/health").await {
                    // Whoever has not joined its group yet takes requests, but is `degraded`.
                    Ok(reply) if reply.body.starts_with(b"{\"status\":\"ok\"") => Ok(()),
                    Ok(reply) => Err(String::from_utf8_lossy(&reply.body).into_owned()),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await;
        }
    }

    /// Sends a signal to one process: KILL, TERM, STOP or CONT.
    pub(crate) fn signal(&mut self, index: usize, signal: &str) {
        let Replica { service, child: running, log, .. } = &mut self.replicas[index];
        let Some(child) = running else { return };
        if signal == "TERM" {
            until_it_listens(service, child);
        }
        let told = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        if ["KILL", "TERM"].contains(&signal) {
            let ended = child.wait().unwrap();
            *running = None;
            assert!(signal == "KILL" || ended.success(), "{service} ended with {ended}:\n{}", end_of(log, 10));
        }
    }

    pub(crate) fn doors(&self) -> Doors {
        let all = self.replicas.iter().map(|replica| (replica.service.to_owned(), replica.address));
        Doors::Each(std::sync::Arc::new(all.collect()))
    }

    /// The databases as flags of `skald audit`.
    pub(crate) fn databases(&self) -> Vec<String> {
        self.databases
            .iter()
            .flat_map(|(service, database)| ["--database".to_owned(), format!("{service}={}", url(&database.database))])
            .collect()
    }

    pub(crate) fn database(&self, service: &str) -> String {
        url(&self.databases.iter().find(|(name, _)| *name == service).unwrap().1.database)
    }

    /// What a query counts in the database of a service.
    pub(crate) async fn count(&self, service: &str, sql: &'static str) -> i64 {
        let database = &self.databases.iter().find(|(name, _)| *name == service).unwrap().1.database;
        let mut connection = database.connect().await.unwrap();
        on!(&mut connection.conn(), |c| sqlx::query_scalar::<DB, i64>(sql).fetch_one(c).await).unwrap()
    }

    /// The most memory that each process has ever taken, in KiB.
    pub(crate) fn memory_high(&self) -> Vec<(&'static str, u64)> {
        let running = self.replicas.iter().filter_map(|replica| Some((replica.service, replica.child.as_ref()?.id())));
        let high = running.map(|(service, process)| {
            let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
            let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
            (service, high.unwrap().parse().unwrap())
        });
        high.collect()
    }

    /// Asks the settled audit until it holds; whatever runs behind an order's end has its time.
    pub(crate) async fn settles(&self) {
        self.settles_while(|| {}).await;
    }

    /// The same with somebody who does something about it before each audit.
    pub(crate) async fn settles_while(&self, meanwhile: impl Fn()) {
        eventually("the settled audit holds", async || {
            meanwhile();
            let output = self.audit(&["--settled"]);
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
        })
        .await;
    }

    pub(crate) fn audit(&self, flags: &[&str]) -> Output {
        skald().arg("audit").args(self.databases()).args(flags).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Told first, all at once: a member that is killed holds up the next test's consumer groups for a while.
        for replica in &self.replicas {
            if let Some(child) = &replica.child {
                let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            }
        }
        let env = Env::system();
        let began = env.now();
        for replica in &mut self.replicas {
            if let Some(child) = &mut replica.child {
                while matches!(child.try_wait(), Ok(None)) && env.now().since(began) < LEAVE_WITHIN {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                eprintln!("the end of the log of {}:\n{}\n", replica.log.display(), end_of(&replica.log, 40));
            }
        }
    }
}

/// The last lines of a process's log, without those of requests.
fn end_of(log: &Path, lines: usize) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = log.lines().rev().filter(|line| !line.contains(": answered ")).take(lines).collect();
    last.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Waits until a process listens to SIGTERM, which ends one that does not yet.
fn until_it_listens(service: &str, child: &Child) {
    let (env, status) = (Env::system(), format!("/proc/{}/status", child.id()));
    let began = env.now();
    let listens = || {
        let status = std::fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (15 - 1)) != 0
    };
    while !listens() {
        assert!(env.now().since(began) < LEAVE_WITHIN, "{service} does not listen to signals, or has ended");
        std::thread::yield_now();
    }
}

/// Deletes all topics and makes them anew.
async fn new_topics() {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", kafka()).create().unwrap();
    let found = || {
        let metadata = admin.inner().fetch_metadata(None, KAFKA_WAIT).unwrap();
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        names.filter(|name| !name.starts_with("__")).collect::<Vec<_>>()
    };
    let names = found();
    let _ = admin.delete_topics(&names.iter().map(String::as_str).collect::<Vec<_>>(), &AdminOptions::new()).await;
    eventually("the topics are gone", async || if found().is_empty() { Ok(()) } else { Err(format!("{:?}", found())) }).await;
    eventually("the topics are made", async || {
        let made = skald().args(["topics", "apply", "--replication", "1", "--kafka", &kafka()]).output().unwrap();
        if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
    })
    .await;
    eventually("the topics are known", async || {
        let checked = skald().args(["topics", "check", "--replication", "1", "--kafka", &kafka()]).output().unwrap();
        if checked.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&checked.stdout).into_owned()) }
    })
    .await;
}
