//! Batches of commands through the real writer on a temporary SQLite log: what is said, and where the pieces are afterwards.
//!
//! Never here: rules one by one (`domain/reservation/tests.rs` has them) or HTTP (`tests/api.rs`).

mod fresh;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::Consumer;
use contract::{
    Currency, Message, MessageId, Meta, Money, OrderId, ProductId, Timestamp, Trace,
    envelope::Repeated,
    product::{
        Command, CommitStock, Event, ProductAdded, ReleaseStock, ReserveStock, StockChanged, StockCommitted, StockLine,
        StockRefusal, StockRefused, StockReleased, StockReserved,
    },
    topics,
};
use eventlog::{Answer, Claim, Database, Delivered, Env, Item, Job, Log, Writer, WriterLimits, on};
use kit::Tasks;
use rand::{Rng, SeedableRng, rngs::StdRng};
use skald_product::{
    MIGRATIONS,
    domain::{
        catalogue,
        reservation::{self, Reservation},
        stock::{self, Stock},
    },
    handler::{Done, Handler, Work},
};
use uuid::Uuid;

/// A product service without doors.
struct Shop {
    _directory: tempfile::TempDir,
    writer: Writer<Handler>,
    tasks: Tasks,
    /// The consumer's progress, as the next claim has it.
    progress: Mutex<i64>,
}

impl Shop {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = fresh::database(&directory).await;
        Self::open_on(directory, database).await
    }

    /// Another replica on the same database.
    async fn replica(&self) -> Self {
        Self::open_on(tempfile::tempdir().unwrap(), self.writer.log().database().clone()).await
    }

    async fn open_on(directory: tempfile::TempDir, database: Database) -> Self {
        let opened = Log::open(database, "product", &MIGRATIONS, Env::system()).await.unwrap();
        let (writer, task) = Writer::new(opened, Arc::new(Handler), WriterLimits::default());
        let tasks = Tasks::new();
        tasks.spawn("product.writer", task);
        Self { _directory: directory, writer, tasks, progress: Mutex::new(0) }
    }

    async fn add(&self, number: u128, pieces: i64) {
        let (sku, title, category) = (format!("SKU-{number}"), "Tea".to_owned(), "drinks".to_owned());
        let price = Money::new(499, Currency::EUR);
        let added = ProductAdded { product_id: product(number), sku, title, category, price, stock: pieces };
        let done = self.admin(catalogue::Command::Add(added)).await;
        assert!(matches!(done, Done::Added(_)), "{done:?}");
    }

    async fn admin(&self, command: catalogue::Command) -> Done {
        let job = Job { work: Work::Admin(command), meta: Meta::default() };
        match self.writer.request(job, None).await.unwrap() {
            Answer::Done(done) => done,
            other => panic!("{other:?}"),
        }
    }

    /// Delivers messages as one batch and gives the rows that it appended.
    async fn deliver(&self, commands: &[Command]) -> Vec<Arc<Message>> {
        let before = *self.writer.log().head().borrow();
        let (claim, items) = self.batch(commands);
        assert_eq!(self.writer.deliver(claim, items).await.unwrap(), Delivered::Committed);
        self.writer.log().after(before, 100_000).await.unwrap()
    }

    fn batch(&self, commands: &[Command]) -> (Claim, Vec<Item<Work>>) {
        let mut progress = self.progress.lock().unwrap();
        let from = *progress;
        let env = self.writer.log().env();
        let items = commands.iter().map(|command| {
            let offset = *progress;
            *progress += 1;
            let message = Arc::new(message(env, offset, command));
            let work = Handler.accept(&message);
            Item::row("product", offset, message, work)
        });
        let items = items.collect();
        let (consumer, topic) = ("product".to_owned(), topics::PRODUCT_COMMANDS.to_owned());
        (Claim { consumer, topic, partition: 0, from, next: *progress }, items)
    }

    async fn stock(&self, number: u128) -> Stock {
        let mut reader = self.writer.log().reader().await.unwrap();
        let sql = "SELECT on_hand, reserved, sold, added FROM stock WHERE product_id = $1";
        let (on_hand, reserved, sold, added) = on!(&mut reader.conn(), |c| {
            sqlx::query_as::<DB, (i64, i64, i64, i64)>(sql).bind(product(number).0).fetch_one(c).await
        })
        .unwrap();
        Stock { on_hand, reserved, sold, added }
    }

    /// The reservations as the table has them: order, status, version.
    async fn reservations(&self) -> Vec<(OrderId, String, i64)> {
        let mut reader = self.writer.log().reader().await.unwrap();
        let sql = "SELECT order_id, status, version FROM reservations ORDER BY order_id";
        let rows = on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (Uuid, String, i64)>(sql).fetch_all(c).await).unwrap();
        rows.into_iter().map(|(id, status, version)| (OrderId(id), status, version)).collect()
    }

    /// Ends the writer; the log can be closed then.
    async fn close(self) {
        let Self { writer, tasks, .. } = self;
        drop(writer);
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }
}

