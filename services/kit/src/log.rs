//! The process' own log: lines on stderr, as text or JSON. Standard output is for data.
//!
//! Never here: what is logged. Keys are dotted and the same everywhere (`order.id`, `trace.id`); no personal data.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::text::Shown;

/// Starts logging. `level` holds for our crates; of all others only warnings are of interest.
pub fn init_logging(json: bool, level: LevelFilter) {
    // A prefix: all of our crates are named skald-…
    let targets = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("skald", level);
    // Colours are for a terminal, unless it has asked for none.
    let is_colourful = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
    let lines = fmt::layer().with_writer(|| Shown(stderr())).with_ansi(is_colourful);
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.with_target(false).boxed() };
    // A second start, as in a test, keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(targets)).try_init();
}
