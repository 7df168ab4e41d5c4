//! One order is one trace, whatever becomes of it: in one process in `cargo test`, over Kafka and PostgreSQL by
//! `ci/observability.sh`; and what exports traces is never in the way.

use std::net::TcpListener;

use contract::Timestamp;
use eventlog::Env;
use hyper::header::{HeaderName, HeaderValue};

use crate::support::{
    Person, QUICK, System, Whole, cluster, home, order,
    otlp::{Receiver, Span},
    trace::{COMPENSATED, CONFIRMED, REFUSED, Trace, begun_since},
};

/// A shop with one product, whose traces are told.
struct Shop {
    receiver: Receiver,
    customer: Person,
    product: String,
    system: Whole,
    _home: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let (home, receiver) = (home(), Receiver::start());
        let system = Whole::start(home.path(), &[("SKALD_OTLP", &receiver.url())]).await;
        let product = system.shop().admin().await.product("TEA-1", 10).await;
        let customer = system.shop().customer("ann").await;
        Self { receiver, customer, product, system, _home: home }
    }

    /// Places an order that must end so, and gives its trace.
    async fn ordered(&mut self, token: &str, status: &str, hops: &str) -> Trace {
        self.system.settles().await;
        let now = Env::system().now();
        let placed = self.customer.place(token, &order(&self.product, 2, token), 20).await;
        assert_eq!(placed.told().1, status, "{placed:?}");
        let trace = Trace::of_order(&self.receiver, now, &placed.id(), hops).await;
        trace.is_sound(carrier(), "");
        trace.is_carried(&self.receiver, carrier()).await;
        trace
    }
}

/// What messages travel by.
fn carrier() -> &'static str {
    if cluster::is_wanted() { "kafka" } else { "skald" }
}

#[tokio::test]
async fn an_order_is_one_trace_from_its_request_to_its_notification_confirmed_or_compensated() {
    let mut shop = Shop::open().await;
    let confirmed = shop.ordered("tok_ok", "confirmed", CONFIRMED).await;
    println!("{}", Trace::of(&shop.receiver, &confirmed.id).drawing(true));
    let compensated = shop.ordered("tok_declined", "cancelled", COMPENSATED).await;
    assert_ne!(confirmed.id, compensated.id);
    let found = |key: &str, value: &str| compensated.spans.iter().filter(|span| span.attribute(key) == value).count();
    assert_eq!((found("order.outcome", "cancelled"), found("order.reason", "payment_declined")), (2, 2), "sent and processed");
    assert_eq!(found("payment.outcome", "declined"), 3, "and the call itself");
    // Those of the registration and the login are among them.
    for span in shop.receiver.spans() {
        let mut said = span.attributes.values().chain([&span.name]);
        let told = said.find(|said| ["ann@", "password of", "tok_", "TEA-1", "eyJ"].iter().any(|secret| said.contains(secret)));
        assert_eq!(told, None, "a person, a secret or what was bought: {span:?}");
    }
}

#[tokio::test]
async fn an_order_that_is_refused_at_the_door_ends_its_trace_there_and_the_answer_names_it() {
    let mut shop = Shop::open().await;
    let now = Env::system().now();
    let refused = shop.customer.place("k1", &order(&shop.product, 11, "tok_ok"), 0).await;
    assert_eq!(refused.told(), (409, "out_of_stock", ""));
    let id = refused.body["trace_id"].as_str().unwrap();
    let trace = Trace::whole(&shop.receiver, id, REFUSED).await;
    trace.is_sound(carrier(), "");
    let root = trace.spans.iter().find(|span| span.parent.is_empty()).unwrap();
    assert_eq!((root.attribute("http.response.status_code"), root.attribute("problem.code")), ("#409", "out_of_stock"));
    assert_eq!(begun_since(&shop.receiver, now), [id]);
}

#[tokio::test]
async fn a_deadline_is_a_span_of_its_order_s_trace_and_what_it_asks_is_under_it() {
    let (home, receiver) = (home(), Receiver::start());
    let url = receiver.url();
    let slow = [("SKALD_STEP_DEADLINE_MS", "300"), ("SKALD_PAYMENT_TIMEOUT_MS", "200"), ("SKALD_PAYMENT_SLOW_MS", "1500")];
    let system = System::start(home.path(), &[&[("SKALD_OTLP", url.as_str())][..], &slow].concat());
    let product = system.admin().await.product("TEA-1", 100).await;
    let placed = system.customer("ann").await.place("k1", &order(&product, 1, "tok_slow"), 20).await;
    assert_eq!(placed.told(), (202, "cancelled", "payment_timeout"));
    system.settles().await;
    assert!(system.stop().success());
    let spans = receiver.spans();
    let id = &spans.iter().find(|span| span.attribute("order.id") == placed.id()).unwrap().trace;
    let trace = Trace::of(&receiver, id);
    trace.is_sound("skald", "");
    let deadlines: Vec<_> = trace.spans.iter().filter(|span| span.name == "deadline order").collect();
    for deadline in &deadlines {
        let asked = |span: &&Span| span.parent == deadline.id && span.name == "send payment.commands.v1";
        assert_eq!((deadline.kind, trace.spans.iter().filter(asked).count()), ("INTERNAL", 1), "{}", trace.drawing(true));
    }
    assert!(!deadlines.is_empty(), "{}", trace.drawing(true));
}

