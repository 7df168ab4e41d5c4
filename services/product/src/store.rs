//! The tables `products`, `stock` and `reservations`: loading, writing back, the reads of the API. The only SQL of the service.
//!
//! Never here: rules. What is loaded to be changed is loaded in key order and locked, and written back with one upsert a table.
//! From here the flow goes to `handler.rs` (the writer's side) and to `http.rs` and `grpc.rs` (the readers' side).

use contract::{Money, OrderId, Timestamp, product::StockLine};
use eventlog::{Conn, Error, Migration, Unit, for_update, on, select_in, write_many};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::domain::{catalogue::Item, reservation::Reservation, stock::Stock};

/// The service's schema.
pub const MIGRATIONS: [Migration; 2] = [
    Migration {
        version: 100,
        name: "product",
        sqlite: include_str!("../migrations/0100_product.sqlite.sql"),
        postgres: include_str!("../migrations/0100_product.postgres.sql"),
    },
    Migration {
        version: 101,
        name: "sku again",
        sqlite: include_str!("../migrations/0101_sku_again.sqlite.sql"),
        postgres: include_str!("../migrations/0101_sku_again.postgres.sql"),
    },
];

type ItemRow = (Uuid, String, String, String, i64, String, i64, i64, i64, i64, i64, i64, i64);

fn item(row: ItemRow) -> Result<Item, Error> {
    let (id, sku, title, category, price_minor, currency, removed, version, added_us, on_hand, reserved, sold, added) = row;
    let currency = currency.parse().map_err(|error| Error::Corrupt(format!("product {id}: {error}")))?;
    Ok(Item {
        product_id: id.into(),
        sku,
        title,
        category,
        price: Money::new(price_minor, currency),
        removed: removed != 0,
        version,
        added: Timestamp(added_us),
        stock: Stock { on_hand, reserved, sold, added },
    })
}

/// The columns of an [`ItemRow`], with the rest of the statement.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT p.product_id, p.sku, p.title, p.category, p.price_minor, p.currency, p.removed, p.version, p.added_us, \
             s.on_hand, s.reserved, s.sold, s.added FROM products p JOIN stock s ON s.product_id = p.product_id WHERE ",
            $rest
        )
    };
}

/// The products with these ids, sorted, to be changed.
pub(crate) async fn items_to_change(conn: &mut Conn<'_>, ids: &[Uuid]) -> Result<Vec<Item>, Error> {
    let tail = format!("ORDER BY p.product_id{}", for_update(conn));
    items(conn, ids, &tail).await
}

/// The products with these ids, removed ones too, in no order.
pub(crate) async fn items_to_read(conn: &mut Conn<'_>, ids: &[Uuid]) -> Result<Vec<Item>, Error> {
    items(conn, ids, "").await
}

async fn items(conn: &mut Conn<'_>, ids: &[Uuid], tail: &str) -> Result<Vec<Item>, Error> {
    let rows = select_in!(conn, ItemRow, select!("p.product_id"), ids, tail)?;
    rows.into_iter().map(item).collect()
}

/// Which of these skus are taken. Those of removed products are not.
pub(crate) async fn skus_taken(conn: &mut Conn<'_>, skus: &[String]) -> Result<Vec<String>, Error> {
    let rows = select_in!(conn, (String,), "SELECT sku FROM products WHERE removed = 0 AND sku", skus, "")?;
    Ok(rows.into_iter().map(|(sku,)| sku).collect())
}

/// What a list of products is narrowed to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub category: Option<String>,
    /// Text that the title or the sku contains, in any case.
    pub text: Option<String>,
}

/// Products that can be ordered, oldest first, at most `limit`, after the id `after`.
pub(crate) async fn list(conn: &mut Conn<'_>, filter: &Filter, after: Option<Uuid>, limit: i64) -> Result<Vec<Item>, Error> {
    let rows = on!(conn, |c| {
        let mut query = sqlx::QueryBuilder::<DB>::new(select!("p.removed = 0"));
        if let Some(category) = &filter.category {
            query.push(" AND p.category = ").push_bind(category);
        }
        if let Some(text) = &filter.text {
            query.push(" AND p.search LIKE ").push_bind(containing(text)).push(" ESCAPE '\\'");
        }
        if let Some(after) = after {
            query.push(" AND p.product_id > ").push_bind(after);
        }
        query.push(" ORDER BY p.product_id LIMIT ").push_bind(limit);
        query.build_query_as::<ItemRow>().fetch_all(c).await
    })?;
    rows.into_iter().map(item).collect()
}

