//! The stock check before an order is taken: gRPC to the product service. Checks that arrive together share a call.
//!
//! Never here: what a short line means for an order (`domain.rs`). Away or slow is answered at once, by a breaker.

use std::{
    future::Future,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use contract::{Money, ProductId, Timestamp, Trace};
use eventlog::Env;
use futures_util::{StreamExt, stream::FuturesUnordered};
use kit::{
    Tasks,
    grpc::{
        self,
        stock::{
            CheckStockRequest, CheckStockResponse, check_stock_request::Line, check_stock_response::Item,
            stock_client::StockClient,
        },
    },
};
use prometheus_client::metrics::{family::Family, gauge::Gauge};
use tokio::sync::{mpsc, oneshot};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::domain::{self, Offer, Quote, Wanted};

/// Checks waiting for a call; one more is refused.
const WAITING_MAX: usize = 4_096;
/// Lines in a call to which another check is added: with those of one more order it is not above what product takes.
const LINES_MAX: usize = kit::grpc::LINES_MAX - domain::LINES_MAX;
/// Calls at a time: one slow call must not hold up the others.
const CALLS_MAX: usize = 4;
/// After so many failures in a row the product service counts as away …
const FAILURES_MAX: u32 = 5;
/// … for so long; then one call finds out.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// How much later a check is given up whose call did not end by itself at its deadline, which it tells of.
const NET: Duration = Duration::from_millis(100);

/// The product service can't be asked now.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the stock can't be checked now: {0}")]
pub struct Away(pub String);

/// What a check is a part of, and what its caller wants carried along.
#[derive(Clone, Debug, Default)]
pub struct Context {
    pub trace: Trace,
    pub baggage: Option<String>,
    /// Of the other checks that share the call, as far as they are recorded.
    others: Vec<Trace>,
}

impl Context {
    pub fn new(trace: Trace, baggage: Option<String>) -> Self {
        Self { trace, baggage, others: Vec::new() }
    }

    /// A call is a part of the first trace that is recorded, and linked to the others.
    fn of(batch: &[Check]) -> Self {
        let mut sampled = batch.iter().map(|check| &check.context).filter(|context| context.trace.is_sampled());
        let first = sampled.next().or(batch.first().map(|check| &check.context)).cloned().unwrap_or_default();
        Self { others: sampled.map(|context| context.trace.clone()).collect(), ..first }
    }
}

struct Check {
    wanted: Vec<Wanted>,
    context: Context,
    reply: oneshot::Sender<Result<Vec<Quote>, Away>>,
}

/// Where a replica of the product service answers stock checks: `http://HOST:PORT`.
#[derive(Clone, Debug)]
pub struct Address(Endpoint);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = text.strip_prefix("http://").is_some_and(|rest| !rest.is_empty());
        let endpoint = is_plain.then(|| Endpoint::from_shared(text.to_owned()).ok()).flatten();
        endpoint.map(Self).ok_or_else(|| "it is of the form http://HOST:PORT; stock checks are without TLS".to_owned())
    }
}

/// The door to the stock check. Cheap to clone.
#[derive(Clone)]
pub struct Stock {
    queue: mpsc::Sender<Check>,
    breaker: State,
}

/// By breaker: 0 closed, 1 half open, 2 open.
type State = Family<[(&'static str, &'static str); 1], Gauge>;

impl Stock {
    /// Asks the product service's replicas in turn, at addresses such as `http://127.0.0.1:50052`; connects when first asked.
    pub fn grpc(replicas: &[Address], timeout: Duration, env: Env, tasks: &Tasks) -> Self {
        // One that is away must not use up the time of the others.
        let each = timeout / u32::try_from(replicas.len()).unwrap_or(u32::MAX).max(1);
        let connect = |Address(endpoint): &Address| endpoint.clone().connect_timeout(each).tcp_nodelay(true).connect_lazy();
        let place = |address: &Address| (connect(address), address.0.uri().clone());
        let (channels, turn): (Arc<[(Channel, Uri)]>, _) = (replicas.iter().map(place).collect(), AtomicUsize::new(0));
        let own = env.clone();
        let ask = move |lines: Vec<Wanted>, context: Context| {
            let (channels, first, env) = (channels.clone(), turn.fetch_add(1, Ordering::Relaxed), own.clone());
            async move {
                let mut answer = Err(Away("no replica of the product service is known".into()));
                for next in 0..channels.len() {
                    let place = &channels[first.wrapping_add(next) % channels.len()];
                    answer = call(place, each, &lines, &context, &env).await;
                    if answer.is_ok() {
                        break;
                    }
                }
                answer
            }
        };
        Self::start(ask, timeout, env, tasks)
    }

