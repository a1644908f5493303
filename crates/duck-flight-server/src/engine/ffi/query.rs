//! Statements: a script is parsed, then prepared and run statement by statement.

use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{FieldRef, SchemaRef};
use duckdb::ffi;
use parking_lot::RwLockReadGuard;

use super::result::{Column, QueryResult, export_schema, is_lossy, type_names};
use super::value::Value;
use super::{ArrowOptions, Connection, LogicalType, Result, SqlError, take_text, text};
use crate::engine::connections::cancel::Cancel;

/// The kinds of statement the engine treats apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatementKind {
    /// Reads rows. The only thing it can change is a sequence.
    Select,
    /// Changes rows: leaves no trace in the session.
    Rows,
    /// `SET` and `RESET`, of a setting or a variable.
    Set,
    /// A `PRAGMA` that is a call, not a query in disguise.
    Pragma,
    /// `EXPLAIN`, which with ANALYZE runs what it explains.
    Explain,
    /// Creates or drops something of the catalog.
    Definition,
    /// Alters something of the catalog.
    Alteration,
    /// Begins or ends a transaction.
    Transaction,
    /// `COPY` and `EXPORT`: files.
    Copy,
    /// `ATTACH` and `DETACH`: databases that every client would see.
    Attach,
    /// `PREPARE`, which keeps a plan in the session.
    Prepare,
    /// `CALL` of a table function or macro, and `CHECKPOINT`.
    Call,
    /// Anything else: may leave traces in the session (`USE`).
    Other,
}

impl Connection {
    /// Parses a script without running any of it.
    pub(crate) fn parse(&self, sql: &str) -> Result<Script<'_>> {
        let sql = super::c_string(sql)?;
        let mut script = Script {
            connection: self,
            raw: ptr::null_mut(),
            len: 0,
            next: 0,
        };
        // A PRAGMA is looked up.
        script.len = self.open_transaction.briefly(|| {
            // SAFETY: the connection is open, the text NUL-terminated, the result freed by `Script::drop`.
            unsafe { ffi::duckdb_extract_statements(self.raw, sql.as_ptr(), &raw mut script.raw) }
        });
        // SAFETY: the extracted statements are live; the message is copied.
        let message = unsafe { text(ffi::duckdb_extract_statements_error(script.raw)) };
        if !message.is_empty() {
            return Err(self.noted(SqlError::from_message(&message)));
        }
        Ok(script)
    }

    /// Runs a small query of ours to its end, all of it in one transaction: in the open one, or in one of its own. A statement that is
    /// prepared is planned in a transaction before the one that it runs in, and some plans hold on to a table that may be gone by then
    /// (`PragmaTableInfoBind`). No helper is called for it.
    pub(crate) fn query(&self, sql: &str) -> Result<QueryResult<'_>> {
        let sql = super::c_string(sql)?;
        self.chunks_fetched.set(0);
        self.rows_fetched.set(0);
        self.open_transaction.touch();
        // SAFETY: an all-zero duckdb_result is what the C API expects to fill in.
        let mut raw: ffi::duckdb_result = unsafe { std::mem::zeroed() };
        // SAFETY: the connection is open and the text NUL-terminated; the result is freed by `QueryResult::drop`, also after a failure.
        let state = unsafe { ffi::duckdb_query(self.raw, sql.as_ptr(), &raw mut raw) };
        self.open_transaction.settle();
        let mut result = QueryResult {
            raw,
            connection: self,
        };
        if state == ffi::DuckDBSuccess {
            return Ok(result);
        }
        let untold = || SqlError::internal("a query failed and does not say why");
        Err(result.error().unwrap_or_else(untold))
    }
}

/// A parsed script: statements that are prepared one after another, each after the one before it has run.
pub(crate) struct Script<'a> {
    connection: &'a Connection,
    raw: ffi::duckdb_extracted_statements,
    len: u64,
    next: u64,
}