/// The LIKE pattern of what contains `text`, whose own wildcards mean nothing.
fn containing(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

/// Writes products that were added or changed; sorted by id.
pub(crate) async fn save_products(unit: &mut Unit<'_>, items: &[&Item]) -> Result<(), Error> {
    write_many!(
        unit,
        "INSERT INTO products (product_id, sku, title, category, price_minor, currency, removed, version, added_us, search)",
        items,
        |r| [
            r.product_id.0,
            r.sku.as_str(),
            r.title.as_str(),
            r.category.as_str(),
            r.price.amount_minor,
            r.price.currency.as_str(),
            i64::from(r.removed),
            r.version,
            r.added.0,
            format!("{}\n{}", r.title, r.sku).to_lowercase()
        ],
        "ON CONFLICT (product_id) DO UPDATE SET title = excluded.title, category = excluded.category, \
         price_minor = excluded.price_minor, currency = excluded.currency, removed = excluded.removed, \
         version = excluded.version, search = excluded.search"
    )?;
    Ok(())
}

/// Writes the stock of products, whose pieces moved; sorted by id.
pub(crate) async fn save_stock(unit: &mut Unit<'_>, items: &[&Item]) -> Result<(), Error> {
    write_many!(
        unit,
        "INSERT INTO stock (product_id, on_hand, reserved, sold, added)",
        items,
        |r| [r.product_id.0, r.stock.on_hand, r.stock.reserved, r.stock.sold, r.stock.added],
        "ON CONFLICT (product_id) DO UPDATE SET on_hand = excluded.on_hand, reserved = excluded.reserved, \
         sold = excluded.sold, added = excluded.added"
    )?;
    Ok(())
}

/// A reservation with the version of its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub state: Reservation,
    pub version: i64,
}

type ReservationRow = (Uuid, String, String, Option<String>, i64, i64);

/// The reservations of these orders, sorted, to be changed; none for an order never heard of.
pub(crate) async fn reservations_to_change(conn: &mut Conn<'_>, ids: &[Uuid]) -> Result<Vec<(OrderId, Versioned)>, Error> {
    let tail = format!("ORDER BY order_id{}", for_update(conn));
    let rows = select_in!(
        conn,
        ReservationRow,
        "SELECT order_id, status, lines, refusal, restocked, version FROM reservations WHERE order_id",
        ids,
        &tail
    )?;
    rows.into_iter().map(reservation).collect()
}

fn reservation(row: ReservationRow) -> Result<(OrderId, Versioned), Error> {
    let (id, status, lines, refusal, restocked, version) = row;
    let lines: Vec<StockLine> = parse(id, &lines)?;
    let refusal = refusal.map(|refusal| parse(id, &refusal)).transpose()?;
    let state = match (status.as_str(), refusal) {
        ("reserved", None) => Reservation::Reserved { lines },
        ("committed", None) => Reservation::Committed { lines },
        ("refused", Some(refusal)) => Reservation::Refused { refusal },
        ("released", refusal) => Reservation::Released { lines, restocked: restocked != 0, refusal },
        (status, refusal) => {
            return Err(Error::Corrupt(format!("reservation {id}: {status} with the refusal {refusal:?}")));
        }
    };
    Ok((id.into(), Versioned { state, version }))
}

/// A reservation's columns `status`, `lines`, `refusal`, `restocked`.
fn columns(state: &Reservation) -> (&'static str, String, Option<String>, i64) {
    match state {
        Reservation::Reserved { lines } => ("reserved", json(lines), None, 0),
        Reservation::Committed { lines } => ("committed", json(lines), None, 0),
        Reservation::Refused { refusal } => ("refused", "[]".to_owned(), Some(json(refusal)), 0),
        Reservation::Released { lines, restocked, refusal } => {
            ("released", json(lines), refusal.as_ref().map(json), i64::from(*restocked))
        }
        Reservation::New => unreachable!("only what an event happened to is written"),
    }
}

/// Writes reservations that were made or changed at `now`; sorted by order id.
pub(crate) async fn save_reservations(
    unit: &mut Unit<'_>,
    changed: &[(OrderId, &Versioned)],
    now: Timestamp,
) -> Result<(), Error> {
    let rows: Vec<_> = changed.iter().map(|(id, kept)| (id.0, columns(&kept.state), kept.version)).collect();
    write_many!(
        unit,
        "INSERT INTO reservations (order_id, status, lines, refusal, restocked, version, changed_us)",
        &rows,
        |r| [r.0, r.1.0, r.1.1.as_str(), r.1.2.as_deref(), r.1.3, r.2, now.0],
        "ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, lines = excluded.lines, refusal = excluded.refusal, \
         restocked = excluded.restocked, version = excluded.version, changed_us = excluded.changed_us"
    )?;
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("lines and refusals have string keys only")
}

fn parse<T: DeserializeOwned>(id: Uuid, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Corrupt(format!("reservation {id}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_search_mean_themselves() {
        assert_eq!(containing(r"50%_Off\"), r"%50\%\_off\\%");
    }
}
