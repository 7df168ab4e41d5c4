//! The relay of one process, one turn at a time: leads if nobody does, publishes, hears reports, saves its checkpoint.
//!
//! Never here: what a turn decides, which is the production flow's. From here messages go to the broker's lanes.

use std::time::Duration;

use bus::kafka::{Ended, Flow, LEASE, published_by, whole};
use contract::{Timestamp, record::Link};
use eventlog::{Candidate, Log};

use crate::broker::{Broker, Producer};

/// How often a leader says that it leads, and another one asks.
const RENEW: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(1);

/// A candidate, which may lead.
pub(crate) struct Relay {
    candidate: Candidate,
    leading: Option<Leading>,
    /// Not worth a turn before.
    pub idle_until: Timestamp,
}

struct Leading {
    flow: Flow<Producer>,
    producer: Producer,
    is_dirty: bool,
    renewed: Timestamp,
}

/// What a turn came to, mostly to be read in the trace.
#[derive(Debug)]
#[allow(dead_code, reason = "the trace prints it")]
pub(crate) enum Turn {
    /// Somebody else leads.
    Waits,
    Leads {
        from: i64,
        /// What the broker has lost of it: publish again after this position.
        lost: Option<i64>,
    },
    Published {
        rows: usize,
        reports: usize,
        is_saved: bool,
    },
    Ended(String),
}

impl Relay {
    pub(crate) fn new(log: Log) -> Self {
        Self { candidate: Candidate::new(log), leading: None, idle_until: Timestamp(0) }
    }

    /// Whether a turn would do anything; `head` is the newest row of the log.
    pub(crate) fn has_work(&self, now: Timestamp, head: i64) -> bool {
        match &self.leading {
            None => now >= self.idle_until,
            Some(leading) => {
                leading.flow.sent() < head
                    || leading.flow.held_until().is_some_and(|due| due <= now)
                    || leading.is_dirty
                    || leading.producer.has_report()
                    || now.since(leading.renewed) >= RENEW && now >= self.idle_until
            }
        }
    }

    /// When a leader has something to send by itself.
    pub(crate) fn held_until(&self) -> Option<Timestamp> {
        self.leading.as_ref()?.flow.held_until()
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    pub(crate) async fn turn(&mut self, broker: &Broker, saves: bool) -> Turn {
        let now = self.candidate.log().env().now();
        if self.leading.is_none() {
            return self.lead(broker, now).await;
        }
        match self.publish(now, saves).await {
            Ok(turn) => turn,
            Err(ended) => {
                if let Some(leading) = self.leading.take() {
                    leading.producer.throw_away();
                }
                if !matches!(ended, Ended::Deposed) {
                    // The lease ends by itself, if it must.
                    let _ = self.candidate.resign().await;
                }
                self.idle_until = now.plus(RENEW);
                Turn::Ended(format!("{ended:?}"))
            }
        }
    }

    async fn lead(&mut self, broker: &Broker, now: Timestamp) -> Turn {
        let log = self.candidate.log().clone();
        let led = async {
            let Some(mut checkpoint) = self.candidate.lead(LEASE).await? else { return Ok(None) };
            whole(&mut checkpoint, &published_by(log.service()))?;
            let (from, lost) = (checkpoint.position, lost(broker, &log, &checkpoint));
            let producer = broker.producer();
            let flow = Flow::begin(log.clone(), checkpoint, producer.clone()).await?.with_keys(broker.keys.clone());
            self.leading = Some(Leading { flow, producer, is_dirty: false, renewed: now });
            Ok::<_, Ended>(Some((from, lost)))
        };
        match led.await {
            Ok(Some((from, lost))) => Turn::Leads { from, lost },
            Ok(None) => {
                self.idle_until = now.plus(RENEW);
                Turn::Waits
            }
            Err(ended) => {
                self.idle_until = now.plus(PAUSE);
                Turn::Ended(format!("{ended:?}"))
            }
        }
    }

    async fn publish(&mut self, now: Timestamp, saves: bool) -> Result<Turn, Ended> {
        let leading = self.leading.as_mut().expect("asked of a leader only");
        let rows = leading.flow.send_more().await?;
        let mut reports = 0;
        while let Some(report) = leading.producer.report() {
            leading.flow.report(report)?;
            reports += 1;
        }
        leading.flow.settle(&mut leading.is_dirty);
        let is_saved = saves && leading.is_dirty || now.since(leading.renewed) >= RENEW;
        if is_saved {
            if let Some(ended) = leading.flow.save(&mut self.candidate).await? {
                return Err(ended);
            }
            (leading.is_dirty, leading.renewed) = (false, now);
        }
        if rows == 0 {
            self.candidate.log().refresh().await?;
        }
        Ok(Turn::Published { rows, reports, is_saved })
    }

    /// It says at its next turn that it leads, or hears that it does not.
    pub(crate) fn renew_soon(&mut self) {
        self.idle_until = Timestamp(0);
        if let Some(leading) = &mut self.leading {
            leading.renewed = Timestamp(0);
        }
    }

    /// What is on its way stays on its way; nobody hears of it.
    pub(crate) fn drop_producer(&mut self) {
        if let Some(leading) = self.leading.take() {
            leading.producer.throw_away();
        }
    }
}

/// What the broker must be sent again, as the production relay tells its operator when it begins to lead: the newest record of each
/// partition is held against the checkpoint.
fn lost(broker: &Broker, log: &Log, checkpoint: &eventlog::Checkpoint) -> Option<i64> {
    let mut lost = None;
    for (topic, chain) in &checkpoint.chain {
        for (partition, published) in chain.iter().enumerate() {
            let newest = newest(broker, log, topic, partition as i32);
            if newest < *published {
                lost = Some(lost.map_or(newest, |lost: i64| lost.min(newest)));
            }
        }
    }
    lost
}

/// The newest sequence of the log's own that a partition holds; 0 if there is none. Its forgers are told by the key, or make up an epoch.
fn newest(broker: &Broker, log: &Log, topic: &str, partition: i32) -> i64 {
    let records = broker.read(topic, partition, 0, usize::MAX);
    let links = records.iter().rev().filter_map(|(_, record)| {
        let (message, mut link): (_, Link) = contract::record::decode(topic, record).ok()?;
        broker.keys.check(&message, &mut link).ok()?;
        (link.source == log.source(1)).then_some(link)
    });
    links.map(|link| link.sequence).max().unwrap_or(0)
}
