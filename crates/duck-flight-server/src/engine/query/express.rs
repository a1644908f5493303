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

use super::Sql;
use super::description::Description;
use super::lookout::Lookout;
use super::pump::{Start, whole};
use crate::engine::Lossless;
use crate::engine::connections::cancel::Cancel;
use crate::engine::connections::pool::{Pool, Session};
use crate::engine::ffi::query::ALONE;
use crate::error::Result;

/// How long a query may take here.
const AT_MOST: Duration = ALONE.saturating_mul(2);

/// The express lane of a pool.
pub(in crate::engine) struct Express {
    lookout: Lookout,
}

impl Express {
    pub(in crate::engine) fn start() -> Result<Self> {
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

    /// What is known of a query, where its plan is kept.
    pub(super) fn describe(
        &self,
        pool: &Pool,
        lossless: &Lossless,
        sql: &str,
    ) -> Option<Description> {
        pool.alone()?.run(|session| {
            let connection = &session.connection;
            let moment = connection.commits().quiet()?;
            let plan = connection.take_brief_plan(sql, moment)?;
            let described = Description::of(&plan, lossless, sql, 1, Some(moment));
            connection.keep_plan(sql, plan, moment, true);
            described.ok()
        })
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
            if !starting.end() {
                return Ok(None);
            }
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

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use crate::engine::{Engine, EngineOptions, Place};

    /// How often a query is run that should be brief: now and then one takes longer for no reason of its own.
    const TRIES: i64 = 1000;

    fn engine() -> Engine {
        Engine::open(&EngineOptions::in_memory()).unwrap()
    }

    /// The rows of a query by the express lane.
    fn express(engine: &Engine, sql: &str) -> Option<usize> {
        let lossless = &engine.0.shared.lossless;
        let sql = sql.to_owned().into();
        let start = engine.0.express.query(&engine.0.queries, lossless, &sql)?;
        assert!(start.is_all);
        Some(start.batch.map_or(0, |batch| batch.num_rows()))
    }

    /// Runs a query the usual way until it may take the express lane; answers with its rows there.
    async fn brief(engine: &Engine, sql: &str) -> Option<usize> {
        for _ in 0..TRIES {
            engine.run(&Place::Any, sql.to_owned()).await.unwrap();
            // The answer comes before the connection is given back.
            while engine.0.queries.alone().is_none() {
                std::thread::yield_now();
            }
            if let Some(rows) = express(engine, sql) {
                return Some(rows);
            }
        }
        None
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_query_that_ran_before_takes_the_lane_until_something_is_committed() {
        let engine = engine();
        let insert = "INSERT INTO t VALUES (42)";
        engine
            .execute(&Place::Any, "CREATE TABLE t (i INT)".to_owned())
            .await
            .unwrap();
        for rows in 0..10 {
            assert_eq!(express(&engine, "FROM t"), None);
            assert_eq!(brief(&engine, "FROM t").await, Some(rows));
            assert_eq!(express(&engine, "FROM t "), None, "another text");
            engine
                .execute(&Place::Any, insert.to_owned())
                .await
                .unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_plan_tells_what_a_statement_that_is_prepared_anew_tells() {
        let engine = engine();
        let sql = "SELECT 1::UHUGEINT AS a, 'b' AS b";
        let known = || {
            let (queries, lossless) = (&engine.0.queries, &engine.0.shared.lossless);
            engine.0.express.describe(queries, lossless, sql)
        };
        let anew = engine.describe(&Place::Any, sql.to_owned()).await.unwrap();
        assert!(known().is_none());
        // The lane is closed for a moment where the connection of the query before is on its way back.
        let mut described = None;
        for _ in 0..TRIES {
            brief(&engine, sql).await.unwrap();
            described = known();
            if described.is_some() {
                break;
            }
        }
        let known = described.unwrap();
        assert_eq!(format!("{known:?}"), format!("{anew:?}"));
        assert!(engine.is_current(&known, &Place::Any));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_long_and_what_counts_goes_the_usual_way() {
        let engine = engine();
        engine
            .execute(&Place::Any, "CREATE SEQUENCE s".to_owned())
            .await
            .unwrap();
        for sql in ["FROM range(5000)", "SELECT nextval('s')"] {
            assert_eq!(brief(&engine, sql).await, None);
        }
        let next = engine.run(&Place::Any, "SELECT nextval('s')".to_owned());
        let rows = next.await.unwrap().rows.unwrap();
        let next = rows.batches[0].column(0).as_primitive::<Int64Type>();
        assert_eq!(next.values(), &[TRIES + 1], "drawn once by each");
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_has_no_lane() {
        assert_eq!(brief(&engine(), "SELECT 42").await, None);
    }
}
