//! The ways of a unit to the server without a producer.

use bytes::Bytes;
use duck_tests::{Answer, Client, SqlClient, numbered, options, status};

/// How a loader sends its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A put for each.
    Put,
    /// A put for each that would replace rows with the same key: there are none.
    Upsert,
    /// One put, of which each batch is a unit.
    Batches,
    /// An ingest of Flight SQL for each.
    Ingest,
    /// A transaction for each: half of it is ingested, and a statement inserts the other half.
    Transaction,
    /// A prepared INSERT for each, with a row of values for each of its rows.
    Prepared,
    /// An INSERT for each, by the action `query`.
    Statement,
}

impl Way {
    /// How many rows a unit has at most.
    pub(crate) fn most_rows(self) -> u64 {
        match self {
            Self::Prepared => 30,
            _ => 1000,
        }
    }

    /// SQL that must have run before the first unit for a table.
    pub(crate) fn set_up(self, table: &str) -> Option<String> {
        let sql = format!("CREATE TABLE {table} (batch BIGINT, \"row\" BIGINT)");
        matches!(self, Self::Prepared | Self::Statement).then_some(sql)
    }

    /// Sends a unit alone, with the columns `batch` and `row`; answers with the rows that are acknowledged.
    pub(crate) async fn send(
        self,
        client: &Client,
        table: &str,
        unit: i64,
        rows: i64,
    ) -> Answer<u64> {
        let mut sql = client.sql();
        let batch = numbered(unit, rows);
        let rows = match self {
            Self::Put | Self::Batches => return client.append(table, &[batch]).await,
            Self::Upsert => {
                let key = r#""key":["batch","row"]"#;
                let upsert = format!(r#"{{"table":"{table}","mode":"upsert",{key}}}"#);
                let acks = client.put(&options(&upsert), &[batch]).await?;
                return Ok(acks.iter().map(|ack| ack.rows).sum());
            }
            Self::Ingest => sql.ingest(table, None, vec![batch]).await?,
            Self::Transaction => {
                let transaction = sql.begin().await?;
                match put_halves(&mut sql, &transaction, table, unit, rows).await {
                    Ok(rows) => sql.commit(&transaction).await.map(|()| rows)?,
                    Err(status) => {
                        sql.roll_back(&transaction).await.ok();
                        return Err(status);
                    }
                }
            }
            Self::Prepared => {
                let insert = format!("INSERT INTO {table} VALUES (?, ?)");
                let insert = sql.raw().prepare(insert, None).await;
                let mut insert = insert.map_err(status)?;
                insert.set_parameters(batch).map_err(status)?;
                let rows = insert.execute_update().await.map_err(status)?;
                insert.close().await.map_err(status)?;
                rows
            }
            Self::Statement => return client.try_execute(insert_sql(table, unit, 0, rows)).await,
        };
        Ok(rows.unsigned_abs())
    }
}

/// Puts the rows of a unit in by two statements of a transaction.
async fn put_halves(
    sql: &mut SqlClient,
    transaction: &Bytes,
    table: &str,
    unit: i64,
    rows: i64,
) -> Answer<i64> {
    let half = rows / 2;
    let ingested = sql.ingest(table, Some(transaction), vec![numbered(unit, half)]);
    let ingested = ingested.await?;
    let insert = insert_sql(table, unit, half, rows);
    Ok(ingested + sql.update(&insert, Some(transaction)).await?)
}

fn insert_sql(table: &str, unit: i64, from: i64, to: i64) -> String {
    format!("INSERT INTO {table} SELECT {unit}, range FROM range({from}, {to})")
}
