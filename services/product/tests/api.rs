//! The catalogue through its doors, black box: REST by the whole router, stock checks by a real gRPC client.
//!
//! Never here: the service's own types, but for what builds it and the in-process check. A fresh database each time.

mod fresh;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use contract::{CustomerId, ProductId, product::StockLine};
use ed25519_dalek::SigningKey;
use eventlog::{Env, Log};
use http_body_util::BodyExt;
use kit::{
    Idempotency, Metrics, Tasks,
    auth::{Role, Signer, Verifier},
    grpc::stock::{CheckStockRequest, check_stock_request::Line, stock_client::StockClient},
    http::AppConfig,
};
use serde_json::{Value, json};
use skald_product::{Config, Deps, MIGRATIONS};
use tonic::{Code, codec::CompressionEncoding, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::ServiceExt;
use uuid::Uuid;

const MINUTES: Duration = Duration::from_secs(300);

struct Shop {
    directory: tempfile::TempDir,
    router: Router,
    signer: Signer,
    tasks: Tasks,
    metrics: Metrics,
    log: Log,
    grpc: SocketAddr,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["code"].as_str().unwrap_or_default())
    }

    fn id(&self) -> &str {
        self.body["id"].as_str().unwrap()
    }
}

/// A request in the making; by an admin, unless it says otherwise.
struct Asked<'s> {
    shop: &'s Shop,
    role: Option<Role>,
    request: axum::http::request::Builder,
}

impl Asked<'_> {
    fn by(mut self, role: impl Into<Option<Role>>) -> Self {
        self.role = role.into();
        self
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    async fn json(self, body: Value) -> Answer {
        self.header("content-type", "application/json").raw(body.to_string()).await
    }

    async fn empty(self) -> Answer {
        self.raw(String::new()).await
    }

    async fn raw(self, body: String) -> Answer {
        let Self { shop, role, mut request } = self;
        if let Some(role) = role {
            let token = shop.signer.sign(CustomerId(Uuid::from_u128(role as u128 + 1)), role, MINUTES);
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = shop.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status: head.status, headers: head.headers, body }
    }
}

impl Shop {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let env = Env::system();
        let signer = Signer::new("k1", &SigningKey::from_bytes(&[7; 32]), "skald", "skald", env.clone());
        let verifier = Verifier::new(vec![signer.public()], "skald", "skald", env.clone());
        let database = fresh::database(&directory).await;
        let opened = Log::open(database, "product", &MIGRATIONS, env.clone()).await.unwrap();
        let (log, tasks) = (opened.log.clone(), Tasks::new());
        let config = Config { grpc_listen: "127.0.0.1:0".parse().unwrap() };
        let (metrics, idempotency) = (Metrics::new(), Idempotency::new([1; 32]));
        let deps = Deps { opened, tasks: tasks.clone(), metrics: metrics.clone(), idempotency, config };
        let service = skald_product::build(deps).await.unwrap();
        let router = kit::http::app(AppConfig {
            title: "product",
            services: vec![("product", service.routes)],
            verifier,
            metrics: metrics.clone(),
            health: Vec::new(),
            env,
        });
        Self { directory, router, signer, tasks, metrics, log, grpc: service.grpc }
    }

    fn ask(&self, method: Method, path: &str) -> Asked<'_> {
        Asked { shop: self, role: Some(Role::Admin), request: Request::builder().method(method).uri(path) }
    }

    fn get(&self, path: &str) -> Asked<'_> {
        self.ask(Method::GET, path).by(None)
    }

    fn post(&self, path: &str) -> Asked<'_> {
        self.ask(Method::POST, path)
    }

    /// Adds a product and tells its path.
    async fn add(&self, sku: &str, category: &str, stock: i64) -> String {
        let added = self.post("/v1/products").json(tea(sku, category, stock)).await;
        assert_eq!(added.status, StatusCode::CREATED, "{}", added.body);
        format!("/v1/products/{}", added.id())
    }

    async fn check(&self, lines: &[(&str, u32)]) -> Vec<(bool, bool, i64)> {
        let mut client = StockClient::connect(format!("http://{}", self.grpc)).await.unwrap();
        let lines = lines.iter().map(|(path, quantity)| Line { product_id: id_of(path), quantity: *quantity }).collect();
        let items = client.check_stock(CheckStockRequest { lines }).await.unwrap().into_inner().items;
        items.into_iter().map(|item| (item.exists, item.available, item.available_quantity)).collect()
    }
}

