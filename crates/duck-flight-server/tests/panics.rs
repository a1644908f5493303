//! Panics as lines of the log. Both the log and what tells it of panics are those of the whole process, so there is one test here.

use std::fmt;
use std::io::{self, Write};
use std::panic::{panic_any, take_hook};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// What the log has written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Panics on a thread, and answers with what is written then.
    fn by(&self, panics: fn()) -> String {
        let thread = thread::Builder::new().name("a writer".into());
        thread.spawn(panics).unwrap().join().unwrap_err();
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap()
    }
}

/// Panics when it is written into a line.
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("in the middle of a line")
    }
}

#[test]
fn a_panic_is_one_line_of_the_log_whatever_it_says() {
    let written = Written::default();
    let writer = written.clone();
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .json()
        .init();
    duck_flight_server::log_panics();
    let told = [
        written.by(|| panic!("as a bug would")),
        written.by(|| {
            let lines = String::from("two\nlines");
            panic!("{lines}")
        }),
        written.by(|| panic_any(7)),
        written.by(|| tracing::info!(spoken = %Unspeakable)),
    ];
    // What fails from here on is for whoever runs the test.
    drop(take_hook());
    let messages = [
        "as a bug would",
        "two\nlines",
        "Box<dyn Any>",
        "in the middle of a line",
    ];
    for (told, message) in told.iter().zip(messages) {
        assert_eq!(told.lines().count(), 1, "{told}");
        let line: Value = serde_json::from_str(told).unwrap();
        assert_eq!(line["level"], "ERROR", "{told}");
        let fields = &line["fields"];
        assert_eq!(fields["message"], "a thread panicked", "{told}");
        assert_eq!(fields["panic"], message, "{told}");
        assert_eq!(fields["thread"], "a writer", "{told}");
        let location = fields["location"].as_str().unwrap();
        assert!(location.contains("panics.rs:"), "{told}");
    }
}
