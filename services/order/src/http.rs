//! The order service's REST door: what is asked, and which refusal has which status.
//!
//! Never here: rules (`domain.rs`, the saga's table), SQL. Placing goes on to the writer, and from its commit over the bus.

mod dto;
mod events;
pub(crate) mod links;
mod lists;
mod orders;
mod steer;

use std::sync::Arc;

use axum::{extract::DefaultBodyLimit, http::StatusCode};
use contract::ProductId;
use eventlog::{Log, Writer};
use kit::{
    Idempotency,
    http::{BODY_BYTES_MAX, Problem, Routes},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    domain::{LINES_MAX, QUANTITY_MAX, Refusal},
    follow::Watchers,
    handler::Handler,
    stock::{Away, Stock},
};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shop {
    pub writer: Writer<Handler>,
    pub stock: Stock,
    pub watchers: Watchers,
    pub idempotency: Idempotency,
    pub links: links::Links,
    pub stopping: CancellationToken,
}

impl Shop {
    fn log(&self) -> &Log {
        self.writer.log()
    }
}

pub(crate) fn routes(shop: Shop) -> Routes {
    OpenApiRouter::new()
        .routes(routes!(orders::place, lists::orders))
        .routes(routes!(orders::show))
        .routes(routes!(orders::cancel))
        .routes(routes!(lists::history))
        .routes(routes!(events::events))
        .routes(routes!(lists::sagas))
        .routes(routes!(steer::steer))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(shop))
}

/// The one table of refusals.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoLines => Self::invalid("items", "an order needs at least one item"),
            Refusal::TooManyLines => Self::invalid("items", format!("at most {LINES_MAX} different products")),
            Refusal::BadQuantity(id) => {
                Self::invalid("items", format!("the quantity of {id} must be from 1 to {QUANTITY_MAX}, equal products together"))
            }
            Refusal::UnknownProduct(ids) => {
                let detail = "a product is unknown or no longer sold";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_product", detail).with("products", list(&ids))
            }
            Refusal::OutOfStock(ids) => {
                Self::conflict("out_of_stock", "too few pieces are left; no order was made").with("products", list(&ids))
            }
            Refusal::MixedCurrencies => Self::invalid("items", "all products of an order have the same currency"),
            Refusal::TotalTooLarge => Self::invalid("items", "the total is too large"),
            Refusal::PriceChanged { total } => {
                Self::conflict("price_changed", format!("the total is {total} now; no order was made"))
                    .with("total", json!(total))
            }
        }
    }
}

fn list(ids: &[ProductId]) -> serde_json::Value {
    json!(ids)
}

impl From<Away> for Problem {
    fn from(away: Away) -> Self {
        Self::unavailable(format!("{away}; no order was made")).coded("stock_check_unavailable")
    }
}
