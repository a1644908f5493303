//! Which rows of a unit break a constraint of their table: DuckDB's error tells the first, and not its number.
//!
//! The rows are staged in a temporary table, and each constraint becomes a query over it. What a query cannot tell
//! (constraints on columns that cannot be known) is left to DuckDB's own error.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{Schema, UInt64Type};

use super::appender::TableWriter;
use super::constraints::{Constraint, Kind, constraints};
use super::effect::ORDINAL;
use super::offence_queries::{Queries, Sight};
use super::plan::Plan;
use super::stored::{AT_FAULT, Stored};
use super::types::same_name;
use crate::engine::Lossless;
use crate::engine::catalog::fetch;
use crate::engine::ffi::append::{MAX_CHUNK_ROWS, ROWS};
use crate::engine::ffi::{ColumnShape, Connection};
use crate::engine::ingest::rejects::MAX_REJECTS;
use crate::engine::ingest::target::Target;
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result, in_a_line};

/// How often the rows that are left are looked at again: without those at fault, others may be. Nobody else may commit meanwhile.
const MAX_ROUNDS: usize = 16;

/// How often they are looked at exactly. After that what others of the unit give up is not free any more, so that one look finds all
/// that hangs together.
const EXACT_ROUNDS: usize = 8;

/// A row that breaks a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Offence {
    /// Its place in the unit, from 0.
    pub(in crate::engine) row: u64,
    /// The columns of the constraint.
    pub(in crate::engine) columns: Arc<str>,
    pub(in crate::engine) reason: Arc<str>,
}

/// The rows of a unit that break a constraint, in their order, each once; or, where there are some, those that
/// DuckDB cannot cast.
///
/// To be called outside of a transaction; leaves nothing behind.
pub(in crate::engine) fn offences(
    connection: &Connection,
    lossless: &Lossless,
    put: &Target,
    plan: &Arc<Plan>,
    batches: &[RecordBatch],
) -> Result<Vec<Offence>> {
    connection.begin()?;
    let outcome = TableWriter::stage(connection, &put.table, plan).and_then(|mut staged| {
        let (mut misfits, mut rows) = (Vec::new(), 0);
        for batch in batches {
            misfits.extend(staged.sift(batch, rows)?);
            rows += batch.num_rows() as u64;
        }
        if !misfits.is_empty() {
            return Ok(misfits);
        }
        staged.finish()?;
        staged_offences(connection, lossless, put, plan)
    });
    // The temporary tables go with the transaction.
    connection.roll_back();
    outcome
}

/// The staged rows that break a constraint, in their order, each once, by their ordinals. They are [`AT_FAULT`] then.
///
/// To be called in a transaction.
pub(in crate::engine) fn staged_offences(
    connection: &Connection,
    lossless: &Lossless,
    put: &Target,
    plan: &Plan,
) -> Result<Vec<Offence>> {
    connection.execute(&format!(
        "CREATE OR REPLACE TEMP TABLE {AT_FAULT} ({ORDINAL} UBIGINT)"
    ))?;
    let constraints = constraints(connection, &put.table)?;
    let is_sent = |name: &String| {
        plan.given()
            .any(|column| same_name(column.field.name(), name))
    };
    let stored = match constraints.iter().all(|one| one.is_about(is_sent)) {
        true => Stored::as_sent(plan),
        false => Stored::new(connection, &put.table, plan)?,
    };
    let search = Search {
        connection,
        lossless,
        constraints,
        queries: Queries {
            table: &put.table,
            effect: &put.effect,
            plan,
            stored,
        },
        // They are put aside, but not named as the reason to refuse a unit.
        may_doubt: put.rejects && put.effect.is_keyed(),
    };
    search.find()
}

/// Tells the log why the rows at fault were not found. The client is told DuckDB's own error, which names none.
pub(in crate::engine) fn tell_unfound(failure: &Error) {
    tracing::debug!(error = %in_a_line(failure), "the rows at fault were not found");
}

