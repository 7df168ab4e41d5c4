//! How payloads become `(type, schema, JSON)` and back. One macro writes the mapping, so that a type's name stands once.

use serde::Serialize;

/// A payload ready for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub kind: &'static str,
    pub schema: i64,
    /// JSON.
    pub data: String,
}

/// A message that this build cannot read. All of them are poison: no retry makes them readable.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("unknown message type {0}")]
    UnknownType(String),
    #[error("unknown schema version {schema} of {kind}; this build reads up to {newest}")]
    UnknownSchema { kind: String, schema: i64, newest: i64 },
    #[error("malformed {kind}")]
    Malformed {
        kind: String,
        #[source]
        source: serde_json::Error,
    },
}

/// Encodes a payload; the types of this crate hold nothing that JSON can't.
pub fn encode(kind: &'static str, schema: i64, payload: &impl Serialize) -> Encoded {
    let data = serde_json::to_string(payload).expect("payloads have string keys and finite numbers only");
    Encoded { kind, schema, data }
}

/// Declares an enum of the message types of one topic, with `kind`, `encode` and `decode`. What is marked `private` stays in
/// the log.
///
/// A schema version above the declared one is refused; an older one is read through the struct's `serde` defaults, as
/// versions only ever add optional fields. A change that defaults can't express is a new type name.
macro_rules! messages {
    ($(#[$doc:meta])* $vis:vis enum $name:ident on $topic:ident {
        $($(#[$vdoc:meta])* $variant:ident = $kind:literal v $schema:literal $($private:ident)?),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis enum $name { $($(#[$vdoc])* $variant($variant)),* }

        impl $name {
            /// Every type name of this enum with its newest schema version.
            pub const KINDS: &'static [(&'static str, i64)] = &[$(($kind, $schema)),*];

            /// What the tests know of each type.
            #[cfg(test)]
            pub(crate) const TYPES: &'static [$crate::tests::Type] = &[$($crate::tests::Type {
                kind: $kind,
                schema: $schema,
                topic: $crate::payload::messages!(@topic $topic $($private)?),
                json_schema: |generator| generator.root_schema_for::<$variant>(),
                recode: |schema, data| Ok(Self::decode($kind, schema, data)?.encode().data),
            }),*];

            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind),* }
            }

            pub fn encode(&self) -> $crate::Encoded {
                match self { $(Self::$variant(payload) => $crate::payload::encode($kind, $schema, payload)),* }
            }

            /// # Errors
            /// A [`DecodeError`](crate::DecodeError) means poison: dead-letter the message.
            pub fn decode(kind: &str, schema: i64, data: &str) -> Result<Self, $crate::DecodeError> {
                match kind {
                    $($kind => {
                        if !(1..=$schema).contains(&schema) {
                            return Err($crate::DecodeError::UnknownSchema { kind: kind.to_owned(), schema, newest: $schema });
                        }
                        serde_json::from_str(data)
                            .map(Self::$variant)
                            .map_err(|source| $crate::DecodeError::Malformed { kind: kind.to_owned(), source })
                    })*
                    _ => Err($crate::DecodeError::UnknownType(kind.to_owned())),
                }
            }
        }

        $(impl From<$variant> for $name {
            fn from(payload: $variant) -> Self {
                Self::$variant(payload)
            }
        })*
    };
    (@topic $topic:ident) => { Some($crate::topics::$topic) };
    (@topic $topic:ident private) => { None };
}
pub(crate) use messages;
