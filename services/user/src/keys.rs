//! The signing keys in memory: the one that signs, and all that are published.
//!
//! Never here: where they are kept. `lib.rs` loads and rotates them through the writer; `http.rs` signs with them.

use std::sync::{PoisonError, RwLock};

use contract::{CustomerId, Timestamp};
use eventlog::Env;
use kit::auth::{AUDIENCE, ISSUER, PublicKey, Role, Roles, Signer, Verifier};

use crate::{config::Config, domain::SigningKey, vault::Vault};

/// Signs tokens, and knows what verifies them.
pub(crate) struct Keyring {
    current: RwLock<Current>,
    verifier: Verifier,
    vault: Vault,
    env: Env,
}

struct Current {
    signer: Signer,
    published: Vec<PublicKey>,
}

impl Current {
    fn of(keys: &[SigningKey], vault: &Vault, env: &Env) -> Result<Self, String> {
        let secret =
            |key: &SigningKey| Ok((key.kid.clone(), ed25519_dalek::SigningKey::from_bytes(&vault.open(&key.kid, &key.seed)?)));
        let secrets: Vec<_> = keys.iter().map(secret).collect::<Result<_, String>>()?;
        let published = secrets.iter().map(|(kid, key)| PublicKey { kid: kid.clone(), key: key.verifying_key() }).collect();
        let (kid, signing) = secrets.first().expect("a keyring has a key that signs");
        Ok(Self { signer: Signer::new(kid.clone(), signing, ISSUER, AUDIENCE, env.clone()), published })
    }
}

impl Keyring {
    /// # Errors
    /// Why the keys can't be read, for the person at the keyboard.
    pub(crate) fn new(keys: &[SigningKey], vault: Vault, env: Env) -> Result<Self, String> {
        let current = Current::of(keys, &vault, &env)?;
        let verifier = Verifier::new(current.published.clone(), ISSUER, AUDIENCE, env.clone());
        Ok(Self { current: RwLock::new(current), verifier, vault, env })
    }

    /// Goes over to other keys, if they are others.
    ///
    /// # Errors
    /// Why they can't be read; those at hand go on being used.
    pub(crate) fn change(&self, keys: &[SigningKey]) -> Result<(), String> {
        let new = Current::of(keys, &self.vault, &self.env)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if new.published != current.published {
            self.verifier.set_keys(new.published.clone());
            *current = new;
        }
        Ok(())
    }

    pub(crate) fn sign(&self, id: CustomerId, role: Role, config: &Config) -> String {
        self.read().signer.sign(id, role, config.access_token())
    }

    /// The published keys, with what was changed of roles a moment ago.
    pub(crate) fn jwks(&self, roles: &Roles) -> serde_json::Value {
        kit::auth::jwks_with(&self.read().published, roles)
    }

    pub(crate) fn verifier(&self) -> Verifier {
        self.verifier.clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two new keys, for whoever decides to need them.
pub(crate) fn fresh(env: &Env, vault: &Vault) -> Box<[SigningKey; 2]> {
    let now = env.now();
    Box::new([key(env, vault, now), key(env, vault, now)])
}

/// The same keys, with seeds sealed that lie open although there is a key file; `None` where there are none.
pub(crate) fn sealed(keys: &[SigningKey], vault: &Vault) -> Option<Vec<SigningKey>> {
    let open = keys.iter().filter(|key| vault.should_seal(&key.seed));
    let seal = |key: &SigningKey| {
        let seed = vault.open(&key.kid, &key.seed).ok()?;
        Some(SigningKey { seed: vault.seal(&key.kid, seed), ..key.clone() })
    };
    Some(open.filter_map(seal).collect::<Vec<_>>()).filter(|sealed| !sealed.is_empty())
}

fn key(env: &Env, vault: &Vault, made: Timestamp) -> SigningKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the operating system has randomness");
    let kid = env.id().to_string();
    SigningKey { seed: vault.seal(&kid, seed), kid, made, signs_from: None, retired: None }
}
