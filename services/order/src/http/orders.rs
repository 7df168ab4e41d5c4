//! Placing, showing and cancelling an order.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use contract::{Meta, OrderId};
use eventlog::Job;
use kit::{
    Idempotency,
    auth::Caller,
    http::{ApiResult, Body, Json, Path, Problem, Traced},
    idempotency::{Begun, Outcome},
    propagation,
};
use saga::{Why, order::State as SagaState};

use super::{
    Shop,
    dto::{self, OrderBody, PlaceOrder},
};
use crate::{
    domain::{self, Wanted},
    handler::{By, Done, Place, Work},
    stock::Context,
    store,
};

/// The longest that `Prefer: wait` is honoured for.
const WAIT_MAX: Duration = Duration::from_secs(25);
const TOKEN_CHARS_MAX: usize = 255;

/// Places an order.
#[utoipa::path(post, path = "/v1/orders", tag = "order", security(("bearer" = [])), request_body = PlaceOrder,
    params(("Idempotency-Key" = String, Header, description = "1 to 255 visible characters; repeating the request with it is safe"),
           ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the saga has ended, at most N seconds later")),
    responses((status = 202, description = "Taken; its saga runs", body = OrderBody),
        (status = 409, description = "`out_of_stock`, `price_changed` or `request_in_flight`"),
        (status = 422, description = "`invalid`, `unknown_product` or `idempotency_key_reused`"),
        (status = 503, description = "Nothing was done; see Retry-After")))]
pub(crate) async fn place(
    State(shop): State<Arc<Shop>>,
    caller: Caller,
    Traced(trace): Traced,
    headers: HeaderMap,
    body: Body<PlaceOrder>,
) -> ApiResult<Response> {
    let wait = wait_preferred(&headers);
    let scope = caller.id.to_string();
    let in_flight = match shop.idempotency.begin(&headers, true, &scope, "POST /v1/orders", &body.raw, shop.log()).await? {
        Begun::Fresh(in_flight) => in_flight,
        Begun::Repeated(stored) => return repeated(&shop, stored.location.as_deref(), wait).await,
    };
    let context = Context::new(trace.clone(), propagation::baggage(&headers));
    let place = checked(&shop, caller, body.value, context).await?;
    let order_id = place.order_id;
    let mut watcher = wait.map(|_| shop.watchers.watch(order_id));
    let meta = Meta { correlation: Some(order_id.0), trace, actor: Some(caller.actor()), cause: None };
    let job = Job { work: Work::Place(place.clone()), meta };
    let answer = shop.writer.request(job, in_flight.as_ref().map(|in_flight| in_flight.key)).await?;
    // It is done, or was before: whoever repeats it need not wait for the end of this one's patience.
    drop(in_flight);
    match Idempotency::answer(answer)? {
        Outcome::Done(Done::Placed(_, placed)) => {
            let end = match (&mut watcher, wait) {
                (Some(watcher), Some(wait)) => watcher.end(wait, &shop.stopping).await,
                _ => None,
            };
            // Waited in vain: it may have moved on meanwhile.
            let order =
                if wait.is_some() && end.is_none() { find(&shop, order_id).await? } else { dto::just_placed(place, placed, end) };
            Ok(accepted(order, wait))
        }
        Outcome::Done(done) => unreachable!("a placement is placed, not {done:?}"),
        Outcome::Repeated(stored) => repeated(&shop, stored.location.as_deref(), wait).await,
    }
}

/// Checks the basket, asks for stock and prices, and makes the order's id.
async fn checked(shop: &Shop, caller: Caller, body: PlaceOrder, context: Context) -> ApiResult<Place> {
    let token = body.payment.token;
    if token.is_empty() || token.chars().count() > TOKEN_CHARS_MAX {
        return Err(Problem::invalid("payment.token", format!("must have 1 to {TOKEN_CHARS_MAX} characters")));
    }
    if let Some(total) = body.expected_total.filter(|total| !total.currency.exists()) {
        let detail = format!("{} is no currency of ISO 4217 that has a minor unit", total.currency);
        return Err(Problem::invalid("expected_total.currency", detail));
    }
    let wanted: Vec<Wanted> =
        body.items.iter().map(|item| Wanted { product_id: item.product_id, quantity: item.quantity }).collect();
    let basket = domain::basket(&wanted)?;
    let quotes = shop.stock.check(basket.clone(), context).await?;
    let priced = domain::price(&basket, &quotes, body.expected_total)?;
    let order_id = OrderId(shop.log().env().id());
    Ok(Place { order_id, customer_id: caller.id, lines: priced.lines, total: priced.total, payment_token: token })
}

