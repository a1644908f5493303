//! Who is let in: each connection is an open file, of which a process has a limited number, and DuckDB needs some.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, stream};
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::connection::Connection;
use crate::drain::Drain;

/// Files that are left for the database, what it spills, and the process itself; half of all where there are few.
const OTHER_FILES: usize = 256;

/// How long nobody is let in after the system could not do so.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the log says at most that somebody was not let in.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The connections that clients open, as many at a time as there are files for. Others are closed at once.
pub(super) fn connections(
    listener: TcpListener,
    drain: &Drain,
) -> impl Stream<Item = Result<Connection, Infallible>> + use<> {
    let limit = most_connections(getrlimit(Resource::Nofile).current);
    let door = Door {
        listener,
        drain: drain.clone(),
        places: Arc::new(Semaphore::new(limit)),
        limit,
        told: None,
    };
    stream::unfold(door, |mut door| async move {
        let connection = door.next().await;
        Some((Ok(connection), door))
    })
}

/// How many connections there may be where the process may have this many files; `None` is any number.
fn most_connections(files: Option<u64>) -> usize {
    let files = files.and_then(|files| usize::try_from(files).ok());
    let files = files.unwrap_or(Semaphore::MAX_PERMITS);
    (files - OTHER_FILES.min(files / 2)).min(Semaphore::MAX_PERMITS)
}

struct Door {
    listener: TcpListener,
    drain: Drain,
    /// One for each connection that may still come.
    places: Arc<Semaphore>,
    limit: usize,
    /// When the log said last that somebody was not let in.
    told: Option<Instant>,
}

impl Door {
    /// Waits for the next connection for which there is a place.
    async fn next(&mut self) -> Connection {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            };
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                if self.may_tell() {
                    let limit = self.limit;
                    tracing::warn!(
                        limit,
                        "connections are refused, for so many are open already: raise `ulimit -n`"
                    );
                }
                continue;
            };
            // Without it every put larger than a segment waits for a delayed acknowledgement. Where it cannot be set,
            // the client has gone.
            stream.set_nodelay(true).ok();
            return Connection::new(stream, &self.drain, place);
        }
    }

    /// Says that a client could not be let in, and waits a little: the next one cannot either.
    async fn failed(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionAborted {
            // It has gone while it waited.
            return;
        }
        if self.may_tell() {
            tracing::warn!(%error, "connections cannot be accepted");
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn may_tell(&mut self) -> bool {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if is_due {
            self.told = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!(most_connections(Some(0)), 0);
        assert_eq!(most_connections(Some(100)), 50);
        assert_eq!(most_connections(Some(1024)), 768);
        assert_eq!(most_connections(Some(1 << 20)), (1 << 20) - 256);
        for unlimited in [Some(u64::MAX), None] {
            assert!(most_connections(unlimited) > 1 << 30, "{unlimited:?}");
        }
    }
}
