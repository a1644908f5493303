//! What is known of tables as they were last seen.

use std::collections::HashMap;
use std::sync::Arc;

use duck_flight_protocol::TableName;
use parking_lot::Mutex;

use super::references::References;
use crate::engine::ffi::ColumnShape;
use crate::engine::ingest::target::TableKey;
use crate::engine::rows::keys::Refusals;
use crate::engine::rows::types::same_name;

/// The columns of a table in their order, shared by all that look at the same state of it.
pub(in crate::engine) type Columns = Arc<[ColumnShape]>;

/// What is known of tables as they were last seen: their columns, a hint that saves a look-up, checked in the transaction; which tables
/// refer to which; and which refuse rows. All is forgotten once a client's definition is committed, and of a table what is known once a
/// put has made it anew.
#[derive(Default)]
pub(in crate::engine) struct SeenTables(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    columns: HashMap<TableName, Columns>,
    /// Of all tables. Those that puts make have no foreign keys; but what they take the place of may have had some.
    references: Option<Arc<References>>,
    /// Whether tables refuse rows with a key for what else is in them.
    refusals: HashMap<(TableName, Vec<String>), Refusals>,
    times_forgotten: u64,
}

/// How many tables are remembered.
const MAX_SEEN_TABLES: usize = 4096;

impl SeenTables {
    pub(in crate::engine) fn columns(&self, table: &TableName) -> Option<Columns> {
        self.0.lock().columns.get(table).cloned()
    }

    /// How often any of them was forgotten: to be asked before a table is looked at.
    pub(in crate::engine) fn times_forgotten(&self) -> u64 {
        self.0.lock().times_forgotten
    }

    /// Remembers a table as it was looked at, unless any was forgotten meanwhile: it may be another one since.
    pub(in crate::engine) fn set_columns(
        &self,
        table: &TableName,
        columns: &Columns,
        times_forgotten: u64,
    ) {
        let mut seen = self.0.lock();
        if seen.times_forgotten != times_forgotten {
            return;
        }
        if seen.columns.len() >= MAX_SEEN_TABLES {
            seen.columns.clear();
        }
        seen.columns.insert(table.clone(), columns.clone());
    }

    /// Whether a table may refuse one row with a key and take another one, as it was last seen.
    pub(in crate::engine) fn refusals(
        &self,
        table: &TableName,
        key: &[String],
    ) -> Option<Refusals> {
        let seen = self.0.lock();
        let known = (table.clone(), key.to_vec());
        seen.refusals.get(&known).copied()
    }

    /// Remembers that, as [`SeenTables::set_columns`] does the columns.
    pub(in crate::engine) fn set_refusals(
        &self,
        table: &TableName,
        key: &[String],
        refusals: Refusals,
        times_forgotten: u64,
    ) {
        let mut seen = self.0.lock();
        if seen.times_forgotten != times_forgotten {
            return;
        }
        if seen.refusals.len() >= MAX_SEEN_TABLES {
            seen.refusals.clear();
        }
        let known = (table.clone(), key.to_vec());
        seen.refusals.insert(known, refusals);
    }

    pub(in crate::engine) fn forget(&self, table: &TableName) {
        let mut seen = self.0.lock();
        seen.times_forgotten += 1;
        seen.columns.remove(table);
        // It may have other names there.
        seen.refusals.clear();
    }

    /// To be called after the commit of a put that has made a table anew, by whatever names it is known.
    pub(in crate::engine) fn forget_made(&self, table: &TableKey) {
        let mut seen = self.0.lock();
        seen.times_forgotten += 1;
        seen.columns
            .retain(|known, _| !same_name(&known.table, &table.table));
        seen.refusals.clear();
        let references = seen.references.as_ref();
        if references.is_some_and(|references| !references.of(table).is_empty()) {
            seen.references = None;
        }
    }

    /// To be called after the commit of what may have altered or dropped any table.
    pub(in crate::engine) fn forget_all(&self) {
        let mut seen = self.0.lock();
        seen.times_forgotten += 1;
        seen.columns.clear();
        seen.refusals.clear();
        seen.references = None;
    }

    pub(in crate::engine) fn references(&self) -> Option<Arc<References>> {
        self.0.lock().references.clone()
    }

    /// Remembers which tables refer to which, unless any table was forgotten meanwhile.
    pub(in crate::engine) fn set_references(
        &self,
        references: &Arc<References>,
        times_forgotten: u64,
    ) {
        let mut seen = self.0.lock();
        if seen.times_forgotten == times_forgotten {
            seen.references = Some(references.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;

    #[test]
    fn what_was_looked_at_before_a_definition_was_committed_is_not_remembered() {
        let seen = SeenTables::default();
        let (table, columns) = (TableName::from("t"), Columns::from(Vec::new()));
        let forget_other = |seen: &SeenTables| seen.forget(&TableName::from("other"));
        let ways: [fn(&SeenTables); 2] = [SeenTables::forget_all, forget_other];
        for forget in ways {
            let times_forgotten = seen.times_forgotten();
            forget(&seen);
            seen.set_columns(&table, &columns, times_forgotten);
            assert!(seen.columns(&table).is_none());
            seen.set_columns(&table, &columns, seen.times_forgotten());
            assert!(seen.columns(&table).is_some());
            seen.forget_all();
            assert!(seen.columns(&table).is_none());
            // The same of its constraints.
            let key = ["k".to_owned()];
            let refusals = Refusals::OfKeys;
            seen.set_refusals(&table, &key, refusals, times_forgotten);
            assert_eq!(seen.refusals(&table, &key), None);
            seen.set_refusals(&table, &key, refusals, seen.times_forgotten());
            assert_eq!(seen.refusals(&table, &key), Some(refusals));
            forget(&seen);
            assert_eq!(seen.refusals(&table, &key), None);
        }
    }

    #[test]
    fn what_is_known_of_a_table_that_was_made_anew_is_forgotten_by_all_of_its_names() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute(
                "CREATE TABLE p (i BIGINT PRIMARY KEY); CREATE TABLE c (i BIGINT REFERENCES p (i))",
            )
            .unwrap();
        let seen = connection.seen_tables();
        let columns = Columns::from(Vec::new());
        let (names, key) = (["p", "P", "c"].map(TableName::from), ["i".to_owned()]);
        let look = || {
            for name in &names {
                seen.set_columns(name, &columns, seen.times_forgotten());
                seen.set_refusals(name, &key, Refusals::OfKeys, seen.times_forgotten());
            }
            References::seen(&connection).unwrap();
        };
        // How many of the names are known after a table was made anew, and whether which tables refer to which.
        for (made, known, knows_references) in [("p", 1, true), ("c", 2, false)] {
            look();
            let before = seen.times_forgotten();
            seen.forget_made(&TableKey::in_own_catalog("main", made));
            assert_ne!(seen.times_forgotten(), before);
            let is_known = |name: &&TableName| seen.columns(name).is_some();
            assert_eq!(names.iter().filter(is_known).count(), known, "{made}");
            assert_eq!(seen.refusals(&names[2], &key), None, "{made}");
            assert_eq!(seen.references().is_some(), knows_references, "{made}");
        }
    }
}
