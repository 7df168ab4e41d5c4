//! The writer's side: a batch of the saga's commands and of admins' requests, decided in memory one after the other.
//!
//! Never here: rules (they are in `domain.rs`), SQL text (it is in `store.rs`). All states of a batch come in three reads at most
//! and go back with one upsert a table, so that a hot product costs a batch one row. From here the flow goes to `events/log`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use contract::{
    Fault, Message, Meta, OrderId, ProductId,
    product::{self, Event, StockLine},
    topics,
};
use eventlog::{Error, Job, New, Poison, Stored, Unit};

use crate::{
    domain::{
        catalogue::{self, Item},
        reservation::{self, Reservation},
        stock,
    },
    store::{self, Versioned},
};

/// Something to decide.
#[derive(Clone, Debug)]
pub enum Work {
    /// The order saga's command.
    Saga(product::Command),
    /// An admin's request.
    Admin(catalogue::Command),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// The saga's command has its reply, or is a dead letter.
    Replied,
    /// A new product.
    Added(Box<Item>),
    /// The product as it is after the request.
    Changed(Box<Item>),
    Refused(catalogue::Refusal),
}

/// Decides everything that changes the product service's log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handler;

impl eventlog::Handler for Handler {
    type Work = Work;
    type Done = Done;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<Done>, Error> {
        let mut batch = Batch::load(unit, jobs).await?;
        let mut done = Vec::with_capacity(jobs.len());
        for (index, job) in jobs.iter().enumerate() {
            done.push(match &job.work {
                Work::Saga(command) => {
                    batch.reply(unit, index, &job.meta, command)?;
                    Done::Replied
                }
                Work::Admin(command) => batch.administer(unit, &job.meta, command),
            });
        }
        batch.save(unit).await?;
        Ok(done)
    }

    fn answer(&self, done: &Done) -> Option<Stored> {
        crate::http::answer(done)
    }

    fn committed(&self, _: Vec<Done>) {}
}

/// Everything that a batch decides on, as its jobs so far have left it.
#[derive(Default)]
struct Batch {
    reservations: BTreeMap<OrderId, Versioned>,
    items: BTreeMap<ProductId, Item>,
    skus_taken: HashSet<String>,
    changed: Changed,
}

/// What is to be written back; sets, because rows are written in key order.
#[derive(Default)]
struct Changed {
    reservations: BTreeSet<OrderId>,
    products: BTreeSet<ProductId>,
    stock: BTreeSet<ProductId>,
}

