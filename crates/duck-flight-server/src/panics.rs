//! Panics as lines of the log.

use std::backtrace::Backtrace;
use std::panic::{self, PanicHookInfo};
use std::thread;

use tracing::Level;

/// Has the log tell of panics from now on, of those that are caught as well, each in a line: Rust by itself writes several lines of
/// text to stderr, whatever the log's format. It still does where `RUST_LOG` does not let the line through, for a thread that ends
/// without a word would be worse.
pub fn log_panics() {
    // As Rust itself has it.
    let has_backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let by_default = panic::take_hook();
    panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        // A panic in here would end the process. It may be the log itself that has panicked, in the middle of another line.
        match tracing::enabled!(Level::ERROR) {
            true => log(info, has_backtrace),
            false => by_default(info),
        }
    }));
}

fn log(info: &PanicHookInfo<'_>, has_backtrace: bool) {
    let thread = thread::current();
    let location = info.location().map(ToString::to_string);
    let backtrace = has_backtrace.then(|| Backtrace::force_capture().to_string());
    tracing::error!(
        panic = message(info),
        location,
        thread = thread.name().unwrap_or("<unnamed>"),
        backtrace,
        "a thread panicked"
    );
}

/// What was said; in Rust's words where it is no text.
fn message<'i>(info: &'i PanicHookInfo<'_>) -> &'i str {
    let payload = info.payload();
    if let Some(&message) = payload.downcast_ref::<&'static str>() {
        message
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message.as_str()
    } else {
        "Box<dyn Any>"
    }
}
