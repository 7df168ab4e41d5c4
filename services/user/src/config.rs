//! The knobs of the user service: each with its unit, default, bound and variable.
//!
//! Never here: reading the environment elsewhere. `services/skald` parses them and hands them to `build`.

use std::{num::NonZeroU32, time::Duration};

use kit::Secret;

/// What of the user service can be set.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "user")]
pub struct Config {
    /// E-mail address of the first admin; used only while there is none.
    #[arg(long, env = "SKALD_ADMIN_EMAIL", value_name = "EMAIL", default_value = "admin@localhost")]
    pub admin_email: String,

    /// Password of the first admin, 12-128 characters; without it one is made and printed once.
    #[arg(long, env = "SKALD_ADMIN_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub admin_password: Option<Secret>,

    /// File with the password of the first admin, instead of the password itself.
    #[arg(long, env = "SKALD_ADMIN_PASSWORD_FILE", value_name = "FILE", value_parser = Secret::read, conflicts_with = "admin_password")]
    pub admin_password_file: Option<Secret>,

    /// How long an access token holds, in seconds.
    #[arg(long, env = "SKALD_ACCESS_TOKEN_S", value_name = "S", default_value = "900", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub access_token_s: u32,

    /// How long a refresh token holds, in days; each use gives a new one.
    #[arg(long, env = "SKALD_REFRESH_TOKEN_DAYS", value_name = "DAYS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=366))]
    pub refresh_token_days: u32,

    /// How long a key signs before the next one takes over, in days.
    #[arg(long, env = "SKALD_SIGNING_KEY_DAYS", value_name = "DAYS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3_660))]
    pub signing_key_days: u32,

    /// File with which the seeds of signing keys are encrypted in the database, at least 32 characters; those that lie open there are encrypted at the next start. Keep it apart from backups of the database.
    #[arg(long, env = "SKALD_SIGNING_KEY_FILE", value_name = "FILE", value_parser = crate::vault::key_file)]
    pub signing_key_file: Option<Secret>,

    /// Memory that hashing one password takes (Argon2id m), in KiB. Less than the default is for tests and demos only.
    #[arg(long, env = "SKALD_PASSWORD_MEMORY_KIB", value_name = "KIB", default_value = "19456", value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub password_memory_kib: u32,

    /// Passes of hashing one password (Argon2id t). Less than the default is for tests and demos only.
    #[arg(long, env = "SKALD_PASSWORD_PASSES", value_name = "COUNT", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub password_passes: u32,

    /// Passwords hashed at once; by default as many as there are cores.
    #[arg(long, env = "SKALD_PASSWORD_HASHERS", value_name = "COUNT")]
    pub password_hashers: Option<NonZeroU32>,

    /// Failed logins of one account in 15 minutes before it has to wait; each replica counts by itself.
    #[arg(long, env = "SKALD_LOGIN_FAILURES_PER_ACCOUNT", value_name = "COUNT", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub login_failures_per_account: u32,

    /// Failed logins from one address (IPv6: one /64) in 15 minutes before it has to wait; each replica counts by itself.
    #[arg(long, env = "SKALD_LOGIN_FAILURES_PER_ADDRESS", value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub login_failures_per_address: u32,

    /// Registrations from one address (IPv6: one /64) in 15 minutes before it has to wait; each replica counts by itself.
    #[arg(long, env = "SKALD_REGISTRATIONS_PER_ADDRESS", value_name = "COUNT", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub registrations_per_address: u32,
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
            admin_password_file: None,
            access_token_s: 900,
            refresh_token_days: 30,
            signing_key_days: 30,
            signing_key_file: None,
            password_memory_kib: PASSWORD_MEMORY_KIB_SAFE,
            password_passes: PASSWORD_PASSES_SAFE,
            password_hashers: None,
            login_failures_per_account: 10,
            login_failures_per_address: 100,
            registrations_per_address: 200,
        }
    }
}

impl Config {
    /// The same with the cheapest password hashing there is: for tests and demos, where nobody steals the database.
    #[must_use]
    pub fn with_cheap_passwords(self) -> Self {
        Self { password_memory_kib: 8, password_passes: 1, ..self }
    }

    /// How many passwords are hashed at once.
    pub(crate) fn hashers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.password_hashers.map_or(cores, |hashers| hashers.get() as usize)
    }

    /// The first admin's password, if somebody chose one.
    pub(crate) fn admin_password(&self) -> Option<&str> {
        self.admin_password.as_ref().or(self.admin_password_file.as_ref()).map(|Secret(password)| password.as_str())
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
    fn the_password_of_the_first_admin_is_given_once_and_never_shown() {
        let parsed = Cli::parse_from(["x", "--admin-password", "a very long password"]).config;
        assert!(!format!("{parsed:?}").contains("long"));
        assert_eq!(parsed.admin_password(), Some("a very long password"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "out of a file\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(Cli::parse_from(["x", "--admin-password-file", path]).config.admin_password(), Some("out of a file"));
        assert!(Cli::try_parse_from(["x", "--admin-password-file", path, "--admin-password", "a very long password"]).is_err());
    }
}
