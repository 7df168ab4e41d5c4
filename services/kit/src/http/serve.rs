//! Opens the door: accepts connections until the process stops, then lets what is under way end.
//!
//! Never here: routes. The caller binds the listener, so that a taken port is its to explain and port 0 its to print.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use eventlog::Memory;
use futures_util::FutureExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{Tasks, tasks::panic_text};

/// How long requests that are under way may take once the process stops. Within the 5 s that the whole process has.
const DRAIN: Duration = Duration::from_secs(3);
/// How long a connection may be idle, and how long the head of a request may take to come: nobody occupies one for nothing. More
/// than the minute after which load balancers let go of theirs, so that none of them sends into a connection that closes.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// After a connection that could not be accepted: all file descriptors are in use.
const PAUSE: Duration = Duration::from_millis(100);

/// In the extensions of every request: cancelled when the process stops.
#[derive(Clone, Debug)]
pub struct Stopping(pub CancellationToken);

/// In the extensions of a request that came over a connection, so that it is held to what the wire asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverWire;

/// Lets the process have as many open files as the system allows it; the usual start, 1,024, is less than what a door may hold.
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused is no worse than before.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Serves until [`Tasks::stop`], each connection as a task of its own, which ends once what was under way has ended or the drain
/// time is over. When there are as many as `memory` allows, whoever connects waits until another has gone.
pub async fn serve(listener: TcpListener, app: Router, tasks: &Tasks, memory: Memory) {
    let stopping = tasks.stopping();
    let app = app.layer(Extension(Stopping(stopping.clone())));
    let places = Arc::new(Semaphore::new(memory.connections()));
    let accept = async || {
        let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        Ok::<_, std::io::Error>((place, stream, peer))
    };
    while let Some(accepted) = stopping.run_until_cancelled(accept()).await {
        match accepted {
            Ok((place, stream, peer)) => {
                let served = AssertUnwindSafe(connection(stream, peer, app.clone(), stopping.clone())).catch_unwind();
                tasks.spawn("connection", async move {
                    if let Err(panic) = served.await {
                        tracing::error!(panic = panic_text(&*panic), "a connection panicked; the others go on");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, app: Router, stopping: CancellationToken) {
    // An answer is one small write: waiting to fill a packet would only delay it.
    drop(stream.set_nodelay(true));
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(OverWire);
        // A router is always ready.
        app.clone().call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(Memory::HEAD);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let Ok(ended) = tokio::time::timeout(DRAIN, connection).await else {
                tracing::warn!("a request did not end in time; closing its connection");
                return;
            };
            ended
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
