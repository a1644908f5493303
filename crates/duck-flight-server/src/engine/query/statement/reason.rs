//! The error of a statement that DuckDB does not tell.

use super::super::pivots::PIVOTS;
use super::{Statement, drain};
use crate::engine::ffi::{QueryResult, StatementKind};
use crate::engine::sql::tokens::contains_any_word;
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::engine::transaction_that;
use crate::error::Error;

/// How often a query is run again whose error DuckDB did not tell.
const REASON_TRIES: u32 = 3;

impl Statement<'_> {
    /// The error as the client is told it.
    pub(super) fn told(&self, error: Error, dirty: &mut bool) -> Error {
        match error {
            Error::Sql(error) if self.is_untold(&error) => self.find_reason(dirty),
            other => other,
        }
    }

    /// Whether DuckDB says that the statement was interrupted, although nobody did: it has failed.
    pub(super) fn is_untold(&self, error: &SqlError) -> bool {
        error.kind == SqlErrorKind::Interrupted && !self.cancel.is_cancelled()
    }

    /// The error of a statement that says it was interrupted although nobody did.
    ///
    /// DuckDB stops the other threads of a statement that fails by an interrupt, and in a race of its own tells of
    /// that instead of the failure (`SimpleBufferedData::ExecuteTaskInternal`). A query is run again for its error
    /// alone.
    fn find_reason(&self, dirty: &mut bool) -> Error {
        let is_parsed_alike = self.is_alone || !contains_any_word(&self.sql.text, PIVOTS);
        let tries = if is_parsed_alike { REASON_TRIES } else { 0 };
        for _ in 0..tries {
            let outcome = transaction_that(
                |_: &u64| false,
                self.connection,
                |connection| {
                    let _watch = self.cancel.watch(connection);
                    let statement = self.connection.parse(&self.sql.text)?.statement(self.index);
                    let statement = statement.ok_or(Error::NoStatement)??;
                    if statement.kind() != StatementKind::Select {
                        return Err(Error::ReasonLost);
                    }
                    let mut consume = |result: QueryResult<'_>| drain(result, self.cancel);
                    Ok(self.run_prepared(&statement, dirty, &mut consume)?.1)
                },
            );
            match outcome {
                Err(Error::Sql(error)) if error.kind == SqlErrorKind::Interrupted => {}
                Err(error) => return error,
                Ok(_) => break,
            }
        }
        match self.cancel.check() {
            Ok(()) => Error::ReasonLost,
            Err(cancelled) => cancelled,
        }
    }
}
