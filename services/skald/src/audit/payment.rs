//! The payment database: what was asked of the provider and what it answered, by the payment log and by the provider's own ledger.
//!
//! Never here: the payment service's own code. From here the flow goes to `across.rs`, which holds payments against orders.

use std::{collections::HashMap, fmt};

use serde_json::Value;
use uuid::Uuid;

use super::{
    laws::{Id, Laws},
    snapshot::{Entry, Snapshot, pages},
    trail::Trails,
    value::{Money, flag, hashed, id, money, shown, text},
};

/// The operations of the provider; each is one bit of a charge's `operations`.
const OPERATIONS: [&str; 4] = ["authorize", "capture", "void", "refund"];
const AUTHORIZE: usize = 0;
const CAPTURE: usize = 1;
const VOID: usize = 2;
const REFUND: usize = 3;

/// What one side says of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Call {
    #[default]
    Never,
    Unanswered,
    Done,
    /// With a digest of the code.
    Refused(u32),
}

/// The fold of one payment's stream, and what the provider's ledger says of the same order.
#[derive(Clone, Debug, Default)]
pub(super) struct Payment {
    pub amount: Option<Money>,
    /// A row tells of another amount than the first one.
    pub has_other_amount: bool,
    pub customer: Option<u128>,
    /// Captures in the payment log.
    pub captures: u32,
    pub charge: Option<Charge>,
    pub status: Status,
    /// The call that waits for its answer, a place in [`OPERATIONS`].
    pub open: Option<usize>,
    version: i64,
    void_requested: bool,
    declined_code: Option<u32>,
    refused_code: Option<u32>,
    captured_minor: i64,
    refunded_minor: i64,
    /// What the log says of each operation.
    calls: [Call; 4],
    /// Operations of which the ledger says the same; a bit each.
    agreed: u32,
    books: Option<Books>,
    has_row: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Status {
    #[default]
    Nothing,
    Pending,
    Authorized,
    Declined,
    Captured,
    CaptureRefused,
    Voided,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Pending => "pending",
            Self::Authorized => "authorized",
            Self::Declined => "declined",
            Self::Captured => "captured",
            Self::CaptureRefused => "capture_refused",
            Self::Voided => "voided",
        }
    }
}

/// What stands against an order at the provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charge {
    pub currency: [u8; 3],
    pub held_minor: i64,
    pub captured_minor: i64,
    pub refunded_minor: i64,
    pub captures: i64,
    operations: i64,
}

impl fmt::Display for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { currency, held_minor, captured_minor, refunded_minor, captures, .. } = self;
        let currency = currency.escape_ascii();
        write!(f, "held {held_minor}, captured {captured_minor} in {captures}, refunded {refunded_minor} {currency}")
    }
}

impl Payment {
    /// What the provider has against the order, in words.
    pub(super) fn charged(&self) -> String {
        self.charge.map_or_else(|| "no charge".to_owned(), |charge| charge.to_string())
    }
}

/// The sums of the provider's calls for an order.
#[derive(Clone, Copy, Debug, Default)]
struct Books {
    currency: [u8; 3],
    /// Done, by operation.
    minor: [i64; 4],
    captures: i64,
    voided: bool,
    operations: i64,
}

impl Books {
    fn charge(&self) -> Charge {
        let [authorized, captured_minor, _, refunded_minor] = self.minor;
        let held_minor = if self.voided { 0 } else { (authorized - captured_minor).max(0) };
        let Self { currency, captures, operations, .. } = *self;
        Charge { currency, held_minor, captured_minor, refunded_minor, captures, operations }
    }
}

#[derive(Default)]
pub(super) struct Payments {
    pub payments: HashMap<u128, Payment>,
}

impl Payments {
    pub(super) async fn read(snapshot: &mut Snapshot, trails: &mut Trails, laws: &mut Laws) -> Result<Self, sqlx::Error> {
        let mut payments = Self::default();
        trails.walk(snapshot, laws, |laws, entry| payments.take(laws, entry)).await?;
        payments.read_payments(snapshot, laws).await?;
        payments.read_calls(snapshot, laws).await?;
        payments.read_charges(snapshot).await?;
        payments.agree(laws);
        Ok(payments)
    }

    fn take(&mut self, laws: &mut Laws, entry: &Entry) {
        let known = match entry.subject() {
            Some(("payment", order_id)) if id(&entry.data, "order_id") == order_id => {
                self.payments.entry(order_id).or_default().take(entry)
            }
            _ => false,
        };
        laws.check(Id::PayloadsReadable, known, || format!("payment: {} in the stream {}", entry.kind, entry.stream));
    }

