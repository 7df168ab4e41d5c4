//! The one binary: `skald up`, `serve`, `migrate`, `demo`, `audit`. It parses, builds, and runs until it is told to stop.
//!
//! Never here: anything worth a test. What each command does is in the module of its name.

mod assemble;
mod audit;
mod cli;
mod database;
mod demo;
mod kafka;
mod operate;
mod out;
mod private;
mod process;
mod serve;
mod traces;
mod up;
mod users;

use std::process::ExitCode;

use clap::Parser;

/// Gives memory back: with the system's allocator the 19 MiB that each password hash takes stay resident for good. The C libraries
/// have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kit::http::raise_file_limit();
    private::from_the_start();
    let cli = cli::Cli::parse();
    out::end(cli::run(cli))
}
