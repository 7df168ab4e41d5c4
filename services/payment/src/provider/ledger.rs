//! The books of the built-in provider: every call by its idempotency key, and what stands against an order.
//!
//! Never here: what the payment service knows of the order; the two meet only in a call and its answer. From here the flow
//! goes back to `simulator.rs`, which gives the recorded answer or withholds it.

use std::{collections::BTreeMap, time::Duration};

use contract::{Money, OrderId, Timestamp, payment::Operation};
use eventlog::{Conn, Error, Unit, for_update, on, select_in, write_many};
use uuid::Uuid;

use super::{Call, Verdict, key};

/// How the simulated provider behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The share of good authorizations that are granted.
    pub success_rate: f64,
    /// How long an authorization of `tok_slow` takes to take effect.
    pub slow: Duration,
}

/// What the books say to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Answer(Verdict),
    /// No answer: not yet in effect, or in effect and its first answer lost.
    Silence,
    /// The key was used for something else.
    Misused(String),
}

#[derive(Clone, Debug)]
struct Entry {
    order_id: OrderId,
    operation: Operation,
    amount: Money,
    /// None until it takes effect.
    verdict: Option<Verdict>,
    effective_at: Timestamp,
    is_new: bool,
    changed: bool,
}

#[derive(Clone, Debug)]
struct Charge {
    currency: String,
    held_minor: i64,
    captured_minor: i64,
    refunded_minor: i64,
    /// How often money was taken: more than once is the double charge that must never be.
    captures: i64,
    /// A bit for each operation that was ever called, so that a first call need not look for an earlier one.
    operations: i64,
    is_new: bool,
    changed: bool,
}

impl Charge {
    fn new(currency: &str) -> Self {
        let (currency, is_new, changed) = (currency.to_owned(), true, false);
        Self { currency, held_minor: 0, captured_minor: 0, refunded_minor: 0, captures: 0, operations: 0, is_new, changed }
    }

    /// Moves the money that a call asks for. Only the token decides who is refused.
    fn take_effect(&mut self, call: &Call, rules: Rules, random: u64) -> Verdict {
        self.changed = true;
        let amount = call.amount.amount_minor;
        match call.operation {
            Operation::Authorize => match call.token.as_str() {
                "tok_declined" => Verdict::Declined("card_declined".into()),
                "tok_ok" | "tok_slow" | "tok_lost" | "tok_capture_refused" => {
                    // 53 bits make the whole range of an f64 between 0 and 1.
                    if (random >> 11) as f64 / (1u64 << 53) as f64 >= rules.success_rate {
                        return Verdict::Declined("processing_error".into());
                    }
                    self.held_minor += amount;
                    Verdict::Authorized
                }
                _ => Verdict::Declined("invalid_token".into()),
            },
            Operation::Capture if call.token == "tok_capture_refused" => Verdict::CaptureRefused("capture_refused".into()),
            // Not bound to what was captured before: whoever captures twice, under two keys, must find it in the books.
            Operation::Capture if self.held_minor < amount && self.captured_minor == 0 => {
                Verdict::CaptureRefused("no_hold".into())
            }
            Operation::Capture => {
                self.held_minor = (self.held_minor - amount).max(0);
                self.captured_minor += amount;
                self.captures += 1;
                Verdict::Captured
            }
            Operation::Void => {
                self.held_minor = 0;
                Verdict::Voided
            }
            Operation::Refund => {
                self.refunded_minor += amount.min(self.captured_minor - self.refunded_minor);
                Verdict::Refunded
            }
        }
    }
}

fn bit(operation: Operation) -> i64 {
    match operation {
        Operation::Authorize => 1,
        Operation::Capture => 2,
        Operation::Void => 4,
        Operation::Refund => 8,
    }
}

/// The part of the books that one batch of calls is about.
#[derive(Default)]
pub(crate) struct Books {
    charges: BTreeMap<OrderId, Charge>,
    entries: BTreeMap<String, Entry>,
}

