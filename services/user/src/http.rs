//! The REST door: DTOs, what each refusal answers, and the flow of a login.
//!
//! Never here: rules, SQL. Work goes through the writer to `handler.rs`; reads go to `store.rs`.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
};
use contract::{CustomerId, Meta, Timestamp, Trace};
use eventlog::{Answer, Job, Writer};
use kit::{
    auth::{Caller, MaybeCaller, Role},
    http::{ApiResult, FieldError, Json, Path, Peer, Problem, Query, Routes, Traced},
    text,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::{
    config::Config,
    domain::{self, Change, RefreshToken, Refusal, User},
    handler::{Done, Handler, TokenHash, Work},
    keys::Keyring,
    limiter::Limiter,
    newcomers::Newcomers,
    password::{Passwords, secret_text},
    store, vault,
};

/// What the handlers share.
pub(crate) struct Desk {
    pub writer: Writer<Handler>,
    pub keyring: Arc<Keyring>,
    pub passwords: Passwords,
    pub limiter: Limiter,
    pub newcomers: Newcomers,
    pub config: Config,
    pub logins: Family<Login, Counter>,
}

/// The label of `user_logins_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Login {
    outcome: &'static str,
}

type Shared = State<Arc<Desk>>;

pub(crate) fn routes(desk: Arc<Desk>) -> Routes {
    utoipa_axum::router::OpenApiRouter::default()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(read_profile, change_profile))
        .routes(routes!(accounts))
        .routes(routes!(change_role))
        .routes(routes!(jwks))
        .with_state(desk)
}

