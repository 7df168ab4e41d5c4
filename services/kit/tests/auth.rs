//! Tokens: who gets in, who does not, and that a verified token is remembered no longer than it holds.

mod common;

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{house, signer};
use contract::CustomerId;
use eventlog::{Env, testing::TestClock};
use serde_json::json;
use skald_kit::auth::{Role, Signer, Verifier, jwks};
use uuid::Uuid;

const ID: CustomerId = CustomerId(Uuid::from_u128(1));
const QUARTER: Duration = Duration::from_secs(900);

#[tokio::test]
async fn a_token_says_who_calls() {
    let house = house();
    for (role, actor) in [(Role::Customer, "customer"), (Role::Operator, "operator"), (Role::Admin, "admin")] {
        let answer = house.get_as("/v1/me", &house.token(role)).await;
        assert_eq!(answer.body, format!("{actor}:{ID}"));
    }
}

#[tokio::test]
async fn no_token_is_401_and_the_wrong_role_403() {
    let house = house();
    let answer = house.get("/v1/me").await;
    assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"));
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    for header in ["", "Bearer", "Bearer ", "Basic abc", "Bearer a.b.c", "Bearer \u{e4}"] {
        let request = Request::get("/v1/me").header("authorization", header.as_bytes()).body(Body::empty()).unwrap();
        assert_eq!(house.send(request).await.status, StatusCode::UNAUTHORIZED, "{header}");
    }
    for role in [Role::Customer, Role::Operator] {
        let answer = house.get_as("/v1/admin", &house.token(role)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (StatusCode::FORBIDDEN, "forbidden"));
    }
    assert_eq!(house.get_as("/v1/admin", &house.token(Role::Admin)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_expired_token_is_refused_also_when_it_was_verified_before() {
    let house = house();
    let token = house.token(Role::Customer);
    assert_eq!(house.get_as("/v1/me", &token).await.status, StatusCode::OK);
    house.clock.advance(Duration::from_secs(899));
    assert_eq!(house.get_as("/v1/me", &token).await.status, StatusCode::OK);
    house.clock.advance(Duration::from_secs(1));
    assert_eq!(house.get_as("/v1/me", &token).await.status, StatusCode::UNAUTHORIZED);
}

fn env() -> Env {
    Env::seeded(TestClock::start(), 1)
}

fn verifier(signers: &[&Signer]) -> Verifier {
    Verifier::new(signers.iter().map(|signer| signer.public()).collect(), "skald", "skald-api", env())
}

#[test]
fn a_token_of_another_key_issuer_or_audience_is_refused() {
    let ours = signer("k1", 7, env());
    let verifier = verifier(&[&ours]);
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let forged = [
        signer("k1", 8, env()),
        signer("k2", 7, env()),
        Signer::new("k1", &key, "somebody", "skald-api", env()),
        Signer::new("k1", &key, "skald", "another", env()),
    ];
    for signer in forged {
        assert!(verifier.verify(&signer.sign(ID, Role::Admin, QUARTER)).is_err());
    }
    assert!(verifier.verify(&ours.sign(ID, Role::Admin, QUARTER)).is_ok());
}

#[test]
fn a_token_that_was_changed_or_has_another_algorithm_is_refused() {
    let signer = signer("k1", 7, env());
    let verifier = verifier(&[&signer]);
    let token = signer.sign(ID, Role::Customer, QUARTER);
    let parts: Vec<&str> = token.split('.').collect();
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let promoted = URL_SAFE_NO_PAD.encode(claims.replace("customer", "admin"));
    assert!(verifier.verify(&format!("{}.{promoted}.{}", parts[0], parts[2])).is_err());
    for algorithm in ["none", "HS256", "ES256", "EdDSA "] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "typ": "JWT", "kid": "k1"}).to_string());
        for signature in [parts[2], ""] {
            assert!(verifier.verify(&format!("{header}.{}.{signature}", parts[1])).is_err(), "{algorithm}");
        }
    }
    assert!(verifier.verify(&"x".repeat(10_000)).is_err());
    assert!(verifier.verify(&token).is_ok());
}

#[test]
fn a_token_of_the_future_is_refused_but_for_a_small_skew() {
    let (ahead, behind) = (TestClock::start(), TestClock::start());
    ahead.advance(Duration::from_secs(59));
    let signer = signer("k1", 7, Env::seeded(ahead.clone(), 1));
    let verifier = Verifier::new(vec![signer.public()], "skald", "skald-api", Env::seeded(behind, 1));
    assert!(verifier.verify(&signer.sign(ID, Role::Customer, QUARTER)).is_ok());
    ahead.advance(Duration::from_secs(2));
    assert!(verifier.verify(&signer.sign(ID, Role::Customer, QUARTER)).is_err());
}

#[test]
fn keys_rotate_with_two_at_a_time() {
    let (old, new) = (signer("k1", 7, env()), signer("k2", 8, env()));
    let verifier = verifier(&[&old, &new]);
    let (by_old, by_new) = (old.sign(ID, Role::Customer, QUARTER), new.sign(ID, Role::Customer, QUARTER));
    assert!(verifier.verify(&by_old).is_ok() && verifier.verify(&by_new).is_ok());
    verifier.set_keys(vec![new.public()]);
    assert!(verifier.verify(&by_old).is_err() && verifier.verify(&by_new).is_ok());
}

#[test]
fn the_key_set_is_a_jwk_set_of_ed25519_keys() {
    let signer = signer("k1", 7, env());
    let x = URL_SAFE_NO_PAD.encode(signer.public().key.as_bytes());
    let expected = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "k1", "x": x}]});
    assert_eq!(jwks(&[signer.public()]), expected);
    let token = signer.sign(ID, Role::Customer, QUARTER);
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    assert_eq!((header["alg"].as_str(), header["kid"].as_str()), (Some("EdDSA"), Some("k1")));
}

#[test]
fn more_tokens_than_are_remembered_still_verify() {
    let signer = signer("k1", 7, env());
    let verifier = verifier(&[&signer]);
    let first = signer.sign(ID, Role::Customer, QUARTER);
    for number in 0..50 {
        let token = signer.sign(CustomerId(Uuid::from_u128(number)), Role::Customer, QUARTER);
        assert_eq!(verifier.verify(&token).unwrap().id.0.as_u128(), number);
    }
    assert_eq!(verifier.verify(&first).unwrap().id, ID);
}