    async fn read_payments(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        #[rustfmt::skip]
        type Row = (
            Uuid, Option<Uuid>, String, Option<i64>, Option<String>, Option<String>, Option<i64>, i64, i64, Option<String>,
            Option<String>, i64, i64, i64,
        );
        pages!(
            snapshot,
            Row,
            "SELECT order_id, customer_id, status, amount_minor, currency, operation, due_us, stuck, void_requested, declined_code, \
             refused_code, captured_minor, refunded_minor, version FROM payments WHERE order_id > $1 ORDER BY order_id LIMIT $2",
            Uuid::nil(),
            |(
                order_id,
                customer,
                status,
                minor,
                currency,
                operation,
                due,
                stuck,
                void,
                declined,
                refused,
                captured,
                refunded,
                version,
            )| {
                let amount = minor.map(|minor| Money::new(minor, currency.as_deref().unwrap_or_default()));
                let open = operation.as_deref();
                let payment = self.payments.get_mut(&order_id.as_u128());
                let same = payment.is_some_and(|payment| {
                    (payment.has_row, payment.customer) = (true, customer.map(|customer| customer.as_u128()));
                    (payment.status.as_str(), payment.open.map(|open| OPERATIONS[open])) == (status.as_str(), open)
                        && (payment.amount, payment.void_requested, payment.version) == (amount, void != 0, version)
                        && payment.declined_code == declined.map(|code| brief(&code))
                        && payment.refused_code == refused.map(|code| brief(&code))
                        && (payment.captured_minor, payment.refunded_minor) == (captured, refunded)
                });
                laws.check(Id::PaymentsMatchLog, same, || format!("payment of order {order_id}"));
                laws.check(Id::OpenHasDeadline, open.is_some() == due.is_some(), || {
                    format!("payment of order {order_id}: the open call is {open:?}, it is due at {due:?}")
                });
                laws.check(Id::NoOpenCall, open.is_none() && due.is_none(), || format!("order {order_id}: {open:?} is open"));
                laws.check(Id::NoneStuck, stuck == 0, || format!("payment of order {order_id} is stuck"));
            }
        );
        for (order_id, _) in self.payments.iter().filter(|(_, payment)| !payment.has_row) {
            laws.check(Id::PaymentsMatchLog, false, || format!("payment of order {} has no row", shown(*order_id)));
        }
        Ok(())
    }

    /// The provider's ledger against the log: every call was intended, and what was answered is told.
    async fn read_calls(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (String, Uuid, String, i64, String, Option<String>, Option<String>),
            "SELECT key, order_id, operation, amount_minor, currency, answer, code FROM provider_calls \
             WHERE key > $1 ORDER BY key LIMIT $2",
            String::new(),
            |(key, order_id, word, amount_minor, currency, answer, code)| {
                let call = match answer.as_deref() {
                    None => Call::Unanswered,
                    Some("authorized" | "captured" | "voided" | "refunded") => Call::Done,
                    Some(_) => Call::Refused(code.map_or(0, |code| brief(&code))),
                };
                let amount = Money::new(amount_minor, &currency);
                let payment = self.payments.entry(order_id.as_u128()).or_default();
                let operation = OPERATIONS.iter().position(|known| *known == word);
                // One key an operation: a second call of it can only have come under another key.
                let right = operation
                    .is_some_and(|operation| key == format!("{order_id}:{word}") && payment.called(operation, call, amount));
                laws.check(Id::ProviderInPayments, right, || {
                    let told = operation.map_or(Call::Never, |operation| payment.calls[operation]);
                    let asked = payment.amount.unwrap_or_default();
                    format!("{key}: the ledger has {call:?} over {amount}, the log {told:?} over {asked}")
                });
            }
        );
        Ok(())
    }

    async fn read_charges(&mut self, snapshot: &mut Snapshot) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (Uuid, String, i64, i64, i64, i64, i64),
            "SELECT order_id, currency, held_minor, captured_minor, refunded_minor, captures, operations FROM provider_charges \
             WHERE order_id > $1 ORDER BY order_id LIMIT $2",
            Uuid::nil(),
            |(order_id, currency, held_minor, captured_minor, refunded_minor, captures, operations)| {
                let currency = Money::new(0, &currency).currency;
                let charge = Charge { currency, held_minor, captured_minor, refunded_minor, captures, operations };
                self.payments.entry(order_id.as_u128()).or_default().charge = Some(charge);
            }
        );
        Ok(())
    }

    /// The log against the provider's ledger, and the ledger within itself.
    fn agree(&self, laws: &mut Laws) {
        for (order_id, payment) in &self.payments {
            for (operation, call) in payment.calls.iter().enumerate() {
                if matches!(call, Call::Done | Call::Refused(_)) {
                    laws.check(Id::PaymentsAtProvider, payment.agreed & (1 << operation) != 0, || {
                        format!("{} of order {}: {call:?} by the log only", OPERATIONS[operation], shown(*order_id))
                    });
                }
            }
            let expected = payment.books.map(|books| books.charge());
            laws.check(Id::ChargesMatchCalls, payment.charge == expected, || {
                let made = expected.map_or_else(|| "none".to_owned(), |charge| charge.to_string());
                format!("order {}: {}; its calls make {made}", shown(*order_id), payment.charged())
            });
            let captures = payment.charge.map_or(0, |charge| charge.captures);
            laws.check(Id::CapturedAtMostOnce, captures <= 1 && payment.captures <= 1, || {
                format!("order {}: {captures} captures at the provider, {} in the log", shown(*order_id), payment.captures)
            });
        }
    }
}

