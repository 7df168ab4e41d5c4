//! The share of the hashers that registrations have: whoever has an account never waits behind a crowd that wants one.
//!
//! Never here: how many may register from one address; that is the limiter's.

use std::sync::Arc;

use kit::http::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many may wait for the share; one more is told to come back.
const WAITING_MAX: usize = 64;

/// The share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Newcomers {
    waiting: Arc<Semaphore>,
    hashing: Arc<Semaphore>,
}

impl Newcomers {
    /// Half of the hashers, and one where there is one: then a login waits for one registration at most.
    pub(crate) fn new(hashers: usize) -> Self {
        Self { waiting: Arc::new(Semaphore::new(WAITING_MAX)), hashing: Arc::new(Semaphore::new((hashers / 2).max(1))) }
    }

    /// Waits for a part of the share, which is given back when it is dropped: by the hasher, once it is done.
    ///
    /// # Errors
    /// 503 when too many wait already.
    pub(crate) async fn turn(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let too_many = |_| Problem::unavailable("too many registrations wait; nothing was changed").coded("overloaded");
        let _waiting = self.waiting.clone().try_acquire_owned().map_err(too_many)?;
        self.hashing.clone().acquire_owned().await.map_err(|_| Problem::internal())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn newcomers_have_half_of_the_hashers_and_a_bounded_queue() {
        let newcomers = Newcomers::new(4);
        let turns = (newcomers.turn().await.unwrap(), newcomers.turn().await.unwrap());
        let mut queue: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(newcomers.turn())).collect();
        assert!(join_all(queue.iter_mut()).now_or_never().is_none(), "all wait");
        let refused = newcomers.turn().await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (503, "overloaded"));
        assert!(refused.retry_after.is_some());
        drop(turns);
        assert!(queue.remove(0).await.is_ok());
        assert_eq!(Newcomers::new(1).hashing.available_permits(), 1);
    }
}
