//! The way down, stage by stage, for everything that has to end.

use std::future::pending;

use tokio::sync::watch;

/// How far the server is on its way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Stage {
    /// It is not on its way down.
    Serving,
    /// No new calls. What is in flight is finished; a put whose batches are units ends after the one in hand.
    Finishing,
    /// Results and puts that are still in flight end, and their clients are told why.
    Ending,
    /// Connections are cut.
    Cut,
}

/// Tells how far the server is. Clones hear the same.
#[derive(Debug, Clone)]
pub(crate) struct Drain(watch::Receiver<Stage>);

impl Drain {
    /// A server that is not on its way down, and what sends it there.
    pub(crate) fn new() -> (watch::Sender<Stage>, Self) {
        let (stages, stage) = watch::channel(Stage::Serving);
        (stages, Self(stage))
    }

    /// Waits until the server is at this stage.
    pub(crate) fn reaches(&self, stage: Stage) -> impl Future<Output = ()> + Send + use<> {
        let mut stages = self.0.clone();
        async move {
            if stages.wait_for(|now| *now >= stage).await.is_err() {
                // Whoever leads the way has gone without leading it any further.
                pending().await
            }
        }
    }
}
