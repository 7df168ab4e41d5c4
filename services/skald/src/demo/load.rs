//! The clients that place the orders, each on its own connection and one order at a time, and what came of every order.
//!
//! Never here: numbers over all orders; those are `report.rs`. An order's end is waited for with `Prefer: wait`, and a request
//! without an answer is repeated with its Idempotency-Key, as any customer may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use contract::{OrderId, Timestamp, order::CancelReason};
use eventlog::Env;
use hyper::{
    Method, StatusCode, Uri,
    header::{HeaderValue, RETRY_AFTER},
};
use kit::Tasks;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    client::{Client, Doors, IDEMPOTENCY_KEY, NoAnswer, PREFER, Reply, uri},
    mix::{Catalogue, Mix, Plan},
};

const ORDERS: &str = "/v1/orders";
/// How long one request waits for the end of its order.
const WAIT: HeaderValue = HeaderValue::from_static("wait=30");
const NO_WAIT: HeaderValue = HeaderValue::from_static("wait=0");
/// An order that has not ended by then is counted as failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Before a request is repeated whose answer says nothing about when.
const PAUSE: Duration = Duration::from_millis(50);

/// How an order came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Confirmed,
    Cancelled(CancelReason),
    /// At the check: no order was made.
    Refused,
}

/// One order that came to an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// None where no order was made.
    pub(crate) id: Option<OrderId>,
    pub(crate) outcome: Outcome,
    /// From the first byte of the request to the answer that tells the end.
    pub(crate) latency: Duration,
}

/// What one client saw, and then all of them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ended: Vec<Ended>,
    /// Requests that were sent again: the answer was lost, or the system was busy.
    pub(crate) repeats: u64,
    /// What must not happen.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.ended.extend(other.ended);
        self.repeats += other.repeats;
        self.failures.extend(other.failures);
    }
}

/// What all clients share.
pub(crate) struct Load {
    pub(crate) doors: Doors,
    pub(crate) catalogue: Catalogue,
    /// The customers' access tokens.
    pub(crate) customers: Vec<String>,
    pub(crate) mix: Mix,
    pub(crate) seed: u64,
    pub(crate) orders: u32,
    /// Before the number in every Idempotency-Key.
    pub(crate) run: String,
    pub(crate) env: Env,
    pub(crate) next: AtomicU32,
    pub(crate) done: AtomicU32,
}

impl Load {
    /// Starts the clients; each sends its tally when no order is left.
    pub(crate) fn start(self: &Arc<Self>, clients: u32, tasks: &Tasks) -> mpsc::Receiver<Tally> {
        let (sender, tallies) = mpsc::channel(clients as usize);
        for number in 0..clients as usize {
            let (load, sender) = (self.clone(), sender.clone());
            let stopping = tasks.stopping();
            tasks.spawn("demo client", async move {
                let token = &load.customers[number % load.customers.len()];
                let buyer = Buyer { client: Client::new(load.doors.clone(), Some(token)), load: &load, tally: Tally::default() };
                tokio::select! {
                    tally = buyer.shop() => drop(sender.send(tally).await),
                    () = stopping.cancelled() => {}
                }
            });
        }
        tallies
    }
}

/// What is read of an order.
#[derive(Deserialize)]
struct Order<'a> {
    id: OrderId,
    #[serde(borrow)]
    status: &'a str,
    reason: Option<CancelReason>,
}

/// What is read of a problem.
#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow)]
    code: &'a str,
}

struct Buyer<'a> {
    client: Client,
    load: &'a Load,
    tally: Tally,
}

