//! The open door: a real port, event streams, and the end.

mod common;

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use common::signer;
use eventlog::{Env, Memory, testing::TestClock};
use futures_util::StreamExt;
use skald_kit::{
    Metrics, Tasks,
    auth::Verifier,
    http::{AppConfig, Peer, Routes, app, raise_file_limit, serve},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use utoipa::openapi::path::{HttpMethod, Operation, PathItem};

const SOON: Duration = Duration::from_secs(20);

/// One event, and then nothing for ever.
async fn events() -> Response {
    let stream =
        futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from("data: 1\n\n"))]).chain(futures_util::stream::pending());
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream)).into_response()
}

async fn peer(Peer(peer): Peer) -> String {
    peer.map(|ip| ip.to_string()).unwrap_or_default()
}

/// As much as a body.
async fn echo(raw: Bytes) -> Bytes {
    raw
}

async fn long() -> String {
    "x".repeat(100_000)
}

fn door(memory: Memory) -> Router {
    let env = Env::seeded(TestClock::start(), 1).with_memory(memory);
    let verifier = Verifier::new(vec![signer("k1", 7, env.clone()).public()], "skald", "skald-api", env.clone());
    // Probes and what is unknown have no part in what is bounded: these are a service's.
    let documented = Operation::default();
    let mut routes: Routes = Routes::default()
        .route("/events", get(events))
        .route("/peer", get(peer))
        .route("/long", get(long))
        .route("/echo", post(echo));
    for path in ["/events", "/peer", "/long", "/echo"] {
        let item = PathItem::new(HttpMethod::Get, documented.clone());
        routes.get_openapi_mut().paths.paths.insert(path.to_owned(), item);
    }
    app(AppConfig {
        title: "Skald",
        services: vec![("order", routes)],
        verifier,
        metrics: Metrics::new(),
        health: Vec::new(),
        env,
    })
}

async fn open() -> (Tasks, TcpStream) {
    open_with(Memory::default()).await
}

async fn open_with(memory: Memory) -> (Tasks, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let serving = tasks.clone();
    tasks.spawn("serve", async move { serve(listener, door(memory), &serving, memory).await });
    (tasks, TcpStream::connect(address).await.unwrap())
}

