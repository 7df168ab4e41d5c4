//! The committed gRPC code is what `proto/stock.proto` gives. `SKALD_GENERATE=1 cargo test -p skald-kit --test proto` writes it anew.

use std::path::Path;

#[test]
fn the_committed_grpc_code_is_fresh() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (proto, committed) = (kit.join("../../proto"), kit.join("src/grpc/stock.rs"));
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["stock.proto"], [proto]).unwrap();
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(descriptors).unwrap();
    let fresh = std::fs::read_to_string(out.path().join("skald.stock.v1.rs")).unwrap();
    if std::env::var_os("SKALD_GENERATE").is_some() {
        std::fs::write(&committed, &fresh).unwrap();
    }
    assert!(fresh == std::fs::read_to_string(&committed).unwrap(), "run SKALD_GENERATE=1 cargo test -p skald-kit --test proto");
}
