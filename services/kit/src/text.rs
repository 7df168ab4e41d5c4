//! Text as people see it: what looks the same is the same, nothing hides, and nothing turns a line round on a screen.
//!
//! Never here: bounds and meanings of single fields; those are each service's. Doors take [`line`]s and [`word`]s from callers; whatever
//! writes for people to a terminal or a log passes it through [`Shown`].

use std::{borrow::Cow, io};

use unicode_normalization::{UnicodeNormalization, is_nfc};
use unicode_properties::general_category::{GeneralCategory, UnicodeGeneralCategory};

/// Composed (NFC): `e` with an accent behind it is the letter that has one. On a Mac file names come the one way, from a keyboard the other.
pub fn composed(text: &str) -> String {
    if is_nfc(text) { text.to_owned() } else { text.nfc().collect() }
}

/// Decomposed (NFD): the other way to write what [`composed`] writes in one letter.
pub fn decomposed(text: &str) -> String {
    text.nfd().collect()
}

/// Whether two texts look the same: composed, and without what is around them.
pub fn is_same(one: &str, other: &str) -> bool {
    one == other || composed(one.trim()) == composed(other.trim())
}

/// A line that people read, such as a name, a title or a reason: composed, without blanks around it, 1 to `chars_max` characters of which
/// some can be seen and none hides.
///
/// # Errors
/// What is wrong with it, in words for its sender.
pub fn line(text: &str, chars_max: usize) -> Result<String, String> {
    let text = composed(text.trim());
    if text.is_empty() || text.chars().count() > chars_max {
        return Err(format!("must have 1 to {chars_max} characters, not only blanks"));
    }
    shows_all(&text)?;
    Ok(text)
}

/// What something is found by, such as an article number: a [`line`] of one word, in which nothing at all is invisible.
///
/// # Errors
/// What is wrong with it, in words for its sender.
pub fn word(text: &str, chars_max: usize) -> Result<String, String> {
    let text = line(text, chars_max)?;
    match text.chars().find(|letter| letter.is_whitespace() || is_hidden(*letter)) {
        Some(letter) if letter.is_whitespace() => Err("must have no blanks inside".to_owned()),
        Some(letter) => Err(hides(letter)),
        None => Ok(text),
    }
}

/// Refuses text in which something hides: controls, and what is drawn as nothing. Joiners and variation selectors may stand where
/// they change what is drawn: in scripts other than Latin, and in emoji.
///
/// # Errors
/// What is wrong with it, in words for its sender.
pub fn shows_all(text: &str) -> Result<(), String> {
    let mut before = None;
    for letter in text.chars() {
        if is_hidden(letter) && !before.is_some_and(|before| draws(before, letter)) {
            return Err(hides(letter));
        }
        before = Some(letter);
    }
    Ok(())
}

fn hides(letter: char) -> String {
    format!("must not contain U+{:04X}, which can't be seen", u32::from(letter))
}

/// Whether a joiner or selector behind this letter changes what is drawn.
fn draws(before: char, letter: char) -> bool {
    let is_selector = |letter| ('\u{fe00}'..='\u{fe0f}').contains(&letter);
    let joins = !before.is_ascii() && !is_hidden(before) && !is_latin(before);
    match letter {
        '\u{200c}' | '\u{200d}' => joins || is_selector(before),
        // Of a digit they make the emoji of a key.
        _ if is_selector(letter) => joins || matches!(before, '0'..='9' | '#' | '*'),
        _ => false,
    }
}

/// Latin letters with their marks: nothing joins them.
fn is_latin(letter: char) -> bool {
    matches!(letter, '\u{c0}'..='\u{24f}' | '\u{300}'..='\u{36f}' | '\u{1e00}'..='\u{1eff}')
}

