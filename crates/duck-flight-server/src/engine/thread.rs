//! Threads that work on the database.

use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::error::{Error, Result};

/// Parsing, planning and nested values go as deep as a client sends them, and DuckDB looks at no bound: what does not fit
/// ends the process. Only what was used takes memory.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// How often threads that are to end are looked at.
const STOP_LOOK: Duration = Duration::from_millis(1);

/// Starts one of them.
pub(super) fn start(
    name: impl Into<String>,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let thread = Builder::new().name(name.into()).stack_size(STACK_BYTES);
    thread.spawn(work).map_err(|source| Error::Io {
        doing: "start a thread",
        source,
    })
}

/// Waits for threads that were told to end. Answers whether all have; those that have not once it `is_too_late` go on.
pub(super) fn all_end(threads: Vec<JoinHandle<()>>, mut is_too_late: impl FnMut() -> bool) -> bool {
    while !threads.iter().all(JoinHandle::is_finished) {
        if is_too_late() {
            return false;
        }
        std::thread::sleep(STOP_LOOK);
    }
    for thread in threads {
        thread.join().ok();
    }
    true
}
