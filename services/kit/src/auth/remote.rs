//! The keys that verify tokens, in a process that does not make them: the JWK set of the user service, over HTTP.
//!
//! Fetched at the start, from time to time, and when a token names a key that is not known. Never here: whether a token is good.
//! A set that was read holds until a better one comes: the user service may be away for as long as its tokens hold.

use std::{collections::HashMap, fmt, str::FromStr, time::Duration};

use axum::http::{Request, StatusCode, Uri, header, uri::Scheme};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use contract::Timestamp;
use ed25519_dalek::VerifyingKey;
use eventlog::{Env, backoff};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::{net::TcpStream, sync::watch};

use super::{AUDIENCE, ISSUER, PublicKey, Role, Roles, Verifier};
use crate::{Tasks, http::Check, outgoing::within};

/// How long one fetch may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// A set of a few keys has a few hundred bytes, and each role that was changed a moment ago 60.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How often the set is fetched anyway. The user service publishes a key long before it signs with it; but a role that was taken away
/// is to be known within a minute, also where the first try fails.
const EVERY: Duration = Duration::from_secs(20);
/// The shortest time between two fetches: tokens with made-up keys must not make a storm.
const SPACING: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_CAP: Duration = Duration::from_secs(15);

/// Where a JWK set is: `http://HOST[:PORT]/PATH`.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl(Uri);

impl FromStr for JwksUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        match (uri.scheme(), uri.host()) {
            (Some(scheme), Some(_)) if *scheme == Scheme::HTTP => Ok(Self(uri)),
            (Some(scheme), _) if *scheme == Scheme::HTTPS => {
                Err("keys are fetched without TLS, inside a private network: use http://".to_owned())
            }
            _ => Err("it is of the form http://HOST:PORT/.well-known/jwks.json".to_owned()),
        }
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far the fetching is, and what somebody who met an unknown key asks for. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rounds {
    done: watch::Sender<Round>,
    /// The number of the round that somebody waits for.
    wanted: watch::Sender<u64>,
}

/// The last fetch.
#[derive(Clone, Debug)]
struct Round {
    number: u64,
    ended: Timestamp,
    failed: Option<String>,
}

impl Rounds {
    /// Asks for another fetch and waits for it; many who ask share one. Does nothing where one has just been.
    pub(super) async fn next(&self, env: &Env) {
        let mut done = self.done.subscribe();
        let Round { number, ended, .. } = *done.borrow_and_update();
        if number > 0 && env.now().since(ended) < SPACING {
            return;
        }
        self.wanted.send_modify(|wanted| *wanted = number + 1);
        // In vain: the token is as unknown as before.
        let _ = within(env, DEADLINE, done.wait_for(|round| round.number > number)).await;
    }
}

impl Verifier {
    /// Verifies by the keys at `url`, which a task of its own fetches. Until the first set has come every token is answered 503;
    /// the check says so too.
    pub fn remote(url: JwksUrl, env: Env, tasks: &Tasks) -> (Self, Check) {
        let (done, wanted) = (Round { number: 0, ended: env.now(), failed: None }, watch::Sender::new(0));
        let rounds = Rounds { done: watch::Sender::new(done), wanted };
        let verifier = Self::of(None, ISSUER, AUDIENCE, env.clone(), Some(rounds.clone()));
        let (known, seen, from) = (verifier.clone(), rounds.done.clone(), url.clone());
        let check = Check::new("token keys", move || {
            let failed = seen.borrow().failed.clone().unwrap_or_else(|| "not yet".to_owned());
            let told = if known.has_keys() { Ok(()) } else { Err(format!("no keys from {from}: {failed}")) };
            async move { told }
        });
        let (follow, stopping) = (follow(url, verifier.clone(), rounds, env), tasks.stopping());
        tasks.spawn("token keys", async move { _ = stopping.run_until_cancelled(follow).await });
        (verifier, check)
    }
}

async fn follow(url: JwksUrl, verifier: Verifier, rounds: Rounds, env: Env) {
    let (mut failures, mut wanted) = (0, rounds.wanted.subscribe());
    for number in 1.. {
        let fetched = within(&env, DEADLINE, fetch(&url)).await.unwrap_or_else(|| Err("no answer in time".to_owned()));
        let failed = match fetched {
            Ok((keys, roles)) => {
                failures = 0;
                verifier.set_keys(keys);
                verifier.set_roles(roles);
                None
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%url, error, attempt = failures, "can't fetch the keys of tokens; those at hand go on being used");
                Some(error)
            }
        };
        rounds.done.send_replace(Round { number, ended: env.now(), failed });
        let pause = match failures {
            // Not all replicas at once.
            0 => EVERY + Duration::from_millis(env.random() % 5_000),
            _ => backoff(&env, failures, RETRY_FIRST, RETRY_CAP),
        };
        let asked = async {
            env.sleep(SPACING).await;
            wanted.wait_for(|wanted| *wanted > number).await.is_ok()
        };
        tokio::select! {
            () = env.sleep(pause) => {}
            _ = asked => {}
        }
    }
}

