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
mod newcomers;
mod password;
mod store;
mod vault;

use std::{sync::Arc, time::Duration};

use contract::{CustomerId, Meta};
use eventlog::{Job, Log, Opened, Writer, WriterLimits};
use kit::{
    Metrics, Tasks,
    auth::{Role, Roles, Verifier},
    http::{Check, Routes},
};

pub use config::Config;
pub use handler::Handler;
pub use store::MIGRATIONS;

use crate::{
    domain::{Change, Refusal, SigningKey, User},
    handler::{Done, Work},
    keys::Keyring,
    limiter::Limiter,
    newcomers::Newcomers,
    password::{Passwords, secret_text},
    vault::Vault,
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
    #[error("{0}")]
    Seeds(String),
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

/// How often it is looked whose roles other replicas have changed: with what the other services add to it, a minute at most.
const ROLES_EVERY: Duration = Duration::from_secs(20);

/// Builds the service and starts its tasks.
///
/// # Errors
/// [`Error`]: all variants are for the person at the keyboard.
pub async fn build(deps: Deps) -> Result<Service, Error> {
    let Deps { opened, tasks, metrics, config } = deps;
    if !config.has_safe_passwords() {
        tracing::warn!("passwords are hashed at less than the safe cost: for tests and demos only");
    }
    let handler = Arc::new(Handler);
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    tasks.spawn("user.writer", task);
    let log = writer.log().clone();

    let vault = Vault::new(config.signing_key_file.as_ref());
    let now = keys(&writer, &vault, &config).await?;
    let keyring = Arc::new(Keyring::new(&now, vault.clone(), log.env().clone()).map_err(Error::Seeds)?);
    if let Some(sealed) = keys::sealed(&now, &vault) {
        tracing::info!(keys = sealed.len(), "signing keys lay in the database as they are; they are encrypted now");
        writer.submit(job(Work::Seal(sealed))).await?;
    }
    let passwords = Passwords::new(&config);
    let first_admin = first_admin(&writer, &passwords, &config).await?;
    let verifier = keyring.verifier();
    let follow = follow_roles(writer.clone(), verifier.clone(), config.access_token(), tasks.stopping().cancelled_owned());
    tasks.spawn("user.roles", follow);
    tasks.spawn(
        "user.housekeeping",
        housekeeping(writer.clone(), keyring.clone(), vault, config.clone(), tasks.stopping().cancelled_owned()),
    );

    let check = Check::new(NAME, move || {
        let log = log.clone();
        async move { store::ping(&log).await.map_err(|error| error.to_string()) }
    });
    let (limiter, newcomers) = (Limiter::new(&config), Newcomers::new(config.hashers()));
    let logins = prometheus_client::metrics::family::Family::default();
    metrics.register("user_logins", "Logins by outcome", logins.clone());
    let desk = http::Desk { writer: writer.clone(), keyring, passwords, limiter, newcomers, config, logins };
    Ok(Service { handler, writer, routes: http::routes(Arc::new(desk)), verifier, first_admin, check })
}

/// Why an account has no other role or password.
#[derive(Debug, thiserror::Error)]
pub enum NotGiven {
    #[error("no account has the address {0}")]
    Nobody(String),
    #[error("it is the last admin: make somebody else one first")]
    LastAdmin,
    #[error("{0}")]
    Reason(String),
    #[error("can't use the database of the user service")]
    Log(#[source] eventlog::Error),
}

impl From<eventlog::Error> for NotGiven {
    fn from(error: eventlog::Error) -> Self {
        Self::Log(error)
    }
}

/// Gives an account another role, in a process of its own beside the service's; tells whether it had another one.
///
/// # Errors
/// [`NotGiven`], for the person at the keyboard.
pub async fn give_role(
    opened: Opened,
    tasks: &Tasks,
    email: &str,
    role: Role,
    reason: &str,
    actor: String,
) -> Result<bool, NotGiven> {
    let reason = kit::text::line(reason, http::REASON_CHARS_MAX).map_err(|why| NotGiven::Reason(format!("the reason {why}")))?;
    let nobody = || NotGiven::Nobody(email.to_owned());
    let typed = domain::typed_email(email).map_err(|_| nobody())?;
    let (writer, task) = Writer::new(opened, Arc::new(Handler), WriterLimits::default());
    tasks.spawn("user.writer", task);
    let found = store::by_email(writer.log(), &domain::spellings(&typed)).await?.ok_or_else(nobody)?;
    let meta = Meta { actor: Some(actor), ..Meta::default() };
    match writer.submit(Job { work: Work::Role { id: found.id, role, reason }, meta }).await? {
        Done::User(changed) => Ok(changed.version > found.version),
        Done::Refused(Refusal::LastAdmin) => Err(NotGiven::LastAdmin),
        Done::Refused(_) => Err(nobody()),
        done => unreachable!("an account was asked for, not {done:?}"),
    }
}

/// Sets the password of an account, which ends all of its sessions, in a process of its own beside the service's.
///
/// # Errors
/// [`NotGiven`], for the person at the keyboard.
pub async fn set_password(opened: Opened, tasks: &Tasks, email: &str, password: &str, actor: String) -> Result<(), NotGiven> {
    domain::password(password).map_err(|why| NotGiven::Reason(format!("the password {why}")))?;
    let nobody = || NotGiven::Nobody(email.to_owned());
    let typed = domain::typed_email(email).map_err(|_| nobody())?;
    let failed = |problem: kit::http::Problem| NotGiven::Reason(problem.detail);
    let hash = Passwords::new(&Config::default()).hash(password.to_owned()).await.map_err(failed)?;
    let (writer, task) = Writer::new(opened, Arc::new(Handler), WriterLimits::default());
    tasks.spawn("user.writer", task);
    let found = store::by_email(writer.log(), &domain::spellings(&typed)).await?.ok_or_else(nobody)?;
    let change = Change { password: Some(hash), proof: Some(found.proof()), ..Change::default() };
    let meta = Meta { actor: Some(actor), ..Meta::default() };
    match writer.submit(Job { work: Work::Change(found.id, change), meta }).await? {
        Done::User(_) => Ok(()),
        Done::Refused(Refusal::SessionsEnded) => {
            Err(NotGiven::Reason("it was changed by somebody else meanwhile; try again".into()))
        }
        Done::Refused(_) => Err(nobody()),
        done => unreachable!("an account was asked for, not {done:?}"),
    }
}

fn job(work: Work) -> Job<Work> {
    Job { work, meta: Meta::default() }
}

/// The signing keys as they should be now.
async fn keys(writer: &Writer<Handler>, vault: &Vault, config: &Config) -> Result<Vec<SigningKey>, eventlog::Error> {
    let fresh = keys::fresh(writer.log().env(), vault);
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
    let has_admin = store::has_role(&mut reader.conn(), Role::Admin).await?;
    drop(reader);
    let failed = |problem: kit::http::Problem| Error::Admin(problem.detail);
    if has_admin {
        if let Some(password) = config.admin_password()
            && !is_in_force(log, passwords, &config.admin_email, password).await.map_err(failed)?
        {
            tracing::warn!(
                "the configured admin password is not in force: it was for the first admin, who was made before; nobody logs in with \
                 it and the configured address. `skald users password` sets one"
            );
        }
        return Ok(None);
    }
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

/// Takes note of roles that other replicas have changed.
async fn follow_roles(writer: Writer<Handler>, verifier: Verifier, token: Duration, stopping: impl Future<Output = ()>) {
    let mut stopping = std::pin::pin!(stopping);
    loop {
        match roles(&writer, token).await {
            Ok(roles) => verifier.set_roles(roles),
            Err(error) => tracing::warn!(%error, "can't read whose roles were changed; it is tried again"),
        }
        tokio::select! {
            () = &mut stopping => return,
            () = writer.log().env().sleep(ROLES_EVERY) => {}
        }
    }
}

/// The roles that were changed while a token that says something else may still hold.
pub(crate) async fn roles(writer: &Writer<Handler>, token: Duration) -> Result<Roles, eventlog::Error> {
    let log = writer.log();
    let since = log.env().now().minus(token + HOUSEKEEPING);
    store::roles_since(log, since).await
}

/// Whether somebody who logs in with the configured address and password comes in.
async fn is_in_force(log: &Log, passwords: &Passwords, email: &str, password: &str) -> Result<bool, kit::http::Problem> {
    let Ok(email) = domain::typed_email(email) else { return Ok(false) };
    let Some(user) = store::by_email(log, &domain::spellings(&email)).await? else { return Ok(false) };
    passwords.turn().await?.verify(password.to_owned(), Some(user.password)).await
}

async fn housekeeping(
    writer: Writer<Handler>,
    keyring: Arc<Keyring>,
    vault: Vault,
    config: Config,
    stopping: impl Future<Output = ()>,
) {
    let mut stopping = std::pin::pin!(stopping);
    loop {
        tokio::select! {
            () = &mut stopping => return,
            () = writer.log().env().sleep(HOUSEKEEPING) => {}
        }
        let kept = async {
            if let Err(why) = keyring.change(&keys(&writer, &vault, &config).await?) {
                tracing::warn!(
                    why,
                    "the signing keys were changed by another process and can't be read; those at hand go on being used"
                );
            }
            writer.submit(job(Work::Sweep { token: config.access_token() + HOUSEKEEPING })).await
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "housekeeping of the user service failed; it is tried again");
        }
    }
}
