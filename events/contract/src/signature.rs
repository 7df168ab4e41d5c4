//! Who may have written a record. With a message key, a secret that the services share, every record carries an HMAC-SHA256 over
//! all that decoding believes of it, its topic included; `docs/signatures.md` says how others write it.
//!
//! Never here: where keys come from, or what becomes of a record that does not verify. Without a key nothing is signed or checked.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{
    Fault, Message,
    record::{DATASCHEMA, Link, Record, Seal, Source, shown},
};

/// The header: `<key id>:<base64 HMAC-SHA256>`.
pub const HEADER: &str = "ce_signature";
/// The first field of what is signed: another form will have another name.
const FORM: &str = "skald-record-1";
/// Two while a key is being changed; a few more do no harm.
const KEYS_MAX: usize = 4;
/// As long as the hash: a shorter one may be guessed.
const SECRET_BYTES_MIN: usize = 32;
const ID_BYTES_MAX: usize = 32;

/// The message keys of a process: the first signs, each of them verifies. Cheap to clone.
#[derive(Clone, Default)]
pub struct MessageKeys {
    keys: Arc<[Key]>,
    accepts_unsigned: bool,
}

struct Key {
    id: String,
    /// Has taken in the secret.
    mac: Hmac<Sha256>,
}

/// Shows which keys there are, and no secret.
impl fmt::Debug for MessageKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

/// The text is not a list of message keys. No secret is in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadKeys {
    #[error("line {0} is not <key id>:<secret>, the id of up to {ID_BYTES_MAX} lower-case letters, digits and hyphens")]
    Line(usize),
    #[error("the secret in line {0} is shorter than {SECRET_BYTES_MIN} bytes; make one with: openssl rand -base64 32")]
    Short(usize),
    #[error("the key id in line {0} is there twice")]
    Twice(usize),
    #[error("there is no key in it")]
    None,
    #[error("{0} keys, more than {KEYS_MAX}")]
    TooMany(usize),
}

/// Why a record is not what one of the services has written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotVerified {
    #[error("it has no {HEADER}, and there is a message key")]
    Unsigned,
    #[error("its {HEADER} is not <key id>:<base64>")]
    Malformed,
    #[error("it is signed with the key {0}, which is none of ours")]
    UnknownKey(String),
    #[error("its signature with the key {0} does not verify: whoever wrote or changed it does not have the key")]
    Mismatch(String),
}

impl MessageKeys {
    /// Reads `<key id>:<secret>`, one a line; empty lines and those that begin with `#` are passed over. The secret is the text itself.
    ///
    /// # Errors
    /// [`BadKeys`]: for the person at the keyboard.
    pub fn parse(text: &str) -> Result<Self, BadKeys> {
        let mut keys: Vec<Key> = Vec::new();
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let (id, secret) = line.split_once(':').ok_or(BadKeys::Line(number))?;
            let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(named) {
                return Err(BadKeys::Line(number));
            }
            if secret.len() < SECRET_BYTES_MIN {
                return Err(BadKeys::Short(number));
            }
            if keys.iter().any(|key| key.id == id) {
                return Err(BadKeys::Twice(number));
            }
            let mac = Hmac::new_from_slice(secret.as_bytes()).expect("a key of any length");
            keys.push(Key { id: id.to_owned(), mac });
        }
        match keys.len() {
            0 => Err(BadKeys::None),
            count if count > KEYS_MAX => Err(BadKeys::TooMany(count)),
            _ => Ok(Self { keys: keys.into(), accepts_unsigned: false }),
        }
    }

    /// Takes records without a signature as well, as if there were no key: while a key is being introduced.
    #[must_use]
    pub fn accepting_unsigned(self) -> Self {
        Self { accepts_unsigned: true, ..self }
    }

    /// There is none: records are neither signed nor checked.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn accepts_unsigned(&self) -> bool {
        self.accepts_unsigned
    }

    /// Signs a record that `encode` has written of the message, with the first key.
    pub fn sign(&self, record: &mut Record, message: &Message, source: &Source, previous: i64) {
        if let Some(key) = self.keys.first() {
            let mac = key.over(message, source, previous).finalize().into_bytes();
            record.add(HEADER, format!("{}:{}", key.id, STANDARD.encode(mac)));
        }
    }

    /// Holds the signature of a decoded record against it; the link keeps that it was good.
    ///
    /// # Errors
    /// [`NotVerified`]: forged. Never without a key.
    pub fn check(&self, message: &Message, link: &mut Link) -> Result<(), NotVerified> {
        if self.is_empty() {
            return Ok(());
        }
        if Fault::SignatureUnchecked.is_planted() {
            link.seal = Seal::Good(link.seal.text().unwrap_or_default().to_owned());
            return Ok(());
        }
        let Some(text) = link.seal.text() else {
            return if self.accepts_unsigned { Ok(()) } else { Err(NotVerified::Unsigned) };
        };
        let (id, signature) = text.split_once(':').ok_or(NotVerified::Malformed)?;
        let signature = STANDARD.decode(signature).map_err(|_| NotVerified::Malformed)?;
        let key = self.keys.iter().find(|key| key.id == id).ok_or_else(|| NotVerified::UnknownKey(shown(id)))?;
        // In constant time, as the crate compares.
        key.over(message, &link.source, link.previous).verify_slice(&signature).map_err(|_| NotVerified::Mismatch(shown(id)))?;
        link.seal = Seal::Good(text.to_owned());
        Ok(())
    }
}

impl Key {
    /// All that `decode` believes, each field behind its length in 8 bytes, big-endian; what is not there has none.
    fn over(&self, message: &Message, source: &Source, previous: i64) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        let mut field = |bytes: &[u8]| {
            mac.update(&(bytes.len() as u64).to_be_bytes());
            mac.update(bytes);
        };
        let Message { position, id, stream, topic, key, kind, schema, data, time, meta, .. } = message;
        field(FORM.as_bytes());
        field(topic.as_deref().unwrap_or_default().as_bytes());
        field(id.to_string().as_bytes());
        field(source.to_string().as_bytes());
        field(kind.as_bytes());
        // RFC 3339 spells an instant in many ways; this is one.
        field(time.0.to_string().as_bytes());
        field(stream.as_bytes());
        field(format!("{DATASCHEMA}{kind}:{schema}").as_bytes());
        field(position.to_string().as_bytes());
        field(previous.to_string().as_bytes());
        field(meta.correlation.map_or_else(String::new, |id| id.to_string()).as_bytes());
        field(meta.cause.map_or_else(String::new, |id| id.to_string()).as_bytes());
        field(key.as_deref().unwrap_or_default().as_bytes());
        field(meta.trace.parent.as_deref().unwrap_or_default().as_bytes());
        field(meta.trace.state.as_deref().unwrap_or_default().as_bytes());
        field(data.as_bytes());
        mac
    }
}