    /// Asks through `ask`, whose quotes come in the order of the lines.
    pub fn start<A, F>(ask: A, timeout: Duration, env: Env, tasks: &Tasks) -> Self
    where
        A: Fn(Vec<Wanted>, Context) -> F + Send + 'static,
        F: Future<Output = Result<Vec<Quote>, Away>> + Send + 'static,
    {
        let (queue, checks) = mpsc::channel(WAITING_MAX);
        let state = State::default();
        let breaker = Breaker { state: state.get_or_create(&[("breaker", "stock_check")]).clone(), ..Breaker::default() };
        let caller = Caller { ask, timeout, breaker, env };
        tasks.spawn("stock checks", caller.run(checks, tasks.stopping()));
        Self { queue, breaker: state }
    }

    /// What to register as a metric.
    pub(crate) fn breaker_state(&self) -> State {
        self.breaker.clone()
    }

    /// Asks for existence, price and free pieces of these products; the answer has the same order.
    ///
    /// # Errors
    /// [`Away`]: try again soon.
    pub async fn check(&self, wanted: Vec<Wanted>, context: Context) -> Result<Vec<Quote>, Away> {
        let (reply, answer) = oneshot::channel();
        let too_many = |_| Away("too many checks are waiting".into());
        self.queue.try_send(Check { wanted, context, reply }).map_err(too_many)?;
        answer.await.map_err(|_| Away("the service is shutting down".into()))?
    }
}

struct Caller<A> {
    ask: A,
    timeout: Duration,
    breaker: Breaker,
    env: Env,
}

impl<A, F> Caller<A>
where
    A: Fn(Vec<Wanted>, Context) -> F + Send + 'static,
    F: Future<Output = Result<Vec<Quote>, Away>> + Send + 'static,
{
    async fn run(mut self, mut checks: mpsc::Receiver<Check>, stop: tokio_util::sync::CancellationToken) {
        let mut calls = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some((batch, answer)) = calls.next() => {
                    self.breaker.heard(self.env.now(), &answer);
                    reply(batch, answer);
                }
                check = checks.recv(), if calls.len() < CALLS_MAX => {
                    let Some(check) = check else { return };
                    let batch = gather(check, &mut checks);
                    if self.breaker.is_open(self.env.now()) {
                        reply(batch, Err(Away("the product service is away".into())));
                        continue;
                    }
                    let lines: Vec<Wanted> = batch.iter().flat_map(|check| check.wanted.iter().copied()).collect();
                    let (call, timeout) = ((self.ask)(lines, Context::of(&batch)), self.timeout + NET);
                    calls.push(async move {
                        let late = |_| Err(Away("the product service did not answer in time".into()));
                        (batch, tokio::time::timeout(timeout, call).await.unwrap_or_else(late))
                    });
                }
            }
        }
    }
}

/// What is waiting already, up to the bound of a call.
fn gather(first: Check, checks: &mut mpsc::Receiver<Check>) -> Vec<Check> {
    let mut lines = first.wanted.len();
    let mut batch = vec![first];
    while lines <= LINES_MAX
        && let Ok(check) = checks.try_recv()
    {
        lines += check.wanted.len();
        batch.push(check);
    }
    batch
}

/// Gives each check its part of the call's answer.
fn reply(batch: Vec<Check>, answer: Result<Vec<Quote>, Away>) {
    match answer {
        Ok(quotes) => {
            let mut quotes = quotes.into_iter();
            for check in batch {
                let part = quotes.by_ref().take(check.wanted.len()).collect();
                drop(check.reply.send(Ok(part)));
            }
        }
        Err(away) => batch.into_iter().for_each(|check| drop(check.reply.send(Err(away.clone())))),
    }
}