#[tokio::test]
async fn a_cancel_goes_on_in_the_order_s_trace_and_the_two_lead_to_each_other() {
    let (home, receiver) = (home(), Receiver::start());
    let url = receiver.url();
    let system = System::start(home.path(), &[("SKALD_OTLP", url.as_str()), ("SKALD_PAYMENT_TIMEOUT_MS", "2000")]);
    let product = system.admin().await.product("TEA-1", 100).await;
    let mut ann = system.customer("ann").await;
    let wanted = order(&product, 1, "tok_lost");
    let placed = ann.place("k1", &wanted, 0).await;
    let cancelled = ann.cancel(&placed.id(), "c1").await;
    assert_eq!(cancelled.status, 202, "{cancelled:?}");
    assert_eq!(ann.ended("k1", &wanted).await.told(), (202, "cancelled", "cancelled_by_customer"));
    let history = ann.get(&format!("/v1/orders/{}/history", placed.id())).await;
    system.settles().await;
    assert!(system.stop().success());

    let spans = receiver.spans();
    let of = |id: &str| spans.iter().find(|span| span.id == id).unwrap_or_else(|| panic!("{id} is no span"));
    let ended = spans.iter().find(|span| span.attribute("order.outcome") == "cancelled").unwrap();
    assert_eq!(ended.attribute("order.reason"), "cancelled_by_customer");
    let trace = Trace::of(&receiver, &ended.trace);
    trace.is_sound("skald", "");
    assert_eq!(trace.spans.iter().filter(|span| span.name == "POST /v1/orders").count(), 1, "{}", trace.drawing(true));
    let mut traces: Vec<&str> =
        history.body["items"].as_array().unwrap().iter().map(|entry| entry["trace_id"].as_str().unwrap()).collect();
    traces.dedup();
    assert_eq!(traces, [ended.trace.as_str()], "all of its history is in one trace");

    let asked: Vec<_> = spans.iter().filter(|span| span.name == "asked order").collect();
    let [one, other] = asked[..] else { panic!("{asked:#?}") };
    for (one, other) in [(one, other), (other, one)] {
        assert_eq!((one.kind, one.attribute("saga.input")), ("INTERNAL", "CancelAsked"));
        assert_eq!(one.links, [(other.trace.clone(), other.id.clone())]);
    }
    let (own, requests) = if one.trace == ended.trace { (one, other) } else { (other, one) };
    assert_eq!((own.trace.as_str(), of(&own.parent).name.as_str()), (ended.trace.as_str(), "POST /v1/orders"));
    assert_eq!(of(&requests.parent).name, "POST /v1/orders/{id}/cancel");
    Trace::of(&receiver, &requests.trace).is_sound("skald", "");
}

#[tokio::test]
async fn a_caller_s_trace_is_joined_and_what_the_caller_decided_holds_against_the_share() {
    let (home, receiver) = (home(), Receiver::start());
    let url = receiver.url();
    let system = System::start(home.path(), &[("SKALD_OTLP", &url), ("SKALD_TRACE_SAMPLE", "0")]);
    let product = system.admin().await.product("TEA-1", 100).await;
    let token = system.token("ann").await;
    let wanted = order(&product, 1, "tok_ok");
    let headers = [
        ("uber-trace-id", "4d00000000000016:17c29:0:1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00"),
        ("baggage", "tenant=7"),
    ];
    for (number, (name, value)) in headers.into_iter().enumerate() {
        let mut caller = Person::with(system.address, &token);
        caller.says(HeaderName::from_static(name), HeaderValue::from_static(value));
        let placed = caller.place(&format!("k{number}"), &wanted, 20).await;
        assert_eq!(placed.told().1, "confirmed", "{placed:?}");
    }
    let told = ["00000000000000004d00000000000016", "0af7651916cd43dd8448eb211c80319c"];
    for (trace, caller) in told.into_iter().zip(["0000000000017c29", "b7ad6b7169203331"]) {
        Trace::whole(&receiver, trace, CONFIRMED).await.is_sound("skald", caller);
    }
    assert!(system.stop().success());
    assert_eq!(begun_since(&receiver, Timestamp(0)), told);
    assert_eq!(receiver.spans().iter().filter(|span| !told.contains(&span.trace.as_str())).count(), 0);
}

#[tokio::test]
async fn a_receiver_that_is_away_or_silent_costs_no_order_and_little_of_the_stop() {
    // The kernel takes connections to it, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for receiver in ["http://127.0.0.1:1".to_owned(), format!("http://{}", silent.local_addr().unwrap())] {
        let home = home();
        let system = System::start(home.path(), &[&[("SKALD_OTLP", receiver.as_str())][..], QUICK].concat());
        let product = system.admin().await.product("TEA-1", 1_000).await;
        let mut customer = system.customer("ann").await;
        for number in 0..100 {
            let placed = customer.place(&format!("k{number}"), &order(&product, 1, "tok_ok"), 20).await;
            assert_eq!(placed.told().1, "confirmed", "{placed:?}");
        }
        system.settles().await;
        let env = Env::system();
        let told_to_stop = env.now();
        assert!(system.stop().success());
        let took = env.now().since(told_to_stop);
        // Some seconds are the bound; a slow machine has more.
        assert!(took.as_secs() < 15, "{receiver}: {took:?}");
        let log = std::fs::read_to_string(home.path().join("log")).unwrap();
        let said = |words: &str| log.lines().filter(|line| line.contains(words)).count();
        assert!(said("spans can't be exported") <= 1, "{receiver}: {log}");
        assert_eq!(said("spans were not exported"), 1, "{receiver}: {log}");
    }
}
