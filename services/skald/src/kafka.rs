//! How to reach Kafka, as flags, for every command that speaks to it.
//!
//! Never here: a client. What comes out are settings of librdkafka, which go to `bus`.

use std::{fs::File, path::PathBuf};

use clap::{ValueEnum, builder::PossibleValuesParser};
use contract::MessageKeys;
use kit::Secret;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct KafkaArgs {
    /// Brokers to ask first; the others are found through them
    #[arg(long, env = "SKALD_KAFKA", value_name = "HOST:PORT", value_delimiter = ',', required = true, value_parser = broker)]
    kafka: Vec<String>,
    /// How the connection is protected: not, by TLS (ssl), by a user (sasl_plaintext), or by both (sasl_ssl)
    #[arg(long, env = "SKALD_KAFKA_SECURITY", value_name = "PROTOCOL", value_enum, default_value_t = Security::Plaintext)]
    kafka_security: Security,
    /// Certificates that a broker's may be signed by, as PEM; with ssl and sasl_ssl [default: the system's]
    #[arg(long, env = "SKALD_KAFKA_CA", value_name = "FILE")]
    kafka_ca: Option<PathBuf>,
    /// How the user is proved; with sasl_plaintext and sasl_ssl
    #[arg(long, env = "SKALD_KAFKA_SASL_MECHANISM", value_name = "NAME", default_value = "SCRAM-SHA-512",
          value_parser = PossibleValuesParser::new(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]))]
    kafka_sasl_mechanism: String,
    /// The user to log in as; with sasl_plaintext and sasl_ssl
    #[arg(long, env = "SKALD_KAFKA_USER", value_name = "NAME", requires = "kafka_password_file")]
    kafka_user: Option<String>,
    /// File with that user's password
    #[arg(long, env = "SKALD_KAFKA_PASSWORD_FILE", value_name = "FILE", requires = "kafka_user", value_parser = Secret::read)]
    kafka_password_file: Option<Secret>,
}

/// By what records are believed.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct KeyArgs {
    /// File with the message keys that all services share, <key id>:<secret> a line: the first signs, each of them verifies
    #[arg(long, env = "SKALD_MESSAGE_KEY_FILE", value_name = "FILE", value_parser = read_keys)]
    message_key_file: Option<MessageKeys>,
    /// Also believe records that are not signed: while a message key is being introduced, and no longer
    #[arg(long, env = "SKALD_ACCEPT_UNSIGNED")]
    accept_unsigned: bool,
}

fn read_keys(path: &str) -> Result<MessageKeys, String> {
    let Secret(text) = Secret::read(path)?;
    MessageKeys::parse(&text).map_err(|error| error.to_string())
}

impl KeyArgs {
    /// The keys; none if there is no file.
    ///
    /// # Errors
    /// Flags that do not go together.
    pub(crate) fn keys(&self) -> Result<MessageKeys, String> {
        match (&self.message_key_file, self.accept_unsigned) {
            (None, true) => Err("--accept-unsigned goes with --message-key-file".to_owned()),
            (None, false) => Ok(MessageKeys::default()),
            (Some(keys), true) => Ok(keys.clone().accepting_unsigned()),
            (Some(keys), false) => Ok(keys.clone()),
        }
    }
}

