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
    http::{AppConfig, Peer, Routes, app, serve},
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
async fn stopping_ends_event_streams_and_idle_connections() {
    let (tasks, mut connection) = open().await;
    let answer = ask(&mut connection, "/events", "data: 1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(tasks.stop(SOON).await);
    let mut rest = String::new();
    tokio::time::timeout(SOON, connection.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream ends properly: {rest:?}");
}
