//! Units that take the place of all rows of their table, which so holds one whole unit and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use duck_flight_protocol::{Create, Mode, PutOptions};
use duck_tests::{Answer, Client, eventually};
use tonic::Status;

use crate::loader::{Loader, Progress};
use crate::shim::is_refusal;
use crate::table::{Trouble, rows_if_there};
use crate::world::Life;

/// Units in one life of the server.
const EACH_LIFE: u64 = 20;

/// How a unit takes the place of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacing {
    /// The table is made anew.
    Table,
    /// All rows are replaced by their keys.
    Upsert,
    /// The same, as changes.
    Changes,
}

/// A table, and the units that were sent for it, each once: the numbers from 1 on.
#[derive(Clone)]
pub(crate) struct Latest {
    table: &'static str,
    replacing: Replacing,
    /// The rows of a unit.
    rows: i64,
    sent: i64,
    /// The last one that is known to be committed.
    committed: i64,
    /// Those of which the server has said that they are not.
    refused: BTreeSet<i64>,
}

impl Latest {
    pub(crate) fn new(table: &'static str, replacing: Replacing, rows: i64) -> Self {
        Self {
            table,
            replacing,
            rows,
            sent: 0,
            committed: 0,
            refused: BTreeSet::new(),
        }
    }

    fn options(&self) -> PutOptions {
        let mut options = PutOptions::new(self.table);
        let key = Some(vec!["k".into()]);
        match self.replacing {
            Replacing::Table => options.create = Create::Replace,
            Replacing::Upsert => (options.mode, options.key) = (Mode::Upsert, key),
            Replacing::Changes => (options.mode, options.key) = (Mode::Changes, key),
        }
        options
    }

    fn batch(&self, unit: i64) -> RecordBatch {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..self.rows));
        let units = (0..self.rows).map(|_| unit);
        let units: ArrayRef = Arc::new(Int64Array::from_iter_values(units));
        let mut columns = vec![("k", keys), ("v", units)];
        if self.replacing == Replacing::Changes {
            let ops = (0..self.rows).map(|_| "U");
            columns.push(("op", Arc::new(StringArray::from_iter_values(ops))));
        }
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    /// Sends a unit that was never sent before.
    pub(crate) async fn send(&mut self, client: &Client) -> Answer<()> {
        self.sent += 1;
        let batch = self.batch(self.sent);
        let options = self.options();
        let answer = eventually("an answer", client.put(&options, &[batch])).await;
        match answer {
            Ok(acks) => {
                let rows: Vec<_> = acks.iter().map(|ack| ack.rows).collect();
                assert_eq!(rows, [self.rows.unsigned_abs()]);
                self.committed = self.sent;
                Ok(())
            }
            Err(status) => {
                if is_refusal(&status) {
                    self.refused.insert(self.sent);
                }
                Err(status)
            }
        }
    }

    /// What is wrong with the table: it must be the last unit that was acknowledged, or a later one that was not refused.
    pub(crate) async fn difference(&mut self, client: &Client) -> Answer<Option<String>> {
        let Self {
            table,
            rows,
            sent,
            committed,
            ..
        } = *self;
        let sql = format!(
            "SELECT v, count(*), count(DISTINCT k), min(k), max(k) FROM {table} GROUP BY v"
        );
        let found = rows_if_there(client, &sql).await?;
        let is_it = |unit: &i64| match unit {
            0 => found.is_empty(),
            unit => found == [format!("{unit}|{rows}|{rows}|0|{}", rows - 1)],
        };
        let mut units = (committed..=sent).filter(|unit| !self.refused.contains(unit));
        match units.find(is_it) {
            Some(unit) => {
                self.committed = unit;
                Ok(None)
            }
            None => Ok(Some(format!(
                "{found:?} found, one of the units {committed} to {sent} expected, but none of {:?}",
                self.refused
            ))),
        }
    }

    /// Asserts that what was acknowledged is there.
    pub(crate) async fn assert_kept(&mut self, client: &Client) {
        let difference = self.difference(client).await.expect("a good disk");
        assert_eq!(difference, None);
    }
}

#[tonic::async_trait]
impl Loader for Latest {
    fn name(&self) -> &str {
        self.table
    }

    async fn set_up(&mut self, _client: &Client) -> Result<(), Status> {
        Ok(())
    }

    async fn check(&mut self, client: &Client, _thorough: bool) -> Result<(), Trouble> {
        match self.difference(client).await? {
            None => Ok(()),
            Some(difference) => Err(Trouble::Broken(difference)),
        }
    }

    async fn load(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        for _ in 0..EACH_LIFE {
            if life.is_gone() {
                break;
            }
            self.send(client).await?;
            life.world().count(|counts| counts.acks += 1);
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress {
            sent: self.sent.unsigned_abs(),
            committed: self.committed.unsigned_abs(),
            duplicates: 0,
        }
    }

    fn fork(&self) -> Box<dyn Loader> {
        Box::new(self.clone())
    }
}
