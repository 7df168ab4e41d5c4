//! Every error code that a service answers with has its page.

mod common;

use std::{fs, path::Path};

use axum::http::StatusCode;

/// What comes before a code where a problem is made, with all white space taken out.
const BEFORE: [&str; 3] = ["Problem::conflict(\"", "Problem::too_many(\"", ".coded(\""];

fn codes_in(source: &str) -> Vec<String> {
    let source: String = source.split_whitespace().collect();
    let mut codes: Vec<&str> = BEFORE.iter().flat_map(|before| source.split(before).skip(1)).collect();
    for made in source.split("Problem::new(StatusCode::").skip(1) {
        codes.extend(
            made.split_once(",\"")
                .filter(|(status, _)| status.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_'))
                .map(|(_, rest)| rest),
        );
    }
    codes.iter().filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

fn read(directory: &Path, codes: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, codes);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            codes.extend(codes_in(&fs::read_to_string(path).unwrap()));
        }
    }
}

#[tokio::test]
async fn every_error_code_in_the_services_has_its_page() {
    let mut codes = Vec::new();
    for service in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap() {
        let sources = service.unwrap().path().join("src");
        if sources.is_dir() {
            read(&sources, &mut codes);
        }
    }
    assert!(codes.len() > 10 && codes.contains(&"email_taken".to_owned()), "{codes:?}");
    let house = common::house();
    for code in codes {
        let page = house.get(&format!("/docs/errors/{code}")).await;
        assert_eq!(page.status, StatusCode::OK, "add {code} to CODES in services/kit/src/http/docs.rs");
    }
}
