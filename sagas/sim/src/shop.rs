//! The customers and the operator: what they ask, what they were told, and what they ask again.
//!
//! Never here: whether they were told the truth, which `check` finds out at the end.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use contract::{
    Currency, CustomerId, Meta, Money, OrderId, ProductId,
    product::{ProductAdded, StockLine},
};
use eventlog::{Answer, Error, IdempotencyKey, Job, on};
use order::{
    domain::{Offer, Quote, Wanted, basket, price},
    handler::{By, Done, Place, Work},
};
use saga::order::Input;
use uuid::Uuid;

use crate::{
    chance::Chance,
    drive::{Driven, Operation},
    provider::TOKENS,
    replica::{Door, Name},
    world::World,
};

/// What a customer wants, under one idempotency key.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub key: IdempotencyKey,
    pub customer_id: CustomerId,
    pub wanted: Vec<Wanted>,
    pub token: &'static str,
    /// Every order that was named in an answer: there must be no two.
    pub told: BTreeSet<OrderId>,
    pub ended: Option<Ended>,
}

/// How an ask ended for its customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Accepted,
    /// The basket could not be sold, and nothing was ever handed in.
    Refused,
}

/// Everything on this side of the door.
#[derive(Debug)]
pub(crate) struct Shop {
    pub asks: Vec<Ask>,
    /// The pieces that each product began with.
    pub products: BTreeMap<ProductId, i64>,
    /// Orders whose cancel was accepted, for a customer or an operator.
    pub cancelled: BTreeSet<OrderId>,
    /// Asks that were handed in at least once.
    handed_in: BTreeSet<usize>,
    next: usize,
}

impl Shop {
    pub(crate) fn new(chance: &mut Chance, orders: usize) -> Self {
        let id = |chance: &mut Chance| Uuid::from_u64_pair(chance.bits(), chance.bits());
        let customers: Vec<CustomerId> = (0..5).map(|_| id(chance).into()).collect();
        let mut products = BTreeMap::new();
        for _ in 0..6 {
            // Scarce, so that some orders find nothing left.
            let pieces = chance.between(orders as u64 / 3, orders as u64 * 2) as i64;
            products.insert(id(chance).into(), pieces);
        }
        let ids: Vec<ProductId> = products.keys().copied().collect();
        let ask = |_| {
            let lines = 1 + chance.below(3);
            let wanted = (0..lines).map(|_| {
                let product_id = ids[chance.below(ids.len())];
                Wanted { product_id, quantity: 1 + chance.below(3) as u32 }
            });
            let wanted = wanted.collect();
            let token = TOKENS[chance.weighted([84, 8, 8].into_iter()).unwrap_or(0)];
            let key = IdempotencyKey { key: chance.bytes(), fingerprint: chance.bytes() };
            let customer_id = customers[chance.below(customers.len())];
            Ask { key, customer_id, wanted, token, told: BTreeSet::new(), ended: None }
        };
        let asks = (0..orders).map(ask).collect();
        Self { asks, products, cancelled: BTreeSet::new(), handed_in: BTreeSet::new(), next: 0 }
    }

    /// Whether somebody has not been answered.
    pub(crate) fn has_open(&self) -> bool {
        self.asks.iter().any(|ask| ask.ended.is_none())
    }

    pub(crate) fn has_orders(&self) -> bool {
        self.asks.iter().any(|ask| !ask.told.is_empty())
    }
}

impl World {
    /// Puts the products on sale.
    pub(crate) async fn fill(&mut self) -> anyhow::Result<()> {
        let index = self.any(Name::Product).context("the product service runs")?;
        for (number, (product_id, stock)) in self.shop.products.clone().into_iter().enumerate() {
            let price = Money::new(100 + 37 * number as i64, Currency::EUR);
            let (sku, title, category) = (format!("sku-{number}"), format!("product {number}"), "things".to_owned());
            let added = ProductAdded { product_id, sku, title, category, price, stock };
            let work = product::handler::Work::Admin(product::domain::catalogue::Command::Add(added));
            let Door::Product(writer) = &self.replica(index).door else { bail!("the product service has a door") };
            let writer = writer.clone();
            let mut operation: Operation<Result<_, Error>> =
                Box::pin(async move { writer.submit(Job { work, meta: Meta::default() }).await });
            match self.drive(index, &mut operation).await {
                Driven::Done(Ok(product::handler::Done::Added(_))) => {}
                other => bail!("a product can't be added: {other:?}"),
            }
        }
        Ok(())
    }

