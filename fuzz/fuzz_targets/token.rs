//! An access token: as it came; or, in two lines, a header and claims that are then signed with the right key.

#![no_main]

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey};
use eventlog::{Env, testing::TestClock};
use kit::auth::{AUDIENCE, Caller, ISSUER, Verifier};
use serde_json::Value;
use skald_fuzz::{house::signer, lines};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));
static ENV: LazyLock<Env> = LazyLock::new(|| Env::seeded(TestClock::start(), 1));
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let keys = vec![signer("k1", 7, &ENV).public(), signer("k2", 8, &ENV).public()];
    Verifier::new(keys, ISSUER, AUDIENCE, ENV.clone())
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let token = match lines::first(bytes) {
        (header, Some(claims)) => signed(header, claims),
        (token, None) => match std::str::from_utf8(token) {
            Ok(token) => token.to_owned(),
            Err(_) => return,
        },
    };
    let verified = VERIFIER.verify(&token);
    // The second time it may come from what is remembered.
    assert_eq!(VERIFIER.verify(&token).ok(), verified.as_ref().ok().copied());
    match verified {
        Ok(caller) => {
            assert!(is_signed(&token), "accepted without a signature: {token}");
            assert_eq!(claimed(&token), Some(caller), "accepted in spite of its claims: {token}");
            let forged = format!("{token}A");
            assert!(VERIFIER.verify(&forged).is_err(), "accepted: {forged}");
        }
        Err(problem) => assert_eq!(problem.status, 401),
    }
});

fn signed(header: &[u8], claims: &[u8]) -> String {
    let told = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(KEY.sign(told.as_bytes()).to_bytes());
    format!("{told}.{signature}")
}

/// By nothing but the signature's own library: both keys are tried, whatever the header names.
fn is_signed(token: &str) -> bool {
    let signed = || {
        let (told, signature) = token.rsplit_once('.')?;
        let bytes = URL_SAFE_NO_PAD.decode(signature).ok()?;
        (URL_SAFE_NO_PAD.encode(&bytes) == signature).then_some(())?;
        let signature = Signature::from_slice(&bytes).ok()?;
        let other = SigningKey::from_bytes(&[8; 32]);
        Some([&*KEY, &other].iter().any(|key| key.verifying_key().verify_strict(told.as_bytes(), &signature).is_ok()))
    };
    signed() == Some(true)
}

/// The caller that header and claims speak of, read without the library that the verifier reads them with.
fn claimed(token: &str) -> Option<Caller> {
    let mut parts = token.split('.').map(|part| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok());
    let (header, claims) = (parts.next()??, parts.next()??);
    let seconds = ENV.now().0 / 1_000_000;
    let is_ours = header["alg"] == "EdDSA" && ["k1", "k2"].map(Value::from).contains(&header["kid"]);
    let is_for_us = claims["iss"] == ISSUER && claims["aud"] == AUDIENCE;
    let is_now = claims["nbf"].as_i64()? <= seconds + 60 && claims["exp"].as_i64()? > seconds && claims["iat"].is_i64();
    let caller = Caller { id: claims["sub"].as_str()?.parse().ok()?, role: kit::auth::Role::parse(claims["role"].as_str()?)? };
    (is_ours && is_for_us && is_now).then_some(caller)
}
