//! The keys that verify tokens, as another process publishes them.

#![no_main]

use kit::auth::{jwks, read_jwks};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(keys) = read_jwks(bytes) else { return };
    assert!(!keys.is_empty(), "a set without a key would lock everybody out");
    assert_eq!(read_jwks(jwks(&keys).to_string().as_bytes()), Ok(keys));
});
