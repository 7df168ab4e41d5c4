//! How much memory a process may hold messages and requests in: one number, and the parts that it is divided into.
//!
//! Never here: counting. Each part is bounded where it is filled; the table in ARCHITECTURE.md says what happens there when it is
//! full. The rule is fixed, so that there is one knob: whoever turns it turns all of them.

use contract::{Message, record::Record};

const MIB: usize = 1024 * 1024;
/// What a row takes beside its payload, about: names, ids, and its place in maps.
const ENVELOPE: usize = 512;
/// What a header takes beside its name and value: a record may have nothing but headers, of three bytes each.
const HEADER: usize = 64;

/// The bytes that messages and requests on their way may take in one process, beside what it takes with none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    bytes: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self::mib(Self::DEFAULT_MIB)
    }
}

impl Memory {
    /// With it a process stays below 150 MB whatever comes: it takes about 50 with nothing to do.
    pub const DEFAULT_MIB: u32 = 64;
    /// With less a batch is smaller than messages that are usual.
    pub const LEAST_MIB: u32 = 16;
    pub const MOST_MIB: u32 = 4_096;
    /// The head of one request.
    pub const HEAD: usize = 16 * 1024;
    /// What one event stream holds ready.
    pub const STREAM: usize = 8 * 1024;

    pub const fn mib(mib: u32) -> Self {
        Self::of(mib as usize * MIB)
    }

    /// So many bytes. A test may go below what a process can be told.
    pub const fn of(bytes: usize) -> Self {
        Self { bytes }
    }

    /// 1/16: what a Kafka client has fetched and nobody has taken.
    pub const fn fetched(self) -> usize {
        self.bytes / 16
    }

    /// 1/32: one answer of a broker, of which there may be one on its way from each.
    pub const fn fetch(self) -> usize {
        self.bytes / 32
    }

    /// 1/8: what waits in all partitions together to be handled, or is being handled.
    pub const fn buffered(self) -> usize {
        self.bytes / 8
    }

    /// 1/64: the messages of one batch, and of one transaction. Another 7/64 are for what they are copied to on their way into the
    /// database: a dead letter, its JSON, which may be twice as long, and the statement, which has both.
    pub const fn batch(self) -> usize {
        self.bytes / 64
    }

    /// 1/16: the newest rows of the log.
    pub const fn tail(self) -> usize {
        self.bytes / 16
    }

    /// 1/32: what one reader of the log is given at a time; two of them read it.
    pub const fn read(self) -> usize {
        self.bytes / 32
    }

    /// 1/32: rows on their way to Kafka. Another 3/32 are for the record, the producer's copy and its request.
    pub const fn in_flight(self) -> usize {
        self.bytes / 32
    }

    /// 1/8: requests under way, with their bodies and answers.
    pub const fn requests(self) -> usize {
        self.bytes / 8
    }

    /// 1/4 in heads of 16 KiB: how many connections there may be.
    pub const fn connections(self) -> usize {
        self.bytes / 4 / Self::HEAD
    }

    /// 1/32 in steps of 8 KiB: how many event streams there may be.
    pub const fn streams(self) -> usize {
        self.bytes / 32 / Self::STREAM
    }
}

/// What a row takes, about.
pub fn weight(message: &Message) -> usize {
    ENVELOPE + message.data.len() + message.key.as_ref().map_or(0, String::len)
}

/// What a record takes that is not a message, about.
pub(crate) fn weight_of_record(record: &Record) -> usize {
    let ends = [&record.key, &record.value].into_iter().flatten().map(Vec::len);
    ENVELOPE + ends.chain(record.headers.iter().map(|(name, value)| HEADER + name.len() + value.len())).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_with_their_copies_are_the_whole() {
        let memory = Memory::default();
        let kafka = memory.fetched() + memory.fetch() + memory.buffered() + 4 * memory.in_flight();
        let log = 8 * memory.batch() + memory.tail() + 2 * memory.read();
        let http = memory.requests() + memory.connections() * Memory::HEAD + memory.streams() * Memory::STREAM;
        assert_eq!(kafka + log + http, memory.bytes);
    }
}
