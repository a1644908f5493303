//! Ctrl-C and SIGTERM.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a process that Ctrl-C ended, as shells have it: 128 and the number of the signal.
const EXIT_INTERRUPTED: u8 = 130;

/// The exit code of a process that SIGTERM ended.
#[cfg(unix)]
const EXIT_TERMINATED: u8 = 143;

/// Ctrl-C and SIGTERM, which no longer end the process by themselves once somebody listens.
#[cfg(unix)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

#[cfg(unix)]
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

/// Ctrl-C, which no longer ends the process by itself once it is waited for.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// None.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for the next one, and answers with the exit code of a process that it ends.
    pub(crate) async fn next(&mut self) -> u8 {
        // Where it cannot be had, the process ends as the system would have it.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        EXIT_INTERRUPTED
    }
}
