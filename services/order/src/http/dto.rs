//! The JSON of orders, sagas and their history.

use contract::{Money, OrderId, ProductId, Timestamp};
use kit::http::MoneySchema;
use saga::order::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    follow::End,
    handler::Place,
    store::{Order, Status},
};

/// What is ordered, and what pays for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceOrder {
    /// At most 50 different products; equal ones are merged.
    #[schema(min_items = 1)]
    pub items: Vec<ItemWanted>,
    pub payment: Payment,
    /// If given, the order is only taken at exactly this total.
    #[serde(default)]
    #[schema(value_type = Option<MoneySchema>)]
    pub expected_total: Option<Money>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ItemWanted {
    #[schema(value_type = Uuid)]
    pub product_id: ProductId,
    /// Pieces, 1 to 1,000.
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: u32,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payment {
    /// A single-use token of the payment provider, such as `tok_ok` of the built-in one.
    #[schema(min_length = 1, max_length = 255)]
    pub token: String,
}

/// An order as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrderBody {
    #[schema(value_type = Uuid)]
    pub id: OrderId,
    /// `pending`, `confirmed` or `cancelled`; `unknown` where it ended in a way that only a newer build knows.
    pub status: &'static str,
    /// Why it was or is being cancelled.
    #[schema(required)]
    pub reason: Option<String>,
    pub items: Vec<ItemSold>,
    #[schema(value_type = MoneySchema)]
    pub total: Money,
    pub saga: SagaBody,
    /// RFC 3339, UTC.
    #[schema(value_type = String)]
    pub placed_at: Timestamp,
    #[schema(value_type = Option<String>, required)]
    pub ended_at: Option<Timestamp>,
}

/// A line with the title and the price it was sold at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ItemSold {
    #[schema(value_type = Uuid)]
    pub product_id: ProductId,
    pub title: String,
    pub quantity: u32,
    #[schema(value_type = MoneySchema)]
    pub unit_price: Money,
}

/// Where the order's saga is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SagaBody {
    /// Such as `ReservingStock`.
    pub state: String,
    /// What it waits for, such as `reserve_stock`; null when it has ended.
    #[schema(required)]
    pub step: Option<&'static str>,
    /// It has waited past its bound, and goes on asking.
    pub stuck: bool,
}

impl From<Order> for OrderBody {
    fn from(order: Order) -> Self {
        let (status, step, state) = (order.status().as_str(), order.step(), order.state().to_owned());
        let items = order.lines.into_iter().map(|line| ItemSold {
            product_id: line.product_id,
            title: line.title,
            quantity: line.quantity,
            unit_price: line.unit_price,
        });
        Self {
            id: order.order_id,
            status,
            reason: order.reason,
            items: items.collect(),
            total: order.total,
            saga: SagaBody { state, step, stuck: order.stuck },
            placed_at: order.placed,
            ended_at: order.ended,
        }
    }
}

/// The order that was just placed, without asking the database again: as it began, or as it was seen to end.
pub(crate) fn just_placed(place: Place, placed: Timestamp, end: Option<End>) -> OrderBody {
    let Place { order_id, customer_id, lines, total, .. } = place;
    let (state, reason, ended) = match end {
        Some(end) => (end.state, end.reason.map(str::to_owned), Some(end.at)),
        None => (State::ReservingStock, None, None),
    };
    let state = Ok(state);
    Order { order_id, customer_id, lines, total, placed, state, reason, stuck: false, ended }.into()
}

/// A saga in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SagaListed {
    /// The order's id.
    pub id: Uuid,
    pub saga: &'static str,
    /// The version of the table it runs by.
    pub definition: i64,
    pub state: String,
    #[schema(required)]
    pub step: Option<&'static str>,
    #[schema(required)]
    pub reason: Option<String>,
    /// How often the present step was asked.
    pub attempt: i64,
    pub stuck: bool,
    /// It stands still: the build that runs here can't read it. Start one that can.
    pub unreadable: bool,
    /// When it acts by itself if nothing comes in.
    #[schema(value_type = Option<String>, required)]
    pub due_at: Option<Timestamp>,
    #[schema(value_type = String)]
    pub started_at: Timestamp,
    #[schema(value_type = Option<String>, required)]
    pub ended_at: Option<Timestamp>,
}

/// One row of an order's history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    /// The stream's own count, from 1.
    pub version: i64,
    #[schema(value_type = String)]
    pub time: Timestamp,
    /// The message's type, such as `saga.SagaMoved` or `product.ReserveStock`.
    pub message: String,
    /// Where it was published; null for what stays in the log.
    #[schema(required)]
    pub topic: Option<String>,
    /// The saga's state from here on.
    #[schema(required)]
    pub state: Option<String>,
    pub data: serde_json::Value,
    /// Who asked for it; null for the system itself.
    #[schema(required)]
    pub actor: Option<String>,
    /// The message that caused it.
    #[schema(required)]
    pub cause: Option<Uuid>,
    #[schema(required)]
    pub trace_id: Option<String>,
    /// Its trace in Jaeger. For operators, where `SKALD_JAEGER_URL` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_url: Option<String>,
    /// Where it stands on its topic. For operators, where `SKALD_KAFDROP_URL` is set, and once it is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
}

/// The place of a message on its topic.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Published {
    pub partition: i32,
    pub offset: i64,
    /// The message in Kafdrop.
    pub url: String,
}

/// An operator's own words, kept with what they did.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    /// Why, for the audit. 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$")]
    pub reason: String,
}

pub(crate) fn status(text: &str) -> Option<Status> {
    [Status::Pending, Status::Confirmed, Status::Cancelled].into_iter().find(|status| status.as_str() == text)
}
