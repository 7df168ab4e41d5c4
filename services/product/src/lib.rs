//! The product service: the catalogue, the stock of each product, and the reservations that orders have on it.
//!
//! `domain.rs` decides (pure), `store.rs` has the SQL, `handler.rs` turns a batch of work into one transaction, `http.rs` and
//! `grpc.rs` are the doors. Never here: orders, payments. Messages come over `product.commands.v1` and go to `product.events.v1`.

mod config;
pub mod domain;
pub mod grpc;
pub mod handler;
mod http;
mod store;

use std::{net::SocketAddr, sync::Arc};

use eventlog::{Opened, Writer, WriterLimits};
use kit::{Idempotency, Metrics, Tasks, http::Routes};

pub use config::Config;
pub use handler::Handler;
pub use store::MIGRATIONS;

/// What the service is built from. Its callers are verified, and its requests counted, by the door in front (`kit::http::app`).
pub struct Deps {
    /// The log of the service `product`, opened with [`MIGRATIONS`].
    pub opened: Opened,
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub idempotency: Idempotency,
    pub config: Config,
}

/// The running service.
pub struct Service {
    /// For `bus::consume`, together with the writer.
    pub handler: Arc<Handler>,
    pub writer: Writer<Handler>,
    pub routes: Routes,
    /// Where stock checks are answered, with the real port.
    pub grpc: SocketAddr,
}

/// The service can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't listen on {address} for stock checks (gRPC)")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// Starts the service: its writer and its gRPC door run on the tasks; the routes are for the caller to serve.
///
/// # Errors
/// [`Error::Listen`]: for the person at the keyboard.
pub async fn build(deps: Deps) -> Result<Service, Error> {
    let Deps { opened, tasks, metrics, idempotency, config } = deps;
    let address = config.grpc_listen;
    let failed = |source| Error::Listen { address, source };
    let listener = grpc::bind(address).await.map_err(failed)?;
    let grpc = listener.local_addr().map_err(failed)?;

    let handler = Arc::new(Handler);
    let (writer, task) = Writer::new(opened, handler.clone(), WriterLimits::default());
    tasks.spawn("product.writer", task);
    tasks.spawn("product.grpc", grpc::serve(listener, writer.log().clone(), metrics.rpc(), tasks.stopping()));
    let routes = http::routes(writer.clone(), idempotency);
    Ok(Service { handler, writer, routes, grpc })
}