impl Books {
    /// Loads and locks what these calls are about.
    pub(crate) async fn load(unit: &mut Unit<'_>, calls: &[&Call]) -> Result<Self, Error> {
        let mut orders: Vec<Uuid> = calls.iter().map(|call| call.order_id.0).collect();
        orders.sort_unstable();
        orders.dedup();
        let charges = charges(unit.conn(), &orders).await?;
        let mut repeated: Vec<String> = calls
            .iter()
            .filter(|call| charges.get(&call.order_id).is_some_and(|charge| charge.operations & bit(call.operation) != 0))
            .map(|call| call.key.clone())
            .collect();
        repeated.sort_unstable();
        repeated.dedup();
        let entries = entries(unit.conn(), &repeated).await?;
        Ok(Self { charges, entries })
    }

    /// Answers one call; a key that was used before gets its recorded answer and moves nothing.
    pub(crate) fn answer(&mut self, call: &Call, rules: Rules, now: Timestamp, random: u64) -> Reply {
        let Call { order_id, operation, amount, .. } = *call;
        let charge = self.charges.entry(order_id).or_insert_with(|| Charge::new(amount.currency.as_str()));
        if let Some(entry) = self.entries.get_mut(&call.key) {
            if (entry.order_id, entry.operation, entry.amount) != (order_id, operation, amount) {
                return Reply::Misused(format!("the idempotency key {} was used for something else", call.key));
            }
            if entry.verdict.is_none() && entry.effective_at <= now {
                (entry.verdict, entry.changed) = (Some(charge.take_effect(call, rules, random)), true);
            }
            return entry.verdict.clone().map_or(Reply::Silence, Reply::Answer);
        }
        charge.operations |= bit(operation);
        charge.changed = true;
        let slow = call.token == "tok_slow" && operation == Operation::Authorize;
        let (verdict, effective_at) = match slow {
            true => (None, now.plus(rules.slow)),
            false => (Some(charge.take_effect(call, rules, random)), now),
        };
        let lost = call.token == "tok_lost";
        let reply = verdict.clone().filter(|_| !lost).map_or(Reply::Silence, Reply::Answer);
        let entry = Entry { order_id, operation, amount, verdict, effective_at, is_new: true, changed: true };
        self.entries.insert(call.key.clone(), entry);
        reply
    }

    /// Writes what changed. What is new here must be new there: if another replica was asked the same meanwhile, this one loses and
    /// finds its answer.
    pub(crate) async fn save(&self, unit: &mut Unit<'_>) -> Result<(), Error> {
        let now_us = unit.now().0;
        macro_rules! write {
            ($entries:expr, $tail:literal) => {
                write_many!(
                    unit,
                    "INSERT INTO provider_calls \
                     (key, order_id, operation, amount_minor, currency, answer, code, effective_at_us, time_us)",
                    $entries,
                    |r| [
                        r.0.as_str(),
                        r.1.order_id.0,
                        r.1.operation.as_str(),
                        r.1.amount.amount_minor,
                        r.1.amount.currency.as_str(),
                        r.1.verdict.as_ref().map(|verdict| written(verdict).0),
                        r.1.verdict.as_ref().and_then(|verdict| written(verdict).1),
                        r.1.effective_at.0,
                        now_us
                    ],
                    $tail
                )?
            };
        }
        let entries = self.entries.iter().filter(|(_, entry)| entry.changed);
        let (new, changed): (Vec<(&String, &Entry)>, Vec<_>) = entries.partition(|(_, entry)| entry.is_new);
        write!(&new, "");
        write!(&changed, "ON CONFLICT (key) DO UPDATE SET answer = excluded.answer, code = excluded.code");

        macro_rules! write {
            ($charges:expr, $tail:literal) => {
                write_many!(
                    unit,
                    "INSERT INTO provider_charges \
                     (order_id, currency, held_minor, captured_minor, refunded_minor, captures, operations)",
                    $charges,
                    |r| [
                        r.0.0,
                        r.1.currency.as_str(),
                        r.1.held_minor,
                        r.1.captured_minor,
                        r.1.refunded_minor,
                        r.1.captures,
                        r.1.operations
                    ],
                    $tail
                )?
            };
        }
        let charges = self.charges.iter().filter(|(_, charge)| charge.changed);
        let (new, changed): (Vec<(&OrderId, &Charge)>, Vec<_>) = charges.partition(|(_, charge)| charge.is_new);
        write!(&new, "");
        write!(
            &changed,
            "ON CONFLICT (order_id) DO UPDATE SET held_minor = excluded.held_minor, captured_minor = excluded.captured_minor, \
             refunded_minor = excluded.refunded_minor, captures = excluded.captures, operations = excluded.operations"
        );
        Ok(())
    }
}

