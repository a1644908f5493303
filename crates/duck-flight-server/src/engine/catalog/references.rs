//! Which tables refer to which others by foreign keys.

use std::collections::HashMap;
use std::sync::Arc;

use super::texts;
use crate::engine::ffi::Connection;
use crate::engine::ingest::target::TableKey;
use crate::error::Result;

/// The foreign keys of tables that others also see: where they are, which table refers, and to which one. Both are in one schema, and
/// what is not temporary is in the server's own database, for clients attach none.
const REFERENCES_SQL: &str = "
    SELECT schema_name, table_name, referenced_table FROM system.main.duckdb_constraints()
    WHERE constraint_type = 'FOREIGN KEY' AND database_name <> 'temp'";

/// The tables that refer to others, each with those that it refers to. A table has its foreign keys from its beginning: DuckDB adds none
/// later.
#[derive(Debug, Default)]
pub(in crate::engine) struct References(HashMap<TableKey, Vec<TableKey>>);

impl References {
    /// As they were last seen, or as they are. To be asked outside of a transaction, which may have definitions of its own.
    pub(in crate::engine) fn seen(connection: &Connection) -> Result<Arc<Self>> {
        let seen = connection.seen_tables();
        if let Some(references) = seen.references() {
            return Ok(references);
        }
        let times_forgotten = seen.times_forgotten();
        let references = Arc::new(Self::read(connection)?);
        seen.set_references(&references, times_forgotten);
        Ok(references)
    }

    fn read(connection: &Connection) -> Result<Self> {
        let mut references = Self::default();
        for [schema, table, referred] in texts::<3>(connection, REFERENCES_SQL)? {
            let key = |table: &str| TableKey::in_own_catalog(&schema, table);
            let (table, referred) = (key(&table), key(&referred));
            let of_table = references.0.entry(table).or_default();
            if !of_table.contains(&referred) {
                of_table.push(referred);
            }
        }
        Ok(references)
    }

    /// Whether no table refers to any.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tables that this one refers to.
    pub(in crate::engine) fn of(&self, table: &TableKey) -> &[TableKey] {
        self.0.get(table).map(Vec::as_slice).unwrap_or_default()
    }

    /// All tables that any refers to.
    pub(in crate::engine) fn all(&self) -> Vec<TableKey> {
        self.0.values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;

    #[test]
    fn foreign_keys_are_looked_up_again_once_a_definition_was_committed() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        assert!(References::seen(&connection).unwrap().is_empty());
        connection
            .execute(
                "CREATE SCHEMA s; CREATE TABLE s.\"P\" (i BIGINT PRIMARY KEY, j BIGINT UNIQUE);
                 CREATE TABLE s.\"C\" (i BIGINT REFERENCES s.p (i), j BIGINT REFERENCES s.p (j))",
            )
            .unwrap();
        assert!(References::seen(&connection).unwrap().is_empty());
        connection.seen_tables().forget_all();
        let references = References::seen(&connection).unwrap();
        assert_eq!(
            references.of(&TableKey::in_own_catalog("s", "c")),
            [TableKey::in_own_catalog("s", "p")]
        );
        assert!(
            references
                .of(&TableKey::in_own_catalog("s", "p"))
                .is_empty()
        );
        assert!(
            references
                .of(&TableKey::in_own_catalog("main", "c"))
                .is_empty()
        );
        assert_eq!(references.all(), [TableKey::in_own_catalog("s", "p")]);
    }
}
