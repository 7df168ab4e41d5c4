//! The knobs of the product service, each with its unit and default.
//!
//! Never here: reading them anywhere else. From here they go into `Deps`.

use std::net::SocketAddr;

/// How the product service runs.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "product")]
pub struct Config {
    /// Where stock checks are answered over gRPC (address and port; port 0 takes any that is free)
    #[arg(
        id = "product_grpc_listen",
        long = "product-grpc-listen",
        env = "SKALD_PRODUCT_GRPC_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50052"
    )]
    pub grpc_listen: SocketAddr,
}
