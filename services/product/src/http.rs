//! The catalogue over REST: everybody reads it, admins change it.
//!
//! Never here: rules, SQL. DTOs and their bounds are in `http/dto.rs`; the one table from refusals to statuses is below.
//! From here work goes to the writer, whose transaction also keeps the answer under the request's `Idempotency-Key`.

mod dto;

use axum::{
    body::Body as ResponseBody,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use contract::{ProductId, Trace, product::StockChanged};
use eventlog::{Job, Stored, Writer};
use kit::{
    Idempotency,
    auth::{Caller, Role},
    http::{ApiResult, Body, Json, List, PageQuery, Path, Problem, Query, Routes, Traced},
    idempotency::{Begun, Outcome},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::dto::{Changes, NewProduct, Product, Products, Replacement, StockChange};
use crate::{
    domain::catalogue::{ChangeProduct, Command, Expected, Item, Refusal},
    handler::{Done, Handler, Work},
    store,
};

#[derive(Clone)]
struct Api {
    writer: Writer<Handler>,
    idempotency: Idempotency,
}

pub(crate) fn routes(writer: Writer<Handler>, idempotency: Idempotency) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, replace, change, remove))
        .routes(routes!(change_stock))
        .with_state(Api { writer, idempotency })
}

/// The one table: what a refusal is over HTTP.
fn problem(refusal: Refusal) -> Problem {
    let said = refusal.to_string();
    match refusal {
        Refusal::UnknownProduct => Problem::not_found(),
        Refusal::SkuTaken => Problem::conflict("sku_taken", said),
        Refusal::SkuFixed => Problem::invalid("sku", said),
        Refusal::VersionChanged { version } => {
            Problem::new(StatusCode::PRECONDITION_FAILED, "version_changed", said).with("version", version)
        }
        Refusal::NotEnoughStock { on_hand } => Problem::conflict("not_enough_stock", said).with("available", on_hand),
        Refusal::TooMuchStock => Problem::conflict("too_much_stock", said),
    }
}

/// What a request with a key is answered when it is repeated; a refusal is decided anew each time.
pub(crate) fn answer(done: &Done) -> Option<Stored> {
    let (status, location, item) = match done {
        Done::Added(item) => (StatusCode::CREATED, Some(format!("/v1/products/{}", item.product_id)), item),
        Done::Changed(item) => (StatusCode::OK, None, item),
        Done::Replied | Done::Refused(_) => return None,
    };
    let body = serde_json::to_string(&Product::of(item)).expect("a product has string keys and whole numbers only");
    // The writer keeps the fingerprint of the request's own key.
    Some(Stored { fingerprint: [0; 32], status: status.as_u16(), location, body })
}

/// Lists the products that can be ordered, oldest first.
#[utoipa::path(get, path = "/v1/products", tag = "product", params(Products, PageQuery),
    responses((status = 200, body = List<Product>), (status = 422, description = "`limit`, `cursor` or a filter is wrong")))]
async fn list(State(api): State<Api>, Query(query): Query<Products>) -> ApiResult<Json<List<Product>>> {
    let (filter, page) = query.read()?;
    let mut reader = api.writer.log().reader().await?;
    let items = store::list(&mut reader.conn(), &filter, page.after, page.limit + 1).await?;
    Ok(Json(List::of(items, page.limit, |item| item.product_id.0).map(|item| Product::of(&item))))
}

/// Adds a product with its first stock.
#[utoipa::path(post, path = "/v1/products", tag = "product", security(("bearer" = [])), request_body = NewProduct,
    params(("Idempotency-Key" = Option<String>, Header, description = "makes repeating the request safe")),
    responses((status = 201, body = Product, headers(("Location" = String), ("ETag" = String))),
        (status = 403, description = "not an admin"), (status = 409, description = "`sku_taken`"), (status = 422)))]
