//! Who calls: the token of a request, checked, as a [`Caller`].
//!
//! Never here: passwords, accounts, which object is whose; the user service signs, each service looks after its own objects.
//! From here a handler gets its `Caller` and asks it for a role.

mod remote;
mod token;

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use contract::CustomerId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use remote::{JwksUrl, read_jwks, read_roles};
pub use token::{PublicKey, Roles, Signer, Verifier, jwks, jwks_with};

use crate::http::Problem;

/// Who signs our tokens (`iss`).
pub const ISSUER: &str = "skald";
/// Whom they are for (`aud`).
pub const AUDIENCE: &str = "skald-api";

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Their own orders.
    Customer,
    /// Reads every order, payment and saga, and steers sagas.
    Operator,
    /// An operator who also keeps the catalogue and the accounts.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Customer, Self::Operator, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }

    /// Whether everybody's orders, payments and sagas may be read.
    pub fn reads_everything(self) -> bool {
        match self {
            Self::Customer => false,
            Self::Operator | Self::Admin => true,
        }
    }

    /// Whether one who has this role may do what `needed` may: an admin is an operator too; nobody else is two things.
    fn includes(self, needed: Self) -> bool {
        self == needed || (self == Self::Admin && needed == Self::Operator)
    }
}

/// Who sent a request with a valid token. As an extractor: 401 without one, 503 while no key
/// to check it with is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub id: CustomerId,
    pub role: Role,
}

impl Caller {
    /// # Errors
    /// 403 for another role; an admin passes as an operator.
    pub fn require(&self, role: Role) -> Result<(), Problem> {
        if self.role.includes(role) { Ok(()) } else { Err(Problem::forbidden()) }
    }

    /// Whether something of `owner` may be read: one's own, or anything for operators.
    pub fn may_read(&self, owner: CustomerId) -> bool {
        self.id == owner || self.role.reads_everything()
    }

    /// The `actor` of what this caller starts.
    pub fn actor(&self) -> String {
        format!("{}:{}", self.role.as_str(), self.id)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let token = bearer(parts).ok_or_else(Problem::unauthorized)?;
        let Some(verifier) = parts.extensions.get::<Verifier>() else {
            tracing::error!("a route that needs a caller is served without a verifier");
            return Err(Problem::internal());
        };
        verifier.admit(token).await
    }
}

/// Who sent a request, if they say so; a token that is not valid counts as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeCaller(pub Option<Caller>);

impl<S: Send + Sync> FromRequestParts<S> for MaybeCaller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self(Caller::from_request_parts(parts, state).await.ok()))
    }
}

fn bearer(parts: &Parts) -> Option<&str> {
    let (scheme, token) = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
