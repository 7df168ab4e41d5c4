//! The user service: accounts, logins, tokens and the keys that sign them.
//!
//! Never here: what a customer buys. Other services only get ids, roles and the keys that verify a token; personal data stays
//! in this service's tables, and the log has ids only.

mod config;
pub mod domain;
pub mod handler;
mod http;
mod keys;
mod limiter;
mod password;
mod store;

use std::{sync::Arc, time::Duration};

use contract::{CustomerId, Meta};
use eventlog::{Job, Opened, Writer, WriterLimits};
use kit::{
    Metrics, Tasks,
    auth::{Role, Verifier},
    http::{Check, Routes},
};

pub use config::Config;
pub use handler::Handler;
pub use store::MIGRATIONS;

use crate::{
    domain::{Refusal, SigningKey, User},
    handler::{Done, Work},
    keys::Keyring,
    limiter::Limiter,
    password::{Passwords, secret_text},
};

/// The name of the service, its database and its log.
pub const NAME: &str = "user";

/// What the service is built from.
pub struct Deps {
    pub opened: Opened,
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub config: Config,
}

/// The running service.
pub struct Service {
    pub handler: Arc<Handler>,
    pub writer: Writer<Handler>,
    pub routes: Routes,
    /// Verifies the tokens that this service signs, also after their keys have rotated: for all services of the process.
    pub verifier: Verifier,
    /// The admin that was just made because there was none, with a password that nobody knows yet: to be shown once.
    pub first_admin: Option<FirstAdmin>,
    /// Whether the database answers.
    pub check: Check,
}

/// An account that was made by itself.
pub struct FirstAdmin {
    pub email: String,
    pub password: String,
}

/// The service could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the first admin can't be made: {0}")]
    Admin(String),
    #[error("can't use the database of the user service")]
    Log(#[source] eventlog::Error),
}

impl From<eventlog::Error> for Error {
    fn from(error: eventlog::Error) -> Self {
        Self::Log(error)
    }
}

/// How often keys are looked at and expired tokens are forgotten: so long a replica may sign with a key that another has retired.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// Builds the service and starts its tasks.
///
/// # Errors
/// [`Error`]: both variants are for the person at the keyboard.
pub async fn build(deps: Deps) -> Result<Service, Error> {
    let Deps { opened, tasks, metrics, config } = deps;
    if !config.has_safe_passwords() {
        tracing::warn!("passwords are hashed at less than the safe cost: for tests and demos only");
    }
    let handler = Arc::new(Handler);
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    tasks.spawn("user.writer", task);
    let log = writer.log().clone();

    let keyring = Arc::new(Keyring::new(&keys(&writer, &config).await?, log.env().clone()));
    let passwords = Passwords::new(&config);
    let first_admin = first_admin(&writer, &passwords, &config).await?;
    tasks.spawn(
        "user.housekeeping",
        housekeeping(writer.clone(), keyring.clone(), config.clone(), tasks.stopping().cancelled_owned()),
    );

    let check = Check::new(NAME, move || {
        let log = log.clone();
        async move { store::ping(&log).await.map_err(|error| error.to_string()) }
    });
    let (verifier, limiter) = (keyring.verifier(), Limiter::new(&config));
    let logins = prometheus_client::metrics::family::Family::default();
    metrics.register("user_logins", "Logins by outcome", logins.clone());
    let desk = http::Desk { writer: writer.clone(), keyring, passwords, limiter, config, logins };
    Ok(Service { handler, writer, routes: http::routes(Arc::new(desk)), verifier, first_admin, check })
}

fn job(work: Work) -> Job<Work> {
    Job { work, meta: Meta::default() }
}

/// The signing keys as they should be now.
async fn keys(writer: &Writer<Handler>, config: &Config) -> Result<Vec<SigningKey>, eventlog::Error> {
    let fresh = keys::fresh(writer.log().env());
    let work = Work::Keys { fresh, signs_for: config.signing_key(), token: config.access_token() + HOUSEKEEPING };
    match writer.submit(job(work)).await? {
        Done::Keys(keys) => Ok(keys),
        done => unreachable!("keys were asked for, not {done:?}"),
    }
}

/// Makes an admin where there is none; with a password of its own if none was given.
async fn first_admin(writer: &Writer<Handler>, passwords: &Passwords, config: &Config) -> Result<Option<FirstAdmin>, Error> {
    let log = writer.log();
    // Most starts find one; only the writer's own look decides.
    let mut reader = log.reader().await?;
    if store::has_role(&mut reader.conn(), Role::Admin).await? {
        return Ok(None);
    }
    drop(reader);
    let failed = |problem: kit::http::Problem| Error::Admin(problem.detail);
    let (password, is_made) = match config.admin_password() {
        Some(password) => (password.to_owned(), false),
        None => (secret_text(), true),
    };
    let id = CustomerId(log.env().id());
    let user = http::new_user(id, &config.admin_email, &password, "Admin", Role::Admin).map_err(failed)?;
    let hash = passwords.hash(password.clone()).await.map_err(failed)?;
    let user = User { password: hash, registered: log.env().now(), ..user };
    match writer.submit(job(Work::FirstAdmin(Box::new(user)))).await? {
        Done::User(user) if is_made => Ok(Some(FirstAdmin { email: user.email, password })),
        Done::Refused(Refusal::EmailTaken) => Err(Error::Admin(format!("a customer has the address {}", config.admin_email))),
        _ => Ok(None),
    }
}

async fn housekeeping(writer: Writer<Handler>, keyring: Arc<Keyring>, config: Config, stopping: impl Future<Output = ()>) {
    let mut stopping = std::pin::pin!(stopping);
    loop {
        tokio::select! {
            () = &mut stopping => return,
            () = writer.log().env().sleep(HOUSEKEEPING) => {}
        }
        let kept = async {
            keyring.change(&keys(&writer, &config).await?);
            writer.submit(job(Work::Sweep)).await
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "housekeeping of the user service failed; it is tried again");
        }
    }
}
