//! Money as integer minor units and an ISO 4217 code. Never a float.
//!
//! How many decimals a currency has is known here, and only for showing: amounts are counted in minor units everywhere.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The currencies of ISO 4217 by their decimals: list one of SIX, <https://www.six-group.com/en/products-services/financial-information/data-standards.html>,
/// published 2026-01-01, without those that have no minor unit (metals, bonds, drawing rights, the codes for tests and for none).
/// What is withdrawn stays: prices and orders go on having it.
#[rustfmt::skip]
const CURRENCIES: [(u32, &str); 4] = [
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
    (2, "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP COU \
         CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES \
         KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR \
         NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP \
         TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG"),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

/// The codes of all currencies that there are.
pub fn currencies() -> impl Iterator<Item = &'static str> {
    CURRENCIES.iter().flat_map(|(_, codes)| codes.split_whitespace())
}

/// What stands for a currency: three upper-case ASCII letters. What is stored and sent may have any; a door takes those that exist.
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

    /// Whether ISO 4217 has it, with a minor unit.
    pub fn exists(&self) -> bool {
        self.known_decimals().is_some()
    }

    /// How many decimals an amount is shown with; two where nobody knows the currency.
    fn decimals(&self) -> u32 {
        self.known_decimals().unwrap_or(2)
    }

    fn known_decimals(&self) -> Option<u32> {
        let has = |codes: &str| codes.split_whitespace().any(|code| code == self.as_str());
        CURRENCIES.iter().find(|(_, codes)| has(codes)).map(|(decimals, _)| *decimals)
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
        let (decimals, currency) = (self.currency.decimals(), self.currency);
        if decimals == 0 {
            return write!(f, "{sign}{minor} {currency}");
        }
        let (unit, width) = (10_u64.pow(decimals), decimals as usize);
        write!(f, "{sign}{}.{:0width$} {currency}", minor / unit, minor % unit)
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
    fn an_amount_is_shown_with_the_decimals_of_its_currency() {
        let shown = |amount, currency: &str| Money::new(amount, currency.parse().unwrap()).to_string();
        assert_eq!(shown(1250, "JPY"), "1250 JPY");
        assert_eq!(shown(1250, "KWD"), "1.250 KWD");
        assert_eq!(shown(-5, "KWD"), "-0.005 KWD");
        assert_eq!(shown(1250, "EUR"), "12.50 EUR");
        assert_eq!(shown(1250, "CLF"), "0.1250 CLF");
        assert_eq!(shown(i64::MIN, "JPY"), "-9223372036854775808 JPY");
        assert_eq!(shown(1250, "ZZZ"), "12.50 ZZZ", "as nobody knows better");
    }

    #[test]
    fn a_currency_exists_if_iso_4217_has_it_with_a_minor_unit() {
        assert_eq!(currencies().count(), 165);
        assert!(currencies().all(|code| code.parse::<Currency>().unwrap().exists()));
        for none in ["ZZZ", "XTS", "XAU", "ABC"] {
            assert!(!none.parse::<Currency>().unwrap().exists(), "{none}");
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
