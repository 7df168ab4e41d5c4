//! Access tokens: JWT signed with Ed25519 (`alg` EdDSA).
//!
//! Never here: refresh tokens, where keys are kept. The user service signs; everybody verifies. `jsonwebtoken` comes without a
//! cryptography of its own (one needs cmake, the other an unmaintained RSA), so it gets ours: ed25519-dalek.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Once, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use contract::{CustomerId, Timestamp};
use ed25519_dalek::{Signature, SignatureError, SigningKey, VerifyingKey};
use eventlog::Env;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result as JwtResult},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Caller, Role, remote::Rounds};
use crate::http::Problem;

/// One key that tokens may be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The key's name in a token's header.
    pub kid: String,
    pub key: VerifyingKey,
}

/// The JWK set of these keys, as served at `/.well-known/jwks.json`.
pub fn jwks(keys: &[PublicKey]) -> Value {
    let keys = keys.iter().map(|PublicKey { kid, key }| {
        let x = URL_SAFE_NO_PAD.encode(key.as_bytes());
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x })
    });
    json!({ "keys": keys.collect::<Vec<_>>() })
}

/// What accounts may do whose role was changed a moment ago: a token that says something else is refused.
pub type Roles = HashMap<CustomerId, Role>;

/// The same set with these roles beside the keys; RFC 7517 lets readers pass over members that they do not know.
pub fn jwks_with(keys: &[PublicKey], roles: &Roles) -> Value {
    let mut set = jwks(keys);
    set["roles"] = json!(roles);
    set
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: CustomerId,
    role: Role,
    /// Seconds since the epoch, like `exp` and `nbf`.
    iat: i64,
    nbf: i64,
    exp: i64,
}

fn seconds(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000_000)
}

/// Signs access tokens. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    inner: Arc<SignerInner>,
}

struct SignerInner {
    public: PublicKey,
    key: EncodingKey,
    issuer: String,
    audience: String,
    env: Env,
}

impl Signer {
    pub fn new(
        kid: impl Into<String>,
        key: &SigningKey,
        issuer: impl Into<String>,
        audience: impl Into<String>,
        env: Env,
    ) -> Self {
        install();
        let public = PublicKey { kid: kid.into(), key: key.verifying_key() };
        let key = EncodingKey::from_ed_der(key.as_bytes());
        Self { inner: Arc::new(SignerInner { public, key, issuer: issuer.into(), audience: audience.into(), env }) }
    }

    /// A token that says who its bearer is for as long as `ttl`.
    pub fn sign(&self, id: CustomerId, role: Role, ttl: Duration) -> String {
        let inner = &*self.inner;
        let now = inner.env.now();
        let header = Header { kid: Some(inner.public.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let (iat, exp) = (seconds(now), seconds(now.plus(ttl)));
        let claims = Claims { iss: inner.issuer.clone(), aud: inner.audience.clone(), sub: id, role, iat, nbf: iat, exp };
        jsonwebtoken::encode(&header, &claims, &inner.key).expect("the claims are JSON and the key is an Ed25519 key")
    }

    pub fn public(&self) -> PublicKey {
        self.inner.public.clone()
    }

    pub fn jwks(&self) -> Value {
        jwks(&[self.public()])
    }
}

/// Verifies access tokens, and remembers those that it has verified: a signature costs 50 us. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<VerifierInner>,
}

struct VerifierInner {
    /// None until the first of them are known.
    keys: RwLock<Option<Keys>>,
    validation: Validation,
    verified: RwLock<Verified>,
    roles: RwLock<Roles>,
    env: Env,
    /// When it was last said that a token is not valid yet.
    told: AtomicI64,
    /// Where more keys come from, if they are not this process' own.
    rounds: Option<Rounds>,
}

type Keys = HashMap<String, VerifyingKey>;

/// Why a token says nothing of its bearer.
enum Unverified {
    /// It is not good.
    Bad,
    /// Nobody here knows its key.
    UnknownKey,
    /// No key is known at all yet.
    NoKeys,
}

impl From<Unverified> for Problem {
    fn from(why: Unverified) -> Self {
        match why {
            Unverified::Bad | Unverified::UnknownKey => Self::unauthorized(),
            Unverified::NoKeys => Self::unavailable("tokens can't be checked yet: the user service is away; nothing was changed")
                .coded("keys_unavailable"),
        }
    }
}

/// How many verified tokens each of the two generations holds; about 100 bytes each.
const VERIFIED_MAX: usize = 8_192;
/// No token of ours is longer; what is longer is not looked at.
const TOKEN_BYTES_MAX: usize = 2_048;
/// How far the clock of a signer may be ahead: two machines whose time is looked after differ by far less.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// How often it is said that one is further ahead.
const TELL_EVERY: Duration = Duration::from_secs(60);

type Known = HashMap<[u8; 32], (Caller, i64)>;

/// Two generations: when the younger one is full it becomes the older one, and that is forgotten.
#[derive(Default)]
struct Verified {
    young: Known,
    old: Known,
}

impl Verifier {
    /// Verifies by given keys; others may follow by [`Verifier::set_keys`].
    pub fn new(keys: Vec<PublicKey>, issuer: &str, audience: &str, env: Env) -> Self {
        Self::of(Some(by_name(keys)), issuer, audience, env, None)
    }

