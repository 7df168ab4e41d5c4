//! What must not be shown, and where it may come from: a variable, or a file as container platforms mount them.
//!
//! Never here: which secrets there are. Each service's `config.rs` and the command line name theirs.

use std::{fmt, path::Path, str::FromStr};

/// A value that is never shown: its `Debug` and `Display` are stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl Secret {
    /// Reads a file with one secret in it, for clap; a line break at its end is not part of it.
    ///
    /// # Errors
    /// Why not, without the file's content.
    pub fn read(path: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(Path::new(path)).map_err(|error| format!("can't read it: {error}"))?;
        let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        if text.is_empty() { Err("the file is empty".to_owned()) } else { Ok(Self(text.to_owned())) }
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_secret_with_or_without_a_line_break() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("secret");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Secret::read(path.to_str().unwrap())
        };
        for content in ["s e cret", "s e cret\n", "s e cret\r\n"] {
            assert_eq!(read(content.as_bytes()), Ok(Secret("s e cret".to_owned())));
        }
        assert_eq!(read(b" two\nlines \n"), Ok(Secret(" two\nlines ".to_owned())));
        for bad in [&b""[..], b"\n", &[0xff]] {
            assert!(read(bad).is_err());
        }
        let missing = Secret::read("/nowhere/at-all").unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret("hidden".to_owned());
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    }
}
