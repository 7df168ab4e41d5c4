//! What must never break, by name: the models, the laws and the documentation share these ids; where `skald audit` asks the same of a
//! real system, it is the audit's id.
//!
//! Never here: how it is checked. From here the flow goes to `laws.rs`, to `tests/model` and to docs/model-check.md.

/// Declares the invariants: variant, id, sentence.
macro_rules! invariants {
    ($($variant:ident = $id:literal $sentence:literal,)*) => {
        /// One thing that must never break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant { $(#[doc = $sentence] $variant,)* }

        impl Invariant {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Stable, kebab case.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id),* }
            }

            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence),* }
            }
        }
    };
}

invariants! {
    CanEnd = "can-end" "whatever happened, a good end can still be reached, without any person's help",
    OpenHasDeadline = "open-has-deadline" "whatever has not ended has a live deadline",
    DeadlineInItsWait = "deadline-in-its-wait" "a deadline has an effect only in the wait that armed it",
    PivotOneWay = "pivot-one-way" "from the pivot on only a final refusal or an operator leads to a compensation",
    StuckAfterBound = "stuck-after-bound" "nothing is flagged as stuck before its bound",
    StuckGoesOn = "stuck-goes-on" "the answer that a stuck saga waits for still moves it",
    NoneIllegal = "none-illegal" "no reply comes in a state where nobody asked for it",
    NoDeadLetter = "no-dead-letter" "no command comes that its participant can never accept",

    ConfirmedCapturedOnce = "confirmed-captured-once" "a confirmed order has exactly one capture at the provider, and nothing held beside it",
    ConfirmedStockCommitted = "confirmed-stock-committed" "a confirmed order has a committed reservation",
    CancelledNothingTaken = "cancelled-nothing-taken" "a cancelled order has captures minus refunds zero, and nothing authorized",
    CancelledNothingReserved = "cancelled-nothing-reserved" "a cancelled order has nothing reserved and nothing committed",
    CapturedAtMostOnce = "captured-at-most-once" "no order is captured twice",
    StockConserved = "stock-conserved" "on hand, reserved and sold are never negative, and together what was ever added",

    CleanOrComplete = "clean-or-complete" "a saga ends with every step done, or with nothing left of any step",
    TableSound = "table-sound" "the rows of a table fit each other and its match",
    HistoryReplays = "sagas-replay" "the recorded history of a saga replays through the table to the same instance",

    EffectsOnce = "effects-once" "no message has its effects twice",
    HandledInOrder = "chain-order" "no message is handled before its predecessor",
    NoneSkipped = "none-skipped" "no message is passed over: what is behind the progress was handled or is parked",
    CheckpointNotAhead = "relay-unbroken" "the relay's checkpoint is never ahead of what the broker has reported",
    CheckpointByLeader = "relay-deposed" "only the leader moves the checkpoint: one that was deposed never does more than repeat",
}

#[cfg(test)]
mod tests {
    use super::Invariant;

    #[test]
    fn no_two_invariants_have_the_same_id() {
        let mut ids: Vec<_> = Invariant::ALL.iter().map(|invariant| invariant.id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Invariant::ALL.len());
    }
}
