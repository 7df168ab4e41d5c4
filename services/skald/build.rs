//! Puts the commit into `--version`: what `SKALD_COMMIT` says, or the checkout. Elsewhere it is "unknown".

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../../.git/HEAD");
    println!("cargo::rerun-if-changed=../../.git/refs/heads");
    println!("cargo::rerun-if-env-changed=SKALD_COMMIT");
    let given = std::env::var("SKALD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = git.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    let commit = given.or(commit);
    println!("cargo::rustc-env=SKALD_COMMIT={}", commit.as_deref().map_or("unknown", str::trim));
}