/// One request on a connection of its own.
async fn fetch(JwksUrl(uri): &JwksUrl) -> Result<(Vec<PublicKey>, Roles), String> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(told)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path).header(header::HOST, authority).body(Empty::<Bytes>::new()).map_err(told)?;
    let mut answer = std::pin::pin!(async move {
        let response = sender.send_request(request).await.map_err(told)?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        // Its own words name neither the body nor the bound.
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        Ok(body.map_err(|_| "the answer broke off, or is too large")?.to_bytes())
    });
    let body = tokio::select! {
        biased;
        body = &mut answer => body,
        // It ends with the last byte, which may not have been read yet.
        _ = connection => answer.await,
    }?;
    Ok((read_jwks(&body)?, read_roles(&body)))
}

fn told(error: impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

/// A key as RFC 7517 and RFC 8037 write it.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    kid: String,
    x: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
}

/// The Ed25519 keys of a JWK set, for signatures; others are none of ours.
///
/// # Errors
/// Why there is none, in words for the log.
pub fn read_jwks(body: &[u8]) -> Result<Vec<PublicKey>, String> {
    let set: KeySet = serde_json::from_slice(body).map_err(|error| format!("not a JWK set: {error}"))?;
    let keys: Vec<PublicKey> = set.keys.into_iter().filter_map(|key| public(serde_json::from_value(key).ok()?)).collect();
    if keys.is_empty() { Err("a JWK set without an Ed25519 key".to_owned()) } else { Ok(keys) }
}

/// The roles that were changed a moment ago, as our user service puts them beside its keys; what can't be read is none.
pub fn read_roles(body: &[u8]) -> Roles {
    #[derive(Deserialize)]
    struct Beside {
        roles: HashMap<String, Value>,
    }
    let roles = serde_json::from_slice::<Beside>(body).map_or_else(|_| HashMap::new(), |beside| beside.roles);
    let read = |(id, role): (String, Value)| Some((id.parse().ok()?, Role::parse(role.as_str()?)?));
    roles.into_iter().filter_map(read).collect()
}

fn public(Jwk { kty, crv, kid, x, purpose, alg }: Jwk) -> Option<PublicKey> {
    let is_ours = (kty.as_str(), crv.as_str()) == ("OKP", "Ed25519")
        && purpose.is_none_or(|purpose| purpose == "sig")
        && alg.is_none_or(|alg| alg == "EdDSA" || alg == "Ed25519");
    let key = URL_SAFE_NO_PAD.decode(x).ok()?.try_into().ok()?;
    is_ours.then_some(PublicKey { kid, key: VerifyingKey::from_bytes(&key).ok()? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ed25519_keys_for_signatures_are_taken() {
        let x = URL_SAFE_NO_PAD.encode(ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key().as_bytes());
        let ours = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ours", "x": x});
        let mut others = vec![json!(1), json!({}), json!({"kty": "RSA", "kid": "rsa", "n": "AQ", "e": "AQAB"})];
        for (member, other) in
            [("kty", "EC"), ("crv", "X25519"), ("x", "AQ"), ("x", "="), ("use", "enc"), ("alg", "ES256"), ("kid", "")]
        {
            let mut key = ours.clone();
            key[member] = if other.is_empty() { json!(null) } else { json!(other) };
            others.push(key);
        }
        others.push(ours);
        let keys = read_jwks(json!({ "keys": others }).to_string().as_bytes()).unwrap();
        assert_eq!(keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["ours"]);
        others.pop();
        for bad in [json!({ "keys": others }), json!({}), json!([]), json!({"keys": {}})] {
            assert!(read_jwks(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn roles_beside_the_keys_are_read_and_nonsense_is_none() {
        let id = uuid::Uuid::from_u128(7);
        let read = |roles: Value| read_roles(json!({ "keys": [], "roles": roles }).to_string().as_bytes());
        let roles = read(json!({ id.to_string(): "customer", "x": "admin", uuid::Uuid::nil().to_string(): "king" }));
        assert_eq!(roles, Roles::from([(id.into(), Role::Customer)]));
        assert!(read(json!([])).is_empty() && read_roles(b"{}").is_empty() && read_roles(b"x").is_empty());
    }

    #[test]
    fn a_url_is_plain_http_with_a_host() {
        for good in ["http://user:8080/.well-known/jwks.json", "http://[::1]:8080/jwks", "http://user"] {
            assert_eq!(good.parse::<JwksUrl>().map(|url| url.to_string().trim_end_matches('/').to_owned()), Ok(good.to_owned()));
        }
        for bad in ["https://user/jwks", "user:8080", "/jwks", "ftp://user/jwks", "http://", ""] {
            assert!(bad.parse::<JwksUrl>().is_err(), "{bad}");
        }
    }
}
