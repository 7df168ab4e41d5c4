//! A receiver of OTLP of the tests' own: it keeps the spans that it gets, and tells them by trace.
//!
//! Never here: what a trace must look like; `trace.rs` knows.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1::{Span as Sent, span::SpanKind},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// One span, as far as a test looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for a root.
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Traces and spans.
    pub(crate) links: Vec<(String, String)>,
    /// Numbers as text, marked by a `#` in front.
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) is_error: bool,
    /// Nanoseconds since the epoch.
    pub(crate) begun: u64,
    pub(crate) ended: u64,
}

impl Span {
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map(String::as_str).unwrap_or_default()
    }

    fn of(service: &str, sent: &Sent) -> Self {
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self {
            service: service.to_owned(),
            trace: hex(&sent.trace_id),
            id: hex(&sent.span_id),
            parent: hex(&sent.parent_span_id),
            name: sent.name.clone(),
            kind: SpanKind::try_from(sent.kind).unwrap().as_str_name().trim_start_matches("SPAN_KIND_"),
            links: sent.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            attributes: attributes(&sent.attributes),
            is_error: sent.status.as_ref().is_some_and(|status| status.code == 2),
            begun: sent.start_time_unix_nano,
            ended: sent.end_time_unix_nano,
        }
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => format!("#{number}"),
        other => panic!("{} is {other:?}", pair.key),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// Listens until the test ends.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    spans: Arc<Mutex<Vec<Span>>>,
    address: Option<SocketAddr>,
}

impl Receiver {
    /// Starts on a free port, in a thread of its own: a test that waits for a process must not hold it up.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let receiver = Self { address: Some(listener.local_addr().unwrap()), ..Self::default() };
        let served = receiver.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
                let service = TraceServiceServer::new(served).max_decoding_message_size(64 * 1024 * 1024);
                Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
            });
        });
        receiver
    }

    /// For `--otlp`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address.unwrap())
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for part in &request.get_ref().resource_spans {
            let resource = attributes(&part.resource.as_ref().map(|resource| resource.attributes.clone()).unwrap_or_default());
            assert_eq!(resource["service.namespace"], "skald");
            assert_eq!((&*resource["telemetry.sdk.language"], &*resource["telemetry.sdk.name"]), ("rust", "opentelemetry"));
            let sent = part.scope_spans.iter().flat_map(|scope| &scope.spans);
            let spans = sent.map(|sent| Span::of(&resource["service.name"], sent));
            self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A receiver that takes everything and reads nothing of it, so that it costs the measured next to nothing. Gives its URL.
pub(crate) fn hole() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            // One client, on one connection.
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((request, answer))) = connection.accept().await {
                #[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
                tokio::spawn(swallow(request.into_body(), answer));
            }
        });
    });
    url
}

/// Takes one request, and answers with an empty message.
async fn swallow(mut body: h2::RecvStream, mut answer: h2::server::SendResponse<bytes::Bytes>) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let head = hyper::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    // Whoever asked may have gone, as a process does at its end.
    let Ok(mut message) = answer.send_response(head, false) else { return };
    // Not compressed, of no length.
    let _ = message.send_data(bytes::Bytes::from_static(&[0; 5]), false);
    let _ = message.send_trailers([("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect());
}
