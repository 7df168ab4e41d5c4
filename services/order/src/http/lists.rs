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

use super::{
    Shop,
    dto::{self, Entry, History, OrderBody, SagaListed},
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

/// Tells an order step by step: the stream of its saga.
#[utoipa::path(get, path = "/v1/orders/{id}/history", tag = "order", security(("bearer" = [])), params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = History), (status = 404, description = "None, or somebody else's")))]
pub(crate) async fn history(State(shop): State<Arc<Shop>>, caller: Caller, Path(id): Path<OrderId>) -> ApiResult<Json<History>> {
    own(&shop, caller, id).await?;
    let rows = shop.log().stream(&Instance::<OrderSaga>::stream(id.0), 1).await?;
    let mut state = None;
    let mut items: Vec<Entry> = rows.iter().map(|row| entry(row, &mut state)).collect();
    if caller.role.reads_everything() {
        shop.links.add(rows, &mut items).await;
    }
    Ok(Json(History { items }))
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
