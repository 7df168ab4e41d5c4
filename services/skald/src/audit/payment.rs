//! The payment database: what was asked of the provider and what it answered, by the payment log and by the provider's own ledger.
//!
//! Never here: the payment service's own code. From here the flow goes to `across.rs`, which holds payments against orders.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::{
    laws::{Id, Laws},
    snapshot::{Entry, Snapshot, pages},
    trail::Trails,
    value::{Money, flag, hashed, id, int, money, shown, text},
};

/// The operations of the provider, in the order of the arrays below; each is one bit of a charge's `operations`.
const OPERATIONS: [&str; 4] = ["authorize", "capture", "void", "refund"];
const AUTHORIZE: usize = 0;
const CAPTURE: usize = 1;
const VOID: usize = 2;
const REFUND: usize = 3;

/// A call, with what one side says of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Call {
    amount: Money,
    answer: Option<Answer>,
}

/// An answer of the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    done: bool,
    /// Digest of the code of a refusal.
    code: u64,
}

/// The fold of one payment's stream, and what the provider's ledger says of the same order.
#[derive(Clone, Debug, Default)]
pub(super) struct Payment {
    pub amount: Option<Money>,
    pub customer: Option<u128>,
    /// Captures in the payment log.
    pub captures: u32,
    pub charge: Option<Charge>,
    pub status: &'static str,
    version: i64,
    /// A place in [`OPERATIONS`].
    pub open: Option<usize>,
    void_requested: bool,
    declined_code: Option<u64>,
    refused_code: Option<u64>,
    captured_minor: i64,
    refunded_minor: i64,
    intended: [Option<Call>; 4],
    called: [Option<Call>; 4],
    has_row: bool,
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
            |(order_id, customer, status, minor, currency, operation, due, stuck, void, declined, refused, captured, refunded, version)| {
                let amount = minor.map(|minor| Money::new(minor, currency.as_deref().unwrap_or_default()));
                let open = operation.as_deref();
                let payment = self.payments.get_mut(&order_id.as_u128());
                let same = payment.is_some_and(|payment| {
                    (payment.has_row, payment.customer) = (true, customer.map(|customer| customer.as_u128()));
                    (payment.status, payment.amount, payment.open.map(|open| OPERATIONS[open])) == (status.as_str(), amount, open)
                        && (payment.void_requested, payment.version) == (void != 0, version)
                        && payment.declined_code == declined.map(|code| hashed(&*code))
                        && payment.refused_code == refused.map(|code| hashed(&*code))
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
        for (order_id, _) in self.payments.iter().filter(|(_, payment)| payment.version > 0 && !payment.has_row) {
            laws.check(Id::PaymentsMatchLog, false, || format!("payment of order {} has no row", shown(*order_id)));
        }
        Ok(())
    }

    async fn read_calls(&mut self, snapshot: &mut Snapshot, laws: &mut Laws) -> Result<(), sqlx::Error> {
        pages!(
            snapshot,
            (String, Uuid, String, i64, String, Option<String>, Option<String>),
            "SELECT key, order_id, operation, amount_minor, currency, answer, code FROM provider_calls \
             WHERE key > $1 ORDER BY key LIMIT $2",
            String::new(),
            |(key, order_id, operation, amount_minor, currency, answer, code)| {
                let code = code.map_or(0, |code| hashed(&*code));
                let done = ["authorized", "captured", "voided", "refunded"];
                let call = Call {
                    amount: Money::new(amount_minor, &currency),
                    answer: answer.as_deref().map(|answer| Answer { done: done.contains(&answer), code }),
                };
                let operation = OPERATIONS.iter().position(|known| *known == operation);
                let payment = self.payments.entry(order_id.as_u128()).or_default();
                let known = operation.is_some_and(|operation| payment.called[operation].replace(call).is_none());
                // Two calls of one operation can only have come under two keys.
                laws.check(Id::ProviderInPayments, known, || format!("the call {key} was made before under another key"));
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

    /// Log and ledger, one against the other, both ways.
    fn agree(&self, laws: &mut Laws) {
        for (order_id, payment) in &self.payments {
            for operation in AUTHORIZE..=REFUND {
                let (intended, called) = (payment.intended[operation], payment.called[operation]);
                let of = || format!("{} of order {}", OPERATIONS[operation], shown(*order_id));
                if let Some(Call { amount, answer: answer @ Some(_) }) = intended {
                    let same = called == Some(Call { amount, answer });
                    laws.check(Id::PaymentsAtProvider, same, || format!("{}: the log says {intended:?}, the ledger {called:?}", of()));
                }
                if let Some(call) = called {
                    let meant = intended.filter(|intended| intended.amount == call.amount);
                    // An open call may have an answer there that has not come back yet.
                    let told = payment.open == Some(operation) || meant.is_some_and(|meant| meant.answer == call.answer);
                    laws.check(Id::ProviderInPayments, meant.is_some() && told, || {
                        format!("{}: the ledger says {call:?}, the log {intended:?}", of())
                    });
                }
            }
            let expected = payment.expected_charge();
            laws.check(Id::ChargesMatchCalls, payment.charge == expected, || {
                format!("order {}: {:?}, its calls make {expected:?}", shown(*order_id), payment.charge)
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
        if self.version == 0 {
            self.status = "nothing";
        }
        self.version = entry.version;
        match entry.kind.as_str() {
            "payment.CallIntended" => return self.intend(data),
            "payment.VoidRequested" => self.void_requested = true,
            "payment.PaymentAuthorized" if first => self.answered(AUTHORIZE, "authorized", money(data, "amount")),
            "payment.PaymentCaptured" if first => {
                let amount = money(data, "amount");
                self.captures += 1;
                self.captured_minor += amount.minor;
                self.answered(CAPTURE, "captured", amount);
            }
            "payment.PaymentDeclined" if first => {
                self.declined_code = Some(hashed(text(data, "code")));
                self.refused(AUTHORIZE, "declined", self.declined_code);
            }
            "payment.CaptureRefused" if first => {
                self.refused_code = Some(hashed(text(data, "code")));
                self.refused(CAPTURE, "capture_refused", self.refused_code);
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
        let amount = money(data, "amount");
        self.open = Some(operation);
        self.intended[operation] = Some(Call { amount, answer: None });
        match operation {
            AUTHORIZE => (self.status, self.amount) = ("pending", Some(amount)),
            CAPTURE => {}
            _ => self.void_requested = true,
        }
        true
    }

    /// The provider did it: the amount it tells of is what the ledger must have.
    fn answered(&mut self, operation: usize, status: &'static str, amount: Money) {
        self.intended[operation] = Some(Call { amount, answer: Some(Answer { done: true, code: 0 }) });
        (self.status, self.open) = (status, None);
    }

    fn refused(&mut self, operation: usize, status: &'static str, code: Option<u64>) {
        // Else a tombstone refused a late command: nobody was called.
        if self.open == Some(operation) {
            if let Some(call) = &mut self.intended[operation] {
                call.answer = Some(Answer { done: false, code: code.unwrap_or(0) });
            }
            (self.status, self.open) = (status, None);
        }
    }

    fn voided(&mut self, data: &Value) {
        let refunded = &data["refunded"];
        if !refunded.is_null() {
            self.refunded_minor += int(refunded, "amount_minor");
            self.answered(REFUND, "voided", money(data, "refunded"));
        } else if self.open == Some(VOID) {
            let amount = self.intended[VOID].map_or(Money::default(), |call| call.amount);
            self.answered(VOID, "voided", amount);
        }
        (self.status, self.open, self.void_requested) = ("voided", None, true);
    }

    /// What the ledger's calls make of the charge.
    fn expected_charge(&self) -> Option<Charge> {
        let of = |operation: usize| {
            let done = self.called[operation].filter(|call| call.answer.is_some_and(|answer| answer.done));
            done.map_or(0, |call| call.amount.minor)
        };
        let currency = self.called.iter().flatten().next()?.amount.currency;
        let voided = self.called[VOID].is_some_and(|call| call.answer.is_some());
        let held_minor = if voided { 0 } else { (of(AUTHORIZE) - of(CAPTURE)).max(0) };
        let captures = self.called[CAPTURE].is_some_and(|call| call.answer.is_some_and(|answer| answer.done));
        let made = self.called.iter().enumerate().filter(|(_, call)| call.is_some());
        Some(Charge {
            currency,
            held_minor,
            captured_minor: of(CAPTURE),
            refunded_minor: of(REFUND),
            captures: i64::from(captures),
            operations: made.map(|(operation, _)| 1 << operation).sum(),
        })
    }
}
