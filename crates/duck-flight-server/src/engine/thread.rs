//! Threads that work on the database.

use std::thread::{Builder, JoinHandle};

use crate::error::{Error, Result};

/// Parsing, planning and nested values go as deep as a client sends them, and DuckDB looks at no bound: what does not fit
/// ends the process. Only what was used takes memory.
pub(crate) const STACK_BYTES: usize = 64 << 20;

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