    pub(super) fn of(keys: Option<Keys>, issuer: &str, audience: &str, env: Env, rounds: Option<Rounds>) -> Self {
        install();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.required_spec_claims =
            ["iss", "aud", "exp", "nbf", "sub"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
        // It would ask the machine for the time; ours is a parameter.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let keys = RwLock::new(keys);
        let (verified, roles, told) = Default::default();
        Self { inner: Arc::new(VerifierInner { keys, validation, verified, roles, env, told, rounds }) }
    }

    /// Changes the keys; tokens of keys that are gone are refused from now on.
    pub fn set_keys(&self, keys: Vec<PublicKey>) {
        let new = Some(by_name(keys));
        let mut keys = self.inner.keys.write().unwrap_or_else(PoisonError::into_inner);
        if *keys != new {
            *keys = new;
            *self.inner.verified.write().unwrap_or_else(PoisonError::into_inner) = Verified::default();
        }
    }

    /// Changes the roles that were changed a moment ago: all of them.
    pub fn set_roles(&self, roles: Roles) {
        *self.inner.roles.write().unwrap_or_else(PoisonError::into_inner) = roles;
    }

    /// Takes note of one more role that was changed, without waiting for the next round.
    pub fn set_role(&self, id: CustomerId, role: Role) {
        self.inner.roles.write().unwrap_or_else(PoisonError::into_inner).insert(id, role);
    }

    pub(super) fn has_keys(&self) -> bool {
        self.inner.keys.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Who bears this token, by the keys at hand.
    ///
    /// # Errors
    /// 401, without saying what is wrong with it; 503 while no key is known.
    pub fn verify(&self, token: &str) -> Result<Caller, Problem> {
        Ok(self.look(token)?)
    }

    /// The same; a token with a key that is not known here is worth asking for newer ones.
    pub(super) async fn admit(&self, token: &str) -> Result<Caller, Problem> {
        match (self.look(token), &self.inner.rounds) {
            (Err(Unverified::UnknownKey), Some(rounds)) => {
                rounds.next(&self.inner.env).await;
                self.verify(token)
            }
            (looked, _) => Ok(looked?),
        }
    }

    fn look(&self, token: &str) -> Result<Caller, Unverified> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unverified::Bad);
        }
        let now = self.inner.env.now();
        let hash = *blake3::hash(token.as_bytes()).as_bytes();
        let (caller, expires) = match self.known(&hash) {
            Some(known) => known,
            None => {
                let verified = self.decode(token, now)?;
                self.remember(hash, verified);
                verified
            }
        };
        let roles = self.inner.roles.read().unwrap_or_else(PoisonError::into_inner);
        let has_another_role = roles.get(&caller.id).is_some_and(|role| *role != caller.role);
        if expires <= seconds(now) || has_another_role { Err(Unverified::Bad) } else { Ok(caller) }
    }

