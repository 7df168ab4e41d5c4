//! What the code under test has logged.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use tracing_subscriber::fmt::MakeWriter;

/// Everything logged since it began, of all threads.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<u8>>>);

static HEARD: std::sync::OnceLock<Heard> = std::sync::OnceLock::new();

/// Begins to listen, for the whole process.
pub(crate) fn capture() -> Heard {
    let heard = HEARD.get_or_init(|| {
        let heard = Heard::default();
        tracing_subscriber::fmt().with_writer(heard.clone()).with_ansi(false).init();
        heard
    });
    heard.0.lock().unwrap().clear();
    heard.clone()
}

/// Everything heard so far, for whoever has waited in vain.
pub(crate) fn all() -> String {
    HEARD.get().map(|heard| String::from_utf8_lossy(&heard.0.lock().unwrap()).into_owned()).unwrap_or_default()
}

impl Heard {
    pub(crate) fn has(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(words)
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Heard {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
