//! The laws by name, and what was found about each: how often it was checked, and who breaks it.
//!
//! Never here: SQL, or what a law means; the other rooms check and only say so here. From here the flow goes to `report.rs`.

/// Offenders kept by name; the rest is only counted.
const OFFENDERS_MAX: usize = 20;

/// One law of the audit, with what was found.
#[derive(Clone, Debug)]
pub(crate) struct Law {
    /// Stable, kebab case.
    pub id: &'static str,
    pub statement: &'static str,
    /// How many things it was checked on.
    pub checked: u64,
    /// How many of them break it.
    pub broken: u64,
    /// The first of those that break it, in words.
    pub offenders: Vec<String>,
}

macro_rules! laws {
    ($($name:ident = $id:literal $statement:literal,)*) => {
        /// Names a law. Those from [`FIRST_SETTLED`] on hold only of a system that has come to rest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Id { $($name),* }

        const LAWS: &[(Id, &str, &str)] = &[$((Id::$name, $id, $statement)),*];
    };
}

laws! {
    PositionsGapless = "positions-gapless" "the positions of a log are 1 to its head, without a gap",
    VersionsGapless = "versions-gapless" "the versions of a stream are 1, 2, 3 and so on, in the order of positions",
    IdsUnique = "ids-unique" "no two messages have the same id",
    PayloadsReadable = "payloads-readable" "every row is JSON of a type that belongs into its stream",
    CausesExist = "causes-exist" "every cause is a message of some log",
    EffectsOnce = "effects-once" "no message had its effects twice in one service",
    ProgressWithinSource = "progress-within-source" "no consumer has handled more than the log that it reads holds, or anything of another log",

    SagasReplay = "sagas-replay" "the stream of every saga replays through the table",
    OrdersMatchSagas = "orders-match-sagas" "an order and its saga tell of the same lines, total, end and reason",
    OpenHasDeadline = "open-has-deadline" "whatever has not ended has a live deadline",

    OrdersMatchLog = "orders-match-log" "the rows of orders are the fold of the log",
    SagasMatchLog = "sagas-match-log" "the rows of sagas are the fold of the log",
    ProductsMatchLog = "products-match-log" "the rows of products are the fold of the log",
    StockMatchesLog = "stock-matches-log" "the rows of stock are the fold of the log",
    ReservationsMatchLog = "reservations-match-log" "the rows of reservations are the fold of the log",
    PaymentsMatchLog = "payments-match-log" "the rows of payments are the fold of the log",
    NotificationsMatchLog = "notifications-match-log" "the rows of notifications are the fold of the log",
    UsersMatchLog = "users-match-log" "the rows of users are the fold of the log",
    DeadLettersMatchLog = "dead-letters-match-log" "the rows of dead letters are the fold of the log",

    ConfirmedCapturedOnce = "confirmed-captured-once" "a confirmed order has exactly one capture at the provider, of its total",
    ConfirmedStockCommitted = "confirmed-stock-committed" "a confirmed order has one committed reservation, with its lines",
    CancelledNothingTaken = "cancelled-nothing-taken" "a cancelled order has captures minus refunds zero, and nothing authorized",
    CancelledNothingReserved = "cancelled-nothing-reserved" "a cancelled order has nothing reserved and nothing committed",

    ReservationsHaveOrder = "reservations-have-order" "no reservation without an order",
    ReservedIsOpen = "reserved-is-open" "the reserved pieces of a product are the sum of its open reservations",
    StockConserved = "stock-conserved" "on hand, reserved and sold are never negative, and together what was ever added",

    PaymentsHaveOrder = "payments-have-order" "no authorization without an order; its customer and its total are the order's",
    PaymentsAtProvider = "payments-at-provider" "what the payment log says of a call stands in the provider's ledger",
    ProviderInPayments = "provider-in-payments" "what stands in the provider's ledger was intended, and its answer is in the payment log",
    ChargesMatchCalls = "charges-match-calls" "the provider's charge of an order is the sum of its calls",
    CapturedAtMostOnce = "captured-at-most-once" "no order is captured twice",

    KeysNameOneOrder = "keys-name-one-order" "one Idempotency-Key, one order",
    NotifiedOnce = "notified-once" "no outcome is notified twice, and none that never was",

    AllEnded = "all-ended" "every order has ended",
    NoneStuck = "none-stuck" "nothing is stuck",
    NoOpenCall = "no-open-call" "no call to the provider is open",
    NoDeadLetter = "no-dead-letter" "no dead letter is unsolved",
    NoQueuedNotification = "no-queued-notification" "no notification is waiting",
    ConsumersAtHead = "consumers-at-head" "every consumer has handled all that its sources hold for it",
    NoneParked = "none-parked" "no message waits for one that is missing",
    AllNotified = "all-notified" "the outcome of every order was notified",
}

/// The first law that only `--settled` asks.
const FIRST_SETTLED: Id = Id::AllEnded;

/// What has been found so far.
pub(super) struct Laws {
    laws: Vec<Law>,
}

impl Laws {
    pub(super) fn new(settled: bool) -> Self {
        let asked = LAWS.iter().filter(|(id, ..)| settled || *id < FIRST_SETTLED);
        let laws = asked.map(|(_, id, statement)| Law { id, statement, checked: 0, broken: 0, offenders: Vec::new() });
        Self { laws: laws.collect() }
    }

    /// Counts one thing that the law was checked on, and keeps who breaks it. A law that is not asked is not heard.
    pub(super) fn check(&mut self, id: Id, holds: bool, offender: impl FnOnce() -> String) {
        let Some(law) = self.laws.get_mut(id as usize) else { return };
        law.checked += 1;
        if !holds {
            law.broken += 1;
            if law.offenders.len() < OFFENDERS_MAX {
                law.offenders.push(offender());
            }
        }
    }

    pub(super) fn into_vec(self) -> Vec<Law> {
        self.laws
    }
}
