//! Watches deadlines: looks for instances that are due and hands them to the hosting service's writer.

use std::{future::Future, sync::Arc, time::Duration};

use eventlog::{Due, Error, Log};
use tokio_util::sync::CancellationToken;

/// How often the table is asked for due instances: two look-ups by index. Each look may fire a few hundred.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After a failed look.
const PAUSE: Duration = Duration::from_secs(1);

/// Calls `fire` whenever an instance is due, until `stop`. `fire` decides every due instance in one transaction.
pub async fn watch_deadlines<F>(log: Log, due: Arc<Due>, fire: impl Fn() -> F + Send, stop: CancellationToken)
where
    F: Future<Output = Result<(), Error>> + Send,
{
    loop {
        let pause = match look(&log, &due, &fire).await {
            Ok(()) => LOOK_EVERY,
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "can't look for due sagas; trying again");
                PAUSE
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = log.env().sleep(pause) => {}
        }
    }
}

/// One look: calls `fire` if an instance is due.
///
/// # Errors
/// What the database said, or `fire`.
pub async fn look<F>(log: &Log, due: &Due, fire: &impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let now = log.env().now();
    if due.first(log).await?.is_some_and(|first| first <= now) { fire().await } else { Ok(()) }
}