fn message(env: &Env, position: i64, command: &Command) -> Message {
    let encoded = command.encode();
    let order_id = order_of(command);
    Message {
        position,
        id: MessageId(env.id()),
        stream: format!("saga-{order_id}"),
        version: position,
        topic: Some(topics::PRODUCT_COMMANDS.to_owned()),
        key: Some(order_id.to_string()),
        kind: encoded.kind.to_owned(),
        schema: encoded.schema,
        data: encoded.data,
        time: Timestamp(1),
        meta: Meta { correlation: Some(order_id.0), trace: Trace::default(), ..Meta::default() },
    }
}

fn order_of(command: &Command) -> OrderId {
    reservation::order_of(command)
}

fn product(number: u128) -> ProductId {
    ProductId(Uuid::from_u128(number))
}

fn order(number: u128) -> OrderId {
    OrderId(Uuid::from_u128(number))
}

fn line(number: u128, quantity: u32) -> StockLine {
    StockLine { product_id: product(number), quantity }
}

fn reserve(number: u128, lines: &[StockLine]) -> Command {
    ReserveStock { order_id: order(number), lines: lines.to_vec() }.into()
}

fn release(number: u128) -> Command {
    ReleaseStock { order_id: order(number) }.into()
}

fn commit(number: u128) -> Command {
    CommitStock { order_id: order(number) }.into()
}

fn events(rows: &[Arc<Message>]) -> Vec<Event> {
    rows.iter().map(|row| Event::decode(&row.kind, row.schema, &row.data).unwrap()).collect()
}

fn reserved(number: u128, lines: &[StockLine], repeated: bool) -> Event {
    StockReserved { order_id: order(number), lines: lines.to_vec(), repeated: Repeated(repeated) }.into()
}

fn refused(number: u128, reason: StockRefusal, products: &[u128], repeated: bool) -> Event {
    let products = products.iter().copied().map(product).collect();
    StockRefused { order_id: order(number), reason, products, repeated: Repeated(repeated) }.into()
}

fn released(number: u128, lines: &[StockLine], restocked: bool, repeated: bool) -> Event {
    StockReleased { order_id: order(number), lines: lines.to_vec(), restocked, repeated: Repeated(repeated) }.into()
}

fn committed(number: u128, lines: &[StockLine], repeated: bool) -> Event {
    StockCommitted { order_id: order(number), lines: lines.to_vec(), repeated: Repeated(repeated) }.into()
}

#[tokio::test]
async fn a_hot_product_is_sold_to_exactly_as_many_as_there_are_pieces() {
    let shop = Shop::open().await;
    shop.add(7, 100).await;
    let commands: Vec<_> = (0..2_000).map(|number| reserve(number, &[line(7, 1)])).collect();
    let said = events(&shop.deliver(&commands).await);
    let won = said.iter().filter(|event| matches!(event, Event::StockReserved(_))).count();
    assert_eq!((said.len(), won), (2_000, 100));
    assert_eq!(said[99], reserved(99, &[line(7, 1)], false));
    assert_eq!(said[100], refused(100, StockRefusal::NotEnough, &[7], false));
    assert_eq!(shop.stock(7).await, Stock { on_hand: 0, reserved: 100, sold: 0, added: 100 });
    shop.close().await;
}

