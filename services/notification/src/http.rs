//! The notifications of a customer, and of everybody for operators.
//!
//! Never here: rules, SQL. From here a reader sees pages of `store.rs`, newest first.

use axum::extract::State;
use contract::{NotificationId, OrderId, Timestamp};
use eventlog::Log;
use kit::{
    auth::Caller,
    http::{ApiResult, Json, List, PageQuery, Query, Routes},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::store::{self, Row};

pub(crate) fn routes(log: Log) -> Routes {
    OpenApiRouter::new().routes(routes!(notifications)).with_state(log)
}

/// One notification.
#[derive(Debug, Serialize, ToSchema)]
struct NotificationView {
    #[schema(value_type = Uuid)]
    id: NotificationId,
    #[schema(value_type = Uuid)]
    order_id: OrderId,
    /// `order_confirmed` or `order_cancelled`.
    template: String,
    subject: String,
    body: String,
    /// `queued`, `delivered` or `given_up`.
    status: &'static str,
    attempts: u32,
    /// Why the last attempt failed.
    #[schema(required)]
    reason: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Row> for NotificationView {
    fn from(row: Row) -> Self {
        let (notification, created_at) = (row.notification, row.created);
        Self {
            id: notification.notification_id,
            order_id: notification.order_id,
            template: notification.template,
            subject: row.subject,
            body: row.body,
            status: notification.status.as_str(),
            attempts: notification.attempts,
            reason: notification.reason,
            created_at,
        }
    }
}

/// List notifications, newest first: one's own; operators see all
#[utoipa::path(
    get, path = "/v1/notifications", tag = "notification", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, body = List<NotificationView>), (status = 401), (status = 422))
)]
async fn notifications(
    State(log): State<Log>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<List<NotificationView>>> {
    let page = query.page()?;
    let owner = (!caller.role.reads_everything()).then_some(caller.id);
    let rows = store::page(&log, owner, page.after, page.limit + 1).await?;
    let id = |row: &Result<Row, uuid::Uuid>| row.as_ref().map_or_else(|id| *id, |row| row.notification.notification_id.0);
    Ok(Json(List::of(rows, page.limit, id).filter_map(|row| row.ok().map(Into::into))))
}
