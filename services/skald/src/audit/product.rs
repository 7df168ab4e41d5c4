//! The product database: the catalogue, where every piece is, and what is reserved for whom.
//!
//! Never here: the product service's own code. From here the flow goes to `across.rs`, which holds reservations against orders.

use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    laws::{Id, Laws},
    snapshot::{Entry, Snapshot, pages},
    trail::Trails,
    value::{Lines, Money, digest, flag, hashed, id, int, money, shown, text},
};

/// What an order's reservation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Status {
    #[default]
    None,
    Reserved,
    Refused,
    Released,
    Committed,
}

/// The fold of one reservation's stream; small, as there are many.
#[derive(Clone, Debug, Default)]
pub(super) struct Reservation {
    pub status: Status,
    /// Digest of the pieces: what is held, what was sold, or what went back.
    pub lines: u64,
    /// How often it was committed.
    pub commits: u32,
    refusal: Option<u64>,
    restocked: bool,
    version: i64,
    changed_us: i64,
    has_row: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stock {
    on_hand: i64,
    reserved: i64,
    sold: i64,
    added: i64,
}

impl Stock {
    fn is_sound(self) -> bool {
        let places = [self.on_hand, self.reserved, self.sold];
        places.iter().all(|pieces| *pieces >= 0) && places.iter().sum::<i64>() == self.added
    }
}

#[derive(Default)]
struct Product {
    sku: String,
    title: String,
    category: String,
    price: Money,
    removed: bool,
    version: i64,
    added_us: i64,
    stock: Stock,
    has_row: bool,
    has_stock_row: bool,
}

impl Product {
    /// Digest of what the row must hold.
    fn row(&self) -> u64 {
        hashed(&(&*self.sku, &*self.title, &*self.category, self.price, self.removed, self.version, self.added_us))
    }
}

#[derive(Default)]
pub(super) struct Products {
    pub reservations: HashMap<u128, Reservation>,
    products: HashMap<u128, Product>,
    /// Pieces in the rows of open reservations, by product.
    open: HashMap<u128, i64>,
}

impl Products {
    pub(super) async fn read(snapshot: &mut Snapshot, trails: &mut Trails, laws: &mut Laws) -> Result<Self, sqlx::Error> {
        let mut products = Self::default();
        trails.walk(snapshot, laws, |laws, entry| products.take(laws, entry)).await?;
        products.read_products(snapshot, laws).await?;
        products.read_reservations(snapshot, laws).await?;
        products.read_stock(snapshot, laws).await?;
        Ok(products)
    }

    fn take(&mut self, laws: &mut Laws, entry: &Entry) {
        let known = match entry.subject() {
            Some(("product", product_id)) => self.catalogue(laws, product_id, entry),
            Some(("reservation", order_id)) => self.reservation(laws, order_id, entry),
            _ => false,
        };
        laws.check(Id::PayloadsReadable, known, || format!("product: {} in the stream {}", entry.kind, entry.stream));
    }

    fn catalogue(&mut self, laws: &mut Laws, product_id: u128, entry: &Entry) -> bool {
        let data = &entry.data;
        let product = self.products.entry(product_id).or_default();
        product.version = entry.version;
        match entry.kind.as_str() {
            "product.ProductAdded" => {
                product.sku = text(data, "sku").to_owned();
                product.added_us = entry.time_us;
                product.describe(data);
                product.deliver(int(data, "stock"));
            }
            "product.ProductChanged" => product.describe(data),
            "product.ProductRemoved" => product.removed = true,
            "product.StockChanged" => product.deliver(int(data, "change")),
            _ => return false,
        }
        let (sound, version) = (product.stock.is_sound(), product.version);
        laws.check(Id::StockConserved, sound, || format!("product {} from version {version} on", shown(product_id)));
        id(data, "product_id") == product_id
    }

    fn reservation(&mut self, laws: &mut Laws, order_id: u128, entry: &Entry) -> bool {
        let data = &entry.data;
        let known = self.reservations.entry(order_id).or_default();
        (known.version, known.changed_us) = (entry.version, entry.time_us);
        let (lines, first) = (Lines::of(&data["lines"]), !flag(data, "repeated"));
        let (before, held) = (known.status, known.lines);
        // Only what is held can be sold or go back, and all of it.
        let right = match entry.kind.as_str() {
            "product.StockReserved" if first => {
                (known.status, known.lines) = (Status::Reserved, lines.digest());
                self.shift(&lines, |stock, pieces| {
                    (stock.on_hand, stock.reserved) = (stock.on_hand - pieces, stock.reserved + pieces)
                });
                before == Status::None
            }
            "product.StockCommitted" if first => {
                (known.status, known.lines) = (Status::Committed, lines.digest());
                known.commits += 1;
                self.shift(&lines, |stock, pieces| (stock.reserved, stock.sold) = (stock.reserved - pieces, stock.sold + pieces));
                before == Status::Reserved && held == lines.digest()
            }
            "product.StockReleased" if first => {
                (known.status, known.lines) = (Status::Released, lines.digest());
                known.restocked = flag(data, "restocked");
                let restocked = known.restocked;
                self.shift(&lines, |stock, pieces| {
                    let from = if restocked { &mut stock.sold } else { &mut stock.reserved };
                    *from -= pieces;
                    stock.on_hand += pieces;
                });
                match before {
                    Status::Reserved => !restocked && held == lines.digest(),
                    Status::Committed => restocked && held == lines.digest(),
                    Status::None | Status::Refused => !restocked && lines == Lines::default(),
                    Status::Released => false,
                }
            }
            "product.StockRefused" if first => {
                known.refusal = Some(digest(&json!({ "reason": data["reason"], "products": data["products"] })));
                if before != Status::Released {
                    (known.status, known.lines) = (Status::Refused, Lines::default().digest());
                }
                matches!(before, Status::None | Status::Released)
            }
            "product.StockReserved" | "product.StockCommitted" | "product.StockReleased" | "product.StockRefused" => true,
            _ => return false,
        };
        laws.check(Id::StockConserved, right, || format!("{} of order {} where it was {before:?}", entry.kind, shown(order_id)));
        id(data, "order_id") == order_id
    }

