//! What becomes of a commit: kept, torn, kept without an answer, refused, denied, or the end of the process before or after it.
//!
//! Never here: when; the world arms one fate at a time. From here the flow goes back to the log's writer, or nowhere.

use std::{
    borrow::Cow,
    fmt,
    future::pending,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use eventlog::Commit;
use sqlx::error::{DatabaseError, ErrorKind};

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
    /// The database denies access, as one does whose rights are being changed.
    Denied,
    Slow(Duration),
}

/// What PostgreSQL says to a role without the right: SQLite has no roles, and it is the code that counts.
#[derive(Debug)]
struct Denied;

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Denied {}

impl DatabaseError for Denied {
    fn message(&self) -> &str {
        "permission denied for table log"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("42501"))
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
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
            // A full disk stays full for as long as the operation lasts, and rights stay taken away.
            if matches!(*next, Some(Fate::Refused | Fate::Denied)) { *next } else { next.take() }
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
                Some(Fate::Denied) => Err(sqlx::Error::Database(Box::new(Denied))),
            }
        })
    }
}