    /// A customer hands in the next order, or one that was not answered.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<()> {
        let open: Vec<usize> = (0..self.shop.asks.len()).filter(|index| self.shop.asks[*index].ended.is_none()).collect();
        // The next ones first; who was not answered tries again in between.
        let fresh = open.iter().copied().find(|index| *index >= self.shop.next);
        let again = self.chance.permille(300);
        let number = match fresh {
            Some(number) if !again => number,
            _ if open.is_empty() => return Ok(()),
            _ => open[self.chance.below(open.len())],
        };
        self.shop.next = self.shop.next.max(number + 1);
        self.hand_in(number).await
    }

    /// A customer sends once more what was answered long ago.
    pub(crate) async fn ask_again(&mut self) -> anyhow::Result<()> {
        let number = self.chance.below(self.shop.asks.len());
        if self.shop.asks[number].ended == Some(Ended::Accepted) { self.hand_in(number).await } else { Ok(()) }
    }

    async fn hand_in(&mut self, number: usize) -> anyhow::Result<()> {
        let (Some(order), Some(product)) = (self.any(Name::Order), self.any(Name::Product)) else { return Ok(()) };
        let ask = self.shop.asks[number].clone();
        let Ok(merged) = basket(&ask.wanted) else { bail!("customers here ask for baskets") };
        let lines: Vec<StockLine> =
            merged.iter().map(|line| StockLine { product_id: line.product_id, quantity: line.quantity }).collect();
        let checked = product::grpc::check(&self.replica(product).log.clone(), &lines).await?;
        let quote = |(line, item): (&Wanted, kit::grpc::stock::check_stock_response::Item)| {
            let currency = item.currency.parse().unwrap_or(Currency::EUR);
            let price = Money::new(item.price_minor, currency);
            let offer = item.exists.then_some(Offer { title: item.title, price, available: item.available_quantity });
            Quote { product_id: line.product_id, offer }
        };
        let quotes: Vec<Quote> = merged.iter().zip(checked).map(quote).collect();
        let priced = match price(&merged, &quotes, None) {
            Ok(priced) => priced,
            Err(why) => {
                // Who has handed it in before may have an order all the same: the key would tell.
                if !self.shop.handed_in.contains(&number) {
                    self.shop.asks[number].ended = Some(Ended::Refused);
                    self.say(format_args!("ask {number} is refused: {why:?}"));
                    return Ok(());
                }
                order::domain::Priced { lines: Vec::new(), total: Money::new(0, Currency::EUR) }
            }
        };
        if priced.lines.is_empty() {
            return self.look_up_answer(number, order).await;
        }
        let Door::Order(writer, _) = &self.replica(order).door else { bail!("the order service has a door") };
        let (writer, order_id) = (writer.clone(), OrderId(self.replica(order).log.env().id()));
        let place = Place {
            order_id,
            customer_id: ask.customer_id,
            lines: priced.lines,
            total: priced.total,
            payment_token: ask.token.to_owned(),
        };
        let meta = Meta { actor: Some(format!("customer:{}", ask.customer_id)), ..Meta::default() };
        let key = Some(ask.key);
        let mut operation: Operation<Result<Answer<Done>, Error>> =
            Box::pin(async move { writer.request(Job { work: Work::Place(place), meta }, key).await });
        self.shop.handed_in.insert(number);
        let driven = self.drive(order, &mut operation).await;
        let told = match driven {
            Driven::Done(Ok(Answer::Done(Done::Placed(id, _)))) => Some(id),
            Driven::Done(Ok(Answer::Repeated(stored))) => order_of(stored.location.as_deref()),
            Driven::Done(Ok(other)) => bail!("SAFETY: ask {number} was answered with {other:?}"),
            Driven::Done(Err(error)) => {
                self.say(format_args!("ask {number} fails: {error}"));
                return Ok(());
            }
            Driven::Asleep(_) | Driven::Crashed => None,
        };
        self.told(number, told);
        Ok(())
    }

    /// What the door does first with a key that it has seen.
    async fn look_up_answer(&mut self, number: usize, order: usize) -> anyhow::Result<()> {
        let key = self.shop.asks[number].key;
        let stored = self.replica(order).log.stored(&key).await?;
        match stored {
            Some(stored) => self.told(number, order_of(stored.location.as_deref())),
            None => {
                self.shop.asks[number].ended = Some(Ended::Refused);
                self.say(format_args!("ask {number} is refused after all"));
            }
        }
        Ok(())
    }

    fn told(&mut self, number: usize, id: Option<OrderId>) {
        let is_heard = self.is_calm || !self.chance.permille(50);
        match id {
            Some(id) if is_heard => {
                let ask = &mut self.shop.asks[number];
                ask.told.insert(id);
                ask.ended = Some(Ended::Accepted);
                self.say(format_args!("ask {number} is order {id}"));
            }
            _ => self.say(format_args!("ask {number}: the answer is lost")),
        }
    }

    /// An order that somebody knows of, mostly one that is under way.
    async fn some_order(&mut self) -> anyhow::Result<Option<(OrderId, CustomerId)>> {
        let mut told: Vec<(OrderId, CustomerId)> =
            self.shop.asks.iter().filter_map(|ask| Some((*ask.told.first()?, ask.customer_id))).collect();
        if self.chance.permille(850) {
            let mut reader = self.services[&Name::Order].readers.acquire().await?;
            let sql = "SELECT id FROM sagas WHERE due_us IS NOT NULL";
            let open: Vec<Uuid> = on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, Uuid>(sql).fetch_all(c).await)?;
            told.retain(|(id, _)| open.contains(&id.0));
        }
        Ok((!told.is_empty()).then(|| told[self.chance.below(told.len())]))
    }

    /// A customer wants out, or an operator for them.
    pub(crate) async fn cancel(&mut self) -> anyhow::Result<()> {
        let Some((order_id, customer_id)) = self.some_order().await? else { return Ok(()) };
        let is_operator = self.chance.permille(300);
        let id = if is_operator { CustomerId(Uuid::from_u128(1)) } else { customer_id };
        let work = Work::Cancel { order_id, by: By { id, is_operator } };
        self.say(format_args!("cancel of {order_id}"));
        self.demand(order_id, work, true).await;
        Ok(())
    }

    /// An operator takes the wheel, without a waiver.
    pub(crate) async fn steer(&mut self) -> anyhow::Result<()> {
        let Some((order_id, _)) = self.some_order().await? else { return Ok(()) };
        let verb = if self.chance.permille(500) { Input::RetryAsked } else { Input::CompensationForced };
        self.say(format_args!("operator: {verb:?} of {order_id}"));
        let work = Work::Steer { order_id, verb, note: Some("simulated".to_owned()) };
        self.demand(order_id, work, verb == Input::CompensationForced).await;
        Ok(())
    }

    async fn demand(&mut self, order_id: OrderId, work: Work, cancels: bool) {
        let Some(index) = self.any(Name::Order) else { return };
        let Door::Order(writer, _) = &self.replica(index).door else { return };
        let writer = writer.clone();
        let mut operation: Operation<Result<Answer<Done>, Error>> =
            Box::pin(async move { writer.request(Job { work, meta: Meta::default() }, None).await });
        let driven = self.drive(index, &mut operation).await;
        if let Driven::Done(Ok(Answer::Done(done))) = driven {
            if cancels && matches!(done, Done::Accepted(_)) {
                self.shop.cancelled.insert(order_id);
            }
            self.say(format_args!("{order_id}: {done:?}"));
        }
    }
}

fn order_of(location: Option<&str>) -> Option<OrderId> {
    location?.rsplit('/').next()?.parse().ok()
}