async fn create(
    State(api): State<Api>,
    caller: Caller,
    traced: Traced,
    headers: HeaderMap,
    body: Body<NewProduct>,
) -> ApiResult<Response> {
    caller.require(Role::Admin)?;
    let job = |api: &Api| {
        let product_id = ProductId(api.writer.log().env().id());
        Ok(api.job(caller, traced.0, Command::Add(body.value.read(product_id)?)))
    };
    api.once(&headers, caller, "POST /v1/products", &body.raw, job).await
}

/// Reads a product, with the pieces that are free now.
#[utoipa::path(get, path = "/v1/products/{id}", tag = "product", params(("id" = Uuid, Path)),
    responses((status = 200, body = Product, headers(("ETag" = String))), (status = 404)))]
async fn read(State(api): State<Api>, Path(id): Path<ProductId>) -> ApiResult<Response> {
    let mut reader = api.writer.log().reader().await?;
    let found = store::items_to_read(&mut reader.conn(), &[id.0]).await?.pop().filter(|item| !item.removed);
    let item = found.ok_or_else(Problem::not_found)?;
    Ok(([etag(&item)], Json(Product::of(&item))).into_response())
}

/// Replaces what can change of a product: title, category and price.
#[utoipa::path(put, path = "/v1/products/{id}", tag = "product", security(("bearer" = [])), request_body = Replacement,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "the ETag that was read")),
    responses((status = 200, body = Product, headers(("ETag" = String))), (status = 403), (status = 404),
        (status = 412, description = "`version_changed`"), (status = 422)))]
async fn replace(
    State(api): State<Api>,
    caller: Caller,
    traced: Traced,
    Path(id): Path<ProductId>,
    headers: HeaderMap,
    Json(body): Json<Replacement>,
) -> ApiResult<Response> {
    caller.require(Role::Admin)?;
    api.change(caller, traced.0, Changes::from(body).read(id, expected(&headers))?).await
}

/// Changes some of title, category and price.
#[utoipa::path(patch, path = "/v1/products/{id}", tag = "product", security(("bearer" = [])), request_body = Changes,
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "the ETag that was read")),
    responses((status = 200, body = Product, headers(("ETag" = String))), (status = 403), (status = 404),
        (status = 412, description = "`version_changed`"), (status = 422)))]
async fn change(
    State(api): State<Api>,
    caller: Caller,
    traced: Traced,
    Path(id): Path<ProductId>,
    headers: HeaderMap,
    Json(body): Json<Changes>,
) -> ApiResult<Response> {
    caller.require(Role::Admin)?;
    api.change(caller, traced.0, body.read(id, expected(&headers))?).await
}

/// Removes a product: it can't be ordered any more, orders that hold some of it go on. Removing it again is no mistake.
#[utoipa::path(delete, path = "/v1/products/{id}", tag = "product", security(("bearer" = [])),
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "the ETag that was read")),
    responses((status = 204), (status = 403), (status = 404), (status = 412, description = "`version_changed`")))]
async fn remove(
    State(api): State<Api>,
    caller: Caller,
    traced: Traced,
    Path(id): Path<ProductId>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    caller.require(Role::Admin)?;
    let command = Command::Remove { product_id: id, expected: expected(&headers) };
    let job = api.job(caller, traced.0, command);
    finished(Idempotency::answer(api.writer.request(job, None).await?)?).map(|_| StatusCode::NO_CONTENT)
}

/// Adds delivered pieces, or writes some off (`change` below zero).
#[utoipa::path(post, path = "/v1/products/{id}/stock", tag = "product", security(("bearer" = [])), request_body = StockChange,
    params(("id" = Uuid, Path), ("Idempotency-Key" = Option<String>, Header, description = "makes repeating the request safe")),
    responses((status = 200, body = Product, headers(("ETag" = String))), (status = 403), (status = 404),
        (status = 409, description = "`not_enough_stock`: fewer are free"), (status = 422)))]
