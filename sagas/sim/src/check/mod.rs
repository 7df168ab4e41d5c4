//! The checkers: their own reading of the databases and of the provider's books, apart from the code under test.
//!
//! Never here: a type of a service. Rows are read by SQL of this room's own and payloads as plain JSON. Safety must hold after every
//! step, the end only once nothing is left to do.

mod end;
mod log;
mod money;
mod order;
mod stock;

use std::collections::BTreeMap;

use eventlog::on;
use serde_json::Value;
use uuid::Uuid;

use crate::{provider::Account, replica::Name, shop::Ended, world::World};

/// One row of a log.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub position: i64,
    pub id: Uuid,
    pub stream: String,
    pub version: i64,
    pub topic: Option<String>,
    pub kind: String,
    pub data: Value,
    pub cause: Option<Uuid>,
    pub time_us: i64,
}

impl Row {
    pub(crate) fn order(&self) -> Option<Uuid> {
        self.data.get("order_id")?.as_str()?.parse().ok()
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.data.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn is_repeated(&self) -> bool {
        self.data.get("repeated") == Some(&Value::Bool(true))
    }

    /// Product and quantity of each line.
    pub(crate) fn lines(&self) -> BTreeMap<Uuid, i64> {
        let mut lines = BTreeMap::new();
        for line in self.data.get("lines").and_then(Value::as_array).into_iter().flatten() {
            let product = line.get("product_id").and_then(Value::as_str).and_then(|id| id.parse().ok());
            let quantity = line.get("quantity").and_then(Value::as_i64);
            if let (Some(product), Some(quantity)) = (product, quantity) {
                *lines.entry(product).or_insert(0) += quantity;
            }
        }
        lines
    }
}

/// What stands in the database of one service.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub rows: Vec<Row>,
    pub head: i64,
    pub parked: i64,
}

/// What the world looks like from outside.
#[derive(Debug)]
pub(crate) struct View {
    pub services: BTreeMap<Name, Books>,
    /// Saga, state, due, version.
    pub sagas: Vec<(Uuid, String, Option<i64>, i64)>,
    /// Product: on hand, reserved, sold.
    pub stock: BTreeMap<Uuid, (i64, i64, i64)>,
    /// What each product began with.
    pub delivered: BTreeMap<Uuid, i64>,
    pub accounts: BTreeMap<Uuid, Account>,
    /// Payments whose call is open.
    pub open_calls: i64,
    /// Order, template, how often it arrived.
    pub letters: Vec<(Uuid, String, u32)>,
    /// What each customer was told, and whether they were accepted.
    pub asks: Vec<(Vec<Uuid>, Option<Ended>)>,
    pub cancelled: Vec<Uuid>,
    /// No process ever had another time than the others.
    pub has_one_time: bool,
}

type Stored = (i64, Uuid, String, i64, Option<String>, String, String, Option<Uuid>, i64);

impl View {
    pub(crate) async fn of(world: &World) -> anyhow::Result<Self> {
        let mut view = Self {
            services: BTreeMap::new(),
            sagas: Vec::new(),
            stock: BTreeMap::new(),
            delivered: world.shop.products.iter().map(|(id, pieces)| (id.0, *pieces)).collect(),
            accounts: world.provider.accounts().into_iter().map(|(id, account)| (id.0, account)).collect(),
            open_calls: 0,
            letters: world.post.arrived().into_iter().map(|(id, template, times)| (id.0, template, times)).collect(),
            asks: world.shop.asks.iter().map(|ask| (ask.told.iter().map(|id| id.0).collect(), ask.ended)).collect(),
            cancelled: world.shop.cancelled.iter().map(|id| id.0).collect(),
            has_one_time: !world.may_err,
        };
        for (name, service) in &world.services {
            let mut reader = service.readers.acquire().await?;
            let mut conn = reader.conn();
            let rows: Vec<Stored> = on!(&mut conn, |c| sqlx::query_as::<DB, Stored>(
                "SELECT position, id, stream, version, topic, kind, data, cause, time_us FROM log ORDER BY position"
            )
            .fetch_all(c)
            .await)?;
            let (head, parked): (i64, i64) =
                on!(&mut conn, |c| sqlx::query_as::<DB, (i64, i64)>("SELECT position, (SELECT COUNT(*) FROM parked) FROM head")
                    .fetch_one(c)
                    .await)?;
            let rows = rows.into_iter().map(row).collect::<Result<Vec<Row>, serde_json::Error>>()?;
            view.services.insert(*name, Books { rows, head, parked });
            match name {
                Name::Order => {
                    view.sagas = on!(&mut conn, |c| sqlx::query_as::<DB, (Uuid, String, Option<i64>, i64)>(
                        "SELECT id, state, due_us, version FROM sagas WHERE state <> 'Newer' ORDER BY id"
                    )
                    .fetch_all(c)
                    .await)?;
                }
                Name::Product => {
                    let rows: Vec<(Uuid, i64, i64, i64)> = on!(&mut conn, |c| sqlx::query_as::<DB, (Uuid, i64, i64, i64)>(
                        "SELECT product_id, on_hand, reserved, sold FROM stock"
                    )
                    .fetch_all(c)
                    .await)?;
                    view.stock = rows.into_iter().map(|(id, on_hand, reserved, sold)| (id, (on_hand, reserved, sold))).collect();
                }
                Name::Payment => {
                    view.open_calls = on!(&mut conn, |c| sqlx::query_scalar::<DB, i64>(
                        "SELECT COUNT(*) FROM payments WHERE operation IS NOT NULL"
                    )
                    .fetch_one(c)
                    .await)?;
                }
                Name::Notification => {}
            }
        }
        Ok(view)
    }

    pub(crate) fn log(&self, name: Name) -> &[Row] {
        self.services.get(&name).map_or(&[], |books| books.rows.as_slice())
    }

    pub(crate) fn account(&self, order: Uuid) -> Account {
        self.accounts.get(&order).cloned().unwrap_or_default()
    }
}

fn row(stored: Stored) -> Result<Row, serde_json::Error> {
    let (position, id, stream, version, topic, kind, data, cause, time_us) = stored;
    Ok(Row { position, id, stream, version, topic, kind, data: serde_json::from_str(&data)?, cause, time_us })
}

/// What must hold at any time: what does not, in words.
pub(crate) fn safety(view: &View) -> Vec<String> {
    let mut wrong = Vec::new();
    log::check(view, &mut wrong);
    order::check(view, &mut wrong);
    stock::check(view, &mut wrong);
    money::check(view, &mut wrong);
    wrong
}

/// What must hold at the end: first what is wrong, then what has not come.
pub(crate) fn at_the_end(view: &View) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut missing) = (safety(view), Vec::new());
    end::check(view, &mut wrong, &mut missing);
    (wrong, missing)
}
