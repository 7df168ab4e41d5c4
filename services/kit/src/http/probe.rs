//! Probes: is the process alive, is it ready, how is each thing that it needs.
//!
//! Never here: how a check is made; whoever owns the dependency hands over a [`Check`]. Orchestrators and people read the answers.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;

use super::{Json, Stopping};

/// How long a check may take before it counts as failing.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// One thing that the process needs, and how to look after it.
#[derive(Clone)]
pub struct Check {
    pub name: String,
    /// `Err` says in one line what is wrong; it is shown to whoever asks, so never with a secret.
    pub probe: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
    /// Requests can be taken without it, for a while.
    can_wait: bool,
}

impl Check {
    pub fn new<F>(name: impl Into<String>, probe: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name: name.into(), probe: Arc::new(move || Box::pin(probe())), can_wait: false }
    }

    /// What the process needs, but not to take requests: it is told, and requests go on being sent here.
    #[must_use]
    pub fn that_can_wait(self) -> Self {
        Self { can_wait: true, ..self }
    }

    async fn run(&self) -> Checked {
        let result = match tokio::time::timeout(CHECK_TIMEOUT, (self.probe)()).await {
            Ok(result) => result,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let status = match result {
            Ok(()) => "ok",
            Err(_) if self.can_wait => "degraded",
            Err(_) => "failing",
        };
        Checked { name: self.name.clone(), status, error: result.err() }
    }
}

#[derive(Serialize)]
struct Checked {
    name: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<Checked>>,
}

/// The process runs; nothing else is asked.
pub(crate) async fn livez() -> Response {
    Json(Health { status: "ok", checks: None }).into_response()
}

/// Whether to send requests here: not while a check fails, and not while stopping.
pub(crate) async fn readyz(checks: Arc<Vec<Check>>, stopping: Option<Extension<Stopping>>) -> Response {
    let health = ask(&checks, stopping).await;
    (code(&health), Json(Health { checks: None, ..health })).into_response()
}

/// The state of everything that the process needs.
pub(crate) async fn health(checks: Arc<Vec<Check>>, stopping: Option<Extension<Stopping>>) -> Response {
    let health = ask(&checks, stopping).await;
    (code(&health), Json(health)).into_response()
}

async fn ask(checks: &[Check], stopping: Option<Extension<Stopping>>) -> Health {
    let checked = join_all(checks.iter().map(Check::run)).await;
    let is_stopping = stopping.is_some_and(|Extension(Stopping(token))| token.is_cancelled());
    let any = |status| checked.iter().any(|check| check.status == status);
    let status = match (any("failing"), any("degraded")) {
        _ if is_stopping => "stopping",
        (true, _) => "failing",
        (false, true) => "degraded",
        (false, false) => "ok",
    };
    Health { status, checks: Some(checked) }
}

fn code(health: &Health) -> StatusCode {
    if ["ok", "degraded"].contains(&health.status) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