/// The same order again, as it is now.
async fn repeated(shop: &Shop, location: Option<&str>, wait: Option<Duration>) -> ApiResult<Response> {
    let id: Option<OrderId> = location.and_then(|location| location.rsplit('/').next()?.parse().ok());
    let Some(id) = id else {
        tracing::error!(location, "a stored answer names no order");
        return Err(Problem::internal());
    };
    let mut watcher = shop.watchers.watch(id);
    let mut order = find(shop, id).await?;
    if let Some(wait) = wait
        && order.ended_at.is_none()
    {
        watcher.end(wait, &shop.stopping).await;
        order = find(shop, id).await?;
    }
    Ok(accepted(order, wait))
}

fn accepted(order: OrderBody, wait: Option<Duration>) -> Response {
    let location = format!("/v1/orders/{}", order.id);
    let mut response = (StatusCode::ACCEPTED, Json(order)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::try_from(location).expect("an id is ASCII"));
    if let Some(wait) = wait {
        let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs())).expect("a number is ASCII");
        headers.insert("preference-applied", applied);
    }
    response
}

async fn find(shop: &Shop, id: OrderId) -> ApiResult<OrderBody> {
    let mut reader = shop.log().reader().await?;
    let order = store::find(&mut reader.conn(), id).await?.ok_or_else(Problem::not_found)?;
    Ok(order.into())
}

/// `Prefer: wait=N` (RFC 7240), in whole seconds; other preferences are not ours to refuse.
fn wait_preferred(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
            name.trim().eq_ignore_ascii_case("wait").then(|| Duration::from_secs(seconds).min(WAIT_MAX))
        })
        .filter(|wait| !wait.is_zero())
}

/// Shows an order: one's own, or any for operators.
#[utoipa::path(get, path = "/v1/orders/{id}", tag = "order", security(("bearer" = [])), params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = OrderBody), (status = 404, description = "None, or somebody else's")))]
pub(crate) async fn show(State(shop): State<Arc<Shop>>, caller: Caller, Path(id): Path<OrderId>) -> ApiResult<Json<OrderBody>> {
    Ok(Json(own(&shop, caller, id).await?.into()))
}

/// What an order gets whose saga only another build can read.
pub(super) fn unreadable() -> Problem {
    Problem::unavailable("this build can't read the order's saga, so nothing was changed; a newer one can").coded("unreadable")
}

/// An order that the caller may read.
pub(super) async fn own(shop: &Shop, caller: Caller, id: OrderId) -> ApiResult<store::Order> {
    let mut reader = shop.log().reader().await?;
    let order = store::find(&mut reader.conn(), id).await?;
    order.filter(|order| caller.may_read(order.customer_id)).ok_or_else(Problem::not_found)
}

/// Cancels an order, until its payment is captured.
#[utoipa::path(post, path = "/v1/orders/{id}/cancel", tag = "order", security(("bearer" = [])),
    params(("id" = uuid::Uuid, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, description = "It is being compensated", body = OrderBody), (status = 200, description = "It was cancelled before", body = OrderBody),
        (status = 404, description = "None, or somebody else's"), (status = 409, description = "`too_late_to_cancel`")))]
pub(crate) async fn cancel(
    State(shop): State<Arc<Shop>>,
    caller: Caller,
    Traced(trace): Traced,
    Path(id): Path<OrderId>,
    headers: HeaderMap,
    body: Bytes,
) -> ApiResult<Response> {
    let (scope, mut fingerprint) = (caller.id.to_string(), id.0.as_bytes().to_vec());
    fingerprint.extend_from_slice(&body);
    let begun = shop.idempotency.begin(&headers, false, &scope, "POST /v1/orders/{id}/cancel", &fingerprint, shop.log()).await?;
    let in_flight = match begun {
        Begun::Fresh(in_flight) => in_flight,
        Begun::Repeated(stored) => return repeated(&shop, stored.location.as_deref(), None).await,
    };
    let by = By { id: caller.id, is_operator: caller.role.reads_everything() };
    let meta = Meta { correlation: Some(id.0), trace, actor: Some(caller.actor()), cause: None };
    let job = Job { work: Work::Cancel { order_id: id, by }, meta };
    let answer = shop.writer.request(job, in_flight.as_ref().map(|in_flight| in_flight.key)).await?;
    match Idempotency::answer(answer)? {
        Outcome::Repeated(stored) => repeated(&shop, stored.location.as_deref(), None).await,
        Outcome::Done(Done::Unknown) => Err(Problem::not_found()),
        Outcome::Done(Done::Unreadable) => Err(unreadable()),
        Outcome::Done(Done::Ignored(Why::Ended, SagaState::Cancelled)) => Ok(Json(find(&shop, id).await?).into_response()),
        Outcome::Done(Done::Ignored(Why::TooLate | Why::Ended, _)) => {
            Err(Problem::conflict("too_late_to_cancel", "the payment is being or has been taken; the order will be confirmed"))
        }
        Outcome::Done(_) => Ok(accepted(find(&shop, id).await?, None)),
    }
}
