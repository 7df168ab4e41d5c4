//! Closed sets of plain words: states, inputs, reasons. Their names are what the log keeps and people read.

use std::{fmt::Debug, hash::Hash};

/// One word of a closed set, with its name both ways.
pub trait Word: Copy + Eq + Ord + Hash + Debug + Send + Sync + 'static {
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|word| word.as_str() == text)
    }
}

/// Declares an enum whose variants are words, named as they are spelled.
macro_rules! words {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $crate::Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),* }
            }
        }
    };
}
pub(crate) use words;

impl Word for contract::order::CancelReason {
    const ALL: &'static [Self] = &contract::order::CancelReason::ALL;

    fn as_str(self) -> &'static str {
        contract::order::CancelReason::as_str(self)
    }
}
