//! Who orders what: each order follows from the seed and its number, whoever of the clients comes to place it.
//!
//! Never here: I/O. From here a plan goes to `load.rs`, which carries it out, and its `allows` to the report, which judges the end.

use std::fmt::Write;

use contract::order::CancelReason;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::load::Outcome;

/// What the customers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mix {
    /// A bit of everything: most pay; some cards are declined, some calls answered late or lost, some products sell out, some
    /// customers cancel
    Shop,
    /// Everybody orders one plentiful product and pays: for measuring
    Happy,
}

impl Mix {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Shop => "shop",
            Self::Happy => "happy",
        }
    }
}

/// The built-in provider's test tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Ok,
    Declined,
    Slow,
    Lost,
    CaptureRefused,
}

impl Token {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "tok_ok",
            Self::Declined => "tok_declined",
            Self::Slow => "tok_slow",
            Self::Lost => "tok_lost",
            Self::CaptureRefused => "tok_capture_refused",
        }
    }
}

/// Products with more stock than all orders can ask for.
pub(crate) const PLENTIFUL: usize = 24;
/// Products that sell out: all of them are on sale together, halfway through …
pub(crate) const HOT: usize = 3;

/// … where one of so many orders is for one of them …
const HOT_ONE_IN: u32 = 16;
/// … and half of those find a piece.
pub(crate) fn hot_stock(orders: u32) -> u32 {
    (orders / HOT_ONE_IN / 2 / HOT as u32).max(1)
}

/// One order, before it is placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Product and pieces of each line.
    lines: Vec<(Goods, u32)>,
    pub(crate) token: Token,
    /// The customer cancels as soon as the order is taken.
    pub(crate) cancels: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goods {
    Plentiful(usize),
    Hot(usize),
}

/// The ids of the products, as the shop gave them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) plentiful: Vec<String>,
    pub(crate) hot: Vec<String>,
}

impl Plan {
    pub(crate) fn new(mix: Mix, seed: u64, number: u32, orders: u32) -> Self {
        let mut random = SmallRng::seed_from_u64(seed.rotate_left(32) ^ u64::from(number));
        let plentiful = random.random_range(0..PLENTIFUL);
        if mix == Mix::Happy {
            return Self { lines: vec![(Goods::Plentiful(plentiful), 1)], token: Token::Ok, cancels: false };
        }
        // All at once, so that orders which passed the check together race for the last pieces.
        let sale = orders / 2..orders / 2 + orders / HOT_ONE_IN;
        // Some come too late, when it is sold out: they are refused at the check.
        let is_late = number >= sale.end && random.random_range(0..100) == 0;
        if sale.contains(&number) || is_late {
            let hot = Goods::Hot(random.random_range(0..HOT));
            return Self { lines: vec![(hot, 1)], token: Token::Ok, cancels: false };
        }
        let (token, cancels) = match random.random_range(0..1_000) {
            0..50 => (Token::Declined, false),
            50..60 => (Token::Slow, false),
            60..65 => (Token::Lost, false),
            65..80 => (Token::CaptureRefused, false),
            // Some of these come too late; the others wait for a lost answer, and are in time.
            80..100 => (Token::Ok, true),
            100..115 => (Token::Lost, true),
            _ => (Token::Ok, false),
        };
        let lines = (0..random.random_range(1..=3))
            .map(|line| (Goods::Plentiful((plentiful + line) % PLENTIFUL), random.random_range(1..=3)))
            .collect();
        Self { lines, token, cancels }
    }

    /// The body of the request.
    pub(crate) fn body(&self, catalogue: &Catalogue) -> String {
        let mut body = String::with_capacity(64 + 80 * self.lines.len());
        body.push_str(r#"{"items":["#);
        for (index, (goods, quantity)) in self.lines.iter().enumerate() {
            let id = match *goods {
                Goods::Plentiful(product) => &catalogue.plentiful[product],
                Goods::Hot(product) => &catalogue.hot[product],
            };
            let comma = if index == 0 { "" } else { "," };
            let written = write!(body, r#"{comma}{{"product_id":"{id}","quantity":{quantity}}}"#);
            written.expect("a string takes what is written to it");
        }
        body.push_str(r#"],"payment":{"token":""#);
        body.push_str(self.token.as_str());
        body.push_str(r#""}}"#);
        body
    }

    /// Whether the order may end like this. Wide where a busy machine may turn the end: an answer past its deadline is a timeout.
    pub(crate) fn allows(&self, outcome: Outcome) -> bool {
        let is_hot = matches!(self.lines[..], [(Goods::Hot(_), _)]);
        match outcome {
            Outcome::Confirmed => !matches!(self.token, Token::Declined | Token::CaptureRefused),
            Outcome::Refused => is_hot,
            Outcome::Cancelled(reason) => match reason {
                CancelReason::OutOfStock => is_hot,
                CancelReason::StockTimeout | CancelReason::PaymentTimeout => true,
                CancelReason::PaymentDeclined => self.token == Token::Declined,
                CancelReason::CaptureRefused => self.token == Token::CaptureRefused,
                CancelReason::CancelledByCustomer => self.cancels,
                CancelReason::CancelledByOperator => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64, orders: u32) -> Vec<Plan> {
        (0..orders).map(|number| Plan::new(Mix::Shop, seed, number, orders)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_orders_and_another_one_does_not() {
        assert_eq!(all(7, 200), all(7, 200));
        assert_ne!(all(7, 200), all(8, 200));
    }

    #[test]
    fn a_thousand_orders_have_a_bit_of_everything_and_most_pay() {
        let plans = all(1, 1_000);
        let count = |wanted: fn(&Plan) -> bool| plans.iter().filter(|plan| wanted(plan)).count();
        for token in [Token::Declined, Token::Slow, Token::Lost, Token::CaptureRefused] {
            assert!(plans.iter().any(|plan| plan.token == token && !plan.cancels), "{token:?}");
        }
        assert!(count(|plan| plan.cancels) > 10);
        assert!(count(|plan| plan.token == Token::Ok && !plan.cancels) > 800);
        let hot = count(|plan| matches!(plan.lines[..], [(Goods::Hot(_), 1)]));
        assert!(hot > HOT * hot_stock(1_000) as usize, "{hot} orders race for hot products");
    }

    #[test]
    fn a_body_is_what_the_shop_reads() {
        let catalogue =
            Catalogue { plentiful: (0..PLENTIFUL).map(|n| format!("p{n}")).collect(), hot: vec!["h".to_owned(); HOT] };
        for plan in all(3, 100) {
            let body: serde_json::Value = serde_json::from_str(&plan.body(&catalogue)).unwrap();
            assert_eq!(body["items"].as_array().unwrap().len(), plan.lines.len());
            assert_eq!(body["payment"]["token"], plan.token.as_str());
        }
    }
}