/// One call, which ends by its deadline, and then says so.
async fn call(
    (channel, server): &(Channel, Uri),
    deadline: Duration,
    wanted: &[Wanted],
    context: &Context,
    env: &Env,
) -> Result<Vec<Quote>, Away> {
    let line = |wanted: &Wanted| Line { product_id: wanted.product_id.to_string(), quantity: wanted.quantity };
    let mut request = Request::new(CheckStockRequest { lines: wanted.iter().map(line).collect() });
    let span = grpc::Call::out(&context.trace, server, env);
    span.depart(context.baggage.as_deref(), request.metadata_mut());
    let mut client = StockClient::new(channel.clone());
    let late = |_| Err(Status::deadline_exceeded("the product service did not answer in time"));
    let answer = tokio::time::timeout(deadline, client.check_stock(request)).await.unwrap_or_else(late);
    span.end("order", &context.others, answer.as_ref().err(), env);
    let CheckStockResponse { items } = answer.map_err(|status| Away(status.message().to_owned()))?.into_inner();
    if items.len() != wanted.len() {
        return Err(Away(format!("asked for {} lines, got {}", wanted.len(), items.len())));
    }
    wanted.iter().zip(items).map(|(wanted, item)| quote(wanted.product_id, item)).collect()
}

fn quote(product_id: ProductId, item: Item) -> Result<Quote, Away> {
    if !item.exists {
        return Ok(Quote { product_id, offer: None });
    }
    let currency = item.currency.parse().map_err(|error| Away(format!("{error}")))?;
    let offer = Offer { title: item.title, price: Money::new(item.price_minor, currency), available: item.available_quantity };
    Ok(Quote { product_id, offer: Some(offer) })
}

/// Answers for a service that is away, so that nobody waits for its timeout.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Timestamp>,
    /// What is told of it: one of the three below.
    state: Gauge,
}

const CLOSED: i64 = 0;
const HALF_OPEN: i64 = 1;
const OPEN: i64 = 2;

impl Breaker {
    /// Whether to answer at once. Once the time is over, one call may find out; the others wait for it.
    fn is_open(&mut self, now: Timestamp) -> bool {
        match self.open_until {
            Some(until) if now < until => true,
            Some(_) => {
                self.open_until = Some(now.plus(OPEN_FOR));
                self.state.set(HALF_OPEN);
                false
            }
            None => false,
        }
    }

