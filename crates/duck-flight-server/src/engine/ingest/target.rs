//! Where the rows of a put go: what tells its table from others, and what all of its units have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{Create, OnError, PutOptions, SchemaMode, TableName};

use super::producers::{Claim, OWN_SCHEMA, Standing};
use super::rejects::{Sifted, sift};
use crate::engine::catalog::references::References;
use crate::engine::ffi::ColumnShape;
use crate::engine::replay::widened::KEPT;
use crate::engine::rows::appender::STAGED;
use crate::engine::rows::effect::Effect;
use crate::engine::rows::plan::Plan;
use crate::engine::rows::stored::AT_FAULT;
use crate::engine::rows::types::same_name;
use crate::error::Result;

/// The catalog of temporary tables. In `temp.t` DuckDB reads `temp` as the catalog, not as a schema.
pub(crate) const TEMPORARY: &str = "temp";

/// Completes the name of a table of the server's own database: adds the catalog where only a schema is named, and `main` where
/// only a catalog is, so that DuckDB cannot take a schema for a database of the same name.
pub(super) fn unambiguous(table: &TableName, own_catalog: &str) -> TableName {
    let TableName {
        catalog,
        schema,
        table,
    } = table.clone();
    let (catalog, schema) = match (catalog, schema) {
        (None, Some(schema)) => (Some(own_catalog.to_owned()), Some(schema)),
        (Some(catalog), None) => (Some(catalog), Some("main".to_owned())),
        as_it_is => as_it_is,
    };
    TableName {
        catalog,
        schema,
        table,
    }
}

/// What tells a table from others, however its name is written: DuckDB ignores the case of ASCII letters only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::engine) struct TableKey {
    /// `None` for the server's own database.
    pub(in crate::engine) catalog: Option<String>,
    pub(in crate::engine) schema: String,
    pub(in crate::engine) table: String,
}

impl TableKey {
    /// The key of a table, as it is named in a database called `own_catalog`.
    pub(in crate::engine) fn new(table: &TableName, own_catalog: &str) -> Self {
        let catalog = table.catalog.as_ref();
        let schema = table.schema.as_deref().unwrap_or("main");
        Self {
            catalog: catalog
                .filter(|name| !same_name(name, own_catalog))
                .map(|name| name.to_ascii_lowercase()),
            schema: schema.to_ascii_lowercase(),
            table: table.table.to_ascii_lowercase(),
        }
    }

    /// The key of a table in the server's own database.
    pub(in crate::engine) fn in_own_catalog(schema: &str, table: &str) -> Self {
        Self {
            catalog: None,
            schema: schema.to_ascii_lowercase(),
            table: table.to_ascii_lowercase(),
        }
    }

    /// Whether it is one of our own tables.
    pub(super) fn is_own(&self) -> bool {
        self.catalog.is_none() && self.schema == OWN_SCHEMA
    }

    /// Whether it has the name of a temporary table that the writers use: to them they would be one.
    pub(super) fn is_scratch(&self) -> bool {
        let in_scratch = format!("{TEMPORARY}.main.{}", self.table);
        [STAGED, AT_FAULT, KEPT].contains(&in_scratch.as_str())
    }

    /// Whether it is a temporary table, of which every connection has its own.
    pub(super) fn is_temporary(&self) -> bool {
        self.catalog.as_deref().unwrap_or(&self.schema) == TEMPORARY
    }
}

/// A put, as long as the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PutId(u64);

impl PutId {
    /// One that no put had before.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What all units of a put have in common.
pub(in crate::engine) struct Target {
    pub(super) id: PutId,
    pub(in crate::engine) table: TableName,
    pub(super) key: TableKey,
    pub(super) create: Create,
    pub(super) schema_mode: SchemaMode,
    pub(in crate::engine) effect: Effect,
    /// Whether rows that do not fit are put aside.
    pub(in crate::engine) rejects: bool,
    pub(super) claim: Option<Claim>,
    /// The stream's schema.
    pub(super) schema: SchemaRef,
    failed: AtomicBool,
    committed: AtomicBool,
}

impl Target {
    pub(super) fn new(
        options: &PutOptions,
        key: TableKey,
        effect: Effect,
        claim: Option<Claim>,
        schema: SchemaRef,
    ) -> Self {
        Self {
            id: PutId::next(),
            table: options.table.clone(),
            key,
            create: options.create,
            schema_mode: options.schema,
            effect,
            rejects: options.on_error == OnError::Reject,
            claim,
            schema,
            failed: AtomicBool::new(false),
            committed: AtomicBool::new(false),
        }
    }

    /// Where its unit of this sequence stands now. Without a producer each is new.
    pub(super) fn standing(&self, sequence: Option<u64>) -> Standing {
        let identity = self.claim.as_ref().zip(sequence);
        identity.map_or(Standing::New, |(claim, sequence)| claim.standing(sequence))
    }

    /// How its rows go into a table with these columns.
    pub(super) fn plan(&self, columns: &Arc<[ColumnShape]>) -> Result<Plan> {
        Plan::new(&self.schema, columns, &self.effect, self.schema_mode)
    }

    /// The tables that its rows may refer to by foreign keys. Those that only delete refer to nothing.
    pub(super) fn referred(&self, references: &References) -> Vec<TableKey> {
        match self.effect {
            Effect::Delete { .. } => Vec::new(),
            _ => references.of(&self.key).to_vec(),
        }
    }

    /// Records that a unit of this put was refused: those that follow it will be refused as well.
    pub(super) fn note_refused(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Records that a unit of this put was committed, and so its first one: they are committed in their order.
    pub(super) fn note_committed(&self) {
        self.committed.store(true, Ordering::Release);
    }

    /// Whether the table is yet to be made anew, so that whatever is there now does not matter.
    pub(super) fn is_yet_to_make(&self) -> bool {
        self.makes_anew() && !self.committed.load(Ordering::Acquire)
    }

    /// Casts a batch for the table; rows that do not fit are put aside where the put says so, and are an error where
    /// not. `rows_before` are the rows of the unit before the batch.
    pub(super) fn cast(
        &self,
        plan: &Plan,
        batch: &RecordBatch,
        rows_before: u64,
    ) -> Result<Sifted> {
        if self.rejects {
            return sift(plan, batch, rows_before);
        }
        plan.apply(batch, rows_before).map(Sifted::whole)
    }

    /// Whether the put's first unit makes the table anew. A producer that goes on has done so already.
    pub(super) fn makes_anew(&self) -> bool {
        matches!(self.create, Create::Always | Create::Replace)
            && self
                .claim
                .as_ref()
                .is_none_or(|claim| claim.last_sequence() == 0)
    }
}
