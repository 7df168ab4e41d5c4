//! A real Prometheus with the configuration of `observability/`, pointed at the processes of a test.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{
    client::Client,
    cluster::{Cluster, free},
    eventually,
};

pub(crate) struct Prometheus {
    address: SocketAddr,
    child: Child,
}

impl Prometheus {
    pub(crate) async fn start(home: &Path, cluster: &Cluster) -> Self {
        let house = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../observability/prometheus"));
        let mut settings = std::fs::read_to_string(house.join("prometheus.yml")).unwrap();
        for replica in &cluster.replicas {
            let (container, process) = (format!("\"{}:8080\"", replica.service), format!("\"{}\"", replica.address));
            assert!(settings.contains(&container), "{} is not scraped", replica.service);
            settings = settings.replace(&container, &process);
        }
        // A test has no time for ten seconds between two looks.
        let settings = settings.replace("_interval: 10s", "_interval: 1s").replace("scrape_timeout: 5s", "scrape_timeout: 1s");
        let file = home.join("prometheus.yml");
        std::fs::write(&file, settings).unwrap();
        std::fs::copy(house.join("rules.yml"), home.join("rules.yml")).unwrap();
        let address = free();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", home.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=error"])
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus is installed by ci/observability.sh");
        let prometheus = Self { address, child };
        eventually("Prometheus is ready", async || prometheus.get("/-/ready").await.map(drop)).await;
        prometheus
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        match Client::new(self.address, None).get(path).await {
            Ok(reply) if reply.status.as_u16() == 200 => Ok(reply.body.to_vec()),
            Ok(reply) => Err(format!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The `data` of an answer of its API.
    async fn data(&self, path: &str) -> Result<Value, String> {
        let body = self.get(path).await?;
        let mut answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(answer["data"].take())
    }

    /// Whether a query has an answer that is a number.
    pub(crate) async fn shows(&self, query: &str) -> Result<bool, String> {
        let found = self.data(&format!("/api/v1/query?query={}", encoded(query))).await?;
        let is_number = |sample: &Value| sample["value"][1].as_str().is_some_and(|number| number != "NaN");
        Ok(found["result"].as_array().is_some_and(|samples| samples.iter().any(is_number)))
    }

    /// The traces that the exemplars of a metric name.
    pub(crate) async fn exemplars(&self, metric: &str) -> Result<Vec<String>, String> {
        let found = self.data(&format!("/api/v1/query_exemplars?query={metric}&start=0&end=9999999999")).await?;
        let series = found.as_array().into_iter().flatten();
        let exemplars = series.flat_map(|series| series["exemplars"].as_array().into_iter().flatten());
        Ok(exemplars.filter_map(|exemplar| exemplar["labels"]["trace_id"].as_str().map(str::to_owned)).collect())
    }

    /// Each alert by its name, and how Prometheus fares with it: `ok`, or what is wrong.
    pub(crate) async fn alerts(&self) -> Result<Vec<(String, String)>, String> {
        let found = self.data("/api/v1/rules?type=alert").await?;
        let rules =
            found["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(rules.map(|rule| (text(&rule["name"]), text(&rule["health"]))).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As part of a query string.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}