#[tokio::test]
async fn deliveries_that_share_a_transaction_see_each_other() {
    let shop = Shop::open().await;
    shop.add(7, 3).await;
    let before = *shop.writer.log().head().borrow();
    let (first, second) = (shop.batch(&[reserve(1, &[line(7, 2)])]), shop.batch(&[reserve(2, &[line(7, 2)])]));
    let (first, second) = tokio::join!(shop.writer.deliver(first.0, first.1), shop.writer.deliver(second.0, second.1));
    assert_eq!((first.unwrap(), second.unwrap()), (Delivered::Committed, Delivered::Committed));
    let said = events(&shop.writer.log().after(before, 10).await.unwrap());
    assert_eq!(said, [reserved(1, &[line(7, 2)], false), refused(2, StockRefusal::NotEnough, &[7], false)]);
    shop.close().await;
}

#[tokio::test]
async fn a_reply_is_keyed_caused_and_counted_by_its_order() {
    let shop = Shop::open().await;
    shop.add(7, 5).await;
    let rows = shop.deliver(&[reserve(1, &[line(7, 2)]), commit(1)]).await;
    for (row, version) in rows.iter().zip(1..) {
        assert_eq!((row.stream.as_str(), row.version), (format!("reservation-{}", order(1)).as_str(), version));
        assert_eq!((row.topic.as_deref(), row.key.as_deref()), (Some(topics::PRODUCT_EVENTS), Some(&*order(1).to_string())));
        assert!(row.meta.cause.is_some() && row.meta.correlation == Some(order(1).0));
    }
    assert_eq!(events(&rows), [reserved(1, &[line(7, 2)], false), committed(1, &[line(7, 2)], false)]);
    assert_eq!(shop.stock(7).await, Stock { on_hand: 3, reserved: 0, sold: 2, added: 5 });
    shop.close().await;
}

#[tokio::test]
async fn all_lines_or_none() {
    let shop = Shop::open().await;
    shop.add(7, 5).await;
    shop.add(8, 1).await;
    let said = shop.deliver(&[reserve(1, &[line(7, 5), line(8, 2)]), reserve(2, &[line(7, 1), line(9, 1)])]).await;
    assert_eq!(
        events(&said),
        [refused(1, StockRefusal::NotEnough, &[8], false), refused(2, StockRefusal::UnknownProduct, &[9], false)]
    );
    assert_eq!(shop.stock(7).await, Stock { on_hand: 5, reserved: 0, sold: 0, added: 5 });
    shop.close().await;
}

#[tokio::test]
async fn a_removed_product_is_not_reserved_but_what_was_held_goes_on() {
    let shop = Shop::open().await;
    shop.add(7, 5).await;
    shop.deliver(&[reserve(1, &[line(7, 2)]), reserve(2, &[line(7, 1)])]).await;
    shop.admin(catalogue::Command::Remove { product_id: product(7), expected: None }).await;
    let said = shop.deliver(&[reserve(3, &[line(7, 1)]), commit(1), release(2)]).await;
    assert_eq!(
        events(&said),
        [
            refused(3, StockRefusal::UnknownProduct, &[7], false),
            committed(1, &[line(7, 2)], false),
            released(2, &[line(7, 1)], false, false)
        ]
    );
    assert_eq!(shop.stock(7).await, Stock { on_hand: 3, reserved: 0, sold: 2, added: 5 });
    shop.close().await;
}

#[tokio::test]
async fn a_release_before_the_reservation_leaves_a_tombstone() {
    let shop = Shop::open().await;
    shop.add(7, 5).await;
    assert_eq!(events(&shop.deliver(&[release(1)]).await), [released(1, &[], false, false)]);
    let late = shop.deliver(&[reserve(1, &[line(7, 1)])]).await;
    assert_eq!(events(&late), [refused(1, StockRefusal::AlreadyReleased, &[], false)]);
    let again = shop.deliver(&[reserve(1, &[line(7, 1)]), release(1)]).await;
    assert_eq!(events(&again), [refused(1, StockRefusal::AlreadyReleased, &[], true), released(1, &[], false, true)]);
    assert_eq!(shop.stock(7).await, Stock { on_hand: 5, reserved: 0, sold: 0, added: 5 });
    shop.close().await;
}

