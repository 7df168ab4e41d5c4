//! Opens the door: accepts connections until the process stops, then lets what is under way end.
//!
//! Never here: routes. The caller binds the listener, so that a taken port is its to explain and port 0 its to print.

use std::{net::SocketAddr, time::Duration};

use axum::{Extension, Router, serve::ListenerExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Tasks;

/// How long requests that are under way may take once the process stops. Within the 5 s that the whole process has.
const DRAIN: Duration = Duration::from_secs(3);

/// In the extensions of every request: cancelled when the process stops.
#[derive(Clone, Debug)]
pub struct Stopping(pub CancellationToken);

/// Serves until [`Tasks::stop`]; returns once what was under way has ended, or the drain time is over.
pub async fn serve(listener: TcpListener, app: Router, tasks: &Tasks) {
    let stopping = tasks.stopping();
    let app = app.layer(Extension(Stopping(stopping.clone()))).into_make_service_with_connect_info::<SocketAddr>();
    // An answer is one small write: waiting to fill a packet would only delay it.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    let serving = axum::serve(listener, app).with_graceful_shutdown(stopping.clone().cancelled_owned());
    let overdue = async {
        stopping.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::error!(%error, "the listener failed");
            }
        }
        () = overdue => tracing::warn!("requests did not end in time; closing their connections"),
    }
}