/// The one table of what a refusal answers.
fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::EmailTaken => Problem::conflict("email_taken", "another account has this e-mail address"),
        Refusal::UnknownUser => Problem::not_found(),
        Refusal::InvalidRefreshToken => {
            let detail = "the refresh token is unknown, expired, revoked or was used before: log in again";
            Problem::new(StatusCode::UNAUTHORIZED, "invalid_refresh_token", detail)
        }
        Refusal::LastAdmin => {
            Problem::conflict("last_admin", "nobody else could give roles any more: make somebody else an admin first")
        }
        Refusal::AdminExists => Problem::conflict("admin_exists", "there is an admin already"),
        Refusal::SessionsEnded => {
            let detail = "the password was changed, or all sessions were ended, while this was under way: nothing was done";
            Problem::conflict("sessions_ended", detail)
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Registration {
    /// Kept composed (NFC) and in lower case; it belongs to one account however it is typed.
    #[schema(
        max_length = 254,
        pattern = "^[^@\\s\\x00-\\x1f\\x7f]+@[^@.\\s\\x00-\\x1f\\x7f]+(\\.[^@.\\s\\x00-\\x1f\\x7f]+)*$",
        example = "ann@example.com"
    )]
    email: String,
    /// Compared composed (NFC), so that it is the same from any keyboard.
    #[schema(min_length = 12, max_length = 128, pattern = "^[^\\x00-\\x1f\\x7f]*$", example = "correct horse battery")]
    password: String,
    #[schema(min_length = 1, max_length = 200, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$", example = "Ann")]
    name: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Credentials {
    #[schema(
        max_length = 254,
        pattern = "^[^@\\s\\x00-\\x1f\\x7f]+@[^@.\\s\\x00-\\x1f\\x7f]+(\\.[^@.\\s\\x00-\\x1f\\x7f]+)*$",
        example = "ann@example.com"
    )]
    email: String,
    #[schema(example = "correct horse battery")]
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Refresh {
    refresh_token: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProfileChange {
    #[schema(min_length = 1, max_length = 200, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$")]
    name: Option<String>,
    /// Needs `current_password`.
    #[schema(max_length = 254, pattern = "^[^@\\s\\x00-\\x1f\\x7f]+@[^@.\\s\\x00-\\x1f\\x7f]+(\\.[^@.\\s\\x00-\\x1f\\x7f]+)*$")]
    email: Option<String>,
    /// Needs `current_password`; ends all sessions.
    #[schema(min_length = 12, max_length = 128, pattern = "^[^\\x00-\\x1f\\x7f]*$")]
    password: Option<String>,
    current_password: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoleChange {
    role: Role,
    /// Why, for the log.
    #[schema(min_length = 1, max_length = 500, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$", example = "joins the support team")]
    reason: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AccountsQuery {
    /// The address of an account.
    #[param(max_length = 254)]
    email: String,
}

/// An account as its owner sees it.
#[derive(Serialize, ToSchema)]
struct Profile {
    id: Uuid,
    email: String,
    name: String,
    role: Role,
    #[schema(value_type = String, format = DateTime)]
    registered_at: Timestamp,
}

impl From<User> for Profile {
    fn from(user: User) -> Self {
        let User { id, email, name, role, registered, .. } = user;
        Self { id: id.0, email, name, role, registered_at: registered }
    }
}

/// What a login or a refresh gives.
#[derive(Serialize, ToSchema)]
struct Tokens {
    access_token: String,
    /// Good for one refresh; keep it secret.
    refresh_token: String,
    /// Always `Bearer`.
    token_type: &'static str,
    /// Seconds that the access token holds.
    expires_in: u32,
}

pub(crate) const REASON_CHARS_MAX: usize = 500;
const NO_STORE: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

/// Collects what is wrong with the fields of a request, so that all of it is told at once.
#[derive(Default)]
struct Fields(Vec<FieldError>);

impl Fields {
    fn check<T: Default>(&mut self, field: &str, checked: Result<T, String>) -> T {
        checked.unwrap_or_else(|detail| {
            self.0.push(FieldError { field: field.to_owned(), detail });
            T::default()
        })
    }

    fn done(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::unprocessable(self.0)) }
    }
}

/// A new account, checked but without its password's hash.
pub(crate) fn new_user(id: CustomerId, email: &str, password: &str, name: &str, role: Role) -> Result<User, Problem> {
    let mut fields = Fields::default();
    let email = fields.check("email", domain::email(email));
    fields.check("password", domain::password(password));
    let name = fields.check("name", domain::name(name));
    fields.done()?;
    Ok(User { id, version: 0, email, name, password: String::new(), role, registered: Timestamp::default(), sessions_ended: 0 })
}

impl Desk {
    async fn request(&self, work: Work, actor: Option<String>, trace: Trace) -> ApiResult<Done> {
        let job = Job { work, meta: Meta { trace, actor, ..Meta::default() } };
        match self.writer.request(job, None).await? {
            Answer::Done(Done::Refused(refusal)) => Err(refused(refusal)),
            Answer::Done(done) => Ok(done),
            Answer::Repeated(_) | Answer::KeyReused => unreachable!("no key was given"),
        }
    }

    async fn request_user(&self, work: Work, actor: Option<String>, trace: Trace) -> ApiResult<User> {
        match self.request(work, actor, trace).await? {
            Done::User(user) => Ok(*user),
            done => unreachable!("an account was asked for, not {done:?}"),
        }
    }

    fn now(&self) -> Timestamp {
        self.writer.log().env().now()
    }

    /// The account, if this is its password. What fails is counted, and takes as long for an account that does not exist.
    async fn authenticate(&self, email: &str, password: String, address: Option<IpAddr>) -> ApiResult<Option<User>> {
        let limited = |wait| {
            self.count("limited");
            Problem::too_many("too_many_logins", "too many failed logins; come back later", wait)
        };
        // Before the queue for a hasher, so that whoever has to wait anyway does not stand in it.
        self.limiter.check(email, address, self.now()).map_err(limited)?;
        let user = store::by_email(self.writer.log(), &domain::spellings(email)).await?;
        let turn = self.passwords.turn().await?;
        let attempt = self.limiter.begin(email, address, self.now()).map_err(limited)?;
        let hash = user.as_ref().map(|user| user.password.clone());
        if !turn.verify(password, hash).await? {
            self.count("failed");
            return Ok(None);
        }
        self.limiter.succeeded(attempt);
        Ok(user)
    }

    fn count(&self, outcome: &'static str) {
        self.logins.get_or_create(&Login { outcome }).inc();
    }

    fn tokens(&self, user: &User, refresh_token: String) -> impl IntoResponse + use<> {
        let access_token = self.keyring.sign(user.id, user.role, &self.config);
        (NO_STORE, Json(Tokens { access_token, refresh_token, token_type: "Bearer", expires_in: self.config.access_token_s }))
    }
}

/// Refresh tokens are 256 random bits: a plain hash can't be guessed back.
fn token_hash(token: &str) -> TokenHash {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// Makes an account of a customer.
#[utoipa::path(post, path = "/v1/register", request_body = Registration, responses(
    (status = 201, body = Profile), (status = 409, description = "`email_taken`"), (status = 422, description = "`invalid`"),
    (status = 429, description = "`too_many_registrations`: more than 200 from the address in 15 minutes"),
    (status = 503, description = "`overloaded`: too many register at once")))]
