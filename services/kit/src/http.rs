//! The HTTP door: extractors, problems, pages, the layers around every request, probes and documentation.
//!
//! Never here: a route of any service. A service hands over its [`Routes`]; [`app`] puts them behind one door, [`serve`] opens it.

mod app;
mod arriving;
mod docs;
mod extract;
mod layer;
mod money;
mod page;
mod probe;
mod problem;
mod room;
mod serve;
mod strict;

pub use app::{App, AppConfig, Routes, app};
pub use extract::{BODY_BYTES_MAX, Body, Json, Path, Peer, Query, Traced};
pub use money::{MoneySchema, currency_schema};
pub use page::{List, Page, PageQuery};
pub use probe::Check;
pub use problem::{ApiResult, FieldError, Problem};
pub use serve::{Stopping, raise_file_limit, serve};
