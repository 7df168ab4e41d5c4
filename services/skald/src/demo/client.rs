//! A small HTTP/1.1 client: a kept-alive connection a service, one request at a time, driven by the task that waits for the answer.
//!
//! Never here: what is asked. It shares the processor with the server it loads, so that nothing is parsed, copied or woken that
//! need not be. From here an answer goes to `door.rs` and `load.rs`, or to the tests.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Longer than any answer takes: one with `Prefer: wait=30` comes after 30 s at the latest.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The request got no answer. Whether it took effect is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("can't connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    TooLate,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Where the shop is served: all of it at one address, or each service at its own, in one or more replicas.
#[derive(Clone, Debug)]
pub(crate) enum Doors {
    One(SocketAddr),
    Each(Arc<Vec<(String, SocketAddr)>>),
}

impl From<SocketAddr> for Doors {
    fn from(address: SocketAddr) -> Self {
        Self::One(address)
    }
}

/// The service that has a route.
fn service(path: &str) -> &'static str {
    match path.trim_start_matches("/v1/").split(['/', '?']).next() {
        Some("orders" | "sagas") => "order",
        Some("products") => "product",
        Some("payments") => "payment",
        Some("notifications") => "notification",
        _ => "user",
    }
}

impl Doors {
    /// Where to ask for a path: one replica after the other, by turns.
    fn of(&self, path: &str, turn: usize) -> SocketAddr {
        match self {
            Self::One(address) => *address,
            Self::Each(all) => {
                let wanted = service(path);
                let mut replicas = all.iter().filter(|(name, _)| name == wanted).map(|(_, address)| *address);
                let count = replicas.clone().count();
                replicas.nth(turn % count.max(1)).expect("every service has a door")
            }
        }
    }
}

/// One caller. A connection is made anew when it broke, to the next replica.
pub(crate) struct Client {
    doors: Doors,
    turn: usize,
    /// Sent with every request.
    pub(crate) headers: HeaderMap,
    links: Vec<(SocketAddr, Link)>,
}

/// Callers begin at different replicas.
static TURN: AtomicUsize = AtomicUsize::new(0);

struct Link {
    sender: http1::SendRequest<Full<Bytes>>,
    connection: Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
}

impl Client {
    /// A caller with an access token, or without one.
    pub(crate) fn new(doors: impl Into<Doors>, token: Option<&str>) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        let value = |text: String| HeaderValue::try_from(text).expect("tokens are visible ASCII");
        headers.insert(header::HOST, HeaderValue::from_static("shop"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, value(format!("Bearer {token}")));
        }
        Self { doors: doors.into(), turn: TURN.fetch_add(1, Ordering::Relaxed), headers, links: Vec::new() }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Reply, NoAnswer> {
        self.send(Method::GET, uri(path), [], Bytes::new()).await
    }

    /// Sends one request and reads its answer whole.
    pub(crate) async fn send<const N: usize>(
        &mut self,
        method: Method,
        uri: Uri,
        headers: [(HeaderName, HeaderValue); N],
        body: Bytes,
    ) -> Result<Reply, NoAnswer> {
        let address = self.doors.of(uri.path(), self.turn);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().clone_from(&self.headers);
        request.headers_mut().extend(headers);
        // A connection is put back only after a whole answer: what is left of a broken one is never read as the next.
        let open = self.links.iter().position(|(at, _)| *at == address).map(|index| self.links.swap_remove(index).1);
        let exchange = async {
            let link = match open {
                Some(link) => link,
                None => Link::open(address).await?,
            };
            let exchanged = tokio::time::timeout(ANSWER_WITHIN, link.exchange(request)).await;
            exchanged.map_err(|_| NoAnswer::TooLate)?.map_err(NoAnswer::Broken)
        };
        let exchanged = exchange.await;
        if exchanged.is_err() {
            self.turn = self.turn.wrapping_add(1);
        }
        let (reply, link) = exchanged?;
        self.links.extend(link.map(|link| (address, link)));
        Ok(reply)
    }
}

impl Link {
    async fn open(address: SocketAddr) -> Result<Self, NoAnswer> {
        let stream = TcpStream::connect(address).await.map_err(NoAnswer::Connect)?;
        stream.set_nodelay(true).map_err(NoAnswer::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(NoAnswer::Broken)?;
        Ok(Self { sender, connection: Box::pin(connection) })
    }

    /// The answer, and the connection if it is good for another.
    async fn exchange(self, request: Request<Full<Bytes>>) -> Result<(Reply, Option<Self>), hyper::Error> {
        let Self { mut sender, mut connection } = self;
        let mut answered = std::pin::pin!(async move {
            sender.ready().await?;
            let (parts, mut incoming) = sender.send_request(request).await?.into_parts();
            let mut whole = Bytes::new();
            while let Some(frame) = incoming.frame().await {
                let Ok(data) = frame?.into_data() else { continue };
                whole = if whole.is_empty() { data } else { joined(whole, &data) };
            }
            Ok::<_, hyper::Error>((Reply { status: parts.status, headers: parts.headers, body: whole }, sender))
        });
        // The connection moves only while it is polled: here, in the task that waits for the answer, and nowhere else.
        tokio::select! {
            biased;
            answered = &mut answered => answered.map(|(reply, sender)| (reply, Some(Self { sender, connection }))),
            _ = &mut connection => {
                // It may hold a request that it never took up, and whoever waits for that would wait for ever.
                drop(connection);
                Ok((answered.await?.0, None))
            }
        }
    }
}

/// An answer in several pieces; ours are nearly always one.
fn joined(first: Bytes, more: &[u8]) -> Bytes {
    let mut whole = BytesMut::from(first);
    whole.extend_from_slice(more);
    whole.freeze()
}

/// A path of our own making.
pub(crate) fn uri(path: &str) -> Uri {
    path.parse().expect("paths are made of ids and plain words")
}
