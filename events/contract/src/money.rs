//! Money as integer minor units and an ISO 4217 code. Never a float.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An ISO 4217 currency code: three upper-case ASCII letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(test, schemars(extend("pattern" = "^[A-Z]{3}$")))]
pub struct Currency([u8; 3]);

impl Currency {
    pub const EUR: Self = Self(*b"EUR");

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a currency is three ASCII letters by construction")
    }
}

/// The text is not three upper-case ASCII letters.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a currency is three upper-case letters such as EUR, not {0:?}")]
pub struct BadCurrency(String);

impl FromStr for Currency {
    type Err = BadCurrency;

    fn from_str(text: &str) -> Result<Self, BadCurrency> {
        match text.as_bytes() {
            [a, b, c] if [a, b, c].iter().all(|letter| letter.is_ascii_uppercase()) => Ok(Self([*a, *b, *c])),
            _ => Err(BadCurrency(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = BadCurrency;

    fn try_from(text: String) -> Result<Self, BadCurrency> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An amount in minor units (cents) of one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Money {
    pub amount_minor: i64,
    pub currency: Currency,
}

impl Money {
    pub fn new(amount_minor: i64, currency: Currency) -> Self {
        Self { amount_minor, currency }
    }

    /// Price times quantity; `None` where it does not fit.
    pub fn times(self, quantity: u32) -> Option<Self> {
        Some(Self { amount_minor: self.amount_minor.checked_mul(i64::from(quantity))?, ..self })
    }

    /// The sum of two amounts; `None` for two currencies or where it does not fit.
    pub fn plus(self, other: Self) -> Option<Self> {
        if self.currency != other.currency {
            return None;
        }
        Some(Self { amount_minor: self.amount_minor.checked_add(other.amount_minor)?, ..self })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, minor) = (if self.amount_minor < 0 { "-" } else { "" }, self.amount_minor.unsigned_abs());
        write!(f, "{sign}{}.{:02} {}", minor / 100, minor % 100, self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_capitals_are_a_currency() {
        assert_eq!("EUR".parse(), Ok(Currency::EUR));
        for bad in ["", "eur", "EU", "EURO", "E1R", "€UR"] {
            assert!(bad.parse::<Currency>().is_err(), "{bad}");
        }
    }

    #[test]
    fn money_neither_overflows_nor_mixes_currencies() {
        let euro = |amount| Money::new(amount, Currency::EUR);
        assert_eq!(euro(199).times(3), Some(euro(597)));
        assert_eq!(euro(i64::MAX).times(2), None);
        assert_eq!(euro(1).plus(Money::new(1, "USD".parse().unwrap())), None);
        assert_eq!(euro(-5).to_string(), "-0.05 EUR");
    }
}
