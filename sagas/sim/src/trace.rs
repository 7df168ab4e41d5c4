//! What happened, in order: a hash over all of it, and the last lines to read.
//!
//! Never here: deciding anything. Two runs of one seed have one hash.

use std::{collections::VecDeque, fmt};

use contract::Timestamp;

/// Lines kept for a person to read.
const LINES_MAX: usize = 60;

/// Everything that happened in a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    began: Timestamp,
    events: u64,
    lines: VecDeque<String>,
    is_printed: bool,
}

impl Trace {
    pub(crate) fn new(began: Timestamp, is_printed: bool) -> Self {
        // FNV-1a's offset basis.
        Self { hash: 0xcbf2_9ce4_8422_2325, began, events: 0, lines: VecDeque::new(), is_printed }
    }

    pub(crate) fn say(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        self.events += 1;
        let since = now.since(self.began).as_micros();
        let line = format!("{:>6} {:>4}.{:06} {what}", self.events, since / 1_000_000, since % 1_000_000);
        self.mix(line.as_bytes());
        if self.is_printed {
            println!("{line}");
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
