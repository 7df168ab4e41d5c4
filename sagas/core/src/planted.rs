//! The faults that are planted into the order saga's table, for the proofs to find. Compiled only with the feature `planted`.
//!
//! Never here: anything that an ordinary build runs. From here the flow goes back to `order.rs`, which answers with what is said here.

use contract::{Fault, order::CancelReason};

use crate::{
    Decision,
    order::{Input, State},
};

/// The cell as the planted fault has it; `None` where it leaves the table alone.
pub(crate) fn decide(state: State, input: Input) -> Option<Decision<State, CancelReason>> {
    use Input::{CancelAsked, LastDeadlinePassed, PaymentDeclined, StockReserved};
    use State::{AuthorizingPayment, CapturingPayment, ReleasingStock, VoidingPayment};

    let (fault, to, reason) = match (state, input) {
        (AuthorizingPayment, LastDeadlinePassed) => {
            (Fault::UnknownIsRefused, ReleasingStock, Some(CancelReason::PaymentDeclined))
        }
        (AuthorizingPayment, PaymentDeclined) => {
            (Fault::DeclineKeepsTheStock, State::Cancelled, Some(CancelReason::PaymentDeclined))
        }
        (CapturingPayment, CancelAsked) => (Fault::CancelPastThePivot, VoidingPayment, Some(CancelReason::CancelledByCustomer)),
        (CapturingPayment, LastDeadlinePassed) => (Fault::CaptureGivenUp, ReleasingStock, Some(CancelReason::PaymentTimeout)),
        (VoidingPayment, LastDeadlinePassed) => (Fault::CompensationGivenUp, ReleasingStock, None),
        (ReleasingStock, LastDeadlinePassed) => (Fault::CompensationGivenUp, State::Cancelled, None),
        (ReleasingStock, StockReserved) => (Fault::LateReplyRevives, AuthorizingPayment, None),
        _ => return None,
    };
    fault.is_planted().then_some(Decision::Moved { to, reason })
}
