//! A group that failed: it is taken apart until the unit at fault stands alone, which is tried again, without its rows at fault, or
//! refused.

use std::time::Duration;

use duck_flight_protocol::SchemaMode;

use super::{Writer, guarded};
use crate::engine::ingest::queue::Turn;
use crate::engine::ingest::unit::{Unit, offence_error};
use crate::engine::rows::offences::{offences, tell_unfound};
use crate::error::{Error, Result};

/// How often a unit is tried again when a client's DDL got in its way, and how long it waits each time for the
/// DDL that runs. More than that, and a long statement would hold up all writers.
const CONFLICT_TRIES: u32 = 20;
const CONFLICT_WAIT: Duration = Duration::from_millis(20);

/// How often the rows of a unit are looked for that are at fault: nobody else commits meanwhile.
const MAX_SEARCHES: u32 = 5;

impl Writer {
    /// A group that failed: its halves are tried, down to the unit at fault.
    pub(super) fn take_apart(&self, turn: &Turn, mut group: Vec<Unit>, error: Error) {
        let error = self.shared.observe(error);
        if let Error::Undecided(reason) = &error {
            // All of them may be durable, and nothing can be tried any more.
            let undecided = || Error::Undecided(reason.clone());
            return group.into_iter().for_each(|unit| unit.refuse(undecided()));
        }
        let second = group.split_off(group.len().div_ceil(2));
        if second.is_empty() {
            if let Some(unit) = group.pop() {
                self.retry_or_refuse(turn, unit, error);
            }
            return;
        }
        for half in [group, second] {
            let mut half: Vec<_> = half.into_iter().filter_map(Unit::screen).collect();
            if half.is_empty() {
                continue;
            }
            match self.commit_in_turn(turn, &mut half) {
                Ok(before) => self.acknowledge(half, before),
                Err(error) => self.take_apart(turn, half, error),
            }
        }
    }

    /// A lone unit that failed: tried again where only the moment was wrong, or without the rows at fault.
    fn retry_or_refuse(&self, turn: &Turn, unit: Unit, mut error: Error) {
        let Some(mut unit) = unit.screen() else {
            return;
        };
        let evolves = unit.put.schema_mode != SchemaMode::Match;
        let mut was_alone = false;
        let (mut searches, mut may_be_gone) = (0, true);
        for _ in 0..CONFLICT_TRIES {
            // A table that evolves may have lost a column again, for as long as anybody could take it away.
            let may_lack_column = evolves && !was_alone && matches!(error, Error::Columns(_));
            let is_overtaken = may_lack_column || error.is_conflict();
            // While it is held no DDL begins.
            let alone = match is_overtaken {
                true => self.connection.definitions().try_write_for(CONFLICT_WAIT),
                false => None,
            };
            was_alone = alone.is_some();
            if !is_overtaken {
                if searches == MAX_SEARCHES {
                    break;
                }
                searches += 1;
                let found = guarded(|| self.without_offences(&mut unit, error, may_be_gone));
                // After a panic the transaction in which they were looked for may be open.
                self.connection.roll_back();
                match found {
                    Ok(found_some) => may_be_gone = found_some,
                    Err(last) => return unit.refuse(last),
                }
            }
            let outcome = self.commit_in_turn(turn, std::slice::from_mut(&mut unit));
            drop(alone);
            match outcome {
                Ok(before) => return self.acknowledge(vec![unit], before),
                Err(again) => error = self.shared.observe(again),
            }
        }
        unit.refuse(error.of_put());
    }

    /// Puts the rows aside that do not fit, where the put says so; false where there are none, if what was in their way `may_be_gone`
    /// since. The error comes back, with the first such row named, where the unit is not worth another try.
    fn without_offences(&self, unit: &mut Unit, error: Error, may_be_gone: bool) -> Result<bool> {
        let Some((plan, batches)) = &unit.cast else {
            return Err(error);
        };
        // Values that DuckDB casts itself are found out only when they are appended.
        let is_misfit = unit.put.rejects && matches!(error, Error::Value { .. });
        if !error.is_constraint() && !is_misfit {
            return Err(error);
        }
        let lossless = &self.shared.lossless;
        let offences = offences(&self.connection, lossless, &unit.put, plan, batches);
        let offences = match offences {
            Ok(offences) if !offences.is_empty() => offences,
            Ok(_) if may_be_gone => return Ok(false),
            Ok(_) => return Err(error),
            Err(failure @ Error::TooManyRejects(_)) if unit.put.rejects => return Err(failure),
            Err(failure) => {
                tell_unfound(&failure);
                return Err(error);
            }
        };
        if unit.put.rejects {
            unit.put_aside(&offences).map(|()| true)
        } else {
            let aside = unit.rejects.iter().map(|reject| reject.row);
            Err(offence_error(aside, &offences[0], &error))
        }
    }
}