fn tea(sku: &str, category: &str, stock: i64) -> Value {
    json!({ "sku": sku, "title": format!("Tea {sku}"), "category": category,
            "price": { "amount_minor": 499, "currency": "EUR" }, "stock": stock })
}

fn id_of(path: &str) -> String {
    path.rsplit('/').next().unwrap().to_owned()
}

fn skus(list: &Answer) -> Vec<&str> {
    assert_eq!(list.status, StatusCode::OK, "{}", list.body);
    list.body["items"].as_array().unwrap().iter().map(|item| item["sku"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_an_admin_adds_everybody_reads() {
    let shop = Shop::open().await;
    let added = shop.post("/v1/products").json(tea("TEA-1", "drinks", 5)).await;
    assert_eq!((added.status, added.header("etag")), (StatusCode::CREATED, "\"1\""));
    assert_eq!(added.header("location"), format!("/v1/products/{}", added.id()));
    let read = shop.get(added.header("location")).empty().await;
    assert_eq!((read.status, read.header("etag"), &read.body), (StatusCode::OK, "\"1\"", &added.body));
    let expected = json!({ "id": added.id(), "sku": "TEA-1", "title": "Tea TEA-1", "category": "drinks",
        "price": { "amount_minor": 499, "currency": "EUR" }, "available": 5, "version": 1, "added_at": added.body["added_at"] });
    assert_eq!(added.body, expected);
}

#[tokio::test]
async fn only_admins_change_the_catalogue() {
    let shop = Shop::open().await;
    let path = shop.add("TEA-1", "drinks", 5).await;
    for role in [None, Some(Role::Customer), Some(Role::Operator)] {
        let expected = if role.is_none() { (401, "unauthorized") } else { (403, "forbidden") };
        let product = tea("TEA-2", "drinks", 5);
        assert_eq!(shop.post("/v1/products").by(role).json(product).await.code(), expected);
        let stock = json!({ "change": 1, "reason": "delivery" });
        assert_eq!(shop.post(&format!("{path}/stock")).by(role).json(stock).await.code(), expected);
        assert_eq!(shop.ask(Method::PATCH, &path).by(role).json(json!({})).await.code(), expected);
        let whole = json!({ "title": "T", "category": "c", "price": { "amount_minor": 1, "currency": "EUR" } });
        assert_eq!(shop.ask(Method::PUT, &path).by(role).json(whole).await.code(), expected);
        assert_eq!(shop.ask(Method::DELETE, &path).by(role).empty().await.code(), expected);
    }
    assert_eq!(shop.get(&path).empty().await.body["version"], 1);
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let shop = Shop::open().await;
    let long = "x".repeat(201);
    for (field, value) in [
        ("sku", json!("")),
        ("sku", json!(long)),
        ("sku", json!(7)),
        ("title", json!("  ")),
        ("title", json!(long)),
        ("category", json!(long)),
        ("stock", json!(-1)),
        ("stock", json!(1_000_000_001)),
        ("stock", json!(1.5)),
        ("price.amount_minor", json!(-1)),
        ("price.amount_minor", json!(100_000_000_001_i64)),
        ("price.currency", json!("euro")),
        ("price.colour", json!("red")),
    ] {
        let mut product = tea("TEA-1", "drinks", 5);
        *field.split('.').fold(&mut product, |part, name| &mut part[name]) = value.clone();
        let refused = shop.post("/v1/products").json(product).await;
        assert_eq!(refused.code(), (422, "invalid"), "{field} = {value}");
        assert_eq!(refused.body["errors"][0]["field"], field, "{}", refused.body);
    }
    let refused = shop.post("/v1/products").json(json!({ "sku": "TEA-1" })).await;
    assert_eq!(refused.code(), (422, "invalid"));
    assert_eq!(shop.post("/v1/products").header("content-type", "application/json").raw("{".into()).await.status, 400);
    assert_eq!(shop.post("/v1/products").raw("{}".into()).await.status, 415);
    assert_eq!(skus(&shop.get("/v1/products").empty().await), [""; 0]);
}

#[tokio::test]
async fn what_looks_the_same_is_the_same_and_nothing_hides() {
    let shop = Shop::open().await;
    let mut spelled = tea(" THE\u{301}-1 ", "drinks", 1);
    spelled["title"] = json!("The\u{301} vert\u{a0}");
    let added = shop.post("/v1/products").json(spelled).await;
    assert_eq!((&added.body["sku"], &added.body["title"]), (&json!("TH\u{c9}-1"), &json!("Th\u{e9} vert")));
    assert_eq!(shop.post("/v1/products").json(tea("TH\u{c9}-1", "food", 1)).await.code(), (409, "sku_taken"));
    let path = format!("/v1/products/{}", added.id());
    let same = shop.ask(Method::PATCH, &path).json(json!({ "sku": "THE\u{301}-1" })).await;
    assert_eq!(same.status, StatusCode::OK, "{:?}", same.body);
    assert_eq!(skus(&shop.get("/v1/products?q=the%CC%81").empty().await), ["TH\u{c9}-1"]);
    for bad in ["TEA 1", "TEA\u{200b}1", "TEA\u{a0}1", "TEA\n1", "\u{2060}", "TEA\u{202e}1"] {
        assert_eq!(shop.post("/v1/products").json(tea(bad, "food", 1)).await.code(), (422, "invalid"), "{bad:?}");
    }
    let stock = |reason: &str| shop.post(&format!("{path}/stock")).json(json!({ "change": 1, "reason": reason }));
    assert_eq!(stock("\u{2800}").await.code(), (422, "invalid"));
    assert_eq!(stock("count\u{202e}ed").await.code(), (422, "invalid"));
    assert_eq!(stock("counted").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_currency_that_does_not_exist_prices_nothing() {
    let shop = Shop::open().await;
    for (currency, status) in [("JPY", 201), ("KWD", 201), ("ZZZ", 422), ("eur", 422)] {
        let mut product = tea(currency, "drinks", 1);
        product["price"]["currency"] = json!(currency);
        let answer = shop.post("/v1/products").json(product).await;
        assert_eq!(answer.status.as_u16(), status, "{currency}: {:?}", answer.body);
    }
}

#[tokio::test]
async fn a_sku_is_taken_until_its_product_is_removed() {
    let shop = Shop::open().await;
    let path = shop.add("TEA-1", "drinks", 5).await;
    assert_eq!(shop.post("/v1/products").json(tea("TEA-1", "food", 1)).await.code(), (409, "sku_taken"));
    assert_eq!(shop.ask(Method::DELETE, &path).empty().await.status, StatusCode::NO_CONTENT);
    let again = shop.add("TEA-1", "food", 1).await;
    assert_ne!(again, path, "another product");
    assert_eq!(shop.post("/v1/products").json(tea("TEA-1", "food", 1)).await.code(), (409, "sku_taken"));
    assert_eq!(shop.ask(Method::DELETE, &path).empty().await.status, StatusCode::NO_CONTENT, "the first one stays removed");
    assert_eq!(skus(&shop.get("/v1/products").empty().await), ["TEA-1"]);
}

#[tokio::test]
async fn put_replaces_and_patch_changes_what_it_names() {
    let shop = Shop::open().await;
    let path = shop.add("TEA-1", "drinks", 5).await;
    let whole = json!({ "title": "Mate", "category": "herbs", "price": { "amount_minor": 599, "currency": "EUR" } });
    let replaced = shop.ask(Method::PUT, &path).json(whole.clone()).await;
    assert_eq!((replaced.status, replaced.header("etag")), (StatusCode::OK, "\"2\""));
    for field in ["title", "category", "price"] {
        assert_eq!(replaced.body[field], whole[field]);
    }
    let changed = shop.ask(Method::PATCH, &path).json(json!({ "title": "Yerba mate" })).await;
    assert_eq!((changed.status, changed.header("etag")), (StatusCode::OK, "\"3\""));
    assert_eq!((&changed.body["title"], &changed.body["category"]), (&json!("Yerba mate"), &json!("herbs")));
    let same = shop.ask(Method::PATCH, &path).json(json!({ "title": "Yerba mate", "sku": "TEA-1" })).await;
    assert_eq!((same.status, &same.body), (StatusCode::OK, &changed.body));
    assert_eq!(shop.get(&path).empty().await.body, changed.body);
    assert_eq!(shop.ask(Method::PUT, &path).json(json!({ "title": "Mate" })).await.code(), (422, "invalid"));
    assert_eq!(shop.ask(Method::PATCH, &path).json(json!({ "sku": "TEA-2" })).await.code(), (422, "invalid"));
    assert_eq!(shop.ask(Method::PATCH, &path).json(json!({ "stock": 7 })).await.code(), (422, "invalid"));
    assert_eq!(shop.ask(Method::PATCH, &path).json(json!({ "title": " " })).await.code(), (422, "invalid"));
}

#[tokio::test]
async fn a_change_of_what_has_changed_since_is_refused() {
    let shop = Shop::open().await;
    let path = shop.add("TEA-1", "drinks", 5).await;
    let change = |method, tag: &'static str| shop.ask(method, &path).header("if-match", tag);
    assert_eq!(change(Method::PATCH, "\"1\"").json(json!({ "title": "Mate" })).await.status, StatusCode::OK);
    let stale = change(Method::PATCH, "\"1\"").json(json!({ "title": "Coffee" })).await;
    assert_eq!((stale.code(), &stale.body["version"]), ((412, "version_changed"), &json!(2)));
    let whole = json!({ "title": "Mate", "category": "herbs", "price": { "amount_minor": 599, "currency": "EUR" } });
    assert_eq!(change(Method::PUT, "\"1\"").json(whole.clone()).await.code(), (412, "version_changed"));
    assert_eq!(change(Method::PUT, "\"2\"").json(whole).await.status, StatusCode::OK);
    assert_eq!(change(Method::DELETE, "\"2\"").empty().await.code(), (412, "version_changed"));
    assert_eq!(change(Method::DELETE, "*").empty().await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_removed_product_is_gone_for_everybody() {
    let shop = Shop::open().await;
    let path = shop.add("TEA-1", "drinks", 5).await;
    for _ in 0..2 {
        let removed = shop.ask(Method::DELETE, &path).empty().await;
        assert_eq!((removed.status, &removed.body), (StatusCode::NO_CONTENT, &Value::Null));
    }
    assert_eq!(shop.get(&path).empty().await.code(), (404, "not_found"));
    assert_eq!(skus(&shop.get("/v1/products").empty().await), [""; 0]);
    assert_eq!(shop.ask(Method::PATCH, &path).json(json!({ "title": "Mate" })).await.code(), (404, "not_found"));
    let stock = json!({ "change": 1, "reason": "delivery" });
    assert_eq!(shop.post(&format!("{path}/stock")).json(stock.clone()).await.code(), (404, "not_found"));
    for path in [format!("/v1/products/{}", Uuid::from_u128(1)), "/v1/products/1".to_owned()] {
        assert_eq!(shop.get(&path).empty().await.code(), (404, "not_found"));
        assert_eq!(shop.ask(Method::DELETE, &path).empty().await.code(), (404, "not_found"));
        assert_eq!(shop.post(&format!("{path}/stock")).json(stock.clone()).await.code(), (404, "not_found"));
    }
}

#[tokio::test]
async fn stock_is_delivered_and_written_off_but_never_below_zero() {
    let shop = Shop::open().await;
    let path = shop.add("TEA-1", "drinks", 5).await;
    let stock = format!("{path}/stock");
    let delivered = shop.post(&stock).json(json!({ "change": 10, "reason": "delivery" })).await;
    assert_eq!((delivered.status, &delivered.body["available"]), (StatusCode::OK, &json!(15)));
    let short = shop.post(&stock).json(json!({ "change": -16, "reason": "broken" })).await;
    assert_eq!((short.code(), &short.body["available"]), ((409, "not_enough_stock"), &json!(15)));
    assert_eq!(shop.post(&stock).json(json!({ "change": -15, "reason": "broken" })).await.body["available"], 0);
    assert_eq!(shop.get(&path).empty().await.body["available"], 0);
    for wrong in [
        json!({ "change": 0, "reason": "x" }),
        json!({ "change": 1 }),
        json!({ "change": 1, "reason": "" }),
        json!({ "change": 1_000_000_001, "reason": "x" }),
        json!({ "change": 1, "reason": "a\u{0}b" }),
    ] {
        assert_eq!(shop.post(&stock).json(wrong.clone()).await.code(), (422, "invalid"), "{wrong}");
    }
    let most = json!({ "change": 1_000_000_000, "reason": "delivery" });
    assert_eq!(shop.post(&stock).json(most.clone()).await.status, StatusCode::OK);
    assert_eq!(shop.post(&stock).json(most).await.code(), (409, "too_much_stock"));
}

#[tokio::test]
async fn a_post_with_a_key_is_done_once() {
    let shop = Shop::open().await;
    let add = |body: Value| shop.post("/v1/products").header("idempotency-key", "\"one\"").json(body);
    let (first, again) = (add(tea("TEA-1", "drinks", 5)).await, add(tea("TEA-1", "drinks", 5)).await);
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!((again.header("location"), &again.body), (first.header("location"), &first.body));
    assert_eq!(add(tea("TEA-2", "drinks", 5)).await.code(), (422, "idempotency_key_reused"));

    let path = first.header("location");
    let deliver = |path: &str| {
        let body = json!({ "change": 10, "reason": "delivery" });
        shop.post(&format!("{path}/stock")).header("idempotency-key", "two").json(body)
    };
    assert_eq!(deliver(path).await.body["available"], 15);
    assert_eq!(deliver(path).await.body["available"], 15);
    let other = shop.add("TEA-2", "drinks", 5).await;
    assert_eq!(deliver(&other).await.code(), (422, "idempotency_key_reused"));
    assert_eq!(shop.get(path).empty().await.body["available"], 15);
}

#[tokio::test]
async fn a_refusal_is_decided_anew_under_its_key() {
    let shop = Shop::open().await;
    let path = shop.add("TEA-1", "drinks", 5).await;
    let write_off = || {
        let body = json!({ "change": -6, "reason": "broken" });
        shop.post(&format!("{path}/stock")).header("idempotency-key", "off").json(body)
    };
    assert_eq!(write_off().await.code(), (409, "not_enough_stock"));
    shop.post(&format!("{path}/stock")).json(json!({ "change": 1, "reason": "delivery" })).await;
    assert_eq!(write_off().await.body["available"], 0);
}

#[tokio::test]
async fn the_list_comes_in_pages_that_have_each_product_once() {
    let shop = Shop::open().await;
    for number in 0..5 {
        shop.add(&format!("TEA-{number}"), "drinks", number).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/products?limit=2".to_owned());
    loop {
        let page = shop.get(&path).empty().await;
        seen.extend(skus(&page).into_iter().map(str::to_owned));
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/v1/products?limit=2&cursor={next}");
    }
    let whole = shop.get("/v1/products").empty().await;
    assert_eq!((seen, &whole.body["next"]), (skus(&whole).into_iter().map(str::to_owned).collect(), &Value::Null));
    for item in whole.body["items"].as_array().unwrap() {
        assert_eq!(item["sku"], format!("TEA-{}", item["available"]));
    }
    // By the id, which begins with the time in milliseconds: those of one millisecond come in any order.
    let mut sorted = skus(&whole);
    sorted.sort_unstable();
    assert_eq!(sorted, ["TEA-0", "TEA-1", "TEA-2", "TEA-3", "TEA-4"]);
    for query in ["limit=0", "limit=101", "limit=x", "cursor=x", "q=%00"] {
        assert_eq!(shop.get(&format!("/v1/products?{query}")).empty().await.code(), (422, "invalid"), "{query}");
    }
}

#[tokio::test]
async fn the_list_is_narrowed_by_category_and_text() {
    let shop = Shop::open().await;
    for (sku, category) in [("Ä_1", "drinks"), ("ax1", "drinks"), ("50%", "food")] {
        shop.add(sku, category, 1).await;
    }
    for (query, expected) in [
        ("category=drinks", vec!["ax1", "Ä_1"]),
        ("category=Drinks", vec![]),
        ("category=", vec!["50%", "ax1", "Ä_1"]),
        ("q=TEA", vec!["50%", "ax1", "Ä_1"]),
        ("q=%C3%A4", vec!["Ä_1"]),
        ("q=_1", vec!["Ä_1"]),
        ("q=%25", vec!["50%"]),
        ("q=1&category=drinks", vec!["ax1", "Ä_1"]),
        ("q=1&category=food", vec![]),
        ("q=coffee", vec![]),
    ] {
        let list = shop.get(&format!("/v1/products?{query}")).empty().await;
        let mut found = skus(&list);
        found.sort_unstable();
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn a_stock_check_answers_line_by_line_in_order() {
    let shop = Shop::open().await;
    let (tea, mate) = (shop.add("TEA", "drinks", 5).await, shop.add("MATE", "drinks", 1).await);
    let gone = shop.add("GONE", "drinks", 9).await;
    shop.ask(Method::DELETE, &gone).empty().await;
    let unknown = format!("/v1/products/{}", Uuid::from_u128(1));
    let checked = shop.check(&[(&mate, 2), (&unknown, 1), (&tea, 5), (&gone, 1), (&tea, 6)]).await;
    let no = (false, false, 0);
    assert_eq!(checked, [(true, false, 1), no, (true, true, 5), no, (true, false, 5)]);

    let line = StockLine { product_id: id_of(&tea).parse::<ProductId>().unwrap(), quantity: 5 };
    let item = &skald_product::grpc::check(&shop.log, &[line]).await.unwrap()[0];
    assert_eq!((item.product_id.clone(), item.title.as_str()), (id_of(&tea), "Tea TEA"));
    assert_eq!((item.price_minor, item.currency.as_str()), (499, "EUR"));
}

#[tokio::test]
async fn a_check_has_a_thousand_lines_at_most_and_may_be_compressed() {
    let shop = Shop::open().await;
    let client = StockClient::connect(format!("http://{}", shop.grpc)).await.unwrap();
    let mut client = client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    let lines = |count: u128| (0..count).map(|id| Line { product_id: Uuid::from_u128(id).to_string(), quantity: 1 }).collect();
    let answer = client.check_stock(CheckStockRequest { lines: lines(1_000) }).await.unwrap();
    assert_eq!(answer.into_inner().items.len(), 1_000);
    let refused = client.check_stock(CheckStockRequest { lines: lines(1_001) }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "a call has at most 1000 lines"));
}

#[tokio::test]
async fn the_health_of_the_stock_check_is_told_in_grpc_s_own_way() {
    let shop = Shop::open().await;
    let channel = Channel::from_shared(format!("http://{}", shop.grpc)).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    for service in ["", "skald.stock.v1.Stock"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
    let unknown = health.check(HealthCheckRequest { service: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_check_of_what_is_no_id_is_an_invalid_argument() {
    let shop = Shop::open().await;
    let mut client = StockClient::connect(format!("http://{}", shop.grpc)).await.unwrap();
    let lines = vec![Line { product_id: "7".into(), quantity: 1 }];
    let refused = client.check_stock(CheckStockRequest { lines }).await.unwrap_err();
    assert_eq!(i32::from(refused.code()), 3);
    let counted = "rpc_requests_total{job=\"product\",method=\"CheckStock\",code=\"InvalidArgument\"} 1";
    assert!(shop.metrics.read().await.contains(counted));
}

#[tokio::test]
async fn the_service_ends_with_its_tasks_even_with_a_client_connected() {
    let shop = Shop::open().await;
    let path = shop.add("TEA", "drinks", 5).await;
    let mut client = StockClient::connect(format!("http://{}", shop.grpc)).await.unwrap();
    let lines = vec![Line { product_id: id_of(&path), quantity: 1 }];
    client.check_stock(CheckStockRequest { lines }).await.unwrap();
    let Shop { directory, router, tasks, .. } = shop;
    // The routes hold the writer: it ends when nobody can ask it any more.
    drop(router);
    assert!(tasks.stop(Duration::from_secs(2)).await);
    drop(directory);
}

#[tokio::test]
async fn a_taken_port_is_an_error_with_its_address() {
    let shop = Shop::open().await;
    let database = fresh::database(&shop.directory).await;
    let opened = Log::open(database, "product", &MIGRATIONS, Env::system()).await.unwrap();
    let config = Config { grpc_listen: shop.grpc };
    let (metrics, idempotency) = (Metrics::new(), Idempotency::new([1; 32]));
    let deps = Deps { opened, tasks: Tasks::new(), metrics, idempotency, config };
    let Err(error) = skald_product::build(deps).await else { panic!("the port is taken") };
    assert_eq!(error.to_string(), format!("can't listen on {} for stock checks (gRPC)", shop.grpc));
}
