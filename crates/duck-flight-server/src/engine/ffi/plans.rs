//! The plans of queries, kept for the next time.

use std::collections::VecDeque;
use std::ptr;

use duckdb::ffi;

use super::{Connection, Prepared};
use crate::engine::connections::commits::Moment;

/// How many plans a connection keeps.
const MAX_PLANS: usize = 32;

/// The plans of queries that a connection ran last, each with the moment at which it was made.
#[derive(Default)]
pub(super) struct Plans(VecDeque<Plan>);

struct Plan {
    sql: String,
    moment: Moment,
    is_brief: bool,
    raw: ffi::duckdb_prepared_statement,
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_prepare_extracted_statement, freed only here; null is allowed.
        unsafe { ffi::duckdb_destroy_prepare(&raw mut self.raw) };
    }
}

impl Connection {
    /// Takes the plan of a query that was made at this very moment: nothing has been committed since.
    pub(crate) fn take_plan(&self, sql: &str, moment: Moment) -> Option<Prepared<'_>> {
        self.take_plan_if(sql, moment, |_| true)
    }

    /// As [`take_plan`](Self::take_plan), but only where the query was brief the last time.
    pub(crate) fn take_brief_plan(&self, sql: &str, moment: Moment) -> Option<Prepared<'_>> {
        self.take_plan_if(sql, moment, |plan| plan.is_brief)
    }

    fn take_plan_if(
        &self,
        sql: &str,
        moment: Moment,
        suits: impl Fn(&Plan) -> bool,
    ) -> Option<Prepared<'_>> {
        let mut plans = self.plans.borrow_mut();
        // Those of other moments are of no use any more. They may stand behind one of this moment: while a commit was under
        // way, none was looked for.
        plans.0.retain(|plan| plan.moment == moment);
        let place = plans
            .0
            .iter()
            .position(|plan| plan.sql == sql && suits(plan))?;
        let mut plan = plans.0.remove(place)?;
        Some(Prepared {
            connection: self,
            raw: std::mem::replace(&mut plan.raw, ptr::null_mut()),
        })
    }

    /// Keeps the plan of a query, in place of the one that was not used for longest, and whether it was brief.
    pub(crate) fn keep_plan(
        &self,
        sql: &str,
        mut prepared: Prepared<'_>,
        moment: Moment,
        is_brief: bool,
    ) {
        let mut plans = self.plans.borrow_mut();
        plans.0.truncate(MAX_PLANS - 1);
        plans.0.push_front(Plan {
            sql: sql.to_owned(),
            moment,
            is_brief,
            raw: std::mem::replace(&mut prepared.raw, ptr::null_mut()),
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::EngineOptions;
    use crate::engine::storage::open::open_database;

    #[test]
    fn a_plan_of_another_moment_is_not_taken_though_a_newer_one_was_kept_since() {
        let opened = open_database(&EngineOptions::in_memory()).unwrap();
        let connection = opened.database.connect().unwrap();
        let keep = |sql| {
            let plan = connection.parse(sql).unwrap().last_statement();
            let moment = connection.commits().quiet().unwrap();
            connection.keep_plan(sql, plan.unwrap().unwrap(), moment, false);
        };
        keep("SELECT 1");
        drop(connection.commits().under_way());
        keep("SELECT 2");
        let moment = connection.commits().quiet().unwrap();
        assert!(connection.take_plan("SELECT 1", moment).is_none());
        assert!(connection.take_plan("SELECT 2", moment).is_some());
    }
}