async fn register(
    State(desk): Shared,
    Peer(address): Peer,
    Traced(trace): Traced,
    Json(Registration { email, password, name }): Json<Registration>,
) -> ApiResult<impl IntoResponse> {
    let id = CustomerId(desk.writer.log().env().id());
    let mut user = new_user(id, &email, &password, &name, Role::Customer)?;
    user.registered = desk.now();
    let limited = |wait| {
        let detail = "too many registrations from this address; come back later";
        Problem::too_many("too_many_registrations", detail, wait)
    };
    desk.limiter.register(address, desk.now()).map_err(limited)?;
    let share = desk.newcomers.turn().await?;
    user.password = desk.passwords.hash_with(password, share).await?;
    let actor = Caller { id, role: Role::Customer }.actor();
    let user = desk.request_user(Work::Register(Box::new(user)), Some(actor), trace).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, "/v1/profile")], Json(Profile::from(user))))
}

/// Gives an access token and a refresh token for an address and a password.
#[utoipa::path(post, path = "/v1/login", request_body = Credentials, responses(
    (status = 200, body = Tokens), (status = 401, description = "`invalid_credentials`"),
    (status = 409, description = "`sessions_ended`: the password was changed, or all sessions were ended, meanwhile"),
    (status = 429, description = "`too_many_logins`: more than 10 failed for the account or 100 from the address in 15 minutes")))]
async fn login(
    State(desk): Shared,
    Peer(address): Peer,
    Traced(trace): Traced,
    Json(Credentials { email, password }): Json<Credentials>,
) -> ApiResult<impl IntoResponse> {
    let email = domain::typed_email(&email).map_err(|detail| Problem::invalid("email", detail))?;
    let Some(user) = desk.authenticate(&email, password, address).await? else {
        let detail = "no account has this e-mail address and password";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "invalid_credentials", detail));
    };
    let refresh_token = secret_text();
    let (hash, family) = (token_hash(&refresh_token), desk.writer.log().env().id());
    let expires = desk.now().plus(desk.config.refresh_token());
    let kept = RefreshToken { hash, family, user_id: user.id, expires, used: false, successor: None };
    let opened = desk.request_user(Work::Issue(user.proof(), kept), None, trace).await;
    desk.count(if opened.is_ok() { "succeeded" } else { "failed" });
    let user = opened?;
    Ok(desk.tokens(&user, refresh_token))
}

/// Gives new tokens for a refresh token, which is good once. Whoever shows it again within 10 seconds gets the same refresh token again, as
/// an answer may be lost; whoever shows it later ends all that came out of its login.
#[utoipa::path(post, path = "/v1/refresh", request_body = Refresh, responses(
    (status = 200, body = Tokens), (status = 401, description = "`invalid_refresh_token`")))]
async fn refresh(
    State(desk): Shared,
    Traced(trace): Traced,
    Json(Refresh { refresh_token }): Json<Refresh>,
) -> ApiResult<impl IntoResponse> {
    let next = secret_text();
    let (shown, sealed) = (token_hash(&refresh_token), vault::seal_successor(&refresh_token, &next));
    let work = Work::Rotate { shown, next: token_hash(&next), sealed, holds: desk.config.refresh_token() };
    match desk.request(work, None, trace).await? {
        Done::User(user) => Ok(desk.tokens(&user, next)),
        Done::Again(user, sealed) => {
            let same = vault::open_successor(&refresh_token, &sealed).ok_or_else(|| {
                tracing::error!(user.id = %user.id, "the successor of a refresh token can't be read");
                Problem::internal()
            })?;
            Ok(desk.tokens(&user, same))
        }
        done => unreachable!("an account was asked for, not {done:?}"),
    }
}

/// Ends the session of a refresh token; without a body, all sessions of the caller. Access tokens hold until they expire.
#[utoipa::path(post, path = "/v1/logout", request_body(content = Option<Refresh>), responses((status = 204),
    (status = 401, description = "neither a refresh token nor a caller")), security((), ("bearer" = [])))]
async fn logout(
    State(desk): Shared,
    MaybeCaller(caller): MaybeCaller,
    Traced(trace): Traced,
    body: Option<Json<Refresh>>,
) -> ApiResult<StatusCode> {
    let work = match (body, caller) {
        (Some(Json(Refresh { refresh_token })), _) => Work::Revoke(token_hash(&refresh_token)),
        (None, Some(caller)) => Work::RevokeAll(caller.id),
        (None, None) => return Err(Problem::unauthorized()),
    };
    desk.request(work, None, trace).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's account.
#[utoipa::path(get, path = "/v1/profile", responses((status = 200, body = Profile), (status = 401)), security(("bearer" = [])))]
async fn read_profile(State(desk): Shared, caller: Caller) -> ApiResult<Json<Profile>> {
    let user = store::by_id(desk.writer.log(), caller.id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(user.into()))
}

/// Changes the caller's account; what is not named stays as it is.
#[utoipa::path(patch, path = "/v1/profile", request_body = ProfileChange, responses(
    (status = 200, body = Profile), (status = 409, description = "`email_taken`, `sessions_ended`"),
    (status = 422, description = "`invalid`"),
    (status = 429, description = "`too_many_logins`: a wrong `current_password` counts as a failed login")),
    security(("bearer" = [])))]
