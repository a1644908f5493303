//! Asking a run to end early.

use std::future::Future;

use tokio::sync::watch;

/// Asks all writers of a run to send nothing more and to wait for the answers that are outstanding.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Never asks.
    pub fn never() -> Self {
        // Without its sender the channel never changes, which `requested` takes for never.
        Self(watch::channel(false).1)
    }

    /// Asks when `event` comes to its end. It is driven by a task of its own.
    pub fn on(event: impl Future<Output = ()> + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            event.await;
            // Nobody is left to ask once the run is over.
            let _ = sender.send(true);
        });
        Self(receiver)
    }

    /// Waits until the run is asked to end.
    pub(crate) async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the run has been asked to end.
    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow()
    }
}