#[tokio::test]
async fn repeated_commands_get_their_recorded_reply_and_move_nothing() {
    let shop = Shop::open().await;
    shop.add(7, 5).await;
    let lines = [line(7, 2)];
    for (command, reply) in [
        (reserve(1, &lines), reserved as fn(u128, &[StockLine], bool) -> Event),
        (commit(1), committed),
        (release(1), |number, lines, repeated| released(number, lines, true, repeated)),
    ] {
        let first = shop.deliver(&[command.clone(), command.clone()]).await;
        assert_eq!(events(&first), [reply(1, &lines, false), reply(1, &lines, true)]);
        let stock = shop.stock(7).await;
        let later = shop.deliver(&[command]).await;
        assert_eq!((events(&later), later[0].version), (vec![reply(1, &lines, true)], first[1].version + 1));
        assert_eq!(shop.stock(7).await, stock);
    }
    assert_eq!(shop.stock(7).await, Stock { on_hand: 5, reserved: 0, sold: 0, added: 5 });
    shop.close().await;
}

#[tokio::test]
async fn a_commit_after_a_release_becomes_a_dead_letter_and_its_neighbours_go_on() {
    let shop = Shop::open().await;
    shop.add(7, 5).await;
    shop.deliver(&[reserve(1, &[line(7, 2)]), release(1)]).await;
    let rows = shop.deliver(&[reserve(2, &[line(7, 1)]), commit(1), commit(2)]).await;
    let kinds: Vec<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(kinds, ["product.StockReserved", "product.StockCommitted", "skald.DeadLetter"]);
    assert!(rows[2].data.contains("it is released"), "{}", rows[2].data);
    assert_eq!(shop.stock(7).await, Stock { on_hand: 4, reserved: 0, sold: 1, added: 5 });
    shop.close().await;
}

#[tokio::test]
async fn a_message_that_is_no_command_is_poison() {
    let shop = Shop::open().await;
    let mut strange = message(shop.writer.log().env(), 1, &release(1));
    strange.kind = "product.BurnStock".to_owned();
    assert_eq!(Handler.accept(&strange).unwrap_err().error, "unknown message type product.BurnStock");
    let mut broken = message(shop.writer.log().env(), 1, &release(1));
    broken.data = "{}".to_owned();
    assert!(Handler.accept(&broken).unwrap_err().error.contains("missing field `order_id`"));
    shop.close().await;
}

#[tokio::test]
async fn stock_is_not_written_off_below_what_is_free() {
    let shop = Shop::open().await;
    shop.add(7, 5).await;
    shop.deliver(&[reserve(1, &[line(7, 3)])]).await;
    let write_off =
        |change| catalogue::Command::ChangeStock(StockChanged { product_id: product(7), change, reason: "broken".to_owned() });
    assert_eq!(shop.admin(write_off(-3)).await, Done::Refused(catalogue::Refusal::NotEnoughStock { on_hand: 2 }));
    assert!(matches!(shop.admin(write_off(-2)).await, Done::Changed(item) if item.version == 2));
    assert_eq!(shop.stock(7).await, Stock { on_hand: 0, reserved: 3, sold: 0, added: 3 });
    shop.close().await;
}

#[tokio::test]
async fn of_two_products_with_one_sku_in_one_batch_the_second_is_refused() {
    let shop = Shop::open().await;
    let add = |number| {
        let (title, category) = ("Tea".to_owned(), "drinks".to_owned());
        let price = Money::new(499, Currency::EUR);
        let added = ProductAdded { product_id: product(number), sku: "TEA".to_owned(), title, category, price, stock: 1 };
        shop.admin(catalogue::Command::Add(added))
    };
    let (first, second) = tokio::join!(add(7), add(8));
    assert!(matches!(first, Done::Added(_)));
    assert_eq!(second, Done::Refused(catalogue::Refusal::SkuTaken));
    assert_eq!(add(9).await, Done::Refused(catalogue::Refusal::SkuTaken));
    shop.close().await;
}

