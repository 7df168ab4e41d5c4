//! The JSON of the catalogue, and the bounds of its fields.
//!
//! Never here: rules that need to know the product. From here values go to `http.rs` as commands and filters.

use contract::{Currency, Money, ProductId, Timestamp, product::ProductAdded};
use kit::{
    http::{ApiResult, FieldError, Page, PageQuery, Problem},
    text,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{
        catalogue::{ChangeProduct, Expected, Item},
        stock::ON_HAND_MAX,
    },
    store::Filter,
};

const SKU_CHARS_MAX: usize = 64;
const TITLE_CHARS_MAX: usize = 200;
const CATEGORY_CHARS_MAX: usize = 64;
const REASON_CHARS_MAX: usize = 200;
const SEARCH_CHARS_MAX: usize = 200;
/// A thousand million units of most currencies: 50 lines of 1,000 pieces each still fit into an integer.
const PRICE_MINOR_MAX: i64 = 100_000_000_000;

/// An amount in minor units: 1999 EUR is 19.99 euros, 1999 JPY are 1999 yen.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    #[schema(minimum = 0, maximum = 100_000_000_000_i64, example = 1999)]
    amount_minor: i64,
    /// ISO 4217.
    #[schema(schema_with = kit::http::currency_schema)]
    currency: Currency,
}

impl From<Price> for Money {
    fn from(price: Price) -> Self {
        Self::new(price.amount_minor, price.currency)
    }
}

/// A product as everybody sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Product {
    id: Uuid,
    sku: String,
    title: String,
    category: String,
    price: Price,
    /// Free pieces now.
    available: i64,
    /// Counts the changes; also the ETag.
    version: i64,
    #[schema(value_type = String, format = DateTime)]
    added_at: Timestamp,
}

impl Product {
    pub(crate) fn of(item: &Item) -> Self {
        Self {
            id: item.product_id.0,
            sku: item.sku.clone(),
            title: item.title.clone(),
            category: item.category.clone(),
            price: Price { amount_minor: item.price.amount_minor, currency: item.price.currency },
            available: item.stock.on_hand,
            version: item.version,
            added_at: item.added,
        }
    }
}

/// A new product.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewProduct {
    /// The shop's own name of it: one word. No two products that can be ordered share one, and it never changes.
    #[schema(min_length = 1, max_length = 64, pattern = "^\\s*[^\\s\\x00-\\x1f\\x7f]+\\s*$", example = "TEA-1")]
    sku: String,
    #[schema(min_length = 1, max_length = 200, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$", example = "Green tea, 100 g")]
    title: String,
    #[schema(min_length = 1, max_length = 64, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$", example = "drinks")]
    category: String,
    price: Price,
    /// Pieces to begin with.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    stock: i64,
}

impl NewProduct {
    pub(crate) fn read(self, product_id: ProductId) -> ApiResult<ProductAdded> {
        let Self { sku, title, category, price, stock } = self;
        let mut wrong = Wrong::default();
        let sku = wrong.text("sku", text::word(&sku, SKU_CHARS_MAX));
        let title = wrong.text("title", text::line(&title, TITLE_CHARS_MAX));
        let category = wrong.text("category", text::line(&category, CATEGORY_CHARS_MAX));
        wrong.price(&price);
        wrong.number("stock", stock, 0, ON_HAND_MAX);
        wrong.none()?;
        Ok(ProductAdded { product_id, sku, title, category, price: price.into(), stock })
    }
}

/// All that can change of a product.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replacement {
    /// Need not be told; if it is, it must be the product's own.
    sku: Option<String>,
    #[schema(min_length = 1, max_length = 200, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$")]
    title: String,
    #[schema(min_length = 1, max_length = 64, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$")]
    category: String,
    price: Price,
}

/// What to change of a product; the rest stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changes {
    /// Need not be told; if it is, it must be the product's own.
    sku: Option<String>,
    #[schema(min_length = 1, max_length = 200, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$")]
    title: Option<String>,
    #[schema(min_length = 1, max_length = 64, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$")]
    category: Option<String>,
    price: Option<Price>,
}