impl<'a> Script<'a> {
    /// How many statements there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The index of the next statement.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Prepares the next statement, or `None` at the end.
    pub(crate) fn next_statement(&mut self) -> Option<Result<Prepared<'a>>> {
        let index = self.next;
        (index < self.len).then(|| {
            self.next += 1;
            self.prepare(index)
        })
    }

    /// Prepares statement `index` alone, none before it having run in this script's name.
    pub(crate) fn statement(mut self, index: u64) -> Option<Result<Prepared<'a>>> {
        self.next = index;
        self.next_statement()
    }

    /// Prepares the last statement alone, none before it having run.
    pub(crate) fn last_statement(mut self) -> Option<Result<Prepared<'a>>> {
        self.next = self.len.checked_sub(1)?;
        self.next_statement()
    }

    fn prepare(&self, index: u64) -> Result<Prepared<'a>> {
        let mut prepared = Prepared {
            connection: self.connection,
            raw: ptr::null_mut(),
        };
        let state = self.connection.open_transaction.briefly(|| {
            // SAFETY: connection and script are live, the index is in range and used once.
            unsafe {
                ffi::duckdb_prepare_extracted_statement(
                    self.connection.raw,
                    self.raw,
                    index,
                    &raw mut prepared.raw,
                )
            }
        });
        if state == ffi::DuckDBSuccess {
            return Ok(prepared);
        }
        // SAFETY: a failed prepare leaves a statement that holds the message, or null.
        let message = unsafe { text(ffi::duckdb_prepare_error(prepared.raw)) };
        Err(self.connection.noted(SqlError::from_message(&message)))
    }
}

impl Drop for Script<'_> {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_extract_statements, freed only here.
        unsafe { ffi::duckdb_destroy_extracted(&raw mut self.raw) };
    }
}

/// A statement that is bound and planned, but has not run.
pub(crate) struct Prepared<'a> {
    pub(super) connection: &'a Connection,
    pub(super) raw: ffi::duckdb_prepared_statement,
}

impl<'a> Prepared<'a> {
    /// What kind of statement it is, as DuckDB parsed it.
    pub(crate) fn kind(&self) -> StatementKind {
        // SAFETY: the statement is live.
        match unsafe { ffi::duckdb_prepared_statement_type(self.raw) } {
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_SELECT => StatementKind::Select,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_INSERT
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_UPDATE
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_DELETE
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_MERGE_INTO => StatementKind::Rows,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_EXPLAIN => StatementKind::Explain,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_CREATE
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_CREATE_FUNC
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_DROP => StatementKind::Definition,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_ALTER => StatementKind::Alteration,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_TRANSACTION => {
                StatementKind::Transaction
            }
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_COPY
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_EXPORT => StatementKind::Copy,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_ATTACH
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_DETACH => StatementKind::Attach,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_SET
            | ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_VARIABLE_SET => StatementKind::Set,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_PRAGMA => StatementKind::Pragma,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_PREPARE => StatementKind::Prepare,
            ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_CALL => StatementKind::Call,
            _ => StatementKind::Other,
        }
    }

    /// Whether it may write rows.
    pub(crate) fn may_write(&self) -> bool {
        !matches!(
            self.kind(),
            StatementKind::Select | StatementKind::Set | StatementKind::Transaction
        )
    }

    /// Whether it may take rows away that are there. What alters or drops a table leaves its rows to it; of an INSERT, and of what
    /// an EXPLAIN runs, only the words tell, see [`Connection::note_deletion`].
    pub(crate) fn may_delete(&self) -> bool {
        match self.kind() {
            StatementKind::Select
            | StatementKind::Set
            | StatementKind::Pragma
            | StatementKind::Explain
            | StatementKind::Call
            | StatementKind::Definition
            | StatementKind::Alteration
            | StatementKind::Transaction => false,
            StatementKind::Rows => {
                // SAFETY: the statement is live.
                let of_type = unsafe { ffi::duckdb_prepared_statement_type(self.raw) };
                of_type != ffi::duckdb_statement_type_DUCKDB_STATEMENT_TYPE_INSERT
            }
            _ => true,
        }
    }

