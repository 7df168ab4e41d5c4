//! The knobs of the user service: each with its unit, default, bound and variable.
//!
//! Never here: reading the environment elsewhere. `services/skald` parses them and hands them to `build`.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

/// A value that is never shown: its `Debug` and `Display` are stars.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

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

/// What of the user service can be set.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "user")]
pub struct Config {
    /// E-mail address of the first admin; used only while there is none.
    #[arg(long, env = "SKALD_ADMIN_EMAIL", default_value = "admin@localhost")]
    pub admin_email: String,

    /// Password of the first admin, 12-128 characters; without it one is made and printed once.
    #[arg(long, env = "SKALD_ADMIN_PASSWORD", hide_env_values = true)]
    pub admin_password: Option<Secret>,

    /// How long an access token holds, in seconds.
    #[arg(long, env = "SKALD_ACCESS_TOKEN_S", default_value = "900", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub access_token_s: u32,

    /// How long a refresh token holds, in days; each use gives a new one.
    #[arg(long, env = "SKALD_REFRESH_TOKEN_DAYS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=366))]
    pub refresh_token_days: u32,

    /// How long a key signs before the next one takes over, in days.
    #[arg(long, env = "SKALD_SIGNING_KEY_DAYS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3_660))]
    pub signing_key_days: u32,

    /// Memory that hashing one password takes (Argon2id m), in KiB. Less than the default is for tests and demos only.
    #[arg(long, env = "SKALD_PASSWORD_MEMORY_KIB", default_value = "19456", value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub password_memory_kib: u32,

    /// Passes of hashing one password (Argon2id t). Less than the default is for tests and demos only.
    #[arg(long, env = "SKALD_PASSWORD_PASSES", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub password_passes: u32,

    /// Passwords hashed at once; by default as many as there are cores.
    #[arg(long, env = "SKALD_PASSWORD_HASHERS")]
    pub password_hashers: Option<NonZeroU32>,

    /// Failed logins of one account in 15 minutes before it has to wait.
    #[arg(long, env = "SKALD_LOGIN_FAILURES_PER_ACCOUNT", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub login_failures_per_account: u32,

    /// Failed logins from one address (IPv6: one /64) in 15 minutes before it has to wait.
    #[arg(long, env = "SKALD_LOGIN_FAILURES_PER_ADDRESS", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub login_failures_per_address: u32,
}

/// The least that OWASP asks of Argon2id with one lane: <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>.
pub(crate) const PASSWORD_MEMORY_KIB_SAFE: u32 = 19_456;
pub(crate) const PASSWORD_PASSES_SAFE: u32 = 2;

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Config {
    fn default() -> Self {
        Self {
            admin_email: "admin@localhost".to_owned(),
            admin_password: None,
            access_token_s: 900,
            refresh_token_days: 30,
            signing_key_days: 30,
            password_memory_kib: PASSWORD_MEMORY_KIB_SAFE,
            password_passes: PASSWORD_PASSES_SAFE,
            password_hashers: None,
            login_failures_per_account: 10,
            login_failures_per_address: 100,
        }
    }
}

impl Config {
    /// The same with the cheapest password hashing there is: for tests and demos, where nobody steals the database.
    #[must_use]
    pub fn with_cheap_passwords(self) -> Self {
        Self { password_memory_kib: 8, password_passes: 1, ..self }
    }

    pub(crate) fn access_token(&self) -> Duration {
        Duration::from_secs(self.access_token_s.into())
    }

    pub(crate) fn refresh_token(&self) -> Duration {
        DAY * self.refresh_token_days
    }

    pub(crate) fn signing_key(&self) -> Duration {
        DAY * self.signing_key_days
    }

    pub(crate) fn has_safe_passwords(&self) -> bool {
        self.password_memory_kib >= PASSWORD_MEMORY_KIB_SAFE && self.password_passes >= PASSWORD_PASSES_SAFE
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn the_defaults_of_the_command_line_are_those_of_the_code() {
        let parsed = Cli::parse_from(["x"]).config;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let parsed = Cli::parse_from(["x", "--admin-password", "a very long password"]).config;
        assert!(!format!("{parsed:?}").contains("long"));
        assert_eq!(parsed.admin_password, Some(Secret("a very long password".into())));
    }
}