impl Batch {
    async fn load(unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Self, Error> {
        let (mut orders, mut products, mut skus) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for job in jobs {
            match &job.work {
                Work::Saga(command) => {
                    orders.insert(reservation::order_of(command).0);
                    if let product::Command::ReserveStock(reserve) = command {
                        products.extend(reserve.lines.iter().map(|line| line.product_id.0));
                    }
                }
                Work::Admin(catalogue::Command::Add(added)) => drop(skus.insert(added.sku.clone())),
                Work::Admin(command) => drop(products.insert(command.product_id().0)),
            }
        }
        let mut batch = Self::default();
        let found = store::reservations_to_change(unit.conn(), &sorted(orders)).await?;
        for (_, known) in &found {
            products.extend(held(&known.state).iter().map(|line| line.product_id.0));
        }
        batch.reservations.extend(found);
        let items = store::items_to_change(unit.conn(), &sorted(products)).await?;
        batch.items.extend(items.into_iter().map(|item| (item.product_id, item)));
        memory::recall(&mut batch.items);
        batch.skus_taken.extend(store::skus_taken(unit.conn(), &sorted(skus)).await?);
        Ok(batch)
    }

    /// Decides one command of the saga and appends the reply.
    fn reply(&mut self, unit: &mut Unit<'_>, index: usize, meta: &Meta, command: &product::Command) -> Result<(), Error> {
        let order_id = reservation::order_of(command);
        let known = self.reservations.get(&order_id);
        let free = |product_id| self.items.get(&product_id).filter(|item| !item.removed).map(|item| item.stock.on_hand);
        let event = match reservation::decide(known.map_or(&Reservation::New, |known| &known.state), free, command) {
            Ok(event) => event,
            Err(wrong) => {
                unit.refuse(index, wrong.to_string());
                return Ok(());
            }
        };
        if Fault::ReplyForgotten.is_planted() && event.encode().data.contains("\"repeated\":true") {
            return Ok(());
        }
        for (movement, line) in stock::movements(&event) {
            let item = self.items.get_mut(&line.product_id).ok_or_else(|| lost(order_id, line))?;
            item.stock = item.stock.moved(movement, line.quantity);
            self.changed.stock.insert(line.product_id);
        }
        let known = self.reservations.entry(order_id).or_default();
        known.state = reservation::evolve(std::mem::take(&mut known.state), &event);
        known.version += 1;
        self.changed.reservations.insert(order_id);
        append(unit, meta, format!("reservation-{order_id}"), known.version, order_id.to_string(), &event);
        Ok(())
    }

    /// Decides one request of an admin and appends its event, if it has one.
    fn administer(&mut self, unit: &mut Unit<'_>, meta: &Meta, command: &catalogue::Command) -> Done {
        let product_id = command.product_id();
        let sku_taken = matches!(command, catalogue::Command::Add(added) if self.skus_taken.contains(&added.sku));
        let event = match catalogue::decide(self.items.get(&product_id), sku_taken, command) {
            Ok(event) => event,
            Err(refusal) => return Done::Refused(refusal),
        };
        let mut item = self.items.remove(&product_id);
        if let Some(event) = &event {
            item = catalogue::evolve(item, event, unit.now());
            self.changed.products.insert(product_id);
            if matches!(event, Event::ProductAdded(_) | Event::StockChanged(_)) {
                self.changed.stock.insert(product_id);
            }
        }
        let item = item.expect("what is not refused is about a product that exists now");
        if let Some(event) = &event {
            match item.removed {
                true => drop(self.skus_taken.remove(&item.sku)),
                false => drop(self.skus_taken.insert(item.sku.clone())),
            }
            append(unit, meta, format!("product-{product_id}"), item.version, product_id.to_string(), event);
        }
        self.items.insert(product_id, item.clone());
        match command {
            catalogue::Command::Add(_) => Done::Added(Box::new(item)),
            _ => Done::Changed(Box::new(item)),
        }
    }

    /// Writes back what changed, in the order in which it was loaded.
    async fn save(&self, unit: &mut Unit<'_>) -> Result<(), Error> {
        let now = unit.now();
        let reservations: Vec<_> = self.changed.reservations.iter().map(|id| (*id, &self.reservations[id])).collect();
        let items = |ids: &BTreeSet<ProductId>| ids.iter().map(|id| &self.items[id]).collect::<Vec<_>>();
        store::save_reservations(unit, &reservations, now).await?;
        store::save_products(unit, &items(&self.changed.products)).await?;
        memory::remember(&items(&self.changed.stock));
        store::save_stock(unit, &items(&self.changed.stock)).await
    }
}

/// The fault of a process that trusts its own memory of the stock.
mod memory {
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    use contract::{Fault, ProductId};

    use crate::domain::{catalogue::Item, stock::Stock};

    static LEVELS: Mutex<BTreeMap<ProductId, Stock>> = Mutex::new(BTreeMap::new());

    pub(super) fn recall(items: &mut BTreeMap<ProductId, Item>) {
        if Fault::StockFromMemory.is_planted() {
            let levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
            for item in items.values_mut() {
                item.stock = levels.get(&item.product_id).copied().unwrap_or(item.stock);
            }
        }
    }

    pub(super) fn remember(items: &[&Item]) {
        if Fault::StockFromMemory.is_planted() {
            let mut levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
            levels.extend(items.iter().map(|item| (item.product_id, item.stock)));
        }
    }
}

fn append(unit: &mut Unit<'_>, meta: &Meta, stream: String, version: i64, key: String, event: &Event) {
    unit.append(meta, New { stream, version, to: Some((topics::PRODUCT_EVENTS, key)), payload: event.encode() });
}

fn sorted<T>(set: BTreeSet<T>) -> Vec<T> {
    set.into_iter().collect()
}

/// The lines that a command may still move.
fn held(state: &Reservation) -> &[StockLine] {
    match state {
        Reservation::Reserved { lines } | Reservation::Committed { lines } => lines,
        Reservation::New | Reservation::Refused { .. } | Reservation::Released { .. } => &[],
    }
}

fn lost(order_id: OrderId, line: &StockLine) -> Error {
    Error::Corrupt(format!("reservation {order_id} names the product {}, which has no stock row", line.product_id))
}

impl bus::Consumer for Handler {
    fn accept(&self, message: &Message) -> Result<Option<Work>, Poison> {
        Ok(Some(Work::Saga(product::Command::decode(&message.kind, message.schema, &message.data)?)))
    }
}
