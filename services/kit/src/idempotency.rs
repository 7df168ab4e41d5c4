//! `Idempotency-Key`: a request is done once, however often it is sent.
//!
//! Never here: what is done. The answer is kept by the log's writer, in the transaction of its effect; here the key is read,
//! hashed and looked up, and two copies of one request are kept apart while the first is under way.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, StatusCode};
use eventlog::{Answer, Error, IdempotencyKey, Log, Stored};
use tokio::sync::oneshot;

use crate::http::Problem;

/// The scope of callers without a token: their keys hold for one body only.
pub const ANONYMOUS: &str = "anonymous";
/// The longest key, in characters.
const KEY_CHARS_MAX: usize = 255;

/// The keys of one service, with one log. Cheap to clone.
#[derive(Clone)]
pub struct Idempotency {
    inner: Arc<Inner>,
}

struct Inner {
    secret: [u8; 32],
    in_flight: Mutex<HashSet<[u8; 32]>>,
    lookups: Lookups,
}

impl Inner {
    fn in_flight(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that may go on.
pub enum Begun {
    /// Not seen before; `None` if it has no key and needs none. Hold it until the answer is known.
    Fresh(Option<InFlight>),
    /// Done before, and this was the answer.
    Repeated(Stored),
}

/// A request with a key that is under way. Another one with the same key is refused until this is dropped.
pub struct InFlight {
    pub key: IdempotencyKey,
    inner: Arc<Inner>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.inner.in_flight().remove(&self.key.key);
    }
}

/// What a request with a key came to.
#[derive(Debug)]
pub enum Outcome<D> {
    Done(D),
    /// Done before, and this was the answer.
    Repeated(Stored),
}

impl Idempotency {
    /// The secret must be the same after a restart: hashes of earlier keys are compared with it.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { inner: Arc::new(Inner { secret, in_flight: Mutex::default(), lookups: Lookups::default() }) }
    }

    /// Reads the request's key and looks it up, before anything else is checked.
    ///
    /// # Errors
    /// 400 where the key is missing or malformed; 409 while another request with it is under way; 422 if it came with
    /// another body before; 503 where the log is away.
    pub async fn begin(
        &self,
        headers: &HeaderMap,
        required: bool,
        scope: &str,
        route: &'static str,
        body: &[u8],
        log: &Log,
    ) -> Result<Begun, Problem> {
        let Some(text) = header(headers)? else {
            if required {
                let detail = "this request needs an Idempotency-Key, so that repeating it is safe";
                return Err(Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_missing", detail));
            }
            return Ok(Begun::Fresh(None));
        };
        let key = self.key(text, scope, route, body);
        if !self.inner.in_flight().insert(key.key) {
            let detail = "a request with this Idempotency-Key is being served";
            return Err(Problem::conflict("request_in_flight", detail).retry_after(Duration::from_secs(1)));
        }
        // Made before the look, so that the key is let go however this ends.
        let in_flight = InFlight { key, inner: self.inner.clone() };
        match self.inner.lookups.find(key, log).await? {
            None => Ok(Begun::Fresh(Some(in_flight))),
            Some(stored) if stored.fingerprint == key.fingerprint => Ok(Begun::Repeated(stored)),
            Some(_) => Err(reused()),
        }
    }

    /// What the writer said to a request with a key.
    ///
    /// # Errors
    /// 422 if the key came with another body before.
    pub fn answer<D>(answer: Answer<D>) -> Result<Outcome<D>, Problem> {
        match answer {
            Answer::Done(done) => Ok(Outcome::Done(done)),
            Answer::Repeated(stored) => Ok(Outcome::Repeated(stored)),
            Answer::KeyReused => Err(reused()),
        }
    }

    fn key(&self, text: &str, scope: &str, route: &str, body: &[u8]) -> IdempotencyKey {
        let fingerprint = *blake3::keyed_hash(&self.inner.secret, body).as_bytes();
        let mut key = blake3::Hasher::new_keyed(&self.inner.secret);
        for part in [scope, route, text] {
            key.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        if scope == ANONYMOUS {
            key.update(&fingerprint);
        }
        IdempotencyKey { key: *key.finalize().as_bytes(), fingerprint }
    }
}

fn reused() -> Problem {
    let detail = "this Idempotency-Key was used with another body";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
}

/// The header's value, bare or in double quotes (it is a structured string in the draft of the standard).
fn header(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let is_good = (1..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_good || headers.get_all("idempotency-key").iter().count() > 1 {
        let detail = format!("an Idempotency-Key is one value of 1 to {KEY_CHARS_MAX} visible ASCII characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_invalid", detail));
    }
    Ok(Some(text))
}

type Found = Result<Option<Stored>, Error>;

/// Requests that come together are looked up together: at 2,000 a second, a read each would cost a tenth of the machine.
#[derive(Default)]
struct Lookups {
    waiting: Mutex<Vec<(IdempotencyKey, oneshot::Sender<Found>)>>,
    /// Whoever has the turn reads for all who wait.
    turn: tokio::sync::Mutex<()>,
}

impl Lookups {
    async fn find(&self, key: IdempotencyKey, log: &Log) -> Found {
        loop {
            let (sender, mut found) = oneshot::channel();
            self.waiting().push((key, sender));
            let turn = tokio::select! {
                biased;
                found = &mut found => match found {
                    Ok(found) => return found,
                    // Whoever read for us was cancelled: their caller hung up.
                    Err(_) => continue,
                },
                turn = self.turn.lock() => turn,
            };
            let batch = std::mem::take(&mut *self.waiting());
            read(batch, log).await;
            drop(turn);
            if let Ok(found) = found.await {
                return found;
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(IdempotencyKey, oneshot::Sender<Found>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(batch: Vec<(IdempotencyKey, oneshot::Sender<Found>)>, log: &Log) {
    let keys: Vec<IdempotencyKey> = batch.iter().map(|(key, _)| *key).collect();
    let found = log.stored_many(&keys).await.map(HashMap::from_iter);
    for (key, sender) in batch {
        // One who does not wait any more hung up.
        drop(sender.send(match &found {
            Ok(found) => Ok(HashMap::<_, Stored>::get(found, &key.key).cloned()),
            Err(error) => Err(error.clone()),
        }));
    }
}
