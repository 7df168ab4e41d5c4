//! The life of a process: signals, tasks, locks and databases, from its start to a stop that loses nothing.
//!
//! Never here: services. `assemble.rs` builds them; `up.rs` and `serve.rs` run a process with all of them, or with one.

use std::{
    fs::{File, TryLockError},
    future::poll_fn,
    net::SocketAddr,
    path::{Path, PathBuf},
    task::Poll,
    time::Duration,
};

use axum::Router;
use eventlog::{Env, Log, OpenError};
use kit::{Metrics, Tasks, http::Check};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{private, traces::Traced};

/// How long requests and messages under way may take to end, once told to stop: a commit takes seconds on a disk that is busy, and
/// containers are usually given 30.
const DRAIN: Duration = Duration::from_secs(15);

/// The system can't start, or can't go on. Each is one sentence for the person at the keyboard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("can't create the data directory {path}; choose another place for the data")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("others may write to the data directory {path} (mode {mode}), and so replace what is in it; chmod 700 {path}")]
    OpenDirectory { path: PathBuf, mode: String },
    #[error("another process is using {path}; stop it, or choose another place for the data")]
    Locked { path: PathBuf },
    #[error("can't lock {path}")]
    Lock {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Ahead(#[from] bus::Ahead),
    #[error("can't read how far {consumer} has come")]
    Progress {
        consumer: &'static str,
        #[source]
        source: eventlog::Error,
    },
    #[error("can't listen on {address}; is another process serving there? Choose another with --listen")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Product(#[from] product::Error),
    #[error(transparent)]
    User(#[from] user::Error),
    #[error("the task {0:?} panicked; its message is in the log above. Start again: nothing that was answered is lost")]
    Panicked(&'static str),
    #[error(
        "the {service} service has stopped: {damage}; restore it from a backup, or promote a standby. Nothing was acknowledged since"
    )]
    Damaged { service: &'static str, damage: String },
    #[error("can't wait for a signal")]
    Signal(#[source] std::io::Error),
    #[error("told to stop before it had started")]
    Stopped,
}

/// A process that runs.
pub(crate) struct Process {
    pub env: Env,
    pub tasks: Tasks,
    pub metrics: Metrics,
    traced: Traced,
    /// Ctrl-C or SIGTERM came.
    told_to_stop: CancellationToken,
}

impl Process {
    /// Listens for signals first of all: whoever has seen it start may tell it to stop.
    pub(crate) fn start(traced: Traced) -> Result<Self, Error> {
        let signals =
            (signal(SignalKind::interrupt()).map_err(Error::Signal)?, signal(SignalKind::terminate()).map_err(Error::Signal)?);
        let (tasks, metrics, told_to_stop) = (Tasks::new(), Metrics::new(), CancellationToken::new());
        tasks.spawn("signals", hear(signals, told_to_stop.clone(), tasks.stopping()));
        Ok(Self { env: traced.env.clone(), tasks, metrics, traced, told_to_stop })
    }

    /// Serves requests until the process stops.
    pub(crate) fn serve(&self, listener: TcpListener, door: Router) {
        let (tasks, memory) = (self.tasks.clone(), self.env.memory());
        self.tasks.spawn("http", async move { kit::http::serve(listener, door, &tasks, memory).await });
    }

    /// Fails from the moment on in which the process is told to stop, so that requests are sent elsewhere.
    pub(crate) fn is_to_stay(&self) -> Check {
        let told = self.told_to_stop.clone();
        Check::new("process", move || {
            let told = if told.is_cancelled() { Err("it was told to stop".to_owned()) } else { Ok(()) };
            async move { told }
        })
    }

    /// What `start` comes to, unless it is told to stop before.
    pub(crate) async fn unless_stopped<T>(&self, start: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.told_to_stop.run_until_cancelled(start).await.unwrap_or(Err(Error::Stopped))
    }

    /// Waits for Ctrl-C, SIGTERM, a task that panicked, or a database that is damaged.
    pub(crate) async fn until_told_to_stop(&self, logs: &[Log]) -> Result<(), Error> {
        let mut damaged: Vec<_> = logs.iter().map(|log| Box::pin(async move { (log.service(), log.damaged().await) })).collect();
        let any_damaged = poll_fn(|context| {
            let found = damaged.iter_mut().find_map(|damaged| match damaged.as_mut().poll(context) {
                Poll::Ready(found) => Some(found),
                Poll::Pending => None,
            });
            found.map_or(Poll::Pending, Poll::Ready)
        });
        tokio::select! {
            () = self.told_to_stop.cancelled() => Ok(()),
            (service, damage) = any_damaged => Err(Error::Damaged { service, damage }),
            () = self.tasks.stopping().cancelled_owned() => match self.tasks.panicked() {
                Some(task) => Err(Error::Panicked(task)),
                None => Ok(()),
            }
        }
    }

    /// Lets what is under way end, and closes the databases; tells whether all ended in time.
    pub(crate) async fn stop(self, logs: &[Log]) -> bool {
        let in_time = self.tasks.stop(DRAIN).await;
        for log in logs {
            log.close().await;
        }
        self.traced.stop().await;
        in_time
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn hear((mut interrupt, mut terminate): (Signal, Signal), told_to_stop: CancellationToken, stopping: CancellationToken) {
    tokio::select! {
        _ = interrupt.recv() => told_to_stop.cancel(),
        _ = terminate.recv() => told_to_stop.cancel(),
        () = stopping.cancelled() => {}
    }
}

/// Takes a port, before anything is opened: a taken one must not cost a start.
pub(crate) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// One process a directory of SQLite files: two would both believe that they are the one writer.
pub(crate) fn lock_directory(data: &Path) -> Result<File, Error> {
    let failed = |source| Error::Directory { path: data.to_owned(), source };
    private::directory(data).map_err(failed)?;
    if let Some(mode) = private::open_to_others(data).map_err(failed)? {
        return Err(Error::OpenDirectory { path: data.to_owned(), mode });
    }
    private::files(data).map_err(failed)?;
    lock(data, "lock", data, File::try_lock)
}

/// One process a SQLite file; other services may be in the same directory, but not a process that has all of it.
pub(crate) fn lock_file(database: &Path) -> Result<[File; 2], Error> {
    let directory = database.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = format!("{}.lock", database.file_name().unwrap_or_default().display());
    Ok([lock(directory, "lock", directory, File::try_lock_shared)?, lock(directory, &name, database, File::try_lock)?])
}

fn lock(directory: &Path, name: &str, what: &Path, take: fn(&File) -> Result<(), TryLockError>) -> Result<File, Error> {
    private::directory(directory).map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
    let path = directory.join(name);
    let failed = |source| Error::Lock { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match take(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: what.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
