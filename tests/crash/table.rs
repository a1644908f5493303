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
