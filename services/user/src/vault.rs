//! What is sealed at rest: the seeds of signing keys, where a key file is given, so that who has the database or a backup of it signs nothing;
//! and what refresh tokens were exchanged for, each with the token before it.
//!
//! Never here: when keys are made or rotate. `keys.rs` opens what it signs with; `lib.rs` seals at the start what lay there open.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use kit::Secret;

const SEED_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// What keys are derived from is for this alone.
const CONTEXT: &str = "skald 2026-11 signing seeds at rest";
/// Less could be guessed: 256 bits in base64 are 44 characters.
const KEY_CHARS_MIN: usize = 32;

/// Seals and opens seeds. Without a key file it keeps them as they are.
#[derive(Clone)]
pub(crate) struct Vault(Option<XChaCha20Poly1305>);

/// Reads a key file, for clap.
///
/// # Errors
/// Why not, without the file's content.
pub(crate) fn key_file(path: &str) -> Result<Secret, String> {
    let secret = Secret::read(path)?;
    match secret.0.chars().count() >= KEY_CHARS_MIN {
        true => Ok(secret),
        false => Err(format!("it has less than {KEY_CHARS_MIN} characters; `openssl rand -base64 32` makes a good one")),
    }
}

impl Vault {
    pub(crate) fn new(key: Option<&Secret>) -> Self {
        Self(key.map(|Secret(text)| XChaCha20Poly1305::new(&blake3::derive_key(CONTEXT, text.as_bytes()).into())))
    }

    /// A seed as it is kept.
    pub(crate) fn seal(&self, kid: &str, seed: [u8; SEED_BYTES]) -> Vec<u8> {
        let Some(cipher) = &self.0 else { return seed.to_vec() };
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the operating system has randomness");
        let payload = Payload { msg: &seed, aad: kid.as_bytes() };
        let sealed = cipher.encrypt(XNonce::from_slice(&nonce), payload).expect("32 bytes can be encrypted");
        [&nonce[..], &sealed].concat()
    }

    /// A seed to sign with.
    ///
    /// # Errors
    /// Why it can't be read, for the person at the keyboard.
    pub(crate) fn open(&self, kid: &str, kept: &[u8]) -> Result<[u8; SEED_BYTES], String> {
        if let Ok(seed) = kept.try_into() {
            return Ok(seed);
        }
        let lost = "if that file is lost, delete the rows of the table signing_keys, and everybody logs in again";
        let Some(cipher) = &self.0 else {
            let why =
                "the signing keys in the database are encrypted: give the file that they are encrypted with, --signing-key-file";
            return Err(format!("{why}; {lost}"));
        };
        let opened = kept.split_at_checked(NONCE_BYTES).and_then(|(nonce, sealed)| {
            cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: kid.as_bytes() }).ok()
        });
        let opened = opened.and_then(|seed| seed.try_into().ok());
        opened.ok_or_else(|| {
            format!("the signing keys in the database are encrypted with another file than --signing-key-file; {lost}")
        })
    }

    /// Whether a seed lies open although there is a key file.
    pub(crate) fn should_seal(&self, kept: &[u8]) -> bool {
        self.0.is_some() && kept.len() == SEED_BYTES
    }
}

/// A refresh token, sealed with the one that it takes the place of.
pub(crate) fn seal_successor(shown: &str, next: &str) -> Vec<u8> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).expect("the operating system has randomness");
    let sealed = of_token(shown).encrypt(XNonce::from_slice(&nonce), next.as_bytes()).expect("43 characters can be encrypted");
    [&nonce[..], &sealed].concat()
}

/// What was sealed with the token that is shown now.
pub(crate) fn open_successor(shown: &str, kept: &[u8]) -> Option<String> {
    let (nonce, sealed) = kept.split_at_checked(NONCE_BYTES)?;
    String::from_utf8(of_token(shown).decrypt(XNonce::from_slice(nonce), sealed).ok()?).ok()
}

fn of_token(text: &str) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&blake3::derive_key("skald 2026-11 successor of a refresh token", text.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(text: &str) -> Vault {
        Vault::new(Some(&Secret(text.to_owned())))
    }

    #[test]
    fn a_seed_is_read_by_the_same_key_file_for_the_same_key_alone() {
        let (one, other, none) = (vault("one key file"), vault("another key file"), Vault::new(None));
        let kept = one.seal("k1", [7; 32]);
        assert!(!kept.windows(4).any(|window| window == [7; 4]));
        assert_ne!(kept, one.seal("k1", [7; 32]), "never twice the same");
        assert_eq!(one.open("k1", &kept), Ok([7; 32]));
        assert!(one.open("k2", &kept).is_err() && one.open("k1", &kept[1..]).is_err() && one.open("k1", b"").is_err());
        assert!(other.open("k1", &kept).unwrap_err().contains("another file"));
        assert!(none.open("k1", &kept).unwrap_err().contains("--signing-key-file"));
    }

    #[test]
    fn a_successor_is_read_by_the_token_before_it_alone() {
        let kept = seal_successor("first", "second");
        assert_eq!(open_successor("first", &kept).as_deref(), Some("second"));
        assert!(open_successor("second", &kept).is_none() && open_successor("first", b"").is_none());
    }

    #[test]
    fn what_lay_open_is_read_and_to_be_sealed_once_there_is_a_key_file() {
        let open = Vault::new(None).seal("k1", [7; 32]);
        assert_eq!(open, [7; 32]);
        assert_eq!(vault("a key file").open("k1", &open), Ok([7; 32]));
        assert!(vault("a key file").should_seal(&open) && !Vault::new(None).should_seal(&open));
        assert!(!vault("a key file").should_seal(&vault("a key file").seal("k1", [7; 32])));
    }
}
