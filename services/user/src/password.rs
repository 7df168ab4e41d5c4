//! Passwords: Argon2id, off the async threads, so many at once and no more.
//!
//! Never here: accounts. A hash takes 20 ms and 19 MiB on purpose; unbounded, a few hundred logins would take the machine.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use kit::{http::Problem, text};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;

/// How many may wait for a hasher; one more is told to come back.
const WAITING_MAX: usize = 1_024;
/// Room for one password and one hash; a password of 128 characters has at most 512 bytes.
const SALT_BYTES: usize = 16;

/// The hashers of the process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Passwords {
    inner: Arc<Inner>,
}

struct Inner {
    argon2: Argon2<'static>,
    hashers: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// The hash of nothing that anybody knows: an unknown account is checked against it, so that it takes as long as a known one.
    decoy: String,
}

/// Leave to hash once.
pub(crate) struct Turn {
    inner: Arc<Inner>,
    permit: OwnedSemaphorePermit,
}

impl Passwords {
    pub(crate) fn new(config: &Config) -> Self {
        let params = Params::new(config.password_memory_kib, config.password_passes, 1, None)
            .expect("the bounds of the configuration are within Argon2's");
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hashers = config.hashers();
        let decoy = hash(&argon2, &secret_text());
        let (hashers, waiting) = (Arc::new(Semaphore::new(hashers)), AtomicUsize::new(0));
        Self { inner: Arc::new(Inner { argon2, hashers, waiting, decoy }) }
    }

    /// Waits for a hasher.
    ///
    /// # Errors
    /// 503 when too many wait already.
    pub(crate) async fn turn(&self) -> Result<Turn, Problem> {
        let waiting = Waiting::new(&self.inner.waiting);
        if waiting.before >= WAITING_MAX {
            return Err(Problem::unavailable("too many passwords wait to be checked; nothing was changed").coded("overloaded"));
        }
        let permit = self.inner.hashers.clone().acquire_owned().await.map_err(|_| Problem::internal())?;
        Ok(Turn { inner: self.inner.clone(), permit })
    }

    /// The hash of a password, as it is kept.
    ///
    /// # Errors
    /// 503 when too many wait already.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Problem> {
        self.hash_with(password, ()).await
    }

    /// The same, keeping something until it is done, also where nobody waits for it any more.
    ///
    /// # Errors
    /// 503 when too many wait already.
    pub(crate) async fn hash_with(&self, password: String, kept: impl Send + 'static) -> Result<String, Problem> {
        self.turn()
            .await?
            .work(move |inner| {
                let hash = hash(&inner.argon2, &text::composed(&password));
                drop(kept);
                hash
            })
            .await
    }
}

impl Turn {
    /// Works off the async threads. Nothing stops a hash that has begun: it goes on when the client has hung up and nobody waits for it,
    /// so the permit is the work's and not the request's.
    #[expect(clippy::disallowed_methods, reason = "as many at once as there are hashers: the permit goes in")]
    async fn work<T: Send + 'static>(self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> Result<T, Problem> {
        let Self { inner, permit } = self;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work(&inner);
            drop(permit);
            done
        });
        worked.await.map_err(|error| {
            tracing::error!(%error, "hashing a password failed");
            Problem::internal()
        })
    }

    /// Whether this is the password of that hash; without a hash it takes as long, and is not.
    ///
    /// # Errors
    /// 500 if the hasher broke.
    pub(crate) async fn verify(self, password: String, hash: Option<String>) -> Result<bool, Problem> {
        self.work(move |inner| {
            let is_known = hash.is_some();
            let hash = hash.unwrap_or_else(|| inner.decoy.clone());
            let is_right = PasswordHash::new(&hash).is_ok_and(|hash| {
                let is_it = |text: &str| inner.argon2.verify_password(text.as_bytes(), &hash).is_ok();
                // As typed too: passwords from before they were composed are kept so.
                let composed = text::composed(&password);
                is_it(&composed) || (composed != password && is_it(&password))
            });
            is_right && is_known
        })
        .await
    }
}

fn hash(argon2: &Argon2<'_>, password: &str) -> String {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).expect("the operating system has randomness");
    let salt = SaltString::encode_b64(&salt).expect("16 bytes are a salt");
    argon2.hash_password(password.as_bytes(), &salt).expect("any text of a bounded length can be hashed").to_string()
}

/// 256 random bits from the operating system as text: a refresh token, a first password.
pub(crate) fn secret_text() -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Counts who waits, also if they stop waiting.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_alone() {
        let passwords = Passwords::new(&Config::default().with_cheap_passwords());
        let (one, other) =
            (passwords.hash("correct horse".into()).await.unwrap(), passwords.hash("correct horse".into()).await.unwrap());
        assert_ne!(one, other, "salted");
        assert!(one.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{one}");
        let verify = async |password: &str, hash: Option<&str>| {
            passwords.turn().await.unwrap().verify(password.to_owned(), hash.map(str::to_owned)).await.unwrap()
        };
        assert!(verify("correct horse", Some(&one)).await);
        assert!(!verify("wrong horse", Some(&one)).await);
        assert!(!verify("correct horse", None).await);
        assert!(!verify("correct horse", Some("no hash")).await);
    }

    #[tokio::test]
    async fn a_hasher_is_taken_until_its_work_is_done_whoever_has_hung_up() {
        let config = Config { password_hashers: std::num::NonZeroU32::new(1), ..Config::default().with_cheap_passwords() };
        let passwords = Passwords::new(&config);
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let turn = passwords.turn().await.unwrap();
        let request = turn.work(move |_| gone.recv());
        assert!(request.now_or_never().is_none(), "the client hangs up while the hasher works");
        assert!(passwords.turn().now_or_never().is_none(), "another one would work beside it");
        go.send(()).unwrap();
        assert!(passwords.turn().await.is_ok());

        let panics = passwords.turn().await.unwrap().work(|_| panic!("a broken hasher"));
        assert!(panics.await.is_err());
        assert!(passwords.turn().await.is_ok(), "one that broke is free again");
    }

    #[test]
    fn the_default_cost_is_the_safe_one() {
        let hash = hash(&Passwords::new(&Config::default()).inner.argon2, "x");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(Config::default().has_safe_passwords() && !Config::default().with_cheap_passwords().has_safe_passwords());
    }
}
