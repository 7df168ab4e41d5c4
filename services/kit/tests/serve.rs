//! The open door: a real port, event streams, and the end.

mod common;

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use common::signer;
use eventlog::{Env, testing::TestClock};
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

fn door() -> Router {
    let env = Env::seeded(TestClock::start(), 1);
    let verifier = Verifier::new(vec![signer("k1", 7, env.clone()).public()], "skald", "skald-api", env.clone());
    let routes: Routes = Routes::default().route("/events", get(events)).route("/peer", get(peer));
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let serving = tasks.clone();
    tasks.spawn("serve", async move { serve(listener, door(), &serving).await });
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