    /// The schema of the result and the SQL type of each column, before the statement has run. Where a type depends
    /// on a parameter it is Null.
    pub(crate) fn schema(&self, lossless: &ArrowOptions) -> Result<(SchemaRef, Vec<String>)> {
        self.schema_of(self.columns()?, lossless)
    }

    /// The schema of the result, and which columns Arrow has no type for: they are told as texts, which they must be
    /// cast to.
    pub(crate) fn schema_as_texts(
        &self,
        lossless: &ArrowOptions,
    ) -> Result<(SchemaRef, Vec<String>)> {
        let mut texts = Vec::new();
        let columns = self.columns()?.into_iter().map(|Column { name, logical }| {
            if !logical.has_arrow_type() {
                texts.push(name.to_string_lossy().into_owned());
            }
            let logical = logical.or_text();
            Column { name, logical }
        });
        let (schema, _) = self.schema_of(columns.collect(), lossless)?;
        Ok((schema, texts))
    }

    fn schema_of(
        &self,
        columns: Vec<Column>,
        lossless: &ArrowOptions,
    ) -> Result<(SchemaRef, Vec<String>)> {
        let plain = ArrowOptions::of(self.connection);
        let options = if is_lossy(&columns) { lossless } else { &plain };
        let (_, schema) = export_schema(options, &columns)?;
        Ok((Arc::new(schema), type_names(&columns)))
    }

    fn columns(&self) -> Result<Vec<Column>> {
        // SAFETY: the statement is live; names and types are owned.
        let columns = unsafe {
            (0..ffi::duckdb_prepared_statement_column_count(self.raw))
                .map(|index| {
                    let name = ffi::duckdb_prepared_statement_column_name(self.raw, index);
                    let logical =
                        ffi::duckdb_prepared_statement_column_logical_type(self.raw, index);
                    (take_text(name.cast_mut()), LogicalType(logical))
                })
                .collect::<Vec<_>>()
        };
        let columns = columns.into_iter().map(|(name, logical)| {
            let name = super::c_string(&name)?;
            let logical = logical.or_null();
            Ok(Column { name, logical })
        });
        columns.collect()
    }

    /// What the parameters are called, in the order of their numbers: by those, or by names.
    pub(crate) fn parameter_names(&self) -> Vec<String> {
        // SAFETY: the statement is live; names are owned.
        unsafe {
            (1..=ffi::duckdb_nparams(self.raw))
                .map(|number| take_text(ffi::duckdb_parameter_name(self.raw, number).cast_mut()))
                .collect()
        }
    }

    /// The parameters, in the order of their numbers.
    pub(crate) fn parameters(&self, lossless: &ArrowOptions) -> Result<Vec<Parameter>> {
        let plain = ArrowOptions::of(self.connection);
        (1..)
            .zip(self.parameter_names())
            .map(|(number, name)| {
                // SAFETY: the statement is live; the type is owned, and may be null.
                let logical =
                    LogicalType(unsafe { ffi::duckdb_param_logical_type(self.raw, number) });
                let field = if logical.is_known() && logical.has_arrow_type() {
                    // Drivers bind a time by the plain type, and DuckDB gives it an offset.
                    let is_time = logical.id() == ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_TZ;
                    let columns = [Column {
                        name: super::c_string(&name)?,
                        logical,
                    }];
                    let is_plain = is_time || !is_lossy(&columns);
                    let options = if is_plain { &plain } else { lossless };
                    let (_, schema) = export_schema(options, &columns)?;
                    schema.fields.iter().next().cloned()
                } else {
                    None
                };
                Ok(Parameter { name, field })
            })
            .collect()
    }

