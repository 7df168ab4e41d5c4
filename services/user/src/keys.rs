//! The signing keys in memory: the one that signs, and all that are published.
//!
//! Never here: where they are kept. `lib.rs` loads and rotates them through the writer; `http.rs` signs with them.

use std::sync::{PoisonError, RwLock};

use contract::{CustomerId, Timestamp};
use eventlog::Env;
use kit::auth::{AUDIENCE, ISSUER, PublicKey, Role, Signer, Verifier};

use crate::{config::Config, domain::SigningKey};

/// Signs tokens, and knows what verifies them.
pub(crate) struct Keyring {
    current: RwLock<Current>,
    verifier: Verifier,
    env: Env,
}

struct Current {
    signer: Signer,
    published: Vec<PublicKey>,
}

fn secret(key: &SigningKey) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&key.seed)
}

impl Current {
    fn of(keys: &[SigningKey], env: &Env) -> Self {
        let signing = keys.first().expect("a keyring has a key that signs");
        let published = keys.iter().map(|key| PublicKey { kid: key.kid.clone(), key: secret(key).verifying_key() }).collect();
        Self { signer: Signer::new(signing.kid.clone(), &secret(signing), ISSUER, AUDIENCE, env.clone()), published }
    }
}

impl Keyring {
    pub(crate) fn new(keys: &[SigningKey], env: Env) -> Self {
        let current = Current::of(keys, &env);
        let verifier = Verifier::new(current.published.clone(), ISSUER, AUDIENCE, env.clone());
        Self { current: RwLock::new(current), verifier, env }
    }

    /// Goes over to other keys, if they are others.
    pub(crate) fn change(&self, keys: &[SigningKey]) {
        let new = Current::of(keys, &self.env);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if new.published != current.published {
            self.verifier.set_keys(new.published.clone());
            *current = new;
        }
    }

    pub(crate) fn sign(&self, id: CustomerId, role: Role, config: &Config) -> String {
        self.read().signer.sign(id, role, config.access_token())
    }

    pub(crate) fn jwks(&self) -> serde_json::Value {
        kit::auth::jwks(&self.read().published)
    }

    pub(crate) fn verifier(&self) -> Verifier {
        self.verifier.clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two new keys, for whoever decides to need them.
pub(crate) fn fresh(env: &Env) -> Box<[SigningKey; 2]> {
    let now = env.now();
    Box::new([key(env, now), key(env, now)])
}

fn key(env: &Env, made: Timestamp) -> SigningKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the operating system has randomness");
    SigningKey { kid: env.id().to_string(), seed, made, signs_from: None, retired: None }
}
