mod config;
mod domain;
pub use config::Config;