impl Payment {
    /// Takes the next row of the stream; tells whether it is of a known type.
    fn take(&mut self, entry: &Entry) -> bool {
        let (data, first) = (&entry.data, !flag(&entry.data, "repeated"));
        self.version = entry.version;
        match entry.kind.as_str() {
            "payment.CallIntended" => return self.intend(data),
            "payment.VoidRequested" => self.void_requested = true,
            "payment.PaymentAuthorized" if first => self.done(AUTHORIZE, Status::Authorized, money(data, "amount")),
            "payment.PaymentCaptured" if first => {
                let amount = money(data, "amount");
                self.captures += 1;
                self.captured_minor += amount.minor;
                self.done(CAPTURE, Status::Captured, amount);
            }
            "payment.PaymentDeclined" if first => {
                let code = brief(text(data, "code"));
                self.declined_code = Some(code);
                self.refused(AUTHORIZE, Status::Declined, code);
            }
            "payment.CaptureRefused" if first => {
                let code = brief(text(data, "code"));
                self.refused_code = Some(code);
                self.refused(CAPTURE, Status::CaptureRefused, code);
            }
            "payment.PaymentVoided" if first => self.voided(data),
            "payment.PaymentAuthorized"
            | "payment.PaymentCaptured"
            | "payment.PaymentDeclined"
            | "payment.CaptureRefused"
            | "payment.PaymentVoided" => {}
            _ => return false,
        }
        true
    }

    fn intend(&mut self, data: &Value) -> bool {
        let Some(operation) = OPERATIONS.iter().position(|known| *known == text(data, "operation")) else { return false };
        self.calls[operation] = Call::Unanswered;
        self.open = Some(operation);
        self.asked_for(money(data, "amount"));
        match operation {
            AUTHORIZE => self.status = Status::Pending,
            CAPTURE => {}
            _ => self.void_requested = true,
        }
        true
    }

    fn asked_for(&mut self, amount: Money) {
        self.has_other_amount |= *self.amount.get_or_insert(amount) != amount;
    }

    fn done(&mut self, operation: usize, status: Status, amount: Money) {
        // What costs nothing is done without a call.
        if amount.minor != 0 || self.calls[operation] != Call::Never {
            self.calls[operation] = Call::Done;
        }
        (self.status, self.open) = (status, None);
        self.asked_for(amount);
    }

    fn refused(&mut self, operation: usize, status: Status, code: u32) {
        // Else a tombstone refused a late command: nobody was called.
        if self.open == Some(operation) {
            self.calls[operation] = Call::Refused(code);
            (self.status, self.open) = (status, None);
        }
    }

    fn voided(&mut self, data: &Value) {
        if !data["refunded"].is_null() {
            let refunded = money(data, "refunded");
            self.refunded_minor += refunded.minor;
            self.done(REFUND, Status::Voided, refunded);
        } else if self.open == Some(VOID) {
            self.calls[VOID] = Call::Done;
        }
        (self.status, self.open, self.void_requested) = (Status::Voided, None, true);
    }

    /// Takes a call out of the provider's ledger; tells whether it is what the log says.
    fn called(&mut self, operation: usize, call: Call, amount: Money) -> bool {
        let books = self.books.get_or_insert_default();
        books.currency = amount.currency;
        books.operations |= 1 << operation;
        if call == Call::Done {
            books.minor[operation] += amount.minor;
            books.captures += i64::from(operation == CAPTURE);
            books.voided |= operation == VOID;
        }
        let meant = self.calls[operation] != Call::Never && self.amount == Some(amount);
        if meant && self.calls[operation] == call {
            self.agreed |= 1 << operation;
        }
        // The answer to an open call may stand there and not have come back yet.
        meant && (self.calls[operation] == call || self.open == Some(operation))
    }
}

/// A digest of a code; half of one is enough to tell a few words apart.
fn brief(code: &str) -> u32 {
    hashed(code) as u32
}
