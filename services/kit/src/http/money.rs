//! How money looks in the documentation; on the wire it is `contract::Money`.
//!
//! Never here: amounts themselves. From here the schema goes into each service's OpenAPI document.

use utoipa::ToSchema;

/// An amount in minor units of one currency: 1999 EUR is 19.99 euros.
#[derive(ToSchema)]
#[schema(as = Money, example = json!({"amount_minor": 1999, "currency": "EUR"}))]
pub struct MoneySchema {
    /// Minor units, such as cents.
    #[allow(dead_code, reason = "only its schema is used")]
    amount_minor: i64,
    /// ISO 4217.
    #[allow(dead_code, reason = "only its schema is used")]
    currency: String,
}
