//! Our own tables in the database: rows that are committed with those of clients.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use duck_flight_protocol::{SchemaMode, TableName};

use super::producers::OWN_SCHEMA;
use crate::engine::ffi::Connection;
use crate::engine::rows::appender::TableWriter;
use crate::engine::rows::effect::Effect;
use crate::engine::rows::insert::Inserts;
use crate::engine::rows::plan::Plan;
use crate::error::{Error, Result};

/// A table of ours, and how batches of one schema go into it.
pub(super) struct OwnTable {
    name: TableName,
    plan: Arc<Plan>,
}

impl OwnTable {
    /// Finds the table, which must exist.
    pub(super) fn open(connection: &Connection, table: &str, schema: &Schema) -> Result<Self> {
        let name = TableName {
            catalog: None,
            schema: Some(OWN_SCHEMA.into()),
            table: table.into(),
        };
        let columns = connection
            .table_columns(&name)?
            .ok_or_else(|| Error::NoTable(name.clone()))?;
        let plan = Arc::new(Plan::new(
            schema,
            &columns.into(),
            &Effect::Append,
            SchemaMode::Match,
        )?);
        Ok(Self { name, plan })
    }

    /// Appends a batch in the open transaction.
    pub(super) fn append(&self, connection: &Connection, batch: &RecordBatch) -> Result<()> {
        let mut writer = TableWriter::open(connection, &self.name, &self.plan, 0)?;
        writer.append(&self.plan.apply(batch, 0)?, 0)?;
        writer.finish()
    }

    /// Appends a batch in the transaction that is open where these INSERTs are prepared.
    pub(super) fn insert(&self, inserts: &mut Inserts<'_>, batch: &RecordBatch) -> Result<()> {
        let batch = self.plan.apply(batch, 0)?;
        let rows = batch.num_rows() as u64;
        if inserts.load(&self.name, &self.plan, [&batch], rows)? {
            return inserts.run(&self.name);
        }
        self.append(inserts.connection, &batch)
    }
}