async fn change_profile(
    State(desk): Shared,
    caller: Caller,
    Peer(address): Peer,
    Traced(trace): Traced,
    Json(ProfileChange { name, email, password, current_password }): Json<ProfileChange>,
) -> ApiResult<Json<Profile>> {
    let mut fields = Fields::default();
    let name = name.map(|name| fields.check("name", domain::name(&name)));
    let email = email.map(|email| fields.check("email", domain::email(&email)));
    password.iter().for_each(|password| fields.check("password", domain::password(password)));
    if (email.is_some() || password.is_some()) && current_password.is_none() {
        fields.check("current_password", Err::<(), _>("is needed to change the address or the password".to_owned()));
    }
    fields.done()?;
    let proof = match current_password.filter(|_| email.is_some() || password.is_some()) {
        Some(current) => {
            let user = store::by_id(desk.writer.log(), caller.id).await?.ok_or_else(Problem::not_found)?;
            match desk.authenticate(&user.email, current, address).await?.filter(|owner| owner.id == caller.id) {
                Some(owner) => Some(owner.proof()),
                None => return Err(Problem::invalid("current_password", "is not your password")),
            }
        }
        None => None,
    };
    let password = match password {
        Some(password) => Some(desk.passwords.hash(password).await?),
        None => None,
    };
    let work = Work::Change(caller.id, Change { name, email, password, proof });
    Ok(Json(desk.request_user(work, Some(caller.actor()), trace).await?.into()))
}

/// Finds the account of an address, to be given another role. For admins.
#[utoipa::path(get, path = "/v1/users", params(AccountsQuery), responses(
    (status = 200, body = Profile), (status = 403, description = "not an admin"), (status = 404)), security(("bearer" = [])))]
async fn accounts(
    State(desk): Shared,
    caller: Caller,
    Query(AccountsQuery { email }): Query<AccountsQuery>,
) -> ApiResult<Json<Profile>> {
    caller.require(Role::Admin)?;
    let email = domain::typed_email(&email).map_err(|detail| Problem::invalid("email", detail))?;
    let user = store::by_email(desk.writer.log(), &domain::spellings(&email)).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(user.into()))
}

/// Gives an account another role. Tokens that say the old one are refused within a minute, everywhere; a refresh gives one that says the
/// new one. Recorded with who and why. For admins.
#[utoipa::path(patch, path = "/v1/users/{id}/role", request_body = RoleChange, params(("id" = Uuid, Path)), responses(
    (status = 200, body = Profile), (status = 403, description = "not an admin"), (status = 404),
    (status = 409, description = "`last_admin`"), (status = 422, description = "`invalid`")), security(("bearer" = [])))]
async fn change_role(
    State(desk): Shared,
    caller: Caller,
    Traced(trace): Traced,
    Path(id): Path<CustomerId>,
    Json(RoleChange { role, reason }): Json<RoleChange>,
) -> ApiResult<Json<Profile>> {
    caller.require(Role::Admin)?;
    let reason = text::line(&reason, REASON_CHARS_MAX).map_err(|detail| Problem::invalid("reason", detail))?;
    let user = desk.request_user(Work::Role { id, role, reason }, Some(caller.actor()), trace).await?;
    desk.keyring.verifier().set_role(user.id, user.role);
    Ok(Json(user.into()))
}

/// The public keys that access tokens are verified with: the one that signs, the next one, and those retired a moment ago. Beside
/// them `roles`: accounts whose role was changed a moment ago, with the new one; a token that says another is not to be believed.
#[utoipa::path(get, path = "/.well-known/jwks.json", responses((status = 200, description = "A JWK set (RFC 7517)")))]
async fn jwks(State(desk): Shared) -> ApiResult<impl IntoResponse> {
    let roles = crate::roles(&desk.writer, desk.config.access_token()).await?;
    // Not longer than a role that was taken away may go on being believed.
    Ok(([(header::CACHE_CONTROL, "public, max-age=15")], Json(desk.keyring.jwks(&roles))))
}
