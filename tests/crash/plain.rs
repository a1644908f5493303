//! Loaders without a producer: each batch is sent once, and is in the table once if it was acknowledged.

use std::collections::{BTreeMap, VecDeque};

use arrow::array::RecordBatch;
use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::{Client, numbered, soon};
use tonic::Status;

use crate::loader::Loader;
use crate::put::Put;
use crate::table::{Trouble, rows_if_there};
use crate::world::Life;

/// Batches on their way at a time, where batches are units.
const IN_FLIGHT: usize = 6;

/// Units in one life of the server.
const EACH_LIFE: u64 = 300;

/// A loader without a producer.
pub(crate) struct Plain {
    options: PutOptions,
    name: String,
    seed: u64,
    next: i64,
    /// All units ever sent, and whether they were acknowledged.
    units: BTreeMap<i64, bool>,
}

impl Plain {
    pub(crate) fn new(name: &str, commit: Commit, seed: u64) -> Self {
        let mut options = PutOptions::new(name);
        options.commit = commit;
        Self {
            options,
            name: name.into(),
            seed,
            next: 0,
            units: BTreeMap::new(),
        }
    }

    fn rows(&self, unit: i64) -> i64 {
        let dice = unit.unsigned_abs().wrapping_mul(self.seed | 1) >> 7;
        i64::try_from(dice % 1000).expect("small") + 1
    }

    /// A unit that was never sent before.
    fn new_unit(&mut self) -> (i64, RecordBatch) {
        let unit = self.next;
        self.next += 1;
        self.units.insert(unit, false);
        (unit, numbered(unit, self.rows(unit)))
    }

    async fn take_ack(&mut self, put: &mut Put, unit: i64, life: &Life) -> Result<(), Trouble> {
        let Some(ack) = soon("an ack", put.ack()).await? else {
            return Err(Status::unknown("the put ended without an ack").into());
        };
        if ack.rows != self.rows(unit).unsigned_abs() {
            return Err(Trouble::Broken(format!("unit {unit}: {ack:?}")));
        }
        self.units.insert(unit, true);
        life.world().count(|counts| counts.acks += 1);
        Ok(())
    }

    async fn load_units(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        for _ in 0..EACH_LIFE {
            if !life.goes_on() {
                break;
            }
            let (unit, batch) = self.new_unit();
            let mut put = Put::open(client, &self.options, &batch.schema());
            put.send(&batch, None);
            put.end();
            self.take_ack(&mut put, unit, life).await?;
        }
        Ok(())
    }

    async fn load_batches(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        let mut put = Put::open(client, &self.options, &numbered(0, 0).schema());
        let mut waiting = VecDeque::new();
        for _ in 0..EACH_LIFE {
            if !life.goes_on() {
                break;
            }
            let (unit, batch) = self.new_unit();
            put.send(&batch, None);
            waiting.push_back(unit);
            if waiting.len() == IN_FLIGHT
                && let Some(oldest) = waiting.pop_front()
            {
                self.take_ack(&mut put, oldest, life).await?;
            }
        }
        put.end();
        for unit in waiting {
            self.take_ack(&mut put, unit, life).await?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Loader for Plain {
    fn name(&self) -> &str {
        &self.name
    }

    async fn set_up(&mut self, _client: &Client) -> Result<(), Status> {
        Ok(())
    }

    /// Every unit is there once, whole, or not at all if it was not acknowledged.
    async fn check(&mut self, client: &Client, thorough: bool) -> Result<(), Trouble> {
        let distinct = if thorough { "DISTINCT " } else { "" };
        let sql = format!(
            "SELECT batch, count(*), count({distinct}\"row\"), min(\"row\"), max(\"row\"), sum(\"row\") FROM {} \
             GROUP BY batch ORDER BY batch",
            self.name
        );
        let found = rows_if_there(client, &sql).await?;
        let mut left = self.units.clone();
        for row in found {
            let unit: i64 = row
                .split('|')
                .next()
                .unwrap_or_default()
                .parse()
                .expect("a number");
            let rows = self.rows(unit);
            let whole = format!(
                "{unit}|{rows}|{rows}|0|{}|{}",
                rows - 1,
                rows * (rows - 1) / 2
            );
            if left.remove(&unit).is_none() || row != whole {
                return Err(Trouble::Broken(format!("{row} found, {whole} expected")));
            }
        }
        left.retain(|_, is_acknowledged| *is_acknowledged);
        if left.is_empty() {
            return Ok(());
        }
        Err(Trouble::Broken(format!(
            "{} units were acknowledged and are not there: {:?}",
            left.len(),
            left.keys().take(10).collect::<Vec<_>>()
        )))
    }

    async fn load(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        match self.options.commit {
            Commit::Stream => self.load_units(client, life).await,
            Commit::Batch => self.load_batches(client, life).await,
        }
    }

    fn progress(&self) -> String {
        let acknowledged = self.units.values().filter(|unit| **unit).count();
        format!(
            "{}: {acknowledged} units acknowledged, {} sent",
            self.name,
            self.units.len()
        )
    }
}