    fn heard(&mut self, now: Timestamp, answer: &Result<Vec<Quote>, Away>) {
        match answer {
            Ok(_) => {
                (self.failures, self.open_until) = (0, None);
                self.state.set(CLOSED);
            }
            Err(away) => {
                self.failures += 1;
                if self.failures >= FAILURES_MAX {
                    if self.open_until.is_none() {
                        tracing::warn!(error = %away, "the product service is away; orders get 503 until it answers");
                    }
                    self.open_until = Some(now.plus(OPEN_FOR));
                    self.state.set(OPEN);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kit::grpc::stock::stock_server::{self, StockServer};
    use tokio::net::TcpListener;
    use tonic::{
        Response, Status,
        transport::{Server, server::TcpIncoming},
    };

    use super::*;

    fn wanted(n: u128) -> Vec<Wanted> {
        vec![Wanted { product_id: uuid::Uuid::from_u128(n).into(), quantity: 1 }]
    }

    fn unknown(lines: &[Wanted]) -> Vec<Quote> {
        lines.iter().map(|line| Quote { product_id: line.product_id, offer: None }).collect()
    }

    #[tokio::test]
    async fn checks_that_arrive_together_share_a_call_and_get_their_own_lines() {
        let (tasks, calls) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let ask = move |lines: Vec<Wanted>, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { Ok(unknown(&lines)) }
        };
        let stock = Stock::start(ask, Duration::from_secs(5), Env::system(), &tasks);
        let answers = futures_util::future::join_all((0..500).map(|n| stock.check(wanted(n), Context::default()))).await;
        for (n, answer) in (0..).zip(answers) {
            assert_eq!(answer.unwrap()[0].product_id, wanted(n)[0].product_id);
        }
        assert!(calls.load(Ordering::Relaxed) < 20, "{calls:?} calls");
        assert!(tasks.stop(Duration::from_secs(5)).await);
    }

    /// A product service that knows no product.
    #[derive(Clone, Default)]
    struct Bare {
        /// What it was last asked with, beside the question.
        heard: Arc<std::sync::Mutex<tonic::metadata::MetadataMap>>,
    }

    impl Bare {
        fn serve(&self, listener: TcpListener, tasks: &Tasks) {
            let (server, stopping) = (Server::builder().add_service(StockServer::new(self.clone())), tasks.stopping());
            let served = server.serve_with_incoming_shutdown(TcpIncoming::from(listener), stopping.cancelled_owned());
            tasks.spawn("product", async move { served.await.unwrap() });
        }
    }

    #[tonic::async_trait]
    impl stock_server::Stock for Bare {
        async fn check_stock(&self, request: Request<CheckStockRequest>) -> Result<Response<CheckStockResponse>, Status> {
            *self.heard.lock().unwrap() = request.metadata().clone();
            let items = request.into_inner().lines.into_iter().map(|_| Item::default()).collect();
            Ok(Response::new(CheckStockResponse { items }))
        }
    }

    #[tokio::test]
    async fn a_replica_that_is_away_or_silent_leaves_the_check_to_the_others() {
        let tasks = Tasks::new();
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (gone, silent, serving) = (bind().await, bind().await, bind().await);
        let replicas = [&gone, &silent, &serving]
            .map(|listener| format!("http://{}", listener.local_addr().unwrap()).parse::<Address>().unwrap());
        drop(gone);
        Bare::default().serve(serving, &tasks);
        let stock = Stock::grpc(&replicas, Duration::from_millis(1_500), Env::system(), &tasks);
        for n in 0..6 {
            assert_eq!(stock.check(wanted(n), Context::default()).await.unwrap(), unknown(&wanted(n)));
        }
        drop(silent);
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }

    #[tokio::test]
    async fn a_check_carries_the_first_trace_that_is_recorded_and_its_baggage() {
        let (tasks, bare, listener) = (Tasks::new(), Bare::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = format!("http://{}", listener.local_addr().unwrap()).parse::<Address>().unwrap();
        bare.serve(listener, &tasks);
        let stock = Stock::grpc(&[address], Duration::from_secs(5), Env::system(), &tasks);
        let asks = |n: u128, is_sampled| {
            let context = Context::new(Trace::of(n, 2, is_sampled), Some(format!("tenant={n}")));
            stock.check(wanted(n), context)
        };
        // The three are there before the first call is made.
        let (one, two, three) = tokio::join!(asks(1, false), asks(2, true), asks(3, true));
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
        let heard = bare.heard.lock().unwrap().clone();
        let header = |name: &str| heard.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        assert_eq!(header("traceparent"), Trace::of(2, 2, true).parent.unwrap());
        assert_eq!(header("uber-trace-id"), format!("{:032x}:{:016x}:0:1", 2, 2));
        assert_eq!(header("baggage"), "tenant=2");
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }

    #[test]
    fn an_address_is_plain_http() {
        for good in ["http://127.0.0.1:50052", "http://product:50052", "http://[::1]:1"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in ["https://product:50052", "product:50052", "http://", "http://a b", ""] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_breaker_opens_after_failures_in_a_row_and_lets_one_call_find_out() {
        let (mut breaker, now) = (Breaker::default(), Timestamp(0));
        let away = Err(Away(String::new()));
        for _ in 1..FAILURES_MAX {
            breaker.heard(now, &away);
        }
        assert!(!breaker.is_open(now));
        assert_eq!(breaker.state.get(), CLOSED);
        breaker.heard(now, &away);
        assert!(breaker.is_open(now));
        assert_eq!(breaker.state.get(), OPEN);
        let later = now.plus(OPEN_FOR);
        assert!(!breaker.is_open(later), "one may find out");
        assert!(breaker.is_open(later), "the others wait for it");
        assert_eq!(breaker.state.get(), HALF_OPEN);
        breaker.heard(later, &Ok(Vec::new()));
        assert!(!breaker.is_open(later));
        assert_eq!(breaker.state.get(), CLOSED);
    }
}