    fn shift(&mut self, lines: &Lines, shift: impl Fn(&mut Stock, i64)) {
        for (product_id, pieces) in &lines.0 {
            shift(&mut self.products.entry(*product_id).or_default().stock, *pieces);
        }
    }

    async fn read_products(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (Uuid, String, String, String, i64, String, i64, i64, i64),
            "SELECT product_id, sku, title, category, price_minor, currency, removed, version, added_us FROM products \
             WHERE product_id > $1 ORDER BY product_id LIMIT $2",
            Uuid::nil(),
            |(product_id, sku, title, category, price_minor, currency, removed, version, added_us)| {
                let price = Money::new(price_minor, &currency);
                let (removed, stock) = (removed != 0, Stock::default());
                let found = Product {
                    sku,
                    title,
                    category,
                    price,
                    removed,
                    version,
                    added_us,
                    stock,
                    has_row: true,
                    has_stock_row: true,
                };
                let product = self.products.get_mut(&product_id.as_u128());
                let same = product.is_some_and(|product| {
                    product.has_row = true;
                    product.row() == found.row()
                });
                laws.check(Id::ProductsMatchLog, same, || format!("product {product_id}"));
            }
        );
        for (product_id, _) in self.products.iter().filter(|(_, product)| !product.has_row) {
            laws.check(Id::ProductsMatchLog, false, || format!("product {} has no row", shown(*product_id)));
        }
        Ok(())
    }

    async fn read_reservations(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (Uuid, String, String, Option<String>, i64, i64, i64),
            "SELECT order_id, status, lines, refusal, restocked, version, changed_us FROM reservations \
             WHERE order_id > $1 ORDER BY order_id LIMIT $2",
            Uuid::nil(),
            |(order_id, status, lines, refusal, restocked, version, changed_us)| {
                let lines = Lines::parse(&lines);
                if status == "reserved" {
                    for (product_id, pieces) in &lines.0 {
                        *self.open.entry(*product_id).or_insert(0) += pieces;
                    }
                }
                let refusal = refusal.map(|refusal| digest(&serde_json::from_str::<Value>(&refusal).unwrap_or_default()));
                let known = self.reservations.get_mut(&order_id.as_u128());
                let same = known.is_some_and(|known| {
                    known.has_row = true;
                    (known.status, known.lines, known.refusal) == (parse(&status), lines.digest(), refusal)
                        && (i64::from(known.restocked), known.version, known.changed_us) == (restocked, version, changed_us)
                });
                laws.check(Id::ReservationsMatchLog, same, || format!("reservation of order {order_id}"));
            }
        );
        for (order_id, _) in self.reservations.iter().filter(|(_, known)| !known.has_row) {
            laws.check(Id::ReservationsMatchLog, false, || format!("reservation of order {} has no row", shown(*order_id)));
        }
        Ok(())
    }

    async fn read_stock(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (Uuid, i64, i64, i64, i64),
            "SELECT product_id, on_hand, reserved, sold, added FROM stock WHERE product_id > $1 ORDER BY product_id LIMIT $2",
            Uuid::nil(),
            |(product_id, on_hand, reserved, sold, added)| {
                let found = Stock { on_hand, reserved, sold, added };
                let product = self.products.get_mut(&product_id.as_u128());
                let folded = product.map(|product| {
                    product.has_stock_row = true;
                    product.stock
                });
                laws.check(Id::StockMatchesLog, folded == Some(found), || {
                    format!("product {product_id}: {found:?}, not {folded:?}")
                });
                let ever_added = folded.map(|stock| stock.added);
                laws.check(Id::StockConserved, found.is_sound() && ever_added == Some(added), || {
                    format!("product {product_id}: {found:?}, ever added {ever_added:?}")
                });
                let open = self.open.get(&product_id.as_u128()).copied().unwrap_or(0);
                laws.check(Id::ReservedIsOpen, reserved == open, || {
                    format!("product {product_id}: {reserved} reserved, {open} in open reservations")
                });
            }
        );
        for (product_id, _) in self.products.iter().filter(|(_, product)| !product.has_stock_row) {
            laws.check(Id::StockMatchesLog, false, || format!("product {} has no stock", shown(*product_id)));
        }
        Ok(())
    }
}

impl Product {
    fn describe(&mut self, data: &Value) {
        (self.title, self.category) = (text(data, "title").to_owned(), text(data, "category").to_owned());
        self.price = money(data, "price");
    }

    fn deliver(&mut self, pieces: i64) {
        self.stock.on_hand = self.stock.on_hand.saturating_add(pieces);
        self.stock.added = self.stock.added.saturating_add(pieces);
    }
}

fn parse(status: &str) -> Status {
    match status {
        "reserved" => Status::Reserved,
        "refused" => Status::Refused,
        "released" => Status::Released,
        "committed" => Status::Committed,
        _ => Status::None,
    }
}
