//! Where else the entries of a history can be looked at: a trace in Jaeger, a record in Kafdrop. For operators, whose addresses these are.
//!
//! Never here: Kafka; who assembles the service hands over how a row is found on its topic.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use contract::{Message, MessageId};
use futures_util::future::BoxFuture;

use super::dto::{Entry, Published};

/// Finds published rows: partition and offset by message id. One that is not found is missing.
pub type Locate =
    Arc<dyn Fn(Vec<Arc<Message>>) -> BoxFuture<'static, Result<HashMap<MessageId, (i32, i64)>, String>> + Send + Sync>;

/// The address of a page that people open, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page(String);

impl FromStr for Page {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_url = ["http://", "https://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        if !is_url || text.contains(|c: char| c.is_whitespace() || c.is_control() || ['?', '#', '"', '<', '>'].contains(&c)) {
            return Err("it is of the form http://HOST:PORT or https://HOST/PATH".to_owned());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of other places.
#[derive(Clone)]
pub(crate) struct Links {
    pub jaeger: Option<Page>,
    pub kafdrop: Option<Page>,
    pub locate: Option<Locate>,
}

impl Links {
    /// Adds to each entry, in the order of its rows, where else it can be seen. Kafka that is away leaves its part out.
    pub(crate) async fn add(&self, rows: Vec<Arc<Message>>, entries: &mut [Entry]) {
        if let Some(jaeger) = &self.jaeger {
            for entry in &mut *entries {
                entry.trace_url = entry.trace_id.as_ref().map(|id| format!("{jaeger}/trace/{id}"));
            }
        }
        let (Some(kafdrop), Some(locate)) = (&self.kafdrop, &self.locate) else { return };
        let ids: Vec<MessageId> = rows.iter().map(|row| row.id).collect();
        let found = match locate(rows).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(error, "can't look up where messages stand on their topics; the history comes without");
                return;
            }
        };
        for (entry, id) in entries.iter_mut().zip(ids) {
            if let (Some(topic), Some(&(partition, offset))) = (&entry.topic, found.get(&id)) {
                let url = format!(
                    "{kafdrop}/topic/{topic}/messages?partition={partition}&offset={offset}&count=1&keyFormat=DEFAULT&format=DEFAULT"
                );
                entry.published = Some(Published { partition, offset, url });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_an_http_url_without_a_query() {
        assert_eq!("http://127.0.0.1:16686/".parse::<Page>().unwrap().to_string(), "http://127.0.0.1:16686");
        assert!("https://jaeger.example/ui".parse::<Page>().is_ok());
        for bad in ["jaeger:16686", "http://", "ftp://a", "http://a b", "http://a?x=1", "javascript:alert(1)"] {
            assert!(bad.parse::<Page>().is_err(), "{bad}");
        }
    }
}
