//! Every way in which an order can end, a test each: what is answered, what the payment shows, and that the audit holds.

use serde_json::Value;

use crate::support::{Answer, Person, QUICK, Whole, eventually, home, order};

/// One customer in front of one product with enough pieces.
struct Shop {
    system: Whole,
    customer: Person,
    product: String,
    _home: tempfile::TempDir,
}

async fn shop(knobs: &[(&str, &str)]) -> Shop {
    let home = home();
    let system = Whole::start(home.path(), knobs).await;
    let product = system.shop().admin().await.product("TEA-1", 100).await;
    Shop { customer: system.shop().customer("ann").await, system, product, _home: home }
}

impl Shop {
    fn order(&self, token: &str) -> Value {
        order(&self.product, 2, token)
    }

    /// Places an order and waits for its end.
    async fn ordered(&mut self, key: &str, token: &str) -> Answer {
        let order = self.order(token);
        self.customer.ended(key, &order).await
    }

    async fn payment(&mut self, order: &str) -> Value {
        let answer = self.customer.get(&format!("/v1/payments/{order}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Pieces that can be ordered now.
    async fn available(&mut self) -> i64 {
        let answer = self.customer.get(&format!("/v1/products/{}", self.product)).await;
        answer.body["available"].as_i64().unwrap_or_else(|| panic!("{answer:?}"))
    }

    /// Waits until the order's saga is in this state, which must last for a while.
    async fn reaches(&mut self, order: &str, wanted: &str) {
        eventually("the saga comes that far", async || {
            let answer = self.customer.get(&format!("/v1/orders/{order}")).await;
            let state = answer.body["saga"]["state"].as_str().unwrap_or_default();
            if state == wanted { Ok(()) } else { Err(format!("{wanted}: {answer:?}")) }
        })
        .await;
    }
}

/// What was asked of the provider, and how it came out.
fn operations(payment: &Value) -> Vec<(&str, &str)> {
    let operations = payment["operations"].as_array().expect("a list");
    operations.iter().map(|call| (call["operation"].as_str().unwrap(), call["outcome"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn a_good_order_is_confirmed_captured_once_and_its_stock_sold() {
    let mut shop = shop(&[]).await;
    let ended = shop.ordered("k1", "tok_ok").await;
    assert_eq!(ended.told(), (202, "confirmed", ""));
    assert_eq!(ended.body["total"]["amount_minor"], 2 * 1_999);
    assert_eq!(ended.body["saga"]["state"], "Confirmed");
    let payment = shop.payment(&ended.id()).await;
    assert_eq!(payment["status"], "captured");
    assert_eq!(operations(&payment), [("authorize", "done"), ("capture", "done")]);
    assert_eq!(shop.available().await, 98);
    shop.system.settles().await;
}

#[tokio::test]
async fn a_declined_card_cancels_the_order_and_gives_the_stock_back() {
    let mut shop = shop(&[]).await;
    let ended = shop.ordered("k1", "tok_declined").await;
    assert_eq!(ended.told(), (202, "cancelled", "payment_declined"));
    assert_eq!(shop.payment(&ended.id()).await["status"], "declined");
    assert_eq!(shop.available().await, 100);
    shop.system.settles().await;
}

#[tokio::test]
async fn an_authorization_after_our_timeout_cancels_the_order_and_its_hold_is_voided() {
    // Given up after 3 x 0.6 s, long before the provider answers, and long after any other answer on a slow machine.
    let knobs = [("SKALD_STEP_DEADLINE_MS", "600"), ("SKALD_PAYMENT_TIMEOUT_MS", "200"), ("SKALD_PAYMENT_SLOW_MS", "6000")];
    let mut shop = shop(&knobs).await;
    let ended = shop.ordered("k1", "tok_slow").await;
    assert_eq!(ended.told(), (202, "cancelled", "payment_timeout"));
    let payment = shop.payment(&ended.id()).await;
    assert_eq!(payment["status"], "voided");
    assert_eq!(operations(&payment), [("authorize", "done"), ("void", "done")]);
    assert_eq!(payment["captured"]["amount_minor"], 0);
    assert_eq!(shop.available().await, 100);
    shop.system.settles().await;
}

#[tokio::test]
async fn lost_answers_are_asked_for_again_and_the_order_is_captured_once() {
    let mut shop = shop(QUICK).await;
    let ended = shop.ordered("k1", "tok_lost").await;
    assert_eq!(ended.told(), (202, "confirmed", ""));
    let payment = shop.payment(&ended.id()).await;
    assert_eq!(operations(&payment), [("authorize", "done"), ("capture", "done")]);
    assert_eq!(payment["captured"], payment["amount"]);
    shop.system.settles().await;
}

#[tokio::test]
async fn a_refused_capture_cancels_the_order_and_voids_the_hold() {
    let mut shop = shop(&[]).await;
    let ended = shop.ordered("k1", "tok_capture_refused").await;
    assert_eq!(ended.told(), (202, "cancelled", "capture_refused"));
    let payment = shop.payment(&ended.id()).await;
    assert_eq!(operations(&payment), [("authorize", "done"), ("capture", "refused"), ("void", "done")]);
    assert_eq!(payment["captured"]["amount_minor"], 0);
    assert_eq!(shop.available().await, 100);
    shop.system.settles().await;
}

#[tokio::test]
async fn a_customer_cancels_in_flight_and_asking_twice_is_no_mistake() {
    // The first answer of tok_lost is lost: the order waits for its payment for two seconds.
    let mut shop = shop(&[("SKALD_PAYMENT_TIMEOUT_MS", "2000")]).await;
    let lost = shop.order("tok_lost");
    let placed = shop.customer.place("k1", &lost, 0).await;
    assert_eq!(placed.told(), (202, "pending", ""));
    let id = placed.id();
    shop.reaches(&id, "AuthorizingPayment").await;
    assert_eq!(shop.customer.cancel(&id, "c1").await.status, 202);
    assert_eq!(shop.customer.cancel(&id, "c2").await.status, 202);
    let ended = shop.customer.ended("k1", &lost).await;
    assert_eq!((ended.id(), ended.told()), (id.clone(), (202, "cancelled", "cancelled_by_customer")));
    assert_eq!(shop.customer.cancel(&id, "c3").await.told(), (200, "cancelled", "cancelled_by_customer"));
    assert_eq!(shop.available().await, 100);
    shop.system.settles().await;
}

#[tokio::test]
async fn a_cancel_comes_too_late_once_the_payment_is_being_captured() {
    let mut shop = shop(&[("SKALD_PAYMENT_TIMEOUT_MS", "2000")]).await;
    let lost = shop.order("tok_lost");
    let id = shop.customer.place("k1", &lost, 0).await.id();
    shop.reaches(&id, "CapturingPayment").await;
    assert_eq!(shop.customer.cancel(&id, "c1").await.told(), (409, "too_late_to_cancel", ""));
    assert_eq!(shop.customer.ended("k1", &lost).await.told(), (202, "confirmed", ""));
    assert_eq!(shop.customer.cancel(&id, "c2").await.told(), (409, "too_late_to_cancel", ""));
    shop.system.settles().await;
}

#[tokio::test]
async fn a_repeated_key_gives_the_same_order_as_it_is_now_and_another_body_is_refused() {
    let mut shop = shop(&[]).await;
    let (good, other) = (shop.order("tok_ok"), order(&shop.product, 3, "tok_ok"));
    let placed = shop.customer.place("k1", &good, 0).await;
    let repeated = shop.customer.ended("k1", &good).await;
    assert_eq!((placed.status, &placed.location, placed.id()), (202, &repeated.location, repeated.id()));
    assert_eq!(placed.location, Some(format!("/v1/orders/{}", placed.id())));
    assert_eq!(repeated.body["status"], "confirmed");
    assert_eq!(shop.customer.place("k1", &other, 0).await.told(), (422, "idempotency_key_reused", ""));
    // Keys are the caller's own: the same one of somebody else makes an order of theirs.
    let mut bob = shop.system.shop().customer("bob").await;
    assert_ne!(bob.ended("k1", &good).await.id(), placed.id());
    assert_eq!(bob.get(&format!("/v1/orders/{}", placed.id())).await.told(), (404, "not_found", ""));
    shop.system.settles().await;
}

#[tokio::test]
async fn whoever_does_not_wait_is_answered_at_once_and_whoever_waits_is_told_the_end() {
    let mut shop = shop(QUICK).await;
    let (good, lost) = (shop.order("tok_ok"), shop.order("tok_lost"));
    assert_eq!(shop.customer.place("k1", &lost, 0).await.told(), (202, "pending", ""));
    assert_eq!(shop.customer.place("k2", &good, 20).await.told(), (202, "confirmed", ""));
    assert_eq!(shop.customer.ended("k1", &lost).await.told(), (202, "confirmed", ""));
}
