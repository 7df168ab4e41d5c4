//! The document of the API: every route is in it, and it is as it was looked at.

use crate::shop::{Shop, TEA, basket};

#[tokio::test]
async fn the_document_has_every_route_and_is_as_it_was_looked_at() {
    let shop = Shop::open().await;
    let document = shop.get("/openapi.json").by(None).empty().await;
    let paths = document.is(200).body["paths"].as_object().unwrap();
    let mut routes: Vec<String> = Vec::new();
    for (path, item) in paths {
        let methods = item.as_object().unwrap().keys();
        routes.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let expected = [
        "GET /v1/orders",
        "GET /v1/orders/{id}",
        "GET /v1/orders/{id}/events",
        "GET /v1/orders/{id}/history",
        "GET /v1/sagas",
        "POST /v1/orders",
        "POST /v1/orders/{id}/cancel",
        "POST /v1/sagas/{id}/{verb}",
    ];
    routes.sort();
    assert_eq!(routes, expected);
    insta::assert_json_snapshot!("openapi", document.body);
}

#[tokio::test]
async fn the_page_that_renders_it_and_the_probes_answer_everybody() {
    let shop = Shop::open().await;
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(shop.get(path).by(None).empty().await.is(200).body["status"], "ok");
    }
    let sagas = shop.text("/metrics").await;
    // Of a trace that somebody records: who follows an exemplar wants to find it.
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let id = shop.placing().header("traceparent", trace).json(basket(&[(TEA, 1)])).await.accepted();
    shop.answer_until(id, "Confirmed").await;
    shop.place().await;
    let after = shop.text("/metrics").await;
    for line in [
        "saga_started_total{saga=\"order\"} 2",
        "saga_finished_total{saga=\"order\",outcome=\"Confirmed\"} 1",
        "saga_step_attempts_total{saga=\"order\",step=\"capture_payment\"} 1",
        "saga_in_state{saga=\"order\",state=\"ReservingStock\"} 1",
    ] {
        assert!(!sagas.contains(line) && after.contains(line), "{line}\n{after}");
    }
    let is_exemplar = |line: &&str| {
        line.starts_with("saga_duration_seconds_bucket") && line.contains("# {trace_id=\"0af7651916cd43dd8448eb211c80319c\"}")
    };
    assert_eq!(after.lines().filter(is_exemplar).count(), 1, "the trace of the one order that ended");
    for line in [
        "saga_stuck{saga=\"order\",step=\"capture_payment\"} 0",
        "circuit_breaker_state{breaker=\"stock_check\"} 0",
        "runtime_workers ",
    ] {
        assert!(sagas.contains(line), "{line}\n{sagas}");
    }
    assert!(shop.text("/docs").await.contains("<html"));
}