async fn charges(conn: &mut Conn<'_>, orders: &[Uuid]) -> Result<BTreeMap<OrderId, Charge>, Error> {
    let tail = format!("ORDER BY order_id{}", for_update(conn));
    let rows = select_in!(
        conn,
        (Uuid, String, i64, i64, i64, i64, i64),
        "SELECT order_id, currency, held_minor, captured_minor, refunded_minor, captures, operations FROM provider_charges \
         WHERE order_id",
        orders,
        &tail
    )?;
    let charge = |(order, currency, held_minor, captured_minor, refunded_minor, captures, operations)| {
        let (is_new, changed) = (false, false);
        let charge = Charge { currency, held_minor, captured_minor, refunded_minor, captures, operations, is_new, changed };
        (OrderId(order), charge)
    };
    Ok(rows.into_iter().map(charge).collect())
}

async fn entries(conn: &mut Conn<'_>, keys: &[String]) -> Result<BTreeMap<String, Entry>, Error> {
    type Row = (String, Uuid, String, i64, String, Option<String>, Option<String>, i64);
    let rows = select_in!(
        conn,
        Row,
        "SELECT key, order_id, operation, amount_minor, currency, answer, code, effective_at_us FROM provider_calls WHERE key",
        keys,
        ""
    )?;
    rows.into_iter()
        .map(|(key, order, operation, amount_minor, currency, answer, code, effective_at_us)| {
            let corrupt = || Error::Corrupt(format!("provider call {key}"));
            let currency = currency.parse().map_err(|_| corrupt())?;
            let operation = Operation::parse(&operation).ok_or_else(corrupt)?;
            let (order_id, amount) = (order.into(), Money::new(amount_minor, currency));
            let verdict = match answer {
                Some(answer) => Some(read(&answer, code).ok_or_else(corrupt)?),
                None => None,
            };
            let effective_at = Timestamp(effective_at_us);
            Ok((key, Entry { order_id, operation, amount, verdict, effective_at, is_new: false, changed: false }))
        })
        .collect()
}

/// Everything that took effect or was refused for an order.
pub(crate) async fn verdicts(conn: &mut Conn<'_>, order_id: OrderId) -> Result<Vec<Verdict>, Error> {
    let operations = [Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund];
    let [authorize, capture, void, refund] = operations.map(|operation| key(order_id, operation));
    let rows: Vec<(String, Option<String>)> = on!(conn, |c| sqlx::query_as::<DB, (String, Option<String>)>(
        "SELECT answer, code FROM provider_calls WHERE key IN ($1, $2, $3, $4) AND answer IS NOT NULL"
    )
    .bind(authorize)
    .bind(capture)
    .bind(void)
    .bind(refund)
    .fetch_all(c)
    .await)?;
    rows.into_iter()
        .map(|(answer, code)| read(&answer, code).ok_or_else(|| Error::Corrupt(format!("provider answer {answer}"))))
        .collect()
}

fn written(verdict: &Verdict) -> (&'static str, Option<&str>) {
    match verdict {
        Verdict::Authorized => ("authorized", None),
        Verdict::Declined(code) => ("declined", Some(code)),
        Verdict::Captured => ("captured", None),
        Verdict::CaptureRefused(code) => ("capture_refused", Some(code)),
        Verdict::Voided => ("voided", None),
        Verdict::Refunded => ("refunded", None),
    }
}

