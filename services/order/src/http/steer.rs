//! An operator's verbs. Each is a row of the saga's table, recorded with who asked and why.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use contract::{Meta, OrderId};
use eventlog::{Answer, Job};
use kit::{
    auth::{Caller, Role},
    http::{ApiResult, Json, Path, Problem, Traced},
    text,
};
use saga::{Word, order::Input};

use super::{
    Shop,
    dto::{Note, OrderBody},
    orders::{own, unreadable},
};
use crate::handler::{Done, Work};

const NOTE_CHARS_MAX: usize = 500;

/// Steers a saga: `retry` asks once more now; `compensate` ends it with nothing held and nothing taken; `skip` goes on as if
/// the step had been answered; `complete` ends it on the way it is going. The last two only past the capture or while
/// compensating; the audit lists them as waivers.
#[utoipa::path(post, path = "/v1/sagas/{id}/{verb}", tag = "order", security(("bearer" = [])), request_body = Note,
    params(("id" = uuid::Uuid, Path), ("verb" = String, Path, pattern = "^(retry|compensate|skip|complete)$", description = "`retry`, `compensate`, `skip` or `complete`")),
    responses((status = 202, body = OrderBody), (status = 403, description = "Not an operator"), (status = 404), (status = 409, description = "`not_in_this_state`")))]
pub(crate) async fn steer(
    State(shop): State<Arc<Shop>>,
    caller: Caller,
    Traced(trace): Traced,
    Path((id, verb)): Path<(OrderId, String)>,
    Json(note): Json<Note>,
) -> ApiResult<Response> {
    caller.require(Role::Operator)?;
    let verb = match verb.as_str() {
        "retry" => Input::RetryAsked,
        "compensate" => Input::CompensationForced,
        "skip" => Input::StepSkipped,
        "complete" => Input::CompletionForced,
        _ => return Err(Problem::not_found()),
    };
    let reason = text::line(&note.reason, NOTE_CHARS_MAX).map_err(|detail| Problem::invalid("reason", detail))?;
    let meta = Meta { correlation: Some(id.0), trace, actor: Some(caller.actor()), cause: None };
    let work = Work::Steer { order_id: id, verb, note: Some(reason) };
    match shop.writer.request(Job { work, meta }, None).await? {
        Answer::Done(Done::Unknown) => Err(Problem::not_found()),
        Answer::Done(Done::Unreadable) => Err(unreadable()),
        Answer::Done(Done::Ignored(why, state)) => {
            let detail = format!("{} has no effect in state {}: {}", verb.as_str(), state.as_str(), why.as_str());
            Err(Problem::conflict("not_in_this_state", detail))
        }
        _ => Ok((StatusCode::ACCEPTED, Json(OrderBody::from(own(&shop, caller, id).await?))).into_response()),
    }
}
