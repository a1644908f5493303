//! Loaders without a producer: each unit is sent once, and is in the table once if it was acknowledged.

use std::collections::{BTreeMap, VecDeque};

use duck_flight_protocol::{Commit, PutOptions};
use duck_tests::{Client, eventually, numbered};
use tonic::Status;

use crate::loader::{Loader, Progress};
use crate::put::Put;
use crate::table::{Part, Trouble, rows_if_there};
use crate::ways::Way;
use crate::world::Life;

/// Batches on their way at a time, where batches are units.
const IN_FLIGHT: usize = 6;

/// Units in one life of the server.
const EACH_LIFE: u64 = 200;

/// A loader without a producer.
#[derive(Clone)]
pub(crate) struct Plain {
    part: Part,
    way: Way,
    seed: u64,
    next: i64,
    /// All units ever sent, and whether they were acknowledged.
    units: BTreeMap<i64, bool>,
}

impl Plain {
    pub(crate) fn new(part: Part, way: Way, seed: u64) -> Self {
        Self {
            part,
            way,
            seed,
            next: part.first,
            units: BTreeMap::new(),
        }
    }

    fn rows(&self, unit: i64) -> i64 {
        let dice = unit.unsigned_abs().wrapping_mul(self.seed | 1) >> 7;
        i64::try_from(dice % self.way.most_rows()).expect("small") + 1
    }

    /// A unit that was never sent before.
    fn new_unit(&mut self) -> i64 {
        let unit = self.next;
        self.next += 1;
        self.units.insert(unit, false);
        unit
    }

    /// Takes note of an acknowledgement.
    fn take(&mut self, unit: i64, rows: u64, life: &Life) -> Result<(), Trouble> {
        if rows != self.rows(unit).unsigned_abs() {
            return Err(Trouble::Broken(format!("unit {unit}: {rows} rows")));
        }
        self.units.insert(unit, true);
        life.world().count(|counts| counts.acks += 1);
        Ok(())
    }

    async fn take_ack(&mut self, put: &mut Put, unit: i64, life: &Life) -> Result<(), Trouble> {
        match eventually("an ack", put.ack()).await? {
            Some(ack) => self.take(unit, ack.rows, life),
            None => Err(Status::unknown("the put ended without an ack").into()),
        }
    }

    async fn load_units(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        for _ in 0..EACH_LIFE {
            if life.is_gone() {
                break;
            }
            let unit = self.new_unit();
            let answer = self
                .way
                .send(client, self.part.table, unit, self.rows(unit));
            let rows = eventually("an acknowledgement", answer).await?;
            self.take(unit, rows, life)?;
        }
        Ok(())
    }

    async fn load_batches(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        let mut options = PutOptions::new(self.part.table);
        options.commit = Commit::Batch;
        let mut put = Put::open(client, &options, &numbered(0, 0).schema());
        let mut waiting = VecDeque::new();
        for _ in 0..EACH_LIFE {
            if life.is_gone() {
                break;
            }
            let unit = self.new_unit();
            put.send(&numbered(unit, self.rows(unit)), None);
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
        self.part.loader
    }

    async fn set_up(&mut self, client: &Client) -> Result<(), Status> {
        match self.way.set_up(self.part.table) {
            Some(sql) => client.try_execute(sql).await.map(drop),
            None => Ok(()),
        }
    }

    /// Every unit is there once, whole, or not at all if it was not acknowledged.
    async fn check(&mut self, client: &Client, thorough: bool) -> Result<(), Trouble> {
        let distinct = if thorough { "DISTINCT " } else { "" };
        let sql = format!(
            "SELECT batch, count(*), count({distinct}\"row\"), min(\"row\"), max(\"row\"), sum(\"row\") FROM {} \
             GROUP BY batch ORDER BY batch",
            self.part.rows()
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
        match self.way {
            // Its transactions are open from one call to the next.
            Way::Transaction if life.is_calm => Ok(()),
            Way::Batches => self.load_batches(client, life).await,
            _ => self.load_units(client, life).await,
        }
    }

    fn progress(&self) -> Progress {
        let committed = self.units.values().filter(|unit| **unit).count();
        Progress {
            sent: self.units.len() as u64,
            committed: committed as u64,
            duplicates: 0,
        }
    }

    fn fork(&self) -> Box<dyn Loader> {
        Box::new(self.clone())
    }
}
