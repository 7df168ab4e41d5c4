//! Lists: orders, sagas, and the history of one order.

use std::sync::Arc;

use axum::extract::State;
use contract::{Message, OrderId, saga::Event};
use engine::{Instance, Selection};
use kit::{
    auth::{Caller, Role},
    http::{ApiResult, Json, List, PageQuery, Path, Problem, Query},
};
use saga::{Saga, Word, order::OrderSaga};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{
    Shop,
    dto::{self, Entry, OrderBody, SagaListed},
    orders::own,
};
use crate::store;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OrdersQuery {
    /// `pending`, `confirmed` or `cancelled`.
    #[param(pattern = "^(pending|confirmed|cancelled)$")]
    status: Option<String>,
    #[serde(flatten)]
    #[param(ignore)]
    page: PageQuery,
}

/// Lists orders, newest first: one's own, or everybody's for operators.
#[utoipa::path(get, path = "/v1/orders", tag = "order", security(("bearer" = [])), params(OrdersQuery, PageQuery), responses((status = 200, body = List<OrderBody>)))]
pub(crate) async fn orders(
    State(shop): State<Arc<Shop>>,
    caller: Caller,
    Query(query): Query<OrdersQuery>,
) -> ApiResult<Json<List<OrderBody>>> {
    let page = query.page.page()?;
    let bad = || Problem::invalid("status", "must be pending, confirmed or cancelled");
    let status = query.status.as_deref().map(|text| dto::status(text).ok_or_else(bad)).transpose()?;
    let customer = (!caller.role.reads_everything()).then_some(caller.id);
    let mut reader = shop.log().reader().await?;
    let rows = store::list(&mut reader.conn(), customer, status, page.after, page.limit + 1).await?;
    let id = |order: &Result<store::Order, uuid::Uuid>| order.as_ref().map_or_else(|id| *id, |order| order.order_id.0);
    Ok(Json(List::of(rows, page.limit, id).filter_map(|order| order.ok().map(OrderBody::from))))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SagasQuery {
    /// `open`, `ended` or `stuck`; all if not given.
    #[param(pattern = "^(open|ended|stuck)$")]
    state: Option<String>,
    #[serde(flatten)]
    #[param(ignore)]
    page: PageQuery,
}

/// Lists sagas, newest first. For operators.
#[utoipa::path(get, path = "/v1/sagas", tag = "order", security(("bearer" = [])), params(SagasQuery, PageQuery),
    responses((status = 200, body = List<SagaListed>), (status = 403, description = "Not an operator")))]
pub(crate) async fn sagas(
    State(shop): State<Arc<Shop>>,
    caller: Caller,
    Query(query): Query<SagasQuery>,
) -> ApiResult<Json<List<SagaListed>>> {
    caller.require(Role::Operator)?;
    let page = query.page.page()?;
    let selection = match query.state.as_deref() {
        None => Selection::All,
        Some("open") => Selection::Open,
        Some("ended") => Selection::Ended,
        Some("stuck") => Selection::Stuck,
        Some(_) => return Err(Problem::invalid("state", "must be open, ended or stuck")),
    };
    let mut reader = shop.log().reader().await?;
    let rows = engine::list(&mut reader.conn(), selection, page.after, page.limit + 1).await?;
    Ok(Json(List::of(rows, page.limit, |saga| saga.id).map(|saga| SagaListed {
        id: saga.id,
        saga: OrderSaga::NAME,
        definition: saga.definition,
        step: Word::parse(&saga.state).and_then(OrderSaga::step).map(|step| step.name),
        state: saga.state,
        reason: saga.reason,
        attempt: saga.attempt,
        stuck: saga.stuck,
        unreadable: saga.unreadable,
        due_at: saga.due,
        started_at: saga.started,
        ended_at: saga.ended,
    })))
}

/// So many rows behind one that moves no saga stands one that does: a move, its command, the flag for stuck.
pub(super) const MOVED_WITHIN: i64 = 4;

/// Tells an order step by step, newest first: the stream of its saga.
#[utoipa::path(get, path = "/v1/orders/{id}/history", tag = "order", security(("bearer" = [])), params(("id" = uuid::Uuid, Path), PageQuery),
    responses((status = 200, body = List<Entry>), (status = 404, description = "None, or somebody else's")))]
pub(crate) async fn history(
    State(shop): State<Arc<Shop>>,
    caller: Caller,
    Path(id): Path<OrderId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<List<Entry>>> {
    let page = query.page()?;
    let cursor = |version: Uuid| i64::try_from(version.as_u128());
    let bad = |_| Problem::invalid("cursor", "must be `next` of an earlier page");
    let before = page.after.map(cursor).transpose().map_err(bad)?.unwrap_or(i64::MAX);
    own(&shop, caller, id).await?;
    let stream = Instance::<OrderSaga>::stream(id.0);
    let mut rows = shop.log().stream_before(&stream, before, page.limit + MOVED_WITHIN).await?;
    let mut state = None;
    let mut items: Vec<Entry> = rows.iter().rev().map(|row| entry(row, &mut state)).collect();
    items.reverse();
    let mut list = List::of(items, page.limit, |entry| Uuid::from_u128(entry.version.unsigned_abs().into()));
    if caller.role.reads_everything() {
        rows.truncate(list.items.len());
        shop.links.add(rows, &mut list.items).await;
    }
    Ok(Json(list))
}

/// A row as people read it. `state` is the saga's, carried from row to row.
pub(super) fn entry(row: &Message, state: &mut Option<String>) -> Entry {
    let mut data = serde_json::from_str(&row.data).unwrap_or(serde_json::Value::Null);
    if let Ok(Event::SagaMoved(moved)) = Event::decode(&row.kind, row.schema, &row.data) {
        *state = Some(moved.to);
    }
    // The provider's token is nobody's business but the provider's.
    for secret in ["/token", "/context/payment_token"] {
        if let Some(token) = data.pointer_mut(secret) {
            *token = "***".into();
        }
    }
    Entry {
        version: row.version,
        time: row.time,
        message: row.kind.clone(),
        topic: row.topic.clone(),
        state: state.clone(),
        data,
        actor: row.meta.actor.clone(),
        cause: row.meta.cause.map(|cause| cause.0),
        trace_id: row.meta.trace.id().map(str::to_owned),
        trace_url: None,
        published: None,
    }
}
