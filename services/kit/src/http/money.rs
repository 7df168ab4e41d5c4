//! How money looks in the documentation; on the wire it is `contract::Money`.
//!
//! Never here: amounts themselves. From here the schema goes into each service's OpenAPI document.

use serde::Deserialize;
use utoipa::{
    ToSchema,
    openapi::schema::{Object, ObjectBuilder, Type},
};

/// An amount in minor units of one currency: 1999 EUR is 19.99 euros.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Money, example = json!({"amount_minor": 1999, "currency": "EUR"}))]
pub struct MoneySchema {
    /// Minor units, such as cents.
    #[allow(dead_code, reason = "only its schema is used")]
    amount_minor: i64,
    #[schema(schema_with = currency_schema)]
    #[allow(dead_code, reason = "only its schema is used")]
    currency: String,
}

/// A currency: one of those that exist.
pub fn currency_schema() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("ISO 4217"))
        .enum_values(Some(contract::money::currencies()))
        .examples(["EUR"])
        .build()
}
