//! An order as it happens: Server-Sent Events, one a row of its saga's stream, until it has ended.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use contract::{Message, OrderId};
use engine::Instance;
use eventlog::Error;
use futures_util::stream;
use kit::{
    auth::Caller,
    http::{ApiResult, Path, Problem},
};
use saga::order::OrderSaga;

use super::{
    Shop,
    dto::Entry,
    lists::{MOVED_WITHIN, entry},
    orders::own,
};
use crate::follow::Watcher;

/// Rows that are held ready for one client: whoever reads slowly holds no more of them than who reads at once.
const ROWS_MAX: i64 = 8;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events from before a client came. Older ones are in the history, in pages.
const PAST_MAX: i64 = 200;

/// Streams an order's history as it happens, from at most 200 entries back. `id` is the entry's version; a client that comes back with
/// `Last-Event-ID` goes on after it, or with those 200 where it was away for longer.
#[utoipa::path(get, path = "/v1/orders/{id}/events", tag = "order", security(("bearer" = [])),
    params(("id" = uuid::Uuid, Path), ("Last-Event-ID" = Option<i64>, Header, minimum = 0, description = "Go on after this event")),
    responses((status = 200, body = String, content_type = "text/event-stream", description = "Ends with the saga"),
        (status = 204, description = "The saga has ended, and all of it was told: nothing to come back for"), (status = 404, description = "None, or somebody else's"),
        (status = 422, description = "`Last-Event-ID` is the id of no event of this order")))]
pub(crate) async fn events(
    State(shop): State<Arc<Shop>>,
    caller: Caller,
    Path(id): Path<OrderId>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after: i64 = match headers.get("last-event-id") {
        None => 0,
        // A browser that has heard none says so in this way.
        Some(value) if value.is_empty() => 0,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|version| (0..i64::MAX).contains(version))
            .ok_or_else(unknown)?,
    };
    // Watched before it is read, so that nothing falls in between.
    let watcher = shop.watchers.watch(id);
    own(&shop, caller, id).await?;
    let stream = Instance::<OrderSaga>::stream(id.0);
    let newest = shop.log().stream_before(&stream, i64::MAX, 1).await?;
    let newest = newest.first().map(|newest| newest.version).filter(|newest| *newest >= after).ok_or_else(unknown)?;
    let after = after.max(newest - PAST_MAX);
    // Some rows before, one of which says what state it was in.
    let version = (after - MOVED_WITHIN).max(0);
    let mut told = Told { shop, watcher, stream, version, state: None, rows: VecDeque::new(), ended: false };
    // What the client has seen is passed over, not left out: the state that it is in goes on from there.
    while told.rows.is_empty() {
        told.rows = told.more().await?;
        if told.rows.is_empty() {
            break;
        }
        while let Some(row) = told.rows.pop_front_if(|row| row.version <= after) {
            told.tell(&row);
        }
    }
    if told.ended && told.rows.is_empty() {
        // It has been told to its end. Browsers come back to a stream that ends, again and again, until they hear this.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Sse::new(stream::unfold(told, Told::next)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn unknown() -> Problem {
    Problem::invalid("Last-Event-ID", "must be the id of an earlier event")
}

/// How far one client has been told.
struct Told {
    shop: Arc<Shop>,
    watcher: Watcher,
    stream: String,
    version: i64,
    state: Option<String>,
    rows: VecDeque<Arc<Message>>,
    ended: bool,
}

impl Told {
    /// The next rows, if there are any yet.
    async fn more(&self) -> Result<VecDeque<Arc<Message>>, Error> {
        Ok(self.shop.log().part_of(&self.stream, self.version + 1, ROWS_MAX).await?.into())
    }

    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                let entry = self.tell(&row);
                let event = Event::default().id(row.version.to_string()).event(row.kind.clone());
                let event = event.json_data(&entry).unwrap_or_else(|_| Event::default().comment("unreadable"));
                return Some((Ok(event), self));
            }
            if self.ended {
                return None;
            }
            match self.more().await {
                Ok(rows) if !rows.is_empty() => self.rows = rows,
                Ok(_) => {
                    let stopping = self.shop.stopping.clone();
                    tokio::select! {
                        () = stopping.cancelled() => return None,
                        () = self.watcher.changed() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an event stream ends early; its client comes back with Last-Event-ID");
                    return None;
                }
            }
        }
    }

    fn tell(&mut self, row: &Message) -> Entry {
        self.version = row.version;
        self.ended |= row.kind == "saga.SagaEnded";
        entry(row, &mut self.state)
    }
}
