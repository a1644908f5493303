//! Ctrl-C and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a process that Ctrl-C ended, as shells have it: 128 and the number of the signal.
const EXIT_INTERRUPTED: u8 = 130;

/// The exit code of a process that SIGTERM ended.
const EXIT_TERMINATED: u8 = 143;

/// Ctrl-C and SIGTERM, which no longer end the process by themselves once somebody listens.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one, and answers with the exit code of a process that it ends.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => EXIT_INTERRUPTED,
            _ = self.terminate.recv() => EXIT_TERMINATED,
        }
    }
}
