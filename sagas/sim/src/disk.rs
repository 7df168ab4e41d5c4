//! What becomes of a commit: kept, torn, kept without an answer, refused, or the end of the process before or after it.
//!
//! Never here: when; the world arms one fate at a time. From here the flow goes back to the log's writer, or nowhere.

use std::{
    future::pending,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use eventlog::Commit;

use crate::clock::Clock;

/// The fate of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The process ends before it: the transaction is gone.
    CrashBefore,
    /// The process ends after it: nobody hears of it.
    CrashAfter,
    /// It is durable, but the connection is cut before the answer.
    AnswerLost,
    /// The disk is full.
    Refused,
    Slow(Duration),
}

/// The disk under one process.
#[derive(Debug)]
pub(crate) struct Disk {
    clock: Clock,
    next: Mutex<Option<Fate>>,
    has_crashed: AtomicBool,
}

impl Disk {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, next: Mutex::default(), has_crashed: AtomicBool::new(false) })
    }

    /// Arms the fate of the next commit, or of all while the disk is full; `None` disarms it.
    pub(crate) fn arm(&self, fate: Option<Fate>) {
        *self.next() = fate;
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.has_crashed.load(Relaxed)
    }

    fn next(&self) -> MutexGuard<'_, Option<Fate>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn crash(&self) {
        self.has_crashed.store(true, Relaxed);
        pending().await
    }
}

impl eventlog::Disk for Disk {
    fn commit<'a>(&'a self, commit: Commit<'a>) -> Commit<'a> {
        let fate = {
            let mut next = self.next();
            // A full disk stays full for as long as the operation lasts.
            if *next == Some(Fate::Refused) { *next } else { next.take() }
        };
        Box::pin(async move {
            match fate {
                None => commit.await,
                Some(Fate::Slow(wait)) => {
                    self.clock.advance(wait);
                    commit.await
                }
                Some(Fate::CrashBefore) => {
                    self.crash().await;
                    commit.await
                }
                Some(Fate::CrashAfter) => {
                    commit.await?;
                    self.crash().await;
                    Ok(())
                }
                Some(Fate::AnswerLost) => {
                    commit.await?;
                    Err(sqlx::Error::Io(io::ErrorKind::ConnectionReset.into()))
                }
                Some(Fate::Refused) => Err(sqlx::Error::Io(io::ErrorKind::StorageFull.into())),
            }
        })
    }
}