impl Buyer<'_> {
    async fn shop(mut self) -> Tally {
        loop {
            let number = self.load.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.load.orders {
                return self.tally;
            }
            let plan = Plan::new(self.load.mix, self.load.seed, number, self.load.orders);
            match self.order(&plan, number).await {
                Ok(ended) => {
                    if !plan.allows(ended.outcome) {
                        self.tally.failures.push(format!("order {number} ({plan:?}) ended as {:?}", ended.outcome));
                    }
                    self.tally.ended.push(ended);
                }
                Err(failure) => {
                    // Nothing is gained by waiting as long for every other order.
                    self.tally.failures.push(format!("order {number}: {failure}"));
                    return self.tally;
                }
            }
            self.load.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Places one order and sees it through.
    async fn order(&mut self, plan: &Plan, number: u32) -> Result<Ended, String> {
        let key = HeaderValue::try_from(format!("{}-{number}", self.load.run)).expect("a key is plain ASCII");
        let body = Bytes::from(plan.body(&self.load.catalogue));
        let (path, placed) = (uri(ORDERS), self.load.env.now());
        let mut id = None;
        if plan.cancels {
            let reply = self.ask(placed, &path, &key, NO_WAIT, &body).await?;
            if reply.status == StatusCode::ACCEPTED {
                let order = read::<Order<'_>>(&reply)?.id;
                self.cancel(placed, order, &key).await?;
                id = Some(order);
            }
        }
        while self.load.env.now().since(placed) < PATIENCE {
            // For one that cancelled this is a repeat: it gives the same order, as it is now.
            let reply = self.ask(placed, &path, &key, WAIT, &body).await?;
            if reply.status == StatusCode::CONFLICT {
                return Ok(Ended { id: None, outcome: Outcome::Refused, latency: self.load.env.now().since(placed) });
            }
            let order: Order<'_> = read(&reply)?;
            if id.replace(order.id).is_some_and(|first| first != order.id) {
                return Err(format!("the same Idempotency-Key gave another order: {}", order.id));
            }
            let outcome = match (order.status, order.reason) {
                ("confirmed", None) => Outcome::Confirmed,
                ("cancelled", Some(reason)) => Outcome::Cancelled(reason),
                ("pending", _) => continue,
                _ => return Err(unexpected(&reply)),
            };
            return Ok(Ended { id, outcome, latency: self.load.env.now().since(placed) });
        }
        Err(format!("not ended within {} s: {id:?}", PATIENCE.as_secs()))
    }

    /// Whether it was in time is told by the order's end.
    async fn cancel(&mut self, placed: Timestamp, order: OrderId, key: &HeaderValue) -> Result<(), String> {
        let path = uri(&format!("/v1/orders/{order}/cancel"));
        let reply = self.ask(placed, &path, key, NO_WAIT, &Bytes::new()).await?;
        match reply.status {
            StatusCode::ACCEPTED | StatusCode::OK => Ok(()),
            StatusCode::CONFLICT if code(&reply) == "too_late_to_cancel" => Ok(()),
            _ => Err(unexpected(&reply)),
        }
    }

    /// Sends a request until it is answered for good: what was lost or refused for now is repeated with the same key.
    async fn ask(
        &mut self,
        placed: Timestamp,
        path: &Uri,
        key: &HeaderValue,
        wait: HeaderValue,
        body: &Bytes,
    ) -> Result<Reply, String> {
        loop {
            let headers = [(IDEMPOTENCY_KEY, key.clone()), (PREFER, wait.clone())];
            let answer = self.client.send(Method::POST, path.clone(), headers, body.clone()).await;
            let pause = match &answer {
                Ok(reply) => match again_after(reply) {
                    None if matches!(reply.status, StatusCode::ACCEPTED | StatusCode::OK | StatusCode::CONFLICT) => {
                        return answer.map_err(why);
                    }
                    None => return Err(unexpected(reply)),
                    Some(pause) => pause,
                },
                Err(_) => PAUSE,
            };
            if self.load.env.now().since(placed) > PATIENCE {
                return Err(answer.map_or_else(why, |reply| unexpected(&reply)));
            }
            self.tally.repeats += 1;
            self.load.env.sleep(pause).await;
        }
    }
}

/// When to repeat a request that was refused for now only.
fn again_after(reply: &Reply) -> Option<Duration> {
    let for_now = match reply.status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::CONFLICT => code(reply) == "request_in_flight",
        _ => false,
    };
    let seconds = || reply.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok();
    for_now.then(|| seconds().map_or(PAUSE, Duration::from_secs))
}

fn code(reply: &Reply) -> &str {
    serde_json::from_slice::<Problem<'_>>(&reply.body).map_or("", |problem| problem.code)
}

fn read<'a, T: Deserialize<'a>>(reply: &'a Reply) -> Result<T, String> {
    serde_json::from_slice(&reply.body).map_err(|_| unexpected(reply))
}

fn unexpected(reply: &Reply) -> String {
    format!("unexpected answer {}: {}", reply.status, String::from_utf8_lossy(&reply.body))
}

fn why(no_answer: NoAnswer) -> String {
    no_answer.to_string()
}