struct Search<'a> {
    connection: &'a Connection,
    lossless: &'a Lossless,
    constraints: Vec<Constraint>,
    queries: Queries<'a>,
    /// Whether rows may be taken to be at fault that may not be.
    may_doubt: bool,
}

impl Search<'_> {
    fn find(&self) -> Result<Vec<Offence>> {
        let mut offences: Vec<Offence> = Vec::new();
        let mut constraints = self.constraints.iter();
        let is_mutual = constraints.any(|one| self.queries.depends_on_others(one));
        let known = self.known()?;
        for round in 0..MAX_ROUNDS {
            let mut found = match self.may_doubt && round >= EXACT_ROUNDS {
                true => self.round(&known, Sight::AsBefore)?,
                false => self.round(&known, Sight::AtOnce)?,
            };
            if found.is_empty() && offences.is_empty() && self.may_doubt {
                found = self.round(&known, Sight::AsBefore)?;
            }
            if found.is_empty() {
                break;
            }
            if offences.len() + found.len() > MAX_REJECTS {
                return Err(Error::TooManyRejects(MAX_REJECTS));
            }
            self.set_at_fault(&found)?;
            offences.extend(found);
            if !is_mutual {
                break;
            }
        }
        offences.sort_by_key(|offence| offence.row);
        Ok(offences)
    }

    /// The numbers of the constraints that rows may break, but for those on columns that cannot be known.
    fn known(&self) -> Result<Vec<usize>> {
        let mut known = Vec::new();
        for (number, constraint) in self.constraints.iter().enumerate() {
            // That one asks for no other columns.
            if let Some(sql) = self.queries.broken(constraint, Sight::AsBefore)
                && let Some(Ok(_)) = self.connection.parse(&sql)?.last_statement()
            {
                known.push(number);
            }
        }
        Ok(known)
    }

    /// The rows at fault among those that are left, in their order, each once.
    fn round(&self, known: &[usize], sight: Sight) -> Result<Vec<Offence>> {
        let broken = known.iter().filter_map(|&number| {
            let sql = self.queries.broken(&self.constraints[number], sight)?;
            Some((number, sql))
        });
        let broken: Vec<_> = broken.collect();
        let mut offences = Vec::new();
        if !broken.is_empty()
            && let Some(found) = self.ask(&self.queries.at_fault(&broken), MAX_REJECTS)?
        {
            for (&row, &number) in ordinals(&found, 0).iter().zip(ordinals(&found, 1)) {
                let number = usize::try_from(number).unwrap_or(usize::MAX);
                let constraint = self.constraints.get(number);
                offences.extend(constraint.map(|constraint| constraint.offence(row)));
            }
        }
        if sight == Sight::AtOnce && !offences.is_empty() {
            self.follow(known, &mut offences)?;
        }
        let at_fault = offences.iter().map(|offence| offence.row).collect();
        offences.extend(self.repetitions(&at_fault)?);
        offences.sort_by_key(|offence| offence.row);
        offences.dedup_by_key(|offence| offence.row);
        Ok(offences)
    }

    /// Adds the rows that were to get what a row at fault would have given up, those that were to get theirs, and so on: otherwise
    /// each would take a round.
    fn follow(&self, known: &[usize], offences: &mut Vec<Offence>) -> Result<()> {
        let mut heirs: HashMap<u64, Vec<(u64, usize)>> = HashMap::new();
        for &number in known {
            let Kind::Unique(values) = &self.constraints[number].kind else {
                continue;
            };
            let Some(sql) = self.queries.given_up(values) else {
                continue;
            };
            let found = match self.ask(&sql, MAX_REJECTS) {
                // So many are left to the rounds.
                Err(Error::TooManyRejects(_)) => continue,
                found => found?,
            };
            let Some(found) = found else {
                continue;
            };
            for (&row, &giver) in ordinals(&found, 0).iter().zip(ordinals(&found, 1)) {
                heirs.entry(giver).or_default().push((row, number));
            }
        }
        let mut givers: Vec<u64> = offences.iter().map(|offence| offence.row).collect();
        let mut at_fault: HashSet<u64> = givers.iter().copied().collect();
        while let Some(giver) = givers.pop() {
            for (row, number) in heirs.remove(&giver).unwrap_or_default() {
                if at_fault.insert(row) {
                    givers.push(row);
                    offences.push(self.constraints[number].offence(row));
                }
            }
        }
        Ok(())
    }

    /// Rows that share what is unique with a row before them. One that is at fault itself takes nothing from others.
    fn repetitions(&self, at_fault: &HashSet<u64>) -> Result<Vec<Offence>> {
        // What a row shares is told by the constraint and the first row that has it.
        let mut shared: Vec<(u64, usize, u64)> = Vec::new();
        for (index, constraint) in self.constraints.iter().enumerate() {
            let Kind::Unique(values) = &constraint.kind else {
                continue;
            };
            let Some(sql) = self.queries.repeated(values) else {
                continue;
            };
            // At least half of them are at fault.
            if let Some(found) = self.ask(&sql, 2 * MAX_REJECTS)? {
                let pairs = ordinals(&found, 0).iter().zip(ordinals(&found, 1));
                shared.extend(pairs.map(|(&row, &first)| (row, index, first)));
            }
        }
        shared.sort_unstable();
        let mut taken = HashSet::new();
        let mut offences = Vec::new();
        for of_row in shared.chunk_by(|one, other| one.0 == other.0) {
            let row = of_row[0].0;
            if at_fault.contains(&row) {
                continue;
            }
            let values = of_row.iter().map(|&(_, index, first)| (index, first));
            match values.clone().find(|value| taken.contains(value)) {
                Some((index, _)) => offences.push(self.constraints[index].offence(row)),
                None => taken.extend(values),
            }
        }
        Ok(offences)
    }

    /// Answers a query; `None` where it names a column that cannot be known.
    ///
    /// # Errors
    /// When it finds more than `limit` rows.
    fn ask(&self, sql: &str, limit: usize) -> Result<Option<RecordBatch>> {
        let sql = format!("{sql} LIMIT {}", limit + 1);
        let Some(Ok(statement)) = self.connection.parse(&sql)?.last_statement() else {
            return Ok(None);
        };
        let found = fetch(statement, self.lossless)?;
        if found.num_rows() > limit {
            return Err(Error::TooManyRejects(MAX_REJECTS));
        }
        Ok(Some(found))
    }

    /// Takes rows out of those that are left.
    fn set_at_fault(&self, offences: &[Offence]) -> Result<()> {
        let column = ColumnShape::number(ORDINAL);
        let sql = format!("INSERT INTO {AT_FAULT} FROM {ROWS}");
        let appender = self.connection.appender(&sql, &[&column])?;
        let mut appender = appender.temporary();
        let schema = Arc::new(Schema::new(vec![column.field.clone()]));
        let mut importer = self.connection.importer(&schema)?;
        for chunk in offences.chunks(MAX_CHUNK_ROWS) {
            let rows = chunk.iter().map(|offence| offence.row);
            let ordinals = Arc::new(UInt64Array::from_iter_values(rows));
            let batch = RecordBatch::try_new(schema.clone(), vec![ordinals])
                .map_err(|error| SqlError::internal(error.to_string()))?;
            appender.append(&importer.import(&batch)?)?;
        }
        Ok(appender.flush()?)
    }
}

impl Constraint {
    fn offence(&self, row: u64) -> Offence {
        Offence {
            row,
            columns: self.columns.clone(),
            reason: self.reason.clone(),
        }
    }
}

fn ordinals(found: &RecordBatch, column: usize) -> &[u64] {
    found.column(column).as_primitive::<UInt64Type>().values()
}
