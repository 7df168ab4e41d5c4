//! The payment of an order, for its customer and for operators.
//!
//! Never here: rules, SQL. From here a reader sees the row of `store.rs` and the operations that its stream tells of.

use axum::extract::State;
use contract::{
    Message, Money, OrderId, Timestamp,
    payment::{Event, Operation},
};
use eventlog::Log;
use kit::{
    auth::Caller,
    http::{ApiResult, Json, MoneySchema, Path, Problem, Routes},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{handler, store};

pub(crate) fn routes(log: Log) -> Routes {
    OpenApiRouter::new().routes(routes!(payment)).with_state(log)
}

/// The payment of one order.
#[derive(Debug, Serialize, ToSchema)]
struct PaymentView {
    #[schema(value_type = Uuid)]
    order_id: OrderId,
    /// `pending`, `authorized`, `declined`, `captured`, `capture_refused` or `voided`.
    status: &'static str,
    /// What was asked for; null where the order was voided before anything was.
    #[schema(value_type = Option<MoneySchema>, required)]
    amount: Option<Money>,
    #[schema(value_type = Option<MoneySchema>, required)]
    captured: Option<Money>,
    #[schema(value_type = Option<MoneySchema>, required)]
    refunded: Option<Money>,
    /// What was asked of the provider, in order.
    operations: Vec<OperationView>,
}

/// One call to the provider, however often it was made.
#[derive(Debug, Serialize, ToSchema)]
struct OperationView {
    /// `authorize`, `capture`, `void` or `refund`.
    operation: &'static str,
    /// `done`, `refused`, or `open` as long as the provider has not answered.
    outcome: &'static str,
    /// The provider's code, where it refused.
    #[schema(required)]
    code: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    asked_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    answered_at: Option<Timestamp>,
}

/// Look at the payment of an order
#[utoipa::path(
    get, path = "/v1/payments/{order_id}", tag = "payment", security(("bearer" = [])),
    params(("order_id" = Uuid, Path)),
    responses((status = 200, body = PaymentView), (status = 401), (status = 404))
)]
async fn payment(State(log): State<Log>, caller: Caller, Path(order_id): Path<OrderId>) -> ApiResult<Json<PaymentView>> {
    let row = store::find(&log, order_id).await?.ok_or_else(Problem::not_found)?;
    if !row.customer_id.map_or(caller.role.reads_everything(), |owner| caller.may_read(owner)) {
        return Err(Problem::not_found());
    }
    let payment = row.payment;
    // Read after the row, so that it may know more, never less; the row's version says where to stop.
    let history = log.stream(&handler::stream(order_id), 1).await?;
    let known = history.iter().filter(|message| message.version <= payment.version);
    Ok(Json(PaymentView {
        order_id,
        status: payment.status.as_str(),
        amount: payment.amount,
        captured: payment.amount.map(|amount| Money::new(payment.captured_minor, amount.currency)),
        refunded: payment.amount.map(|amount| Money::new(payment.refunded_minor, amount.currency)),
        operations: operations(known.map(|message| &**message)),
    }))
}

/// Every intent with what became of it.
fn operations<'a>(history: impl Iterator<Item = &'a Message>) -> Vec<OperationView> {
    let mut operations: Vec<OperationView> = Vec::new();
    for message in history {
        let Ok(event) = Event::decode(&message.kind, message.schema, &message.data) else { continue };
        let (answered, outcome, code) = match event {
            Event::CallIntended(call) => {
                let (operation, asked_at) = (call.operation.as_str(), message.time);
                operations.push(OperationView { operation, outcome: "open", code: None, asked_at, answered_at: None });
                continue;
            }
            Event::VoidRequested(_) => continue,
            Event::PaymentAuthorized(_) => ([Operation::Authorize; 2], "done", None),
            Event::PaymentDeclined(reply) => ([Operation::Authorize; 2], "refused", Some(reply.code)),
            Event::PaymentCaptured(_) => ([Operation::Capture; 2], "done", None),
            Event::CaptureRefused(reply) => ([Operation::Capture; 2], "refused", Some(reply.code)),
            Event::PaymentVoided(_) => ([Operation::Void, Operation::Refund], "done", None),
        };
        // Replies that answer no open call are repeated ones, or a tombstone's.
        if let Some(open) = operations.last_mut().filter(|last| last.outcome == "open")
            && answered.iter().any(|operation| operation.as_str() == open.operation)
        {
            (open.outcome, open.code, open.answered_at) = (outcome, code, Some(message.time));
        }
    }
    operations
}