impl From<Replacement> for Changes {
    fn from(whole: Replacement) -> Self {
        let Replacement { sku, title, category, price } = whole;
        Self { sku, title: Some(title), category: Some(category), price: Some(price) }
    }
}

impl Changes {
    pub(crate) fn read(self, product_id: ProductId, expected: Expected) -> ApiResult<ChangeProduct> {
        let Self { sku, title, category, price } = self;
        let mut wrong = Wrong::default();
        let title = title.map(|title| wrong.text("title", text::line(&title, TITLE_CHARS_MAX)));
        let category = category.map(|category| wrong.text("category", text::line(&category, CATEGORY_CHARS_MAX)));
        if let Some(price) = &price {
            wrong.price(price);
        }
        wrong.none()?;
        Ok(ChangeProduct { product_id, sku, title, category, price: price.map(Into::into), expected })
    }
}

/// Pieces that were delivered, or written off.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StockChange {
    /// Not zero; below zero for what is written off.
    #[schema(minimum = -1_000_000_000, maximum = 1_000_000_000, example = 100)]
    pub change: i64,
    #[schema(min_length = 1, max_length = 200, pattern = "^(?=.*\\S)[^\\x00-\\x1f\\x7f]*$", example = "delivery")]
    pub reason: String,
}

impl StockChange {
    pub(crate) fn read(self) -> ApiResult<Self> {
        let mut wrong = Wrong::default();
        wrong.number("change", self.change, -ON_HAND_MAX, ON_HAND_MAX);
        if self.change == 0 {
            wrong.add("change", "must not be zero".to_owned());
        }
        let reason = wrong.text("reason", text::line(&self.reason, REASON_CHARS_MAX));
        wrong.none()?;
        Ok(Self { reason, ..self })
    }
}

/// Which products to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Products {
    #[serde(flatten)]
    #[param(ignore)]
    page: PageQuery,
    /// Exactly this category.
    #[param(pattern = "^[^\\x00]*$")]
    category: Option<String>,
    /// Text that title or sku contains, in any case.
    #[param(max_length = 200, pattern = "^[^\\x00]*$")]
    q: Option<String>,
}

impl Products {
    pub(crate) fn read(self) -> ApiResult<(Filter, Page)> {
        let page = self.page.page()?;
        // Kept texts are composed, so what is looked for is too.
        let given = |text: Option<String>| text.map(|text| text::composed(text.trim())).filter(|text| !text.is_empty());
        let (category, text) = (given(self.category), given(self.q));
        if text.as_ref().is_some_and(|text| text.chars().count() > SEARCH_CHARS_MAX) {
            return Err(Problem::invalid("q", format!("must have at most {SEARCH_CHARS_MAX} characters")));
        }
        Ok((Filter { category, text }, page))
    }
}

/// The fields that are out of their bounds: all of them are told at once.
#[derive(Default)]
struct Wrong {
    errors: Vec<FieldError>,
}

impl Wrong {
    fn add(&mut self, field: &str, detail: String) {
        self.errors.push(FieldError { field: field.to_owned(), detail });
    }

    fn text(&mut self, field: &str, read: Result<String, String>) -> String {
        read.unwrap_or_else(|detail| {
            self.add(field, detail);
            String::new()
        })
    }

    fn number(&mut self, field: &str, value: i64, min: i64, max: i64) {
        if !(min..=max).contains(&value) {
            self.add(field, format!("must be from {min} to {max}"));
        }
    }

    fn price(&mut self, Price { amount_minor, currency }: &Price) {
        self.number("price.amount_minor", *amount_minor, 0, PRICE_MINOR_MAX);
        if !currency.exists() {
            self.add("price.currency", format!("{currency} is no currency of ISO 4217 that has a minor unit"));
        }
    }

    fn none(self) -> ApiResult<()> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::unprocessable(self.errors)) }
    }
}
