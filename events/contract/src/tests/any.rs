//! Any payload of any type, for property tests: what is usual, and what lies on a boundary.
//!
//! Never here: what must hold of it; that is `payloads.rs`. A new type needs its line in [`cases`], or a test says so.

use std::{fmt, rc::Rc};

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    Cause, Currency, DeadLetter, DecodeError, Encoded, Money, Record,
    envelope::Repeated,
    notification::{self, NotificationDelivered, NotificationGivenUp, NotificationQueued},
    order::{self, CancelReason, Line, OrderCancelled, OrderConfirmed, OrderPlaced},
    payment::{self, *},
    product::{self, *},
    saga::{self, SagaEnded, SagaMoved, SagaStarted, SagaStuck},
    user::{self, ProfileChanged, RoleChanged, UserRegistered},
};

/// Whether data of a schema version are read as one certain payload.
type IsReadBack = dyn Fn(i64, &str) -> Result<bool, DecodeError>;

/// One payload, its type forgotten.
#[derive(Clone)]
pub(super) struct Case {
    pub encoded: Encoded,
    shown: String,
    is_read_back: Rc<IsReadBack>,
}

impl Case {
    /// Whether these data, of this schema version, are read as the very payload that this case began with.
    pub(super) fn is_read_from(&self, schema: i64, data: &str) -> Result<bool, DecodeError> {
        (self.is_read_back)(schema, data)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.encoded.kind, self.shown)
    }
}

/// A message enum, or the dead letter.
trait Payload: Clone + fmt::Debug + PartialEq + 'static {
    fn encoded(&self) -> Encoded;
    fn decoded(kind: &str, schema: i64, data: &str) -> Result<Self, DecodeError>;
}

macro_rules! payloads {
    ($($name:ty),*) => {$(
        impl Payload for $name {
            fn encoded(&self) -> Encoded {
                self.encode()
            }

            fn decoded(kind: &str, schema: i64, data: &str) -> Result<Self, DecodeError> {
                Self::decode(kind, schema, data)
            }
        }
    )*};
}
payloads!(
    order::Event,
    product::Command,
    product::Event,
    payment::Command,
    payment::Event,
    user::Event,
    notification::Event,
    saga::Event
);

impl Payload for DeadLetter {
    fn encoded(&self) -> Encoded {
        self.encode()
    }

    fn decoded(_: &str, _: i64, data: &str) -> Result<Self, DecodeError> {
        Self::decode(data)
    }
}

fn of<E: Payload>(payload: impl Strategy<Value = impl Into<E>> + 'static) -> BoxedStrategy<Case> {
    let case = |payload: E| {
        let (encoded, shown) = (payload.encoded(), format!("{payload:?}"));
        let kind = encoded.kind;
        Case { encoded, shown, is_read_back: Rc::new(move |schema, data| Ok(E::decoded(kind, schema, data)? == payload)) }
    };
    payload.prop_map(move |payload| case(payload.into())).boxed()
}

/// Numbers as they are, and those where arithmetic breaks.
fn whole() -> impl Strategy<Value = i64> {
    prop_oneof![select(vec![i64::MIN, i64::MIN + 1, -1, 0, 1, 1 << 53, i64::MAX - 1, i64::MAX]), any::<i64>()]
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![select(vec![0, 1, 1_000, i32::MAX as u32, u32::MAX]), any::<u32>()]
}

/// Ids of the version that is made here, of others, and of none.
pub(super) fn id<T: From<Uuid> + fmt::Debug>() -> impl Strategy<Value = T> {
    let versioned = (any::<[u8; 16]>(), select(vec![1, 4, 7, 8])).prop_map(|(mut bytes, version)| {
        bytes[6] = bytes[6] & 0x0f | version << 4;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Uuid::from_bytes(bytes)
    });
    let none = select(vec![Uuid::nil(), Uuid::from_u128(u128::MAX)]);
    prop_oneof![4 => versioned, 1 => none, 1 => any::<u128>().prop_map(Uuid::from_u128)].prop_map(T::from)
}

