//! Stock checks over gRPC: existence, availability, price and title of each line, in one read.
//!
//! Never here: a promise. The check is advisory; the reservation over the bus decides. From here the answer goes to the order
//! service, which keeps price and title as what the order was placed for.

use std::{collections::HashMap, io, net::SocketAddr, time::Duration};

use contract::product::StockLine;
use eventlog::{Error, Log, Verdict};
use kit::grpc::{
    Call, LINES_MAX,
    stock::{
        CheckStockRequest, CheckStockResponse, check_stock_response,
        stock_server::{Stock, StockServer},
    },
};
use kit::metrics::RpcMetrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Server, server::TcpIncoming},
};
use tracing::Instrument;

use crate::store;

/// How long checks that are under way may take once the process stops. Within the 5 s that the whole process has.
const DRAIN: Duration = Duration::from_secs(3);

pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers checks until `stopping`, then lets those under way end.
pub(crate) async fn serve(listener: TcpListener, log: Log, metrics: RpcMetrics, stopping: CancellationToken) {
    let env = log.env().clone();
    // An answer is one small write: waiting to fill a packet would only delay it.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<StockServer<Checks>>().await;
    let serving = Server::builder()
        .add_service(health)
        .add_service(
            StockServer::new(Checks { log, metrics })
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
        .serve_with_incoming_shutdown(incoming, stopping.clone().cancelled_owned());
    let overdue = async {
        stopping.cancelled().await;
        // Whoever asks before a call goes to another replica.
        reporter.set_not_serving::<StockServer<Checks>>().await;
        env.sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::error!(%error, "the gRPC listener failed");
            }
        }
        () = overdue => tracing::warn!("stock checks did not end in time; closing their connections"),
    }
}

struct Checks {
    log: Log,
    metrics: RpcMetrics,
}

#[tonic::async_trait]
impl Stock for Checks {
    async fn check_stock(&self, request: Request<CheckStockRequest>) -> Result<Response<CheckStockResponse>, Status> {
        let env = self.log.env();
        let (began, span) = (env.now(), Call::came(request.metadata(), env));
        let logged = tracing::info_span!("stock check", trace.id = span.trace_id());
        let answer = self.answer(request.get_ref()).instrument(logged).await;
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.answered("product", "CheckStock", code, env.now().since(began));
        span.end("product", &[], answer.as_ref().err(), env);
        answer.map(Response::new)
    }
}

impl Checks {
    async fn answer(&self, request: &CheckStockRequest) -> Result<CheckStockResponse, Status> {
        if request.lines.len() > LINES_MAX {
            return Err(Status::invalid_argument(format!("a call has at most {LINES_MAX} lines")));
        }
        let mut lines = Vec::with_capacity(request.lines.len());
        for line in &request.lines {
            let product_id = line.product_id.parse().map_err(|_| Status::invalid_argument("a product_id is a UUID"))?;
            lines.push(StockLine { product_id, quantity: line.quantity });
        }
        let items = check(&self.log, &lines).await.map_err(|error| status(&error))?;
        Ok(CheckStockResponse { items })
    }
}

/// Checks lines without the network, in their order. Unknown and removed products do not exist.
///
/// # Errors
/// What the database said.
pub async fn check(log: &Log, lines: &[StockLine]) -> Result<Vec<check_stock_response::Item>, Error> {
    let mut ids: Vec<_> = lines.iter().map(|line| line.product_id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut reader = log.reader().await?;
    let items = store::items_to_read(&mut reader.conn(), &ids).await?;
    let on_sale: HashMap<_, _> = items.iter().filter(|item| !item.removed).map(|item| (item.product_id, item)).collect();
    let answer = |line: &StockLine| {
        let product_id = line.product_id.to_string();
        let Some(item) = on_sale.get(&line.product_id) else {
            return check_stock_response::Item { product_id, ..Default::default() };
        };
        check_stock_response::Item {
            product_id,
            exists: true,
            available: item.stock.on_hand >= i64::from(line.quantity),
            title: item.title.clone(),
            price_minor: item.price.amount_minor,
            currency: item.price.currency.to_string(),
            available_quantity: item.stock.on_hand,
        }
    };
    Ok(lines.iter().map(answer).collect())
}

fn status(error: &Error) -> Status {
    match error.verdict() {
        Verdict::Outage | Verdict::Stop => {
            tracing::warn!(%error, "a stock check met a database that is away");
            Status::unavailable("the database is away or busy")
        }
        Verdict::Poison => {
            tracing::error!(%error, "a stock check failed");
            Status::internal("something went wrong here")
        }
    }
}
