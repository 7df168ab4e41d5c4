//! The one way to standard output and standard error: what every command says to the person or the program at the other end.
//!
//! Never here: what is said. A reader that has gone (`skald audit | head`) has seen what it wanted: nothing is told it any more, and
//! what is under way goes on to its end. Where the words can't be written for another reason, such as a full disk, the command ends with
//! code 3, as nobody has them. Never `println!`, which panics then.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write, stderr, stdout},
    process::ExitCode,
    sync::OnceLock,
};

use kit::text::Shown;

use crate::cli::EXIT_ENVIRONMENT;

/// Why standard output takes nothing any more.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// A line of what was asked for.
pub(crate) fn line(words: Arguments<'_>) {
    text(format_args!("{words}\n"));
}

/// What was asked for, as it stands.
pub(crate) fn text(words: Arguments<'_>) {
    if FAILED.get().is_none()
        && let Err(error) = write(stdout().lock(), words)
    {
        // The first one is the one to tell.
        let _ = FAILED.set(error);
    }
}

/// A line beside it, such as why a command failed. Where nobody reads it there is nobody left to tell.
pub(crate) fn aside(words: Arguments<'_>) {
    let _ = write(stderr().lock(), format_args!("{words}\n"));
}

fn write(to: impl Write, words: Arguments<'_>) -> io::Result<()> {
    let mut to = Shown(to);
    to.write_all(words.to_string().as_bytes())?;
    to.flush()
}

/// How the process ends, having said all that it had to say.
pub(crate) fn end(code: ExitCode) -> ExitCode {
    match FAILED.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            aside(format_args!("error: can't write to standard output: {error}"));
            ExitCode::from(EXIT_ENVIRONMENT)
        }
        _ => code,
    }
}