/// Says what stands between the topics and a forger, where that is less than it could be.
pub(crate) fn tell_whom_it_believes(keys: &MessageKeys) {
    if keys.is_empty() {
        tracing::warn!(
            "there is no message key (--message-key-file): whoever may write to the topics is believed, and only the broker's ACLs keep \
             forgers out"
        );
    } else if keys.accepts_unsigned() {
        tracing::warn!(
            "records that are not signed are believed as well (--accept-unsigned): the message key keeps no forger out until every \
             service has it and this flag is gone"
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Security {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Security {
    fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn has_user(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl KafkaArgs {
    /// The brokers, for people.
    pub(crate) fn brokers(&self) -> String {
        self.kafka.join(",")
    }

    /// Settings of librdkafka.
    ///
    /// # Errors
    /// Flags that do not go together, or that this build can't follow.
    pub(crate) fn settings(&self) -> Result<Vec<(String, String)>, String> {
        let security = self.kafka_security;
        let name = security.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut settings = vec![("bootstrap.servers", self.brokers()), ("security.protocol", name.clone())];
        // librdkafka takes SCRAM's arithmetic from the same library as TLS.
        let needs_tls = security.has_tls() || (security.has_user() && self.kafka_sasl_mechanism != "PLAIN");
        if needs_tls && !cfg!(feature = "tls") {
            let what = if security.has_tls() { "TLS" } else { "SCRAM" };
            return Err(format!("--kafka-security {name} needs {what}, which this build is without: build with --features tls"));
        }
        match &self.kafka_ca {
            Some(_) if !security.has_tls() => return Err("--kafka-ca goes with --kafka-security ssl or sasl_ssl".to_owned()),
            Some(file) => {
                File::open(file).map_err(|error| format!("--kafka-ca: can't read {}: {error}", file.display()))?;
                settings.push(("ssl.ca.location", file.display().to_string()));
            }
            None => {}
        }
        match (&self.kafka_user, &self.kafka_password_file) {
            (Some(user), Some(Secret(password))) if security.has_user() => settings.extend([
                ("sasl.mechanism", self.kafka_sasl_mechanism.clone()),
                ("sasl.username", user.clone()),
                ("sasl.password", password.clone()),
            ]),
            (None, None) if !security.has_user() => {}
            (None, None) => return Err(format!("--kafka-security {name} needs --kafka-user and --kafka-password-file")),
            _ => return Err("--kafka-user goes with --kafka-security sasl_plaintext or sasl_ssl".to_owned()),
        }
        Ok(settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

fn broker(text: &str) -> Result<String, String> {
    let is_good = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if is_good { Ok(text.to_owned()) } else { Err("a broker is HOST:PORT".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        kafka: KafkaArgs,
        #[command(flatten)]
        keys: KeyArgs,
    }

    #[test]
    fn message_keys_come_from_a_file_and_what_is_wrong_with_it_is_told_without_a_secret() {
        let keys = |flags: &[&str]| {
            let flags = ["skald", "--kafka", "one:9092"].iter().chain(flags);
            Line::try_parse_from(flags).map_err(|error| error.to_string())?.keys.keys()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, "two:fedcba9876543210fedcba9876543210\none:0123456789abcdef0123456789abcdef\n").unwrap();
        let found = keys(&["--message-key-file", path]).unwrap();
        assert_eq!((format!("{found:?}"), found.accepts_unsigned()), (r#"["two", "one"]"#.to_owned(), false));
        assert!(keys(&["--message-key-file", path, "--accept-unsigned"]).unwrap().accepts_unsigned());
        assert!(keys(&[]).unwrap().is_empty());
        assert!(keys(&["--accept-unsigned"]).unwrap_err().contains("--message-key-file"));
        std::fs::write(path, "one:hidden\n").unwrap();
        let told = keys(&["--message-key-file", path]).unwrap_err();
        assert!(told.contains("shorter than 32 bytes") && !told.contains("hidden"), "{told}");
    }

    fn settings(flags: &[&str]) -> Result<Vec<(String, String)>, String> {
        let flags = ["skald", "--kafka", "one:9092,two:9093"].iter().chain(flags);
        Line::try_parse_from(flags).map_err(|error| error.to_string())?.kafka.settings()
    }

    #[test]
    fn flags_become_settings_of_librdkafka() {
        let plain = settings(&[]).unwrap();
        assert_eq!(plain[0], ("bootstrap.servers".to_owned(), "one:9092,two:9093".to_owned()));
        assert_eq!(plain[1], ("security.protocol".to_owned(), "plaintext".to_owned()));
        assert_eq!(plain.len(), 2);
        let password = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(password.path(), "hidden\n").unwrap();
        let user = ["--kafka-user", "skald", "--kafka-password-file", password.path().to_str().unwrap()];
        let sasl = [&["--kafka-security", "sasl_plaintext", "--kafka-sasl-mechanism", "PLAIN"][..], &user].concat();
        let told = settings(&sasl).unwrap();
        let told: Vec<(&str, &str)> = told[1..].iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let expected = [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", "skald"),
            ("sasl.password", "hidden"),
        ];
        assert_eq!(told, expected);
        assert!(settings(&user).unwrap_err().contains("--kafka-security"), "a user without SASL");
    }

    #[test]
    fn flags_that_do_not_go_together_are_told() {
        for (flags, word) in [
            (&["--kafka-security", "sasl_plaintext", "--kafka-sasl-mechanism", "PLAIN"][..], "--kafka-user"),
            (&["--kafka-user", "skald"], "--kafka-password-file"),
            (&["--kafka-password-file", "/nowhere/at-all"], "No such file"),
            (&["--kafka-ca", "/nowhere/at-all"], "--kafka-security"),
            (&["--kafka-security", "tls"], "sasl_ssl"),
            (&["--kafka", "three"], "HOST:PORT"),
        ] {
            let told = settings(flags).unwrap_err();
            assert!(told.contains(word), "{flags:?}: {told}");
        }
    }
}