fn read(answer: &str, code: Option<String>) -> Option<Verdict> {
    Some(match answer {
        "authorized" => Verdict::Authorized,
        "declined" => Verdict::Declined(code?),
        "captured" => Verdict::Captured,
        "capture_refused" => Verdict::CaptureRefused(code?),
        "voided" => Verdict::Voided,
        "refunded" => Verdict::Refunded,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use contract::Currency;

    use super::*;

    const RULES: Rules = Rules { success_rate: 1.0, slow: Duration::from_micros(100) };

    fn call(operation: Operation, token: &str, key: &str) -> Call {
        let (order_id, amount) = (OrderId(Uuid::from_u128(7)), Money::new(1_999, Currency::EUR));
        Call { operation, order_id, amount, token: token.into(), key: key.into() }
    }

    fn ask(books: &mut Books, call: &Call, at_us: i64) -> Reply {
        books.answer(call, RULES, Timestamp(at_us), 0)
    }

    fn charge(books: &Books) -> (i64, i64, i64, i64) {
        let charge = books.charges.values().next().expect("one order was charged");
        (charge.held_minor, charge.captured_minor, charge.refunded_minor, charge.captures)
    }

    #[test]
    fn the_same_key_gets_its_recorded_answer_and_moves_nothing() {
        let mut books = Books::default();
        for at_us in 0..3 {
            let authorize = call(Operation::Authorize, "tok_ok", "a");
            assert_eq!(ask(&mut books, &authorize, at_us), Reply::Answer(Verdict::Authorized));
        }
        assert_eq!(charge(&books), (1_999, 0, 0, 0));
    }

    #[test]
    fn a_double_charge_under_two_keys_stands_in_the_books() {
        let mut books = Books::default();
        ask(&mut books, &call(Operation::Authorize, "tok_ok", "a"), 0);
        for key in ["c", "c", "c2"] {
            let answer = ask(&mut books, &call(Operation::Capture, "tok_ok", key), 0);
            assert_eq!(answer, Reply::Answer(Verdict::Captured));
        }
        assert_eq!(charge(&books), (0, 3_998, 0, 2));
    }

    #[test]
    fn a_key_used_for_another_amount_or_operation_is_misused() {
        let mut books = Books::default();
        let authorize = call(Operation::Authorize, "tok_ok", "a");
        ask(&mut books, &authorize, 0);
        let other = Call { amount: Money::new(1, Currency::EUR), ..authorize };
        for misuse in [other, call(Operation::Capture, "tok_ok", "a")] {
            assert!(matches!(ask(&mut books, &misuse, 0), Reply::Misused(_)));
        }
        assert_eq!(charge(&books), (1_999, 0, 0, 0));
    }

    #[test]
    fn a_slow_authorization_is_silent_and_holds_nothing_until_it_takes_effect() {
        let mut books = Books::default();
        let slow = call(Operation::Authorize, "tok_slow", "a");
        for at_us in [0, 50, 99] {
            assert_eq!(ask(&mut books, &slow, at_us), Reply::Silence);
            assert_eq!(charge(&books), (0, 0, 0, 0));
        }
        assert_eq!(ask(&mut books, &slow, 100), Reply::Answer(Verdict::Authorized));
        assert_eq!(charge(&books), (1_999, 0, 0, 0));
    }

    #[test]
    fn a_lost_answer_is_silent_once_though_it_took_effect() {
        let mut books = Books::default();
        let lost = call(Operation::Authorize, "tok_lost", "a");
        assert_eq!(ask(&mut books, &lost, 0), Reply::Silence);
        assert_eq!(charge(&books), (1_999, 0, 0, 0));
        assert_eq!(ask(&mut books, &lost, 1), Reply::Answer(Verdict::Authorized));
    }

    #[test]
    fn nothing_is_captured_that_was_never_held() {
        let mut books = Books::default();
        let answer = ask(&mut books, &call(Operation::Capture, "tok_ok", "c"), 0);
        assert_eq!(answer, Reply::Answer(Verdict::CaptureRefused("no_hold".into())));
    }
}