async fn change_stock(
    State(api): State<Api>,
    caller: Caller,
    traced: Traced,
    Path(id): Path<ProductId>,
    headers: HeaderMap,
    body: Body<StockChange>,
) -> ApiResult<Response> {
    caller.require(Role::Admin)?;
    // The product belongs to what is asked: with the same key for another one it is another request.
    let asked = [id.0.as_bytes(), body.raw.as_ref()].concat();
    let job = |api: &Api| {
        let StockChange { change, reason } = body.value.read()?;
        Ok(api.job(caller, traced.0, Command::ChangeStock(StockChanged { product_id: id, change, reason })))
    };
    api.once(&headers, caller, "POST /v1/products/{id}/stock", &asked, job).await
}

impl Api {
    fn job(&self, caller: Caller, trace: Trace, command: Command) -> Job<Work> {
        let meta = contract::Meta { trace, actor: Some(caller.actor()), ..Default::default() };
        Job { work: Work::Admin(command), meta }
    }

    /// Does a POST once, however often it is sent with its key. What was done is answered again before anything is checked.
    async fn once(
        &self,
        headers: &HeaderMap,
        caller: Caller,
        route: &'static str,
        asked: &[u8],
        job: impl FnOnce(&Self) -> ApiResult<Job<Work>>,
    ) -> ApiResult<Response> {
        let scope = caller.id.to_string();
        let in_flight = match self.idempotency.begin(headers, false, &scope, route, asked, self.writer.log()).await? {
            Begun::Fresh(in_flight) => in_flight,
            Begun::Repeated(stored) => return respond(stored),
        };
        let key = in_flight.as_ref().map(|in_flight| in_flight.key);
        finished(Idempotency::answer(self.writer.request(job(self)?, key).await?)?)
    }

    async fn change(&self, caller: Caller, trace: Trace, change: ChangeProduct) -> ApiResult<Response> {
        let job = self.job(caller, trace, Command::Change(change));
        finished(Idempotency::answer(self.writer.request(job, None).await?)?)
    }
}

fn finished(outcome: Outcome<Done>) -> ApiResult<Response> {
    match outcome {
        Outcome::Repeated(stored) => respond(stored),
        Outcome::Done(Done::Refused(refusal)) => Err(problem(refusal)),
        Outcome::Done(done) => {
            let mut response = respond(answer(&done).expect("what is not refused has an answer"))?;
            if let Done::Added(item) | Done::Changed(item) = &done {
                let (name, value) = etag(item);
                response.headers_mut().insert(name, value);
            }
            Ok(response)
        }
    }
}

/// An answer as it is kept.
fn respond(stored: Stored) -> ApiResult<Response> {
    let mut response = Response::builder().status(stored.status).header(header::CONTENT_TYPE, "application/json");
    if let Some(location) = stored.location {
        response = response.header(header::LOCATION, location);
    }
    response.body(ResponseBody::from(stored.body)).map_err(|error| {
        tracing::error!(%error, "a stored answer can't be given again");
        Problem::internal()
    })
}

/// A product's version. It stands for what an admin changes; `available` moves without it.
fn etag(item: &Item) -> (header::HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&format!("\"{}\"", item.version)).expect("digits in quotes are visible ASCII");
    (header::ETAG, value)
}

/// The versions that `If-Match` names; tags that are none of ours match nothing.
fn expected(headers: &HeaderMap) -> Expected {
    let mut tags = headers.get_all(header::IF_MATCH).iter().peekable();
    tags.peek()?;
    let tags: Vec<&str> = tags.flat_map(|value| value.to_str().unwrap_or_default().split(',')).map(str::trim).collect();
    let version = |tag: &&str| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    (!tags.contains(&"*")).then(|| tags.iter().filter_map(version).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_names_versions() {
        let expected = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, value.parse().unwrap());
            }
            super::expected(&headers)
        };
        assert_eq!(expected(&[]), None);
        assert_eq!(expected(&["*"]), None);
        assert_eq!(expected(&["\"3\""]), Some(vec![3]));
        assert_eq!(expected(&["\"3\", \"4\"", "\"5\""]), Some(vec![3, 4, 5]));
        assert_eq!(expected(&["W/\"3\", 3, \"x\""]), Some(vec![]));
    }
}