async fn ask(connection: &mut TcpStream, path: &str, until: &str) -> String {
    connection.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut part = [0; 4096];
    while !seen.contains(until) {
        let length = tokio::time::timeout(SOON, connection.read(&mut part)).await.unwrap().unwrap();
        assert_ne!(length, 0, "closed after {seen}");
        seen.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    seen
}

#[tokio::test]
async fn a_request_knows_the_address_that_it_came_from() {
    let (tasks, mut connection) = open().await;
    let answer = ask(&mut connection, "/peer", "127.0.0.1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(tasks.stop(SOON).await);
}

#[tokio::test]
async fn a_request_names_one_host() {
    let (tasks, first) = open().await;
    for (version, hosts, status) in [
        ("1.1", "", 400),
        ("1.1", "host: x\r\nhost: y\r\n", 400),
        ("1.1", "host: x\r\n", 200),
        ("1.0", "", 200),
        ("1.0", "host: x\r\nhost: x\r\n", 400),
    ] {
        let mut connection = TcpStream::connect(first.peer_addr().unwrap()).await.unwrap();
        let request = format!("GET /peer HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(SOON, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("HTTP/{version} {status} ")), "{hosts:?}: {answer}");
        assert_eq!(answer.contains("\"malformed\""), status == 400, "{answer}");
    }
    assert!(tasks.stop(SOON).await);
}

#[tokio::test]
async fn stopping_ends_event_streams_and_idle_connections() {
    let (tasks, mut connection) = open().await;
    let answer = ask(&mut connection, "/events", "data: 1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("x-accel-buffering: no"), "{answer}");
    assert!(tasks.stop(SOON).await);
    let mut rest = String::new();
    tokio::time::timeout(SOON, connection.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream ends properly: {rest:?}");
}

#[tokio::test]
async fn a_thousand_idle_connections_stop_nobody() {
    raise_file_limit();
    let (tasks, mut connection) = open().await;
    let address = connection.peer_addr().unwrap();
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    ask(&mut connection, "/peer", "127.0.0.1").await;
    ask(&mut TcpStream::connect(address).await.unwrap(), "/peer", "127.0.0.1").await;
    assert!(tasks.stop(SOON).await, "they end with the process");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_and_a_connection_that_idles_are_ended() {
    let (tasks, mut slow) = open().await;
    let mut idle = TcpStream::connect(slow.peer_addr().unwrap()).await.unwrap();
    let began = tokio::time::Instant::now();
    slow.write_all(b"GET /peer HTTP/1.1\r\nhost: x\r\nx-never: ").await.unwrap();
    idle.write_all(b"GET /peer HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (mut of_slow, mut of_idle) = (String::new(), String::new());
    // A connection that is torn down with bytes unread may be reset.
    let _ = slow.read_to_string(&mut of_slow).await;
    idle.read_to_string(&mut of_idle).await.unwrap();
    assert!(!of_slow.contains("200 OK"), "{of_slow}");
    assert!(of_idle.ends_with("127.0.0.1"), "{of_idle}");
    assert!(began.elapsed() >= Duration::from_secs(60), "load balancers let go of a connection after a minute");
    assert!(tasks.stop(SOON).await);
}

/// A door with room for 16 requests of 4 KiB, two event streams and eight connections.
async fn small() -> (Tasks, TcpStream) {
    open_with(Memory::of(8 * 64 * 1024)).await
}

async fn another(connection: &TcpStream) -> TcpStream {
    TcpStream::connect(connection.peer_addr().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_request_whose_body_finds_no_room_is_told_to_come_again_and_probes_are_answered() {
    let (tasks, mut connection) = small().await;
    // It says that it has a body of 50,000 bytes, and takes its time.
    let mut slow = another(&connection).await;
    slow.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 50000\r\n\r\n").await.unwrap();
    slow.write_all(&[b'x'; 40_000]).await.unwrap();
    let post = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 20000\r\n\r\n";
    let refused = loop {
        let mut other = another(&connection).await;
        other.write_all(post.as_bytes()).await.unwrap();
        other.write_all(&[b'y'; 20_000]).await.unwrap();
        let mut part = [0; 4096];
        let length = tokio::time::timeout(SOON, other.read(&mut part)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&part[..length]).into_owned();
        // The slow one may not have come yet.
        if !answer.starts_with("HTTP/1.1 200") {
            break answer;
        }
    };
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    assert!(refused.contains("\"overloaded\""), "{refused}");
    assert!(ask(&mut connection, "/peer", "127.0.0.1").await.starts_with("HTTP/1.1 200"), "a small one has room");
    let long = ask(&mut connection, "/long", "}").await;
    assert!(long.starts_with("HTTP/1.1 503") && long.contains("overloaded"), "an answer of 100,000 bytes has none: {long}");
    assert!(ask(&mut connection, "/livez", "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    // It has its room until it is answered, and then others have it.
    slow.write_all(&[b'x'; 10_000]).await.unwrap();
    let mut answer = vec![0; 50_000];
    tokio::time::timeout(SOON, slow.read_exact(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(tasks.stop(SOON).await);
}

#[tokio::test]
async fn so_many_event_streams_and_connections_there_are_and_one_that_goes_makes_room() {
    let (tasks, mut first) = small().await;
    let (mut second, mut third) = (another(&first).await, another(&first).await);
    ask(&mut first, "/events", "data: 1").await;
    ask(&mut second, "/events", "data: 1").await;
    let refused = ask(&mut third, "/events", "}").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("overloaded"), "{refused}");
    drop(second);
    loop {
        let answer = ask(&mut third, "/events", "\n\n").await;
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        tokio::task::yield_now().await;
    }
    // Eight connections, and one more that is accepted once another has gone.
    let mut idle = Vec::new();
    for _ in 0..7 {
        idle.push(another(&first).await);
    }
    let mut last = idle.pop().unwrap();
    last.write_all(b"GET /peer HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut part = [0; 4096];
    drop(idle);
    assert_ne!(tokio::time::timeout(SOON, last.read(&mut part)).await.unwrap().unwrap(), 0);
    assert!(tasks.stop(SOON).await);
}
