//! The simulated payment provider and the simulated post: what arrives there, when it takes effect, and their own books.
//!
//! Never here: what the payment service makes of an answer. The world decides what becomes of each call; the books are what the
//! checkers hold the services against.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use contract::{NotificationId, OrderId, payment::Operation};
use notification::channel::{self, Letter};
use payment::provider::{Answer, BoxFuture, Call, PaymentProvider, Verdict};
use tokio::sync::oneshot;

use crate::chance::Chance;

/// What a customer pays with: granted, declined, or granted and never captured.
pub(crate) const TOKENS: [&str; 3] = ["tok_good", "tok_declined", "tok_uncapturable"];

/// What stands against one order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub held_minor: i64,
    pub captured_minor: i64,
    pub refunded_minor: i64,
    pub holds: u32,
    pub captures: u32,
    pub refunds: u32,
}

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Provider(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    by_key: BTreeMap<String, Verdict>,
    accounts: BTreeMap<OrderId, Account>,
    /// Calls that have not come to an end here, by the order in which they were made.
    waiting: BTreeMap<u64, Waiting>,
    calls: u64,
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    caller: oneshot::Sender<Answer>,
}

impl Provider {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls that wait for something to become of them.
    pub(crate) fn waiting(&self) -> Vec<u64> {
        self.books().waiting.keys().copied().collect()
    }

    /// The number of the newest call.
    pub(crate) fn calls(&self) -> u64 {
        self.books().calls
    }

    /// A call takes effect, and is answered unless the answer `is_lost`.
    pub(crate) fn take_effect(&self, number: u64, is_lost: bool) -> String {
        let mut books = self.books();
        let Some(waiting) = books.waiting.remove(&number) else { return String::new() };
        let verdict = books.answer(&waiting.call);
        let said = format!("{} {verdict:?}", waiting.call.key);
        if !is_lost {
            // Who has stopped listening has timed out or crashed.
            let _ = waiting.caller.send(Answer::Definitive(verdict));
        }
        said
    }

    /// A call never arrives: no effect, and no answer or one that says nothing.
    pub(crate) fn drop_call(&self, number: u64, is_told: bool) -> String {
        let Some(waiting) = self.books().waiting.remove(&number) else { return String::new() };
        if is_told {
            let _ = waiting.caller.send(Answer::Unknown("503".to_owned()));
        }
        waiting.call.key
    }

    pub(crate) fn accounts(&self) -> BTreeMap<OrderId, Account> {
        self.books().accounts.clone()
    }
}

impl Books {
    /// One key has one answer; only the first call with it has an effect.
    fn answer(&mut self, call: &Call) -> Verdict {
        if let Some(verdict) = self.by_key.get(&call.key) {
            return verdict.clone();
        }
        let account = self.accounts.entry(call.order_id).or_default();
        let amount = call.amount.amount_minor;
        let verdict = match call.operation {
            Operation::Authorize if call.token == TOKENS[1] => Verdict::Declined("card_declined".to_owned()),
            Operation::Authorize => {
                account.held_minor += amount;
                account.holds += 1;
                Verdict::Authorized
            }
            Operation::Capture if call.token == TOKENS[2] || account.held_minor < amount => {
                Verdict::CaptureRefused("hold_expired".to_owned())
            }
            Operation::Capture => {
                account.held_minor -= amount;
                account.captured_minor += amount;
                account.captures += 1;
                Verdict::Captured
            }
            Operation::Void => {
                account.held_minor = 0;
                Verdict::Voided
            }
            Operation::Refund => {
                account.refunded_minor += amount;
                account.refunds += 1;
                Verdict::Refunded
            }
        };
        self.by_key.insert(call.key.clone(), verdict.clone());
        verdict
    }
}

impl PaymentProvider for Provider {
    fn call<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Answer> {
        let (caller, answer) = oneshot::channel();
        let mut books = self.books();
        books.calls += 1;
        let number = books.calls;
        books.waiting.insert(number, Waiting { call: call.clone(), caller });
        drop(books);
        Box::pin(async move {
            match answer.await {
                Ok(answer) => answer,
                // The line is dead: only the caller's own patience ends this.
                Err(_) => pending().await,
            }
        })
    }

    fn lookup(&self, order_id: OrderId) -> BoxFuture<'_, Result<Vec<Verdict>, String>> {
        let prefix = format!("{order_id}:");
        let found =
            self.books().by_key.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, verdict)| verdict.clone()).collect();
        Box::pin(std::future::ready(Ok(found)))
    }
}

/// What carries letters, and how many of each arrived. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Post(Arc<Mutex<Bag>>);

#[derive(Debug)]
struct Bag {
    chance: Chance,
    /// Of a thousand letters so many are refused, and as many arrive without an answer.
    faults_permille: u32,
    arrived: BTreeMap<NotificationId, (OrderId, String, u32)>,
}

impl Post {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Bag { chance: Chance::new(seed), faults_permille: 0, arrived: BTreeMap::new() })))
    }

    fn bag(&self) -> MutexGuard<'_, Bag> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn be_faulty(&self, permille: u32) {
        self.bag().faults_permille = permille;
    }

    /// Order, template, and how often it arrived.
    pub(crate) fn arrived(&self) -> Vec<(OrderId, String, u32)> {
        self.bag().arrived.values().cloned().collect()
    }
}

impl channel::Channel for Post {
    fn deliver<'a>(&'a self, letter: &'a Letter) -> channel::BoxFuture<'a, Result<(), String>> {
        let mut bag = self.bag();
        let faults = bag.faults_permille;
        if bag.chance.permille(faults) {
            return Box::pin(std::future::ready(Err("mailbox full".to_owned())));
        }
        let is_silent = bag.chance.permille(faults);
        let entry = bag.arrived.entry(letter.notification_id);
        entry.or_insert_with(|| (letter.order_id, letter.template.clone(), 0)).2 += 1;
        Box::pin(async move { if is_silent { pending().await } else { Ok(()) } })
    }
}
