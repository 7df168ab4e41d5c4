//! Whether a log's writer gets its transactions committed, and since when it does not: for `/readyz`, and for who ends the process.
//!
//! Never here: what to do about it. The writer tells; a log's [`trouble`](Log::trouble) is asked from outside.

use std::sync::{Mutex, MutexGuard, PoisonError};

use contract::Timestamp;
use tokio::sync::{Notify, watch};

use crate::{Error, Log, Verdict, bounds};

/// How a log's writer does.
#[derive(Default)]
pub(crate) struct Writing {
    state: Mutex<State>,
    /// Somebody wants to know whether it has passed.
    asked: Notify,
    /// What the database has lost.
    damage: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct State {
    /// The beginning of the first attempt since the last one that came through. One that hangs counts as well.
    since: Option<Timestamp>,
    /// What the last one met.
    error: Option<String>,
}

impl Writing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begins(&self, now: Timestamp) {
        self.state().since.get_or_insert(now);
    }

    /// An attempt has ended. A database that refuses what it is given takes other things.
    pub(crate) fn ended(&self, error: Option<&Error>) {
        let mut state = self.state();
        match error {
            Some(error) if !matches!(error, Error::Conflict(_)) && error.verdict() != Verdict::Poison => {
                state.error = Some(error.to_string());
            }
            _ => *state = State::default(),
        }
    }

    /// Waits until somebody asks.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }
}

impl Log {
    /// What has kept the writer from committing for some time. It tries again then, should nobody else give it a reason to.
    pub fn trouble(&self) -> Option<String> {
        let writing = self.writing();
        let state = writing.state();
        let lasts = self.env().now().since(state.since?);
        if lasts < bounds::TROUBLED {
            return None;
        }
        writing.asked.notify_one();
        let error = state.error.as_deref().unwrap_or("the database does not answer, or somebody else has its lock");
        Some(format!("nothing could be committed for {} s: {error}", lasts.as_secs()))
    }

    /// Waits until the database turns out to be damaged; tells how. The process should end: whatever it went on with might be lost.
    pub async fn damaged(&self) -> String {
        let mut damage = self.writing().damage.subscribe();
        let found = damage.wait_for(Option::is_some).await.map(|found| found.clone());
        match found {
            Ok(Some(damage)) => damage,
            // The log is gone, so nobody finds anything any more.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Takes note of an error that means damage.
    pub fn tell_damage(&self, error: &Error) {
        if error.verdict() == Verdict::Stop {
            tracing::error!(service = self.service(), %error, "stopping: the database has to be restored, or another one promoted");
            self.writing().damage.send_replace(Some(error.to_string()));
        }
    }
}
