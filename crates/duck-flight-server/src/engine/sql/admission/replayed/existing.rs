//! Indexes that are in the database already, and that no client could make now: another program has, or an older server.

use duck_flight_protocol::quote;

use super::Logged;
use super::surroundings::Surroundings;
use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::error::{Result, in_a_line};

/// The indexes that CREATE INDEX has made, as DuckDB writes them.
const MADE_SQL: &str = "
    SELECT schema_name, index_name, sql FROM system.main.duckdb_indexes()
    WHERE database_name <> 'temp' AND sql IS NOT NULL";

/// Tells of them in the server's log. To be called at a start, once DuckDB reads no files any more: to look at columns it plans views.
pub(in crate::engine) fn warn_of_indexes(connection: &Connection) {
    let refused = refused(connection).unwrap_or_else(|error| {
        tracing::warn!(error = %in_a_line(&error), "the indexes could not be looked through");
        Vec::new()
    });
    for (index, reason) in refused {
        let (index, reason) = (in_a_line(&index), in_a_line(&reason));
        tracing::warn!(
            "an index may answer wrongly, keep puts waiting for ever, or end the server for good: run DROP INDEX {index} before its table \
             is written to or a checkpoint is made; {reason}"
        );
    }
}

/// The names of the indexes that would be refused, in SQL, each with why.
fn refused(connection: &Connection) -> Result<Vec<(String, String)>> {
    let made: Vec<[String; 3]> = texts(connection, MADE_SQL)?;
    if made.is_empty() {
        return Ok(Vec::new());
    }
    let mut around = Surroundings::look(connection)?;
    around.look_at_indexes(connection)?;
    let refused = made.iter().filter_map(|[schema, name, sql]| {
        let reason = Logged::new(sql)?.refusal_of_index(&around)?;
        Some((format!("{}.{}", quote(schema), quote(name)), reason))
    });
    Ok(refused.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;

    fn names(connection: &Connection) -> Vec<String> {
        let mut names: Vec<_> = refused(connection)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_index_is_known_again_as_duckdb_writes_it() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection
            .execute(
                "CREATE SCHEMA s;
                 CREATE TABLE s.t (i BIGINT, a VARCHAR, ts TIMESTAMPTZ, day VARCHAR AS (ts::VARCHAR), \"größe\" DOUBLE);
                 CREATE INDEX plain ON s.t (ts, i);
                 CREATE INDEX lowered ON s.t (lower(a));
                 CREATE INDEX larger ON s.t ((\"größe\" * 2));
                 CREATE INDEX in_utc ON s.t ((make_timestamp(epoch_us(ts))::DATE), (a || 'x'))",
            )
            .unwrap();
        assert!(names(&connection).is_empty());
        connection
            .execute(
                "CREATE INDEX \"of day\" ON s.t ((ts::DATE));
                 CREATE UNIQUE INDEX of_day_text ON s.t (i, day)",
            )
            .unwrap();
        let zoned = [r#""s"."of day""#, r#""s"."of_day_text""#];
        assert_eq!(names(&connection), zoned);
        connection
            .execute("CREATE MACRO \"Lower\"(one, other) AS one")
            .unwrap();
        let all = ["in_utc", "larger", "lowered", "of day", "of_day_text"];
        let all = all.map(|name| format!("\"s\".\"{name}\""));
        assert_eq!(names(&connection), all);
    }
}