    /// Gives the parameters values, from the first on.
    pub(crate) fn bind(&self, values: impl IntoIterator<Item = Value>) -> Result<()> {
        for (number, value) in (1..).zip(values) {
            // SAFETY: statement and value are live; the value is copied, and a wrong number is an error.
            let state = unsafe { ffi::duckdb_bind_value(self.raw, number, value.0) };
            if state != ffi::DuckDBSuccess {
                // SAFETY: the statement is live; the message is copied.
                let message = unsafe { text(ffi::duckdb_prepare_error(self.raw)) };
                return Err(SqlError::from_message(&message));
            }
        }
        Ok(())
    }

    /// Starts the statement and answers once its first rows, or its effect, are there.
    pub(crate) fn execute(&self) -> Result<QueryResult<'a>> {
        self.start()?.finish()
    }

    /// Starts the statement. From here on an interrupt reaches it; one before is lost.
    pub(crate) fn start(&self) -> Result<Pending<'a>> {
        let filling = match self.may_fill() {
            true => self.connection.filling(),
            false => None,
        };
        self.start_beside(filling)
    }

    /// As [`start`](Self::start), but does not wait for a checkpoint once it is cancelled.
    pub(crate) fn start_unless(&self, cancel: &Cancel) -> crate::error::Result<Pending<'a>> {
        let filling = match self.may_fill() {
            true => self.connection.filling_unless(cancel)?,
            false => None,
        };
        Ok(self.start_beside(filling)?)
    }

    /// Whether it may write rows, or commit some.
    fn may_fill(&self) -> bool {
        !matches!(self.kind(), StatementKind::Select | StatementKind::Set)
    }

    /// Starts the statement, with what keeps checkpoints from running until it has ended. That is there before the statement is given to
    /// DuckDB, whose helpers may begin with it at once.
    fn start_beside(&self, filling: Option<RwLockReadGuard<'a, ()>>) -> Result<Pending<'a>> {
        self.connection.chunks_fetched.set(0);
        self.connection.rows_fetched.set(0);
        let open_transaction = &self.connection.open_transaction;
        open_transaction.touch();
        if self.may_delete() {
            open_transaction.note_deletion();
        }
        let mut pending = Pending {
            connection: self.connection,
            raw: ptr::null_mut(),
            is_of_transaction: self.kind() == StatementKind::Transaction,
            is_finished: false,
            _filling: filling,
        };
        // SAFETY: the statement is live, and the pending result shares what it needs of it; freed by `drop`, also
        // after a failure.
        let state =
            unsafe { ffi::duckdb_pending_prepared_streaming(self.raw, &raw mut pending.raw) };
        if state == ffi::DuckDBSuccess {
            return Ok(pending);
        }
        Err(pending.error())
    }
}

/// A parameter of a statement.
pub(crate) struct Parameter {
    /// Its number, or its name where it has one.
    pub(crate) name: String,
    /// The type that DuckDB expects, as it exports it, where it can tell.
    pub(crate) field: Option<FieldRef>,
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_prepare_extracted_statement, freed only here.
        unsafe { ffi::duckdb_destroy_prepare(&raw mut self.raw) };
    }
}

/// How long a statement runs on its own thread alone: to wake a helper takes about as long. Unit tests run beside each other, where
/// the same takes longer.
pub(crate) const ALONE: Duration = Duration::from_micros(if cfg!(test) { 5_000 } else { 100 });

/// How long a statement waits before it looks again whether helpers are done with its last tasks.
const REST: Duration = Duration::from_micros(20);

/// A statement that has started. Dropped before it has finished, it is interrupted.
pub(crate) struct Pending<'a> {
    connection: &'a Connection,
    raw: ffi::duckdb_pending_result,
    /// Whether it begins a transaction, or ends it.
    is_of_transaction: bool,
    is_finished: bool,
    /// Where it may write rows, or commit some. Until `drop` has ended it.
    _filling: Option<RwLockReadGuard<'a, ()>>,
}

