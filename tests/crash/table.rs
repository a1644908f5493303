//! What a table holds, asked in SQL.

use std::collections::HashSet;

use duck_tests::Client;
use tonic::{Code, Status};

/// Why a loader cannot go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server said so, or is gone: the loader decides by the code.
    Status(Status),
    /// A promise is broken.
    Broken(String),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// The rows of one loader in a table that others may write to as well: those whose column `batch` is in its range.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) table: &'static str,
    pub(crate) loader: &'static str,
    /// Where its range begins.
    pub(crate) first: i64,
}

/// More batches than any loader sends.
const BATCHES: i64 = 1_000_000_000;

impl Part {
    /// All of a table, which has its loader's name.
    pub(crate) fn all_of(table: &'static str) -> Self {
        Self::of(table, table, 0)
    }

    /// One of several parts of a table.
    pub(crate) fn of(table: &'static str, loader: &'static str, number: i64) -> Self {
        Self {
            table,
            loader,
            first: number * BATCHES,
        }
    }

    /// The part as SQL has it, after FROM.
    pub(crate) fn rows(&self) -> String {
        let Self { table, first, .. } = self;
        let last = first + BATCHES - 1;
        format!("{table} WHERE batch BETWEEN {first} AND {last}")
    }
}

/// A query, and the rows it must answer with.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) sql: String,
    pub(crate) rows: Vec<String>,
}

impl Check {
    pub(crate) fn new(sql: impl Into<String>, rows: Vec<String>) -> Self {
        Self {
            sql: sql.into(),
            rows,
        }
    }

    /// Compares the rows with the table's.
    pub(crate) async fn run(&self, client: &Client) -> Result<(), Trouble> {
        let found = client.try_rows(&self.sql).await?;
        if found == self.rows {
            return Ok(());
        }
        let (expected, there): (HashSet<_>, HashSet<_>) =
            (self.rows.iter().collect(), found.iter().collect());
        let missing = self.rows.iter().filter(|row| !there.contains(row));
        let surplus = found.iter().filter(|row| !expected.contains(row));
        Err(Trouble::Broken(format!(
            "{}\n  rows missing: {:?}\n  rows too many: {:?}\n  found {} rows, {} expected",
            self.sql,
            missing.take(5).collect::<Vec<_>>(),
            surplus.take(5).collect::<Vec<_>>(),
            found.len(),
            self.rows.len(),
        )))
    }
}

/// The rows of a query, or none where its table does not exist yet.
pub(crate) async fn rows_if_there(client: &Client, sql: &str) -> Result<Vec<String>, Status> {
    match client.try_rows(sql).await {
        Err(error) if error.code() == Code::NotFound => Ok(Vec::new()),
        other => other,
    }
}
