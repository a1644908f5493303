//! What is known of a script before it runs.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use super::parameters;
use super::readable::Readable;
use crate::engine::Lossless;
use crate::engine::connections::commits::{Commits, Moment};
use crate::engine::ffi::{Prepared, StatementKind};
use crate::engine::sql::tokens::contains_word;
use crate::error::Result;

/// What is known of a script before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    /// The schema of its last statement's result.
    pub(crate) schema: SchemaRef,
    /// The SQL type of each column of that.
    pub(crate) type_names: Vec<String>,
    /// The schema of the values it takes.
    pub(crate) parameters: SchemaRef,
    /// Whether it is one statement that reads, and nothing else.
    pub(crate) is_query: bool,
    /// Whether it answers with rows, rather than with how many it changed or with nothing.
    pub(crate) has_rows: bool,
    /// When that was found out, where nothing was being committed.
    moment: Option<Moment>,
}

impl Description {
    /// What is known of the last one of `count` statements, since that moment.
    pub(super) fn of(
        statement: &Prepared<'_>,
        lossless: &Lossless,
        sql: &str,
        count: u64,
        moment: Option<Moment>,
    ) -> Result<Self> {
        let (schema, type_names) = statement.schema(&lossless.options)?;
        let is_one_column = |name| schema.fields().len() == 1 && schema.field(0).name() == name;
        let has_rows = match statement.kind() {
            StatementKind::Select | StatementKind::Explain => true,
            // DuckDB answers with how many rows were changed, unless there is a RETURNING.
            StatementKind::Rows => !is_one_column("Count") || contains_word(sql, "returning"),
            StatementKind::Call | StatementKind::Pragma | StatementKind::Other => {
                !is_one_column("Success")
            }
            _ => false,
        };
        Ok(Self {
            schema: Readable::new(&schema).schema().clone(),
            type_names,
            parameters: parameters::schema(&statement.parameters(&lossless.options)?),
            // A query that takes a number from a sequence changes it.
            is_query: count == 1
                && statement.kind() == StatementKind::Select
                && !contains_word(sql, "nextval"),
            has_rows,
            moment,
        })
    }

    /// What is known of a script whose statements depend on each other.
    pub(crate) fn unknown() -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            type_names: Vec::new(),
            parameters: Arc::new(Schema::empty()),
            is_query: false,
            has_rows: true,
            moment: None,
        }
    }

    /// The memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let names = self.type_names.iter();
        let names: usize = names.map(|name| size_of::<String>() + name.len()).sum();
        self.schema.fields().size() + self.parameters.fields().size() + names
    }

    /// Whether nothing has been committed since.
    pub(super) fn is_current(&self, commits: &Commits) -> bool {
        let moments = self.moment.zip(commits.quiet());
        moments.is_some_and(|(then, now)| then == now)
    }
}
