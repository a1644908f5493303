//! Room for what compressed messages become: few bytes may stand for very many.
//!
//! A message that becomes large waits for room before it is unpacked. Its rows have it until they are counted in the memory for
//! rows, or written: those of a large unit count nowhere else.
//!
//! Nobody may wait here for whoever waits for it. So there is room of its own for each standing: a put that holds nothing waits for the
//! memory of those that hold some, these wait for a transaction of those that are written, and those wait for nobody.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::grains::grains;
use crate::intake::Standing;

/// A message that becomes no more than this needs no room: HTTP/2 holds as much of each stream.
const SMALL_BYTES: usize = 1 << 20;

/// One that becomes no more than this is one of ordinary batches. There is room for `ORDINARY_MESSAGES` of this size.
const ORDINARY_BYTES: usize = 16 << 20;
const ORDINARY_MESSAGES: usize = 8;

/// The server's room for what messages become. Clones share it.
#[derive(Clone)]
pub(crate) struct Unpacking {
    idle: Space,
    holding: Space,
    writing: Space,
    max_bytes: usize,
}

/// Room for puts of one standing. Clones share it.
#[derive(Clone)]
struct Space {
    ordinary: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// Room that rows have, until this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Unpacking {
    /// Room for messages that become `max_bytes` at most: for one of these, and many ordinary ones, of each standing.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let space = || Space {
            ordinary: Arc::new(Semaphore::new(
                grains(ORDINARY_BYTES) as usize * ORDINARY_MESSAGES,
            )),
            large: Arc::new(Semaphore::new(grains(max_bytes) as usize)),
        };
        Self {
            idle: space(),
            holding: space(),
            writing: space(),
            max_bytes,
        }
    }

    /// Waits for room for what a message becomes. One that becomes more than the limit needs none: it is refused.
    pub(crate) async fn take(&self, standing: Standing, bytes: usize) -> Option<Room> {
        if bytes <= SMALL_BYTES || bytes > self.max_bytes {
            return None;
        }
        let space = match standing {
            Standing::Idle => &self.idle,
            Standing::Holding => &self.holding,
            Standing::Writing => &self.writing,
        };
        let space = match bytes <= ORDINARY_BYTES {
            true => &space.ordinary,
            false => &space.large,
        };
        let permit = space.clone().acquire_many_owned(grains(bytes)).await;
        permit.ok().map(|permit| Room { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_put_waits_for_those_of_its_standing_only() {
        let unpacking = Unpacking::new(100 << 20);
        let take = |standing, mib: usize| unpacking.take(standing, mib << 20).now_or_never();
        let idle = take(Standing::Idle, 60).unwrap();
        assert!(idle.is_some());
        assert!(take(Standing::Idle, 60).is_none());
        assert!(take(Standing::Idle, 10).unwrap().is_some());
        for standing in [Standing::Holding, Standing::Writing] {
            assert!(take(standing, 100).unwrap().is_some());
        }
        assert!(take(Standing::Idle, 1).unwrap().is_none());
        assert!(take(Standing::Idle, 101).unwrap().is_none());
        drop(idle);
        assert!(take(Standing::Idle, 100).unwrap().is_some());
    }
}
