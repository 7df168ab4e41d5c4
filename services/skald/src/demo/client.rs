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

    /// Sends one request and reads its answer whole. A connection that was kept may have been closed meanwhile, as servers do with idle
    /// ones: then the request goes out once more on a new one, if it never went out or may be repeated.
    pub(crate) async fn send<const N: usize>(
        &mut self,
        method: Method,
        uri: Uri,
        headers: [(HeaderName, HeaderValue); N],
        body: Bytes,
    ) -> Result<Reply, NoAnswer> {
        let address = self.doors.of(uri.path(), self.turn);
        let mut all = self.headers.clone();
        all.extend(headers);
        let may_repeat = method == Method::GET || all.contains_key(IDEMPOTENCY_KEY);
        let request = || {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
            request.headers_mut().clone_from(&all);
            request
        };
        // A connection is put back only after a whole answer: what is left of a broken one is never read as the next.
        let kept = self.links.iter().position(|(at, _)| *at == address).map(|index| self.links.swap_remove(index).1);
        let was_kept = kept.is_some();
        let mut exchanged = Link::ask(kept, address, request()).await;
        if let Err(NoAnswer::Broken(error)) = &exchanged
            && was_kept
            && (may_repeat || error.is_canceled() || error.is_closed())
        {
            exchanged = Link::ask(None, address, request()).await;
        }
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

    /// Asks on a connection that was kept, or on a new one.
    async fn ask(
        kept: Option<Self>,
        address: SocketAddr,
        request: Request<Full<Bytes>>,
    ) -> Result<(Reply, Option<Self>), NoAnswer> {
        let link = match kept {
            Some(link) => link,
            None => Self::open(address).await?,
        };
        let exchanged = tokio::time::timeout(ANSWER_WITHIN, link.exchange(request)).await;
        exchanged.map_err(|_| NoAnswer::TooLate)?.map_err(NoAnswer::Broken)
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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread::JoinHandle,
    };

    use super::*;

    /// A server that answers so many requests on each connection, perhaps reads one more, and hangs up. Tells what it has read.
    fn server(connections: &'static [(usize, bool)]) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let mut read = Vec::new();
            for (answered, reads_more) in connections {
                let (mut stream, _) = listener.accept().unwrap();
                for number in 0..answered + usize::from(*reads_more) {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        stream.read_exact(&mut byte).unwrap();
                        head.extend(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    read.push(head.lines().next().unwrap().replace(" HTTP/1.1", ""));
                    if number < *answered {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
                    }
                }
            }
            read
        });
        (address, served)
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_nobody_used_it_is_made_anew() {
        let (address, served) = server(&[(1, false), (1, false), (1, false)]);
        let mut client = Client::new(address, None);
        for _ in 0..2 {
            assert_eq!(client.get("/v1/products").await.unwrap().status, StatusCode::OK);
        }
        let key = [(IDEMPOTENCY_KEY, HeaderValue::from_static("k1"))];
        client.send(Method::POST, uri("/v1/orders"), key, Bytes::new()).await.unwrap();
        assert_eq!(served.join().unwrap(), ["GET /v1/products", "GET /v1/products", "POST /v1/orders"]);
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_repeated_under_its_key_and_never_without_one() {
        let (address, served) = server(&[(1, true), (1, true)]);
        let mut client = Client::new(address, None);
        client.get("/v1/products").await.unwrap();
        let key = [(IDEMPOTENCY_KEY, HeaderValue::from_static("k1"))];
        client.send(Method::POST, uri("/v1/orders"), key, Bytes::new()).await.unwrap();
        let lost = client.send(Method::POST, uri("/v1/logout"), [], Bytes::new()).await;
        assert!(matches!(lost, Err(NoAnswer::Broken(_))), "{lost:?}");
        assert_eq!(served.join().unwrap(), ["GET /v1/products", "POST /v1/orders", "POST /v1/orders", "POST /v1/logout"]);
    }
}
