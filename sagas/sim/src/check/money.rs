//! Money: the provider's books. Held, captured and refunded at most once, never more than was taken, never without an order.

use super::View;
use crate::replica::Name;

pub(super) fn check(view: &View, wrong: &mut Vec<String>) {
    for (order, account) in &view.accounts {
        if account.holds > 1 || account.captures > 1 || account.refunds > 1 {
            wrong.push(format!("charge-once: order {order} has {account:?}"));
        }
        if account.held_minor < 0 || account.refunded_minor > account.captured_minor {
            wrong.push(format!("money-conserved: order {order} has {account:?}"));
        }
        let stream = format!("payment-{order}");
        let intended = |operation: &str| {
            let rows = view.log(Name::Payment).iter().filter(|row| row.stream == stream);
            rows.filter(|row| row.kind == "payment.CallIntended").any(|row| row.text("operation") == operation)
        };
        let effects = [(account.holds, "authorize"), (account.captures, "capture"), (account.refunds, "refund")];
        for (times, operation) in effects {
            if times > 0 && !intended(operation) {
                wrong.push(format!("no-effect-without-cause: {operation} of {order} was never intended"));
            }
        }
    }
}
