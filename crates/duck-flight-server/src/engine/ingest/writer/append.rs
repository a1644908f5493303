//! The rows of a group on their way into its transaction: table by table, and there put by put.

use std::sync::Arc;

use duck_flight_protocol::TableName;

use super::Writer;
use crate::engine::catalog::Columns;
use crate::engine::ffi::Connection;
use crate::engine::ingest::queue::Turn;
use crate::engine::ingest::tables::resolve;
use crate::engine::ingest::target::Target;
use crate::engine::ingest::unit::Unit;
use crate::engine::rows::appender::TableWriter;
use crate::engine::rows::keys::{Keys, Refusals};
use crate::engine::rows::plan::Plan;
use crate::error::Result;

impl Writer {
    /// Appends a group within the open transaction: table by table, and there put by put, each put's units in
    /// their order. `turn` is waited for before a table is made. `times_forgotten` is the counter as it was before the
    /// transaction: what is learnt in it is remembered only if nothing was forgotten since.
    pub(super) fn append(
        &self,
        connection: &Connection,
        group: &mut [Unit],
        turn: &Turn,
        times_forgotten: u64,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..group.len()).collect();
        order.sort_by(|&one, &other| {
            let key = |index: usize| (&group[index].put.table, group[index].put.id);
            key(one).cmp(&key(other))
        });
        let is_same_table =
            |one: &usize, other: &usize| group[*one].put.table == group[*other].put.table;
        let tables: Vec<Vec<usize>> = order.chunk_by(is_same_table).map(<[_]>::to_vec).collect();
        for units in tables {
            self.plan_for_table(connection, group, &units, turn)?;
            self.append_to_table(connection, group, &units, times_forgotten)?;
        }
        Ok(())
    }

    /// Makes the table of these units where it is missing, and casts those again that were cast for another one.
    fn plan_for_table(
        &self,
        connection: &Connection,
        group: &mut [Unit],
        units: &[usize],
        turn: &Turn,
    ) -> Result<()> {
        let mut columns: Option<Columns> = None;
        let is_alone = group.len() == 1;
        for &index in units {
            let unit = &mut group[index];
            let columns = match &columns {
                Some(columns) => columns,
                None => columns.insert(resolve(connection, &unit.put, unit.is_first, Some(turn))?),
            };
            if !unit
                .cast
                .as_ref()
                .is_some_and(|(plan, _)| plan.fits(columns))
            {
                // Not remembered: what this transaction sees may be of its own making, and undone.
                self.shared.seen.forget(&unit.put.table);
                let plan = unit.put.plan(columns)?;
                unit.replan(&Arc::new(plan), is_alone)?;
            }
        }
        Ok(())
    }

    /// Appends units of one table.
    fn append_to_table(
        &self,
        connection: &Connection,
        group: &[Unit],
        units: &[usize],
        times_forgotten: u64,
    ) -> Result<()> {
        let table: &TableName = &group[units[0]].put.table;
        let rows = units.iter().map(|&index| group[index].rows).sum();
        let mut open: Option<TableWriter<'_>> = None;
        let mut keys: Option<Keys> = None;
        for unit in units.iter().map(|&index| &group[index]) {
            let (put, rejects) = (&unit.put, &unit.rejects);
            self.shared
                .rejects
                .write(connection, put, unit.sequence, rejects)?;
            let Some((plan, batches)) = unit.cast.as_ref().filter(|_| unit.rows > 0) else {
                continue;
            };
            if TableWriter::is_too_large(plan, unit.rows) {
                open.take().map_or(Ok(()), TableWriter::finish)?;
                TableWriter::apply_unit(connection, table, plan, batches, unit.rows)?;
                continue;
            }
            let takes = |writer: &TableWriter<'_>| writer.takes(plan, unit.rows);
            let goes_along = open.as_ref().is_some_and(takes)
                && keys.as_mut().is_none_or(|keys| keys.add(plan, batches));
            let writer = match open.take() {
                Some(writer) if goes_along => open.insert(writer),
                other => {
                    other.map_or(Ok(()), TableWriter::finish)?;
                    keys = match put.effect.is_keyed() && units.len() > 1 {
                        true => self.keys(connection, put, plan, times_forgotten)?,
                        false => None,
                    };
                    // The first ones.
                    if let Some(keys) = &mut keys {
                        keys.add(plan, batches);
                    }
                    open.insert(TableWriter::open(connection, table, plan, rows)?)
                }
            };
            writer.append_unit(batches)?;
        }
        open.map_or(Ok(()), TableWriter::finish)
    }

    /// What tells units apart that must not be applied by one statement: of the rows with one key it would see only the last, and a unit
    /// whose row the table refuses would be taken for one that has been applied. `None` where the table refuses none, or all of them.
    fn keys(
        &self,
        connection: &Connection,
        put: &Target,
        plan: &Plan,
        times_forgotten: u64,
    ) -> Result<Option<Keys>> {
        let (seen, table, key) = (&self.shared.seen, &put.table, put.effect.key());
        let refusals = match seen.refusals(table, key) {
            Some(refusals) => refusals,
            None => {
                let refusals = plan.refusals(connection, table)?;
                seen.set_refusals(table, key, refusals, times_forgotten);
                refusals
            }
        };
        Ok(match refusals {
            Refusals::Never => None,
            Refusals::OfKeys => Some(Keys::new(plan, false)),
            Refusals::OfCollatedKeys => Some(Keys::new(plan, true)),
        })
    }
}