/// Text of any kind: none, NUL, what JSON escapes, both ends of Unicode, marks that change the direction, and long ones.
pub(super) fn text() -> impl Strategy<Value = String> {
    let odd =
        ["", "\0", "a\0b", "\"\\/\u{8}\u{c}\n\r\t", "\u{7f}\u{80}\u{2028}", "\u{feff}", "\u{202e}abc", "e\u{301}", "\u{10ffff}"];
    let long = (1..20_000usize).prop_map(|length| "é".repeat(length));
    prop_oneof![4 => any::<String>(), 3 => select(odd.map(str::to_owned).to_vec()), 1 => long]
}

fn money() -> impl Strategy<Value = Money> {
    let currency = "[A-Z]{3}".prop_map(|code| code.parse::<Currency>().expect("three capitals"));
    (whole(), currency).prop_map(|(amount, currency)| Money::new(amount, currency))
}

fn repeated() -> impl Strategy<Value = Repeated> {
    any::<bool>().prop_map(Repeated)
}

/// None, a few, and once in a while more than any basket has.
fn list<T: fmt::Debug>(item: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![9 => vec(item.clone(), 0..4), 1 => vec(item, 300)]
}

prop_compose! {
    fn line()(product_id in id(), title in "\\PC{0,20}", quantity in count(), unit_price in money()) -> Line {
        Line { product_id, title, quantity, unit_price }
    }
}

fn lines() -> impl Strategy<Value = Vec<StockLine>> {
    list((id(), count()).prop_map(|(product_id, quantity)| StockLine { product_id, quantity }).boxed())
}

/// JSON of somebody else's making, with whole numbers only: a fraction may come back as its neighbour.
pub(super) fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        whole().prop_map(Value::from),
        Just(Value::from(u64::MAX)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let object = vec((text(), inner.clone()), 0..4).prop_map(|members| Value::from(Map::from_iter(members)));
        prop_oneof![vec(inner, 0..4).prop_map(Value::from), object]
    })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..60), text().prop_map(String::into_bytes)]
}

fn record() -> impl Strategy<Value = Record> {
    let headers = vec((any::<String>(), bytes()), 0..6);
    (option::of(bytes()), headers, option::of(bytes())).prop_map(|(key, headers, value)| Record { key, headers, value })
}

prop_compose! {
    /// One that is kept whole: what is cut off where it is too large has a test of its own in `records.rs`.
    fn dead_letter()(
        (consumer, topic, error) in (text(), text(), "\\PC{0,200}|\0"),
        (partition, offset) in (whole(), whole()),
        cause in select(Cause::ALL.to_vec()),
        (attempts, replays) in (count(), count()),
        record in record(),
    ) -> DeadLetter {
        DeadLetter { consumer, topic, partition, offset, cause, error, attempts, replays, record }
    }
}

prop_compose! {
    fn moved()(
        (input, context) in (json(), option::of(json().prop_filter("null is none", |value| !value.is_null()))),
        (from, to) in (option::of(text()), text()),
        (reason, asked, note) in (option::of(text()), option::of(text()), option::of(text())),
        attempt in count(),
    ) -> SagaMoved {
        SagaMoved { input, from, to, reason, asked, attempt, context, note }
    }
}

/// A strategy for each payload type: `field: strategy`, in the order of the struct.
macro_rules! made {
    ($name:ident { $($field:ident: $strategy:expr),* $(,)? }) => {
        ($($strategy,)*).prop_map(|($($field,)*)| $name { $($field),* })
    };
}

fn of_orders() -> Vec<BoxedStrategy<Case>> {
    let placed = made!(OrderPlaced { order_id: id(), customer_id: id(), lines: list(line().boxed()), total: money() });
    let confirmed = made!(OrderConfirmed { order_id: id(), customer_id: id(), total: money() });
    let reason = select(CancelReason::ALL.to_vec());
    let cancelled = made!(OrderCancelled { order_id: id(), customer_id: id(), total: money(), reason: reason });
    vec![of::<order::Event>(placed), of::<order::Event>(confirmed), of::<order::Event>(cancelled)]
}

