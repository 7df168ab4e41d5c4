//! Makes the topics of the contract's table, and tells where a cluster's topics differ. Nothing that exists is ever changed.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use contract::topics::{self, Settings};
use rdkafka::{
    ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::Kafka;

const ASK: Duration = Duration::from_secs(15);

/// Why the topics can't be looked at or made.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    #[error("can't ask Kafka about its topics; is it there, and are its address, user, password and certificate right?{said}")]
    Ask {
        /// What librdkafka said of the connection last, as its error does not.
        said: String,
        #[source]
        source: KafkaError,
    },
    #[error("Kafka did not make the topic {topic}: {code}. With fewer brokers than replicas, say --replication 1")]
    Make { topic: String, code: RDKafkaErrorCode },
}

/// How a topic differs from the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub topic: String,
    /// `None`: the topic is missing.
    pub setting: Option<&'static str>,
    pub wanted: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, setting, wanted, found } = self;
        match setting {
            None => write!(f, "{topic} is missing"),
            Some(setting) => write!(f, "{topic}: {setting} is {found}, not {wanted}"),
        }
    }
}

const CLEANUP: &str = "cleanup.policy";
const RETENTION: &str = "retention.ms";
const SIZE: &str = "max.message.bytes";
const IN_SYNC: &str = "min.insync.replicas";
const UNCLEAN: &str = "unclean.leader.election.enable";
/// As it was written: the broker has no work with it. It may be set otherwise, as every client here reads them all.
const COMPRESSION: &str = "compression.type";
/// The broker's clock stamps records: it refuses none for its time, and retention goes by one clock, whatever those of the services say.
const STAMPED: &str = "message.timestamp.type";

/// The settings of a topic, by Kafka's names; with so many replicas, if that is known.
fn settings(of: Settings, replication: Option<i32>) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        (CLEANUP, "delete".to_owned()),
        (RETENTION, of.retention.as_millis().to_string()),
        (SIZE, of.max_message_bytes.to_string()),
        (COMPRESSION, "producer".to_owned()),
        (STAMPED, "LogAppendTime".to_owned()),
        // A broker that was behind never leads, so that nothing is lost that was acknowledged …
        (UNCLEAN, "false".to_owned()),
    ];
    // … by more than half of the replicas: of three by two, so that one may be away.
    settings.extend(replication.map(|replication| (IN_SYNC, (replication / 2 + 1).to_string())));
    settings
}

/// Why a connection failed. It is only ever logged: the error of a request is that of a broker which is away, also where that broker
/// has refused a password.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<String>>);

impl ClientContext for Said {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = format!(" {message}");
        }
        super::log(level, facility, message);
    }
}

impl Said {
    fn ask(&self, source: KafkaError) -> TopicsError {
        TopicsError::Ask { said: self.0.lock().unwrap_or_else(PoisonError::into_inner).clone(), source }
    }
}

fn admin(kafka: &Kafka) -> Result<(AdminClient<Said>, Said), TopicsError> {
    let said = Said::default();
    let mut config = kafka.client("skald-topics");
    let made = config.set("statistics.interval.ms", "0").create_with_context(said.clone());
    Ok((made.map_err(|error| said.ask(error))?, said))
}

/// Makes the topics that are missing; tells which, and how the others differ.
///
/// # Errors
/// [`TopicsError`].
pub async fn apply(kafka: &Kafka, replication: i32) -> Result<(Vec<String>, Vec<Difference>), TopicsError> {
    let before = check(kafka, Some(replication)).await?;
    let missing: Vec<String> = before.iter().filter(|found| found.setting.is_none()).map(|found| found.topic.clone()).collect();
    let wanted: Vec<_> = topics::all()
        .filter(|(name, _)| missing.contains(name))
        .map(|(name, of)| (name, of, settings(of, Some(replication))))
        .collect();
    let new: Vec<NewTopic<'_>> = wanted
        .iter()
        .map(|(name, of, settings)| {
            let topic = NewTopic::new(name, of.partitions, TopicReplication::Fixed(replication));
            settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        })
        .collect();
    if !new.is_empty() {
        let options = AdminOptions::new().operation_timeout(Some(ASK)).request_timeout(Some(ASK));
        let (admin, said) = admin(kafka)?;
        for made in admin.create_topics(&new, &options).await.map_err(|error| said.ask(error))? {
            match made {
                // Somebody else was faster.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(TopicsError::Make { topic, code }),
            }
        }
    }
    Ok((missing, before.into_iter().filter(|found| found.setting.is_some()).collect()))
}

/// How the cluster's topics differ from the table; from the replication too, if one is wanted.
///
/// # Errors
/// [`TopicsError::Ask`].
pub async fn check(kafka: &Kafka, replication: Option<i32>) -> Result<Vec<Difference>, TopicsError> {
    let (admin, said) = admin(kafka)?;
    let mut differences = Vec::new();
    let mut present = Vec::new();
    {
        let metadata = admin.inner().fetch_metadata(None, ASK).map_err(|error| said.ask(error))?;
        for (topic, of) in topics::all() {
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic && !found.partitions().is_empty())
            else {
                differences.push(Difference { topic, setting: None, wanted: String::new(), found: String::new() });
                continue;
            };
            let differs = |setting, wanted: i32, found: usize| {
                (wanted as usize != found).then(|| Difference {
                    topic: topic.clone(),
                    setting: Some(setting),
                    wanted: wanted.to_string(),
                    found: found.to_string(),
                })
            };
            differences.extend(differs("partitions", of.partitions, found.partitions().len()));
            let replicas = found.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
            differences.extend(replication.and_then(|wanted| differs("replication", wanted, replicas)));
            present.push((topic, of));
        }
    }
    let resources: Vec<ResourceSpecifier<'_>> = present.iter().map(|(name, _)| ResourceSpecifier::Topic(name)).collect();
    if resources.is_empty() {
        return Ok(differences);
    }
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let configs = admin.describe_configs(&resources, &options).await.map_err(|error| said.ask(error))?;
    for ((topic, of), config) in present.into_iter().zip(configs) {
        let config = config.map_err(|code| said.ask(KafkaError::AdminOp(code)))?;
        for (setting, wanted) in settings(of, replication) {
            let found = config.get(setting).and_then(|entry| entry.value.clone()).unwrap_or_default();
            if found != wanted {
                differences.push(Difference { topic: topic.clone(), setting: Some(setting), wanted, found });
            }
        }
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_of_the_replicas_acknowledge() {
        let (_, of) = topics::all().next().unwrap();
        for (replication, in_sync) in [(1, "1"), (2, "2"), (3, "2"), (4, "3"), (5, "3")] {
            let settings = settings(of, Some(replication));
            assert!(settings.contains(&(IN_SYNC, in_sync.to_owned())), "{settings:?}");
            assert!(settings.contains(&(UNCLEAN, "false".to_owned())), "{settings:?}");
        }
    }
}
