//! Signatures: what one of our keys has signed verifies, and nothing else does, whatever was changed of it.

use proptest::prelude::*;

use super::records::{TOPIC, any_message, any_source};
use crate::{
    Message, MessageKeys, Record, Seal,
    record::{decode, encode, encode_again},
    signature::{BadKeys, HEADER, NotVerified},
};

const OLD: &str = "old:0123456789abcdef0123456789abcdef";
const NEW: &str = "new:fedcba9876543210fedcba9876543210";

fn keys(lines: &[&str]) -> MessageKeys {
    MessageKeys::parse(&lines.join("\n")).unwrap()
}

fn signed(message: &Message, source: &crate::Source, previous: i64, with: &MessageKeys) -> Record {
    let mut record = encode(message, source, previous);
    with.sign(&mut record, message, source, previous);
    record
}

fn check(record: &Record, with: &MessageKeys) -> Result<(), NotVerified> {
    let (message, mut link) = decode(TOPIC, record).unwrap();
    let checked = with.check(&message, &mut link);
    assert_eq!(link.seal.is_good(), checked.is_ok() && link.seal != Seal::None && !with.is_empty());
    checked
}

fn golden(kind: &str) -> Record {
    let golden = super::golden::Golden::of(super::types().iter().find(|found| found.kind == kind).unwrap(), 1);
    golden.published().unwrap().0
}

#[test]
fn a_file_of_keys_is_read_and_what_is_wrong_with_it_is_said_without_a_secret() {
    let both = MessageKeys::parse(&format!("# first signs\n{NEW}\n\n  {OLD}  \n")).unwrap();
    assert_eq!(format!("{both:?}"), r#"["new", "old"]"#);
    let short = "new:secret";
    for (text, wrong) in [
        ("", BadKeys::None),
        ("# none\n", BadKeys::None),
        ("0123456789abcdef0123456789abcdef", BadKeys::Line(1)),
        (":0123456789abcdef0123456789abcdef", BadKeys::Line(1)),
        ("Old:0123456789abcdef0123456789abcdef", BadKeys::Line(1)),
        (short, BadKeys::Short(1)),
        (&format!("{OLD}\n{OLD}"), BadKeys::Twice(2)),
        (&(0..5).map(|n| format!("{n}{NEW}\n")).collect::<String>(), BadKeys::TooMany(5)),
    ] {
        let found = MessageKeys::parse(text).unwrap_err();
        assert_eq!(found, wrong, "{text}");
        assert!(!found.to_string().contains("secret") || !found.to_string().contains("0123"), "{found}");
    }
}

#[test]
fn a_key_is_changed_without_a_moment_in_which_a_record_is_refused() {
    let record = golden("payment.AuthorizePayment");
    let (message, link) = decode("payment.commands.v1", &record).unwrap();
    let steps = [keys(&[OLD]), keys(&[OLD, NEW]), keys(&[NEW, OLD]), keys(&[NEW])];
    for (number, pair) in steps.windows(2).enumerate() {
        for (writer, reader) in [(&pair[0], &pair[1]), (&pair[1], &pair[0]), (&pair[1], &pair[1])] {
            let mut record = record.clone();
            writer.sign(&mut record, &message, &link.source, link.previous);
            let (message, mut link) = decode("payment.commands.v1", &record).unwrap();
            assert_eq!(reader.check(&message, &mut link), Ok(()), "step {number}");
        }
    }
    let mut record = record.clone();
    steps[0].sign(&mut record, &message, &link.source, link.previous);
    let (message, mut link) = decode("payment.commands.v1", &record).unwrap();
    assert_eq!(steps[3].check(&message, &mut link), Err(NotVerified::UnknownKey("\"old\"".into())));
}

#[test]
fn without_a_signature_a_record_is_forged_unless_keys_are_being_introduced_or_there_are_none() {
    let record = golden("order.OrderPlaced");
    assert_eq!(check(&record, &keys(&[OLD])), Err(NotVerified::Unsigned));
    assert_eq!(check(&record, &keys(&[OLD]).accepting_unsigned()), Ok(()));
    assert_eq!(check(&record, &MessageKeys::default()), Ok(()));
    for bad in ["old", "old:?", "old:AAAA", ":", "old:"] {
        let mut record = record.clone();
        record.add(HEADER, bad);
        for keys in [keys(&[OLD]), keys(&[OLD]).accepting_unsigned()] {
            assert!(check(&record, &keys).is_err(), "{bad}: what is signed badly is worse than what is not");
        }
        assert_eq!(check(&record, &MessageKeys::default()), Ok(()), "without a key nobody looks");
    }
}

/// One bit of a record's key, value or header.
fn flip(record: &mut Record, at: usize, bit: u8) -> bool {
    let headers = record.headers.iter_mut().map(|(_, value)| value);
    let mut parts: Vec<&mut Vec<u8>> = record.key.iter_mut().chain(headers).chain(&mut record.value).collect();
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let mut at = at % total.max(1);
    for part in &mut parts {
        if at < part.len() {
            part[at] ^= 1 << bit;
            return true;
        }
        at -= part.len();
    }
    false
}

proptest! {
    #[test]
    fn what_was_signed_verifies_and_no_bit_that_is_believed_can_be_changed(
        (message, previous) in any_message(), source in any_source(), at in any::<usize>(), bit in 0..8u8,
    ) {
        let keys = keys(&[OLD]);
        let record = signed(&message, &source, previous, &keys);
        prop_assert_eq!(check(&record, &keys), Ok(()));
        let (read, link) = decode(TOPIC, &record).unwrap();
        // As a parked record or a dead letter keeps it.
        prop_assert_eq!(check(&encode_again(&read, &link), &keys), Ok(()));
        let mut changed = record.clone();
        prop_assert!(flip(&mut changed, at, bit));
        if let Ok((other, mut other_link)) = decode(TOPIC, &changed) {
            let is_same = other == read && other_link.source == link.source && other_link.previous == link.previous;
            let is_signature = other_link.seal != link.seal;
            let verified = keys.check(&other, &mut other_link);
            prop_assert!(verified.is_err() || (is_same && !is_signature), "{:?}", changed);
        }
        // The same record on another topic is another one.
        let (elsewhere, mut link) = decode("order.events.v2", &record).unwrap();
        prop_assert!(keys.check(&elsewhere, &mut link).is_err());
    }
}

proptest! {
    #[test]
    fn what_stands_in_one_field_never_reads_as_another_s((message, previous) in any_message(), source in any_source()) {
        let keys = keys(&[OLD]);
        let signature = |message: &Message| signed(message, &source, previous, &keys).header(HEADER).map(str::to_owned);
        let original = signature(&message);
        // The last byte of one field moved to the front of the next.
        let mut moved = message.clone();
        if let Some(last) = moved.stream.pop() {
            moved.kind.push(last);
            prop_assert_ne!(&signature(&moved), &original);
        }
        let mut swapped = message.clone();
        let first = message.meta.correlation.map(crate::MessageId);
        swapped.meta.correlation = message.meta.cause.map(|id| id.0);
        swapped.meta.cause = first;
        prop_assert!(swapped == message || signature(&swapped) != original);
    }
}
