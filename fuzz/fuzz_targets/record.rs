//! A record from a topic: the decoder of every consumer, and the dead letter that keeps what it refuses.

#![no_main]

use contract::{
    Cause, DeadLetter, MessageKeys, Record, Timestamp,
    record::{decode, encode_again},
};
use skald_fuzz::{lines, payload};

const TOPIC: &str = "order.events.v1";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let record = lines::record(bytes);
    kept(&record);
    let Ok((message, link)) = decode(TOPIC, &record) else { return };
    assert!(0 <= link.previous && link.previous < link.sequence && link.sequence == message.position);
    assert_eq!(message.key.as_deref().map(str::as_bytes), record.key.as_deref());
    assert_eq!(Some(message.data.as_bytes()), record.value.as_deref());

    // What was read is written with the same words, but that a time has one form.
    let again = encode_again(&message, &link);
    for (name, value) in again.headers.iter().filter(|(name, _)| !name.starts_with("dlq_")) {
        let (written, found) = (std::str::from_utf8(value).unwrap(), record.header(name).unwrap());
        let same_time = || written.parse::<Timestamp>().unwrap() == found.parse::<Timestamp>().unwrap();
        assert!(written == found || (name == "ce_time" && same_time()), "{name} was {found} and is {written}");
    }
    // Nobody guesses a signature; what is signed is what was read.
    let (keys, mut checked) = (MessageKeys::parse("fuzz:what no input can come to know of").unwrap(), link.clone());
    assert!(keys.check(&message, &mut checked).is_err() && !checked.seal.is_good());
    payload::check(&message.kind, message.schema, &message.data);
    assert_eq!(decode(TOPIC, &again).unwrap(), (message, link));
});

/// Whatever it is, it can be set aside and is found there as it was.
fn kept(record: &Record) {
    let (consumer, topic) = ("order".to_owned(), TOPIC.to_owned());
    let (cause, error) = (Cause::Undecodable, decode(TOPIC, record).map_or_else(|error| error.to_string(), |_| String::new()));
    assert!(error.len() < 2_048, "{error}");
    let letter =
        DeadLetter { consumer, topic, partition: 0, offset: 0, cause, error, attempts: 1, replays: 0, record: record.clone() };
    assert_eq!(DeadLetter::decode(&letter.encode().data).unwrap(), letter);
}