/// Drawn as nothing, or no text at all. What no version of Unicode knows yet counts as seen.
fn is_hidden(letter: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    if letter.is_ascii() {
        return letter.is_ascii_control();
    }
    matches!(letter.general_category(), Control | Format | LineSeparator | ParagraphSeparator)
        // Letters and marks that are drawn as nothing: fillers, joiners of graphemes, variation selectors, the blank of Braille.
        || matches!(letter, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// Turns the direction of what follows: a line with one is not read as it was written.
fn is_turning(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text for a terminal or a log: bidirectional controls as `\u202e`, which is also how JSON writes them.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_turning) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            letter if is_turning(letter) => shown.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// Writes on, with bidirectional controls as [`shown`] has them. Each write is looked at by itself: text is written whole.
#[derive(Debug)]
pub struct Shown<W>(pub W);

impl<W: io::Write> io::Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A plain search first, as almost no line has one: these are the bytes that all of them begin with.
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.iter().any(|byte| matches!(byte, 0xd8 | 0xe2)) => self.0.write_all(shown(text).as_bytes()),
            _ => self.0.write_all(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_looks_the_same_is_the_same() {
        assert_eq!(line(" jose\u{301} ", 4), Ok("jos\u{e9}".to_owned()));
        assert_eq!(word("TEA-1\t", 5), Ok("TEA-1".to_owned()));
        assert!(is_same("cafe\u{301} ", "caf\u{e9}") && !is_same("cafe", "caf\u{e9}"));
    }

    #[test]
    fn nothing_hides_in_a_line_or_a_word() {
        for hidden in [
            "\u{200b}",
            "\u{200c}",
            "\u{200d}",
            "\u{2060}",
            "\u{feff}",
            "\u{ad}",
            "\u{34f}",
            "\u{3164}",
            "\u{202e}",
            "\u{e0041}",
            "\u{fe0f}",
            "\u{0}",
            "\u{7f}",
            "\u{85}a",
            "\u{2028}a",
            "\n.",
            "\u{1b}[1m",
        ] {
            for text in [format!("tea{hidden}"), format!("t{hidden}ea"), format!("te\u{e9}{hidden}")] {
                assert!(hidden.trim().is_empty() || line(&text, 99).is_err(), "{text:?}");
                assert!(hidden.trim().is_empty() || word(&text, 99).is_err(), "{text:?}");
            }
        }
        for nothing in ["", "  ", "\u{3000}", "\u{200b}", "\u{2800}\u{2800}", "\u{115f}", "\u{a0}\u{200d}"] {
            assert!(line(nothing, 99).is_err(), "{nothing:?}");
        }
        assert!(line("abcd", 3).is_err() && word("a b", 99).is_err() && word("a\u{a0}b", 99).is_err());
    }

    #[test]
    fn what_changes_the_drawing_is_kept() {
        // A family, a burning heart, a key, a Persian plural.
        for text in [
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "\u{2764}\u{fe0f}\u{200d}\u{1f525}",
            "1\u{fe0f}\u{20e3}",
            "\u{6a9}\u{62a}\u{627}\u{628}\u{200c}\u{647}\u{627}",
        ] {
            assert_eq!(line(text, 99).as_deref(), Ok(text));
            assert!(word(text, 99).is_err(), "but nothing is found by it: {text:?}");
        }
        assert_eq!(line("\u{5d0}\u{5d1} 12", 99).as_deref(), Ok("\u{5d0}\u{5d1} 12"));
    }

    #[test]
    fn a_line_on_a_screen_is_read_as_it_was_written() {
        assert_eq!(shown("tea"), "tea");
        let mut screen = Shown(Vec::new());
        screen.write_all("{\"to\":\"\u{202e}eert\u{2069}\u{61c}\"} \u{201c}\u{e9}\n".as_bytes()).unwrap();
        screen.write_all(b"\xe2\x80").unwrap();
        assert_eq!(
            screen.0,
            "{\"to\":\"\\u202eeert\\u2069\\u061c\"} \u{201c}\u{e9}\n".bytes().chain(*b"\xe2\x80").collect::<Vec<_>>()
        );
    }
}