/// What the log says: every product, every reservation with its version.
fn fold(rows: &[Arc<Message>]) -> (BTreeMap<ProductId, catalogue::Item>, BTreeMap<OrderId, (Reservation, i64)>) {
    let (mut items, mut reservations) = (BTreeMap::new(), BTreeMap::<OrderId, (Reservation, i64)>::new());
    for row in rows.iter().filter(|row| row.stream.starts_with("product-") || row.stream.starts_with("reservation-")) {
        let event = Event::decode(&row.kind, row.schema, &row.data).unwrap();
        if let Some(id) = row.stream.strip_prefix("product-") {
            let id = id.parse().unwrap();
            let item = catalogue::evolve(items.remove(&id), &event, row.time);
            items.insert(id, item.expect("a stream begins with ProductAdded"));
        } else {
            for (movement, line) in stock::movements(&event) {
                let item = items.get_mut(&line.product_id).unwrap();
                item.stock = item.stock.moved(movement, line.quantity);
            }
            let (state, version) = reservations.entry(row.key.as_ref().unwrap().parse().unwrap()).or_default();
            (*state, *version) = (reservation::evolve(std::mem::take(state), &event), row.version);
        }
    }
    (items, reservations)
}

#[tokio::test]
async fn the_tables_are_a_fold_of_the_log() {
    let shop = Shop::open().await;
    let mut random = StdRng::seed_from_u64(7);
    for number in 7..10 {
        shop.add(number, random.random_range(0..20)).await;
    }
    for _ in 0..40 {
        let commands: Vec<_> = (0..random.random_range(1..30))
            .map(|_| {
                let lines = [line(random.random_range(7..10), random.random_range(1..4)), line(7, 1)];
                let number = random.random_range(0..60);
                [reserve(number, &lines), release(number), commit(number)][random.random_range(0..3)].clone()
            })
            .collect();
        shop.deliver(&commands).await;
        let change = StockChanged { product_id: product(8), change: random.random_range(1..4), reason: "delivery".to_owned() };
        shop.admin(catalogue::Command::ChangeStock(change)).await;
    }
    let (items, reservations) = fold(&shop.writer.log().after(0, 100_000).await.unwrap());
    for number in 7..10 {
        assert_eq!(shop.stock(number).await, items[&product(number)].stock);
    }
    let status = |state: &Reservation| match state {
        Reservation::New => "new",
        Reservation::Reserved { .. } => "reserved",
        Reservation::Refused { .. } => "refused",
        Reservation::Released { .. } => "released",
        Reservation::Committed { .. } => "committed",
    };
    let expected: Vec<_> = reservations.iter().map(|(id, (state, version))| (*id, status(state).to_owned(), *version)).collect();
    assert_eq!(shop.reservations().await, expected);
    shop.close().await;
}

#[tokio::test]
async fn two_replicas_sell_a_hot_product_to_exactly_as_many_as_there_are_pieces() {
    let shop = Shop::open().await;
    shop.add(7, 100).await;
    let other = shop.replica().await;
    let sell = async |shop: &Shop, partition: u128| {
        for batch in 0..10 {
            let numbers = (0..20).map(|number| 1_000 * partition + 20 * batch + number);
            let (claim, items) = shop.batch(&numbers.map(|number| reserve(number, &[line(7, 1)])).collect::<Vec<_>>());
            let claim = Claim { partition: i64::try_from(partition).unwrap(), ..claim };
            assert_eq!(shop.writer.deliver(claim, items).await.unwrap(), Delivered::Committed);
        }
    };
    tokio::join!(sell(&shop, 1), sell(&other, 2));
    assert_eq!(shop.stock(7).await, Stock { on_hand: 0, reserved: 100, sold: 0, added: 100 });
    let won = shop.reservations().await.into_iter().filter(|(_, status, _)| status == "reserved").count();
    assert_eq!(won, 100);
    other.close().await;
    shop.close().await;
}
