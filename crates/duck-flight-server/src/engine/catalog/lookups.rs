//! Look-ups of tables, as puts ask for them. A thread of their own answers, so that no put waits behind a query.

use std::sync::Arc;

use duck_flight_protocol::TableName;

use super::Columns;
use super::references::References;
use crate::engine::Engine;
use crate::engine::rows::evolve::Alteration;
use crate::engine::rows::{constraints, fixed};
use crate::error::Result;

impl Engine {
    /// The columns of a table as they were last seen, or as they are.
    pub(in crate::engine) async fn columns(&self, table: &TableName) -> Result<Option<Columns>> {
        let seen = &self.0.shared.seen;
        if let Some(columns) = seen.columns(table) {
            return Ok(Some(columns));
        }
        let times_forgotten = seen.times_forgotten();
        let name = table.clone();
        let columns = self
            .0
            .lookups
            .run(move |session, _| {
                let mut columns = session.connection.table_columns(&name)?;
                if let Some(columns) = &mut columns {
                    session.connection.mark_generated(&name, columns);
                }
                Ok(columns)
            })
            .await?
            .map(Columns::from);
        if let Some(columns) = &columns {
            seen.set_columns(table, columns, times_forgotten);
        }
        Ok(columns)
    }

    /// Which tables refer to which, as it was last seen, or as it is.
    pub(in crate::engine) async fn references(&self) -> Result<Arc<References>> {
        if let Some(references) = self.0.shared.seen.references() {
            return Ok(references);
        }
        self.0
            .lookups
            .run(|session, _| References::seen(&session.connection))
            .await
    }

    pub(in crate::engine) fn forget_columns(&self, table: &TableName) {
        self.0.shared.seen.forget(table);
    }

    /// The columns of a table's primary key.
    pub(in crate::engine) async fn primary_key(
        &self,
        table: &TableName,
    ) -> Result<Option<Vec<String>>> {
        let table = table.clone();
        self.0
            .lookups
            .run(move |session, _| constraints::primary_key(&session.connection, &table))
            .await
    }

    /// Those of the changes of a table that DuckDB makes, as [`fixed::without_fixed_columns`] tells them.
    pub(in crate::engine) async fn without_fixed_columns(
        &self,
        table: &TableName,
        alterations: Vec<Alteration>,
    ) -> Result<Vec<Alteration>> {
        if alterations.is_empty() {
            return Ok(alterations);
        }
        let table = table.clone();
        self.0
            .lookups
            .run(move |session, _| {
                fixed::without_fixed_columns(&session.connection, &table, alterations)
            })
            .await
    }
}
