//! The JSON of the catalogue, and the bounds of its fields.
//!
//! Never here: rules that need to know the product. From here values go to `http.rs` as commands and filters.

use contract::{Currency, Money, ProductId, Timestamp, product::ProductAdded};
use kit::http::{ApiResult, FieldError, Page, PageQuery, Problem};
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

/// An amount in minor units (cents).
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    #[schema(minimum = 0, maximum = 100_000_000_000_i64, example = 1999)]
    amount_minor: i64,
    /// ISO 4217.
    #[schema(value_type = String, example = "EUR")]
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
    /// The shop's own name of it; no two products share one, and it never changes.
    #[schema(min_length = 1, max_length = 64, example = "TEA-1")]
    sku: String,
    #[schema(min_length = 1, max_length = 200, example = "Green tea, 100 g")]
    title: String,
    #[schema(min_length = 1, max_length = 64, example = "drinks")]
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
        wrong.text("sku", &sku, SKU_CHARS_MAX);
        wrong.text("title", &title, TITLE_CHARS_MAX);
        wrong.text("category", &category, CATEGORY_CHARS_MAX);
        wrong.number("price.amount_minor", price.amount_minor, 0, PRICE_MINOR_MAX);
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
    #[schema(min_length = 1, max_length = 200)]
    title: String,
    #[schema(min_length = 1, max_length = 64)]
    category: String,
    price: Price,
}

/// What to change of a product; the rest stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changes {
    /// Need not be told; if it is, it must be the product's own.
    sku: Option<String>,
    #[schema(min_length = 1, max_length = 200)]
    title: Option<String>,
    #[schema(min_length = 1, max_length = 64)]
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
        if let Some(title) = &title {
            wrong.text("title", title, TITLE_CHARS_MAX);
        }
        if let Some(category) = &category {
            wrong.text("category", category, CATEGORY_CHARS_MAX);
        }
        if let Some(price) = &price {
            wrong.number("price.amount_minor", price.amount_minor, 0, PRICE_MINOR_MAX);
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
    #[schema(min_length = 1, max_length = 200, example = "delivery")]
    pub reason: String,
}

impl StockChange {
    pub(crate) fn read(self) -> ApiResult<Self> {
        let mut wrong = Wrong::default();
        wrong.number("change", self.change, -ON_HAND_MAX, ON_HAND_MAX);
        if self.change == 0 {
            wrong.add("change", "must not be zero".to_owned());
        }
        wrong.text("reason", &self.reason, REASON_CHARS_MAX);
        wrong.none()?;
        Ok(self)
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
    category: Option<String>,
    /// Text that title or sku contains, in any case.
    q: Option<String>,
}

impl Products {
    pub(crate) fn read(self) -> ApiResult<(Filter, Page)> {
        let page = self.page.page()?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
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

    fn text(&mut self, field: &str, value: &str, chars_max: usize) {
        if value.trim().is_empty() || value.chars().count() > chars_max {
            self.add(field, format!("must have 1 to {chars_max} characters, not only blanks"));
        }
    }

    fn number(&mut self, field: &str, value: i64, min: i64, max: i64) {
        if !(min..=max).contains(&value) {
            self.add(field, format!("must be from {min} to {max}"));
        }
    }

    fn none(self) -> ApiResult<()> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::unprocessable(self.errors)) }
    }
}
