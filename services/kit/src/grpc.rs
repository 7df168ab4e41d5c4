//! The stock check over gRPC: code made from `proto/stock.proto`, committed so that building needs no protobuf compiler; and how a
//! call is traced from both of its ends.
//!
//! Never here: edits of the code by hand; `tests/proto.rs` makes it anew and compares. Product serves it, order calls it.

use axum::http::Uri;
use contract::{Timestamp, Trace};
use eventlog::{Env, Span, SpanKind};
use tonic::{Code, Status, metadata::MetadataMap};

use crate::propagation::{self, Arrival};

#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
pub mod stock;

/// The most lines of one call.
pub const LINES_MAX: usize = 1_000;

/// The one method that there is.
const METHOD: &str = "skald.stock.v1.Stock/CheckStock";

/// One end of a call.
pub struct Call {
    kind: SpanKind,
    parent: Option<Trace>,
    own: Trace,
    begun: Timestamp,
    /// Where it goes.
    server: Option<Uri>,
}

impl Call {
    /// A call that goes out to a server as a part of a trace. Where nobody hears of it, it has no span of its own.
    pub fn out(trace: &Trace, server: &Uri, env: &Env) -> Self {
        let is_told = trace.is_sampled() && env.observer().is_some();
        let own = if is_told { trace.child(env.random() | 1) } else { trace.clone() };
        Self { kind: SpanKind::Client, parent: Some(trace.clone()), own, begun: env.now(), server: Some(server.clone()) }
    }

    /// A call that came in.
    pub fn came(metadata: &MetadataMap, env: &Env) -> Self {
        let Arrival { caller, own } = propagation::arrive(metadata.as_ref(), env);
        Self { kind: SpanKind::Server, parent: caller, own, begun: env.now(), server: None }
    }

    /// For the log's lines.
    pub fn trace_id(&self) -> &str {
        self.own.id().unwrap_or_default()
    }

    /// Writes its context into what goes out.
    pub fn depart(&self, baggage: Option<&str>, metadata: &mut MetadataMap) {
        let mut headers = std::mem::take(metadata).into_headers();
        propagation::depart(&self.own, baggage, &mut headers);
        *metadata = MetadataMap::from_headers(headers);
    }

    /// It has ended; `links` are those for whom it was made too.
    pub fn end(self, service: &'static str, links: &[Trace], error: Option<&Status>, env: &Env) {
        let Self { kind, parent, own, begun, server } = self;
        let Some(observer) = env.observer().filter(|_| own.is_sampled()) else { return };
        let code = name(error.map_or(Code::Ok, Status::code));
        let mut attributes =
            vec![("rpc.system.name", "grpc".into()), ("rpc.method", METHOD.into()), ("rpc.response.status_code", code.into())];
        let place = server.as_ref().and_then(|server| Some((server.host()?, server.port_u16())));
        attributes.extend(place.map(|(host, _)| ("server.address", host.into())));
        attributes.extend(place.and_then(|(_, port)| Some(("server.port", i64::from(port?).into()))));
        observer.told(
            service,
            Span {
                name: METHOD.to_owned(),
                kind,
                trace: own,
                parent,
                links: links.to_vec(),
                begun,
                ended: env.now(),
                attributes,
                error: error.map(|_| code.to_owned()),
            },
        );
    }
}

/// A status as gRPC itself writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
