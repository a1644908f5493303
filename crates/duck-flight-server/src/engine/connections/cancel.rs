//! Stopping a request, and only that one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::engine::ffi::{Connection, Interrupter};
use crate::error::{Error, Result};

/// Stops one request, wherever it is: not begun, running, or done.
///
/// An interrupt that reaches DuckDB before the statement has started is lost, and one that comes after
/// its end would hit the next. So the flag is set first, the thread looks at it once the statement has
/// started, and the interrupter is there only while the request runs, under one lock.
#[derive(Default)]
pub(crate) struct Cancel(Mutex<CancelState>);

#[derive(Default)]
struct CancelState {
    cancelled: bool,
    /// Whether an interrupt would cost the client more than this request: its transaction.
    is_costly: bool,
    running: Option<Interrupter>,
    /// What the request waits for while its client is slow.
    places: Option<Arc<Semaphore>>,
}

/// How long a request inside a client's transaction has to end by itself once nobody wants its result, before it is
/// interrupted, which ends the transaction too.
const GRACE: Duration = Duration::from_millis(50);

impl Cancel {
    /// Stops the request.
    pub(crate) fn cancel(&self) {
        let mut state = self.0.lock();
        state.cancelled = true;
        if let Some(places) = &state.places {
            places.close();
        }
        if let Some(interrupter) = &state.running {
            interrupter.interrupt();
        }
    }

    /// Lets `cancel` also end the wait for a slow client.
    pub(in crate::engine) fn closes(&self, places: Arc<Semaphore>) {
        self.0.lock().places = Some(places);
    }

    /// Records that the request runs inside a client's transaction.
    pub(super) fn spare_transaction(&self) {
        self.0.lock().is_costly = true;
    }

    /// Stops a request whose result nobody wants any more: at its next message, and only then by an interrupt.
    fn give_up(self: &Arc<Self>) {
        let mut state = self.0.lock();
        let runtime = tokio::runtime::Handle::try_current();
        let (true, Ok(runtime)) = (state.is_costly && state.running.is_some(), runtime) else {
            drop(state);
            return self.cancel();
        };
        state.cancelled = true;
        drop(state);
        let cancel = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep(GRACE).await;
            cancel.cancel();
        });
    }

    /// Lets `cancel` reach the connection until the guard is dropped.
    pub(in crate::engine) fn watch(&self, connection: &Connection) -> Watch<'_> {
        self.0.lock().running = Some(connection.interrupter());
        Watch(self)
    }

    pub(in crate::engine) fn is_cancelled(&self) -> bool {
        self.0.lock().cancelled
    }

    /// Fails when the request was cancelled.
    pub(in crate::engine) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// While it lives, the request can be interrupted.
pub(in crate::engine) struct Watch<'a>(&'a Cancel);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.0.lock().running = None;
    }
}

/// Cancels its request when it is dropped: the client has gone, or has all it wanted.
#[derive(Default)]
pub(in crate::engine) struct CancelOnDrop(Arc<Cancel>);

impl CancelOnDrop {
    pub(in crate::engine) fn cancel(&self) -> Arc<Cancel> {
        self.0.clone()
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.give_up();
    }
}