fn of_products() -> Vec<BoxedStrategy<Case>> {
    type Asked = product::Command;
    type Told = product::Event;
    let reason = select(vec![StockRefusal::NotEnough, StockRefusal::UnknownProduct, StockRefusal::AlreadyReleased]);
    let added =
        made!(ProductAdded { product_id: id(), sku: text(), title: text(), category: text(), price: money(), stock: whole() });
    let changed = made!(ProductChanged { product_id: id(), title: text(), category: text(), price: money() });
    let refused = made!(StockRefused { order_id: id(), reason: reason, products: list(id().boxed()), repeated: repeated() });
    let released = made!(StockReleased { order_id: id(), lines: lines(), restocked: any::<bool>(), repeated: repeated() });
    vec![
        of::<Asked>(made!(ReserveStock { order_id: id(), lines: lines() })),
        of::<Asked>(made!(ReleaseStock { order_id: id() })),
        of::<Asked>(made!(CommitStock { order_id: id() })),
        of::<Told>(added),
        of::<Told>(changed),
        of::<Told>(made!(ProductRemoved { product_id: id() })),
        of::<Told>(made!(StockChanged { product_id: id(), change: whole(), reason: text() })),
        of::<Told>(made!(StockReserved { order_id: id(), lines: lines(), repeated: repeated() })),
        of::<Told>(refused),
        of::<Told>(released),
        of::<Told>(made!(StockCommitted { order_id: id(), lines: lines(), repeated: repeated() })),
    ]
}

fn of_payments() -> Vec<BoxedStrategy<Case>> {
    type Asked = payment::Command;
    type Told = payment::Event;
    let operation = select(vec![Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund]);
    vec![
        of::<Asked>(made!(AuthorizePayment { order_id: id(), customer_id: id(), amount: money(), token: text() })),
        of::<Asked>(made!(CapturePayment { order_id: id() })),
        of::<Asked>(made!(VoidPayment { order_id: id() })),
        of::<Told>(made!(CallIntended { order_id: id(), operation: operation, amount: money() })),
        of::<Told>(made!(VoidRequested { order_id: id() })),
        of::<Told>(made!(PaymentAuthorized { order_id: id(), amount: money(), repeated: repeated() })),
        of::<Told>(made!(PaymentDeclined { order_id: id(), code: text(), repeated: repeated() })),
        of::<Told>(made!(PaymentCaptured { order_id: id(), amount: money(), repeated: repeated() })),
        of::<Told>(made!(CaptureRefused { order_id: id(), code: text(), repeated: repeated() })),
        of::<Told>(made!(PaymentVoided { order_id: id(), refunded: option::of(money()), repeated: repeated() })),
    ]
}

fn of_the_rest() -> Vec<BoxedStrategy<Case>> {
    type Notified = notification::Event;
    let queued = made!(NotificationQueued { notification_id: id(), order_id: id(), customer_id: id(), template: text() });
    let delivered = made!(NotificationDelivered { notification_id: id(), order_id: id(), attempts: count() });
    let given_up = made!(NotificationGivenUp { notification_id: id(), order_id: id(), attempts: count(), reason: text() });
    let ended = made!(SagaEnded { saga: text(), saga_id: id(), outcome: text(), reason: option::of(text()) });
    vec![
        of::<user::Event>(made!(UserRegistered { user_id: id(), role: text() })),
        of::<user::Event>(made!(ProfileChanged { user_id: id() })),
        of::<user::Event>(made!(RoleChanged { user_id: id(), from: text(), to: text(), reason: text() })),
        of::<Notified>(queued),
        of::<Notified>(delivered),
        of::<Notified>(given_up),
        of::<saga::Event>(made!(SagaStarted { saga: text(), saga_id: id(), definition: any::<u16>() })),
        of::<saga::Event>(moved()),
        of::<saga::Event>(ended),
        of::<saga::Event>(made!(SagaStuck { saga: text(), saga_id: id(), step: text(), attempts: count() })),
        of::<DeadLetter>(dead_letter()),
    ]
}

/// A strategy a type.
pub(super) fn cases() -> Vec<BoxedStrategy<Case>> {
    [of_orders(), of_products(), of_payments(), of_the_rest()].concat()
}
