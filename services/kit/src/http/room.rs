//! How much the door holds at once: requests with their bodies and answers, and event streams.
//!
//! Never here: connections; [`super::serve`] counts those. What finds no room is told to come again, before any of it is read.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{Method, header},
    response::Response,
};
use eventlog::Memory;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Problem, extract::BODY_BYTES_MAX};

/// What a request and a usual answer take, beside the request's body.
const REQUEST: usize = 4 * 1024;
/// The unit in which bytes are counted.
const UNIT: usize = 1024;

/// The room behind one door.
pub(crate) struct Room {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Room {
    pub(crate) fn new(memory: Memory) -> Self {
        let (requests, streams) = (memory.requests() / UNIT, memory.streams());
        Self { requests: Arc::new(Semaphore::new(requests)), streams: Arc::new(Semaphore::new(streams)) }
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        self.requests.clone().try_acquire_many_owned(units).ok()
    }

    /// Room for a request: for the body that it says it has, or for the largest where it does not say.
    pub(crate) fn enter(&self, request: &Request) -> Result<OwnedSemaphorePermit, Problem> {
        let said = request.body().size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
        self.take(REQUEST + said.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX)).ok_or_else(full)
    }

    /// Keeps the room until the answer has been sent, however slowly it is read. A stream goes to the streams; a long list needs room of its
    /// own. What has changed something is always answered.
    pub(crate) fn leave(
        &self,
        response: Response,
        method: &Method,
        mut entered: OwnedSemaphorePermit,
    ) -> Result<Response, Problem> {
        if is_stream(&response) {
            let stream = self.streams.clone().try_acquire_owned().map_err(|_| full())?;
            return Ok(response.map(|body| Body::new(Held { body, _room: stream })));
        }
        let answer = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        let more = answer.saturating_sub(entered.num_permits() * UNIT);
        if more > 0 && method == Method::GET {
            entered.merge(self.take(more).ok_or_else(full)?);
        }
        Ok(response.map(|body| Body::new(Held { body, _room: entered })))
    }
}

fn full() -> Problem {
    Problem::unavailable("too much is under way here; nothing was changed").coded("overloaded")
}

/// Whether it is an event stream, which does not end by itself.
pub(crate) fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// A body with the room that it takes, until it has been sent or given up.
struct Held {
    body: Body,
    _room: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