    fn decode(&self, token: &str, now: Timestamp) -> Result<(Caller, i64), Unverified> {
        let bad = |_| Unverified::Bad;
        let kid = jsonwebtoken::decode_header(token).map_err(bad)?.kid.ok_or(Unverified::Bad)?;
        let keys = self.inner.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.as_ref().ok_or(Unverified::NoKeys)?.get(&kid).ok_or(Unverified::UnknownKey)?;
        let key = DecodingKey::from_ed_der(key.as_bytes());
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &self.inner.validation).map_err(bad)?.claims;
        if claims.nbf > seconds(now.plus(CLOCK_SKEW)) {
            self.tell_of_clocks(claims.nbf - seconds(now), now);
            return Err(Unverified::Bad);
        }
        Ok((Caller { id: claims.sub, role: claims.role }, claims.exp))
    }

    /// It is signed as it should be, so it is no forger's: one of two clocks is wrong. Said to the operator, never to the bearer.
    fn tell_of_clocks(&self, ahead_s: i64, now: Timestamp) {
        let last = Timestamp(self.inner.told.load(Ordering::Relaxed));
        if now.since(last) >= TELL_EVERY {
            self.inner.told.store(now.0, Ordering::Relaxed);
            tracing::error!(
                ahead_s,
                "tokens are refused that begin later than now: the clock of the user service is ahead, or this one is behind"
            );
        }
    }

    fn known(&self, hash: &[u8; 32]) -> Option<(Caller, i64)> {
        let verified = self.inner.verified.read().unwrap_or_else(PoisonError::into_inner);
        verified.young.get(hash).or_else(|| verified.old.get(hash)).copied()
    }

    fn remember(&self, hash: [u8; 32], known: (Caller, i64)) {
        let mut verified = self.inner.verified.write().unwrap_or_else(PoisonError::into_inner);
        if verified.young.len() >= VERIFIED_MAX {
            verified.old = std::mem::take(&mut verified.young);
        }
        verified.young.insert(hash, known);
    }
}

fn by_name(keys: Vec<PublicKey>) -> Keys {
    keys.into_iter().map(|PublicKey { kid, key }| (kid, key)).collect()
}

/// Gives `jsonwebtoken` its cryptography, once a process.
fn install() {
    static INSTALLED: Once = Once::new();
    // Refused only if somebody else installed one before, and nobody does.
    INSTALLED.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match algorithm {
        Algorithm::EdDSA => {
            let seed = key.as_bytes().try_into().map_err(|_| ErrorKind::InvalidEddsaKey)?;
            Ok(Box::new(Ed25519Signer(SigningKey::from_bytes(seed))))
        }
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    verifier_factory: |algorithm, key| match algorithm {
        Algorithm::EdDSA => Ok(Box::new(verifier(key)?)),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

fn verifier(key: &DecodingKey) -> JwtResult<Ed25519Verifier> {
    let bytes = key.try_get_as_bytes()?.try_into().map_err(|_| ErrorKind::InvalidEddsaKey)?;
    Ok(Ed25519Verifier(VerifyingKey::from_bytes(bytes).map_err(|_| ErrorKind::InvalidEddsaKey)?))
}

struct Ed25519Signer(SigningKey);

impl ed25519_dalek::Signer<Vec<u8>> for Ed25519Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let signature: Signature = self.0.try_sign(message)?;
        Ok(signature.to_vec())
    }
}

impl JwtSigner for Ed25519Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct Ed25519Verifier(VerifyingKey);

impl ed25519_dalek::Verifier<Vec<u8>> for Ed25519Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        // Strict: one message has one signature, so that a token can't be told from itself.
        self.0.verify_strict(message, &Signature::from_slice(signature)?)
    }
}

impl JwtVerifier for Ed25519Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
