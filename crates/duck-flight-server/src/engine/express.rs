//! The express lane: a small query whose plan is kept runs at once, on the network's own thread.
//!
//! To hand a query to a thread of the pool, and its rows back, takes longer than DuckDB takes for `SELECT 42`. So a query
//! that ended within [`ALONE`] the last time, with a chunk of rows or none, runs where its request was read, as long
//! as nothing waits for a thread of the pool or runs on one: several threads together get more done. It has twice the
//! time; what takes longer this time, or fails, is given up, and goes the usual way from its beginning.
//!
//! A thread of the network that is kept busy answers nobody else, and may be the one that the others count on to learn
//! what comes in. Between two tasks the time is looked at; should a single task take long, a [`Lookout`] sees to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::Lossless;
use super::ffi::query::ALONE;
use super::lookout::Lookout;
use super::pool::{Cancel, Pool, Session};
use super::pump::{Start, whole};
use super::query::Sql;
use crate::error::Result;

/// How long a query may take here.
const AT_MOST: Duration = ALONE.saturating_mul(2);

/// The express lane of a pool.
pub(super) struct Express {
    lookout: Lookout,
}

impl Express {
    pub(super) fn start() -> Result<Self> {
        Ok(Self {
            lookout: Lookout::start()?,
        })
    }

    /// Runs a query here and now. `None` where it must go the usual way; then it is as if it had not run.
    pub(super) fn query(&self, pool: &Pool, lossless: &Lossless, sql: &Sql) -> Option<Start> {
        let runtime = Handle::try_current().ok()?;
        let is_lone = runtime.metrics().num_workers() < 2;
        if is_lone || sql.parameters.rows() > 0 || sql.progress.is_some() {
            return None;
        }
        let run = |session: &Session| self.run(session, lossless, &sql.text, runtime);
        pool.alone()?.run(run)
    }

    fn run(
        &self,
        session: &Session,
        lossless: &Lossless,
        sql: &str,
        runtime: Handle,
    ) -> Option<Start> {
        let connection = &session.connection;
        let moment = connection.commits().quiet()?;
        let plan = connection.take_brief_plan(sql, moment)?;
        let cancel = Arc::<Cancel>::default();
        let interruptible = cancel.watch(connection);
        let watched = self.lookout.watch(&cancel, runtime);
        let starting = connection.commits().still(moment)?;
        let rows = || {
            let pending = plan.start()?;
            drop(starting);
            let Some(result) = pending.finish_within(AT_MOST)? else {
                return Ok(None);
            };
            whole(result, &lossless.options, &cancel)
        };
        let outcome: Result<_> = rows();
        drop((watched, interruptible));
        match outcome {
            Ok(Some(rows)) => {
                connection.keep_plan(sql, plan, moment, true);
                Some(rows)
            }
            // The usual way tells of an error, and makes a new plan, of which it finds out whether it is brief.
            Ok(None) | Err(_) => {
                connection.roll_back();
                None
            }
        }
    }
}