impl<'a> Pending<'a> {
    /// Runs until the first rows, or the effect, are there.
    pub(crate) fn finish(mut self) -> Result<QueryResult<'a>> {
        self.is_finished = true;
        let start = Instant::now();
        self.run_tasks(|| {
            if start.elapsed() > ALONE {
                self.connection.call_helpers();
            }
            true
        })?;
        self.result()
    }

    /// Runs until the first rows are there, or until the time is up: then the statement is interrupted, and there is no
    /// result.
    pub(crate) fn finish_within(self, time: Duration) -> Result<Option<QueryResult<'a>>> {
        let start = Instant::now();
        match self.run_tasks(|| start.elapsed() < time)? {
            true => self.result().map(Some),
            false => Ok(None),
        }
    }

    fn result(mut self) -> Result<QueryResult<'a>> {
        self.is_finished = true;
        // SAFETY: an all-zero duckdb_result is what the C API expects to fill in.
        let mut raw: ffi::duckdb_result = unsafe { std::mem::zeroed() };
        // SAFETY: the pending result is live; the result is freed by `QueryResult::drop`, also after a failure.
        let state = unsafe { ffi::duckdb_execute_pending(self.raw, &raw mut raw) };
        let mut result = QueryResult {
            raw,
            connection: self.connection,
        };
        if state != ffi::DuckDBSuccess {
            let told = self.error();
            return Err(result.error().unwrap_or(told));
        }
        let open_transaction = &self.connection.open_transaction;
        if self.is_of_transaction {
            open_transaction.begun_or_ended();
            self.connection.rows_written.set(0);
        } else if !result.has_rows() {
            open_transaction.settle();
        }
        Ok(result)
    }

    /// Runs tasks until the first rows, or the effect, are there, for as long as `goes_on` says so between two of them.
    fn run_tasks(&self, goes_on: impl Fn() -> bool) -> Result<bool> {
        loop {
            // SAFETY: the pending result is live.
            match unsafe { ffi::duckdb_pending_execute_task(self.raw) } {
                ffi::duckdb_pending_state_DUCKDB_PENDING_RESULT_READY => return Ok(true),
                ffi::duckdb_pending_state_DUCKDB_PENDING_RESULT_NOT_READY => {}
                // The last ones are with the helpers.
                ffi::duckdb_pending_state_DUCKDB_PENDING_NO_TASKS_AVAILABLE => {
                    std::thread::sleep(REST);
                }
                _ => return Err(self.error()),
            }
            if !goes_on() {
                return Ok(false);
            }
        }
    }

    /// Why it has failed.
    fn error(&self) -> SqlError {
        self.connection.open_transaction.settle();
        // SAFETY: the pending result is live or null; the message is copied.
        let message = unsafe { text(ffi::duckdb_pending_error(self.raw)) };
        self.connection.noted(SqlError::from_message(&message))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // DuckDB's threads may be at work on it already, and whatever uses the connection next waits for
            // them, then forgets the interrupt.
            // SAFETY: the connection is open.
            unsafe { ffi::duckdb_interrupt(self.connection.raw) };
        }
        // SAFETY: made by duckdb_pending_prepared_streaming, freed only here.
        unsafe { ffi::duckdb_destroy_pending(&raw mut self.raw) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::checkpoint::tests::with_images;
    use crate::engine::storage::images::PATIENCE;
    use crate::error::Error;

    #[test]
    fn a_statement_that_waits_for_a_checkpoint_is_given_up_when_it_is_cancelled() {
        let (_directory, database, connection) = with_images();
        connection.note_written(u64::MAX);
        let script = connection.parse("INSERT INTO t VALUES (1)").unwrap();
        let statement = script.last_statement().unwrap().unwrap();
        let other = database.connect().unwrap();
        let ready = other.ready_checkpoint(PATIENCE).unwrap();
        let cancel = Cancel::default();
        std::thread::scope(|scope| {
            scope.spawn(|| cancel.cancel());
            let refused = statement.start_unless(&cancel).err();
            assert!(matches!(refused, Some(Error::Cancelled)), "{refused:?}");
        });
        drop(ready);
        let pending = statement.start_unless(&Cancel::default()).unwrap();
        assert_eq!(pending.finish().unwrap().rows_changed(), 1);
    }
}
