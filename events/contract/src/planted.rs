//! Faults planted on purpose, to see that the proofs find them: what a person could get wrong, each by its name.
//!
//! They exist only in a build with the feature `planted`, and there only the one that `SKALD_PLANTED` names when the process starts;
//! everywhere else [`Fault::is_planted`] is `false` at compile time. Which proof finds which is in docs/planted-faults.md.

/// Declares the faults: variant, name, what is wrong then.
macro_rules! faults {
    ($($variant:ident = $name:literal: $what:literal,)*) => {
        /// One way to get it wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $(#[doc = $what] $variant,)* }

        impl Fault {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What `SKALD_PLANTED` calls it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What is wrong then, in one sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what),* }
            }
        }
    };
}

faults! {
    UnknownIsRefused = "unknown-is-refused": "a payment without an answer is taken for a declined one: nothing voids it",
    CancelPastThePivot = "cancel-past-the-pivot": "a customer's cancel is accepted while the payment is being captured",
    CompensationGivenUp = "compensation-given-up": "a compensation that gets no answer in time is taken for done",
    CaptureGivenUp = "capture-given-up": "a capture that gets no answer in time is given up: the stock goes back, and nothing refunds the payment",
    DeclineKeepsTheStock = "decline-keeps-the-stock": "a declined payment ends the order without releasing its stock",
    LateReplyRevives = "late-reply-revives": "a reservation that is reported late takes up an order again that is being compensated",
    StuckAtOnce = "stuck-at-once": "an instance that is flagged as stuck takes no reply any more",
    ProgressBeforeEffects = "progress-before-effects": "the progress of a consumer is committed before the effects of its messages",
    RepeatsAreHandled = "repeats-are-handled": "a message that came before is handled again",
    GapsAreSkipped = "gaps-are-skipped": "a message behind a gap is handled as if nothing were missing",
    CheckpointBeforeReport = "checkpoint-before-report": "the relay saves its checkpoint before the broker has reported",
    ZombieUnfenced = "zombie-unfenced": "a relay that lost its lease still saves its checkpoint",
    DeadlineLost = "deadline-lost": "a deadline that passes while nobody looks is never acted upon",
    StaleDeadline = "stale-deadline": "a deadline that passed is not held against the version that armed it",
    ReplyForgotten = "reply-forgotten": "a repeated command gets no reply",
    StockTombstoneForgotten = "stock-tombstone-forgotten": "a release of what was never reserved leaves nothing behind: a late reservation takes the stock",
    PaymentTombstoneForgotten = "payment-tombstone-forgotten": "a void of what was never authorized leaves nothing behind: a late authorization takes the money",
    ReleaseTwice = "release-twice": "a repeated release gives the stock back again",
    PartOfTheLines = "part-of-the-lines": "a reservation that lacks one line keeps the others",
    StockFromMemory = "stock-from-memory": "stock levels are remembered over transactions, and not read again under the lock",
    KeyWithAttempt = "key-with-attempt": "the payment provider's idempotency key holds the number of the try",
    TimeoutIsDeclined = "timeout-is-declined": "a call to the provider that timed out is taken for declined",
    GapNeverDrained = "gap-never-drained": "messages behind a gap are kept, and not looked for once it has closed",
    BufferGoesOn = "buffer-goes-on": "a reader goes on with its buffer where another has handled less than was taken out of it, and believes what it misses",
    OutageIsPoison = "outage-is-poison": "a message that meets a database that is away becomes a dead letter",
    PermissionIsPoison = "permission-is-poison": "a message that meets a database that denies access becomes a dead letter",
    RefundForgotten = "refund-forgotten": "the void of a captured payment answers without a refund",
    CallsForgotten = "calls-forgotten": "a call without an answer is not made again",
    LargeIsLeft = "large-is-left": "a message that takes more than a batch may is left where it is, and all that follow it",
    SignatureUnchecked = "signature-unchecked": "the signature of a record is not held against it",
    EpochOfAnybody = "epoch-of-anybody": "an epoch that nobody has vouched for begins a chain of its own",
    IdempotencyKeyUnused = "idempotency-key-unused": "the answer to an idempotency key is not kept",
    LeaseBelieved = "lease-believed": "a lease that ends later than any lease can is waited for",
    InstantsUnclamped = "instants-unclamped": "an instant that lies further ahead than its own wait allows is waited for",
    UnreadableBlocks = "unreadable-blocks": "a row that this build can't read stays where it is among those that are due",
}

#[cfg(feature = "planted")]
static CHOSEN: std::sync::LazyLock<Option<Fault>> = std::sync::LazyLock::new(|| {
    let name = std::env::var("SKALD_PLANTED").ok().filter(|name| !name.is_empty())?;
    let fault = Fault::ALL.iter().copied().find(|fault| fault.name() == name);
    Some(fault.unwrap_or_else(|| panic!("SKALD_PLANTED={name} is no fault; see contract::planted")))
});

impl Fault {
    /// Whether this process was started with the fault.
    #[inline]
    pub fn is_planted(self) -> bool {
        #[cfg(feature = "planted")]
        return *CHOSEN == Some(self);
        #[cfg(not(feature = "planted"))]
        false
    }
}
