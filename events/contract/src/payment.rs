//! What the payment service is asked and says.

use serde::{Deserialize, Serialize};

use crate::{CustomerId, Money, OrderId, envelope::Repeated, payload::messages};

/// Asks for a hold of `amount` on what `token` stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AuthorizePayment {
    pub order_id: OrderId,
    /// Who may see the payment.
    pub customer_id: CustomerId,
    pub amount: Money,
    /// A single-use token of the payment provider; no card data.
    pub token: String,
}

/// Asks to take the held money. The saga's pivot: once it is done there is no way back but a refund.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CapturePayment {
    pub order_id: OrderId,
}

/// Asks that the order ends with nothing held and nothing taken: settles open calls first, then voids or refunds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VoidPayment {
    pub order_id: OrderId,
}

messages! {
    /// `payment.commands.v1`: from the order saga, keyed by order id.
    pub enum Command on PAYMENT_COMMANDS {
        AuthorizePayment = "payment.AuthorizePayment" v 1,
        CapturePayment = "payment.CapturePayment" v 1,
        VoidPayment = "payment.VoidPayment" v 1,
    }
}

/// What is asked of the provider. With the order id it is the provider's idempotency key: `<order id>:<operation>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Authorize,
    Capture,
    Void,
    Refund,
}

impl Operation {
    pub const ALL: [Self; 4] = [Self::Authorize, Self::Capture, Self::Void, Self::Refund];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.as_str() == text)
    }
}

/// A call to the provider is about to be made. Private; always committed before the call goes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CallIntended {
    pub order_id: OrderId,
    pub operation: Operation,
    pub amount: Money,
}

/// The money is held. Reply to `AuthorizePayment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PaymentAuthorized {
    pub order_id: OrderId,
    pub amount: Money,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

/// The provider said no, for good: nothing is held. Reply to `AuthorizePayment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PaymentDeclined {
    pub order_id: OrderId,
    /// The provider's code, such as `card_declined`; `already_voided` where a tombstone stands.
    pub code: String,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

/// The money is taken. Reply to `CapturePayment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PaymentCaptured {
    pub order_id: OrderId,
    pub amount: Money,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

/// The provider will never capture this hold. Reply to `CapturePayment`; final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CaptureRefused {
    pub order_id: OrderId,
    pub code: String,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

/// Nothing is held and nothing is taken. Reply to `VoidPayment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PaymentVoided {
    pub order_id: OrderId,
    /// What had been captured and went back; `None` where only a hold was voided, or nothing had happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refunded: Option<Money>,
    #[serde(default, skip_serializing_if = "Repeated::is_first")]
    pub repeated: Repeated,
}

messages! {
    /// `payment.events.v1`, stream `payment-<order id>`; `CallIntended` and `VoidRequested` stay in the log.
    pub enum Event on PAYMENT_EVENTS {
        CallIntended = "payment.CallIntended" v 1 private,
        VoidRequested = "payment.VoidRequested" v 1 private,
        PaymentAuthorized = "payment.PaymentAuthorized" v 1,
        PaymentDeclined = "payment.PaymentDeclined" v 1,
        PaymentCaptured = "payment.PaymentCaptured" v 1,
        CaptureRefused = "payment.CaptureRefused" v 1,
        PaymentVoided = "payment.PaymentVoided" v 1,
    }
}

/// The void was asked for while a call was open: it is settled first. Private; refuses every later authorization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VoidRequested {
    pub order_id: OrderId,
}
