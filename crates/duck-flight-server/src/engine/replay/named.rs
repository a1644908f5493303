//! Tables, as DuckDB finds them by the names that statements write.
//!
//! It looks among temporary ones first, then where the session looks, and then in `main`; and by a name with a database alone where
//! the session looks in that one, or else in its `main`.

use crate::engine::catalog::{folded, is_name, texts};
use crate::engine::ffi::Connection;
use crate::engine::ingest::target::TEMPORARY;
use crate::error::Result;

/// The schema that DuckDB finds in each database, and where a connection looks that is as new.
pub(in crate::engine) const MAIN: &str = "main";

/// A table: its database, its schema and its own name.
pub(super) type Table = [String; 3];

/// The tables that may be meant by a name with its qualifiers. The first one is what DuckDB finds, where it finds a table.
pub(in crate::engine) fn tables(connection: &Connection, name: &[String]) -> Result<Vec<Table>> {
    match tables_sql("database_name, schema_name, table_name", name) {
        Some(sql) => texts(connection, &sql),
        None => Ok(Vec::new()),
    }
}

/// A query for these columns of them, in the same order. `None` for what is no name of a table.
pub(super) fn tables_sql(columns: &str, name: &[String]) -> Option<String> {
    let is_in = |schema: &str| is_name("schema_name", schema);
    let is_of = |database: &str| is_name("database_name", database);
    let schema = as_in_path("schema_name");
    let in_database = position(&format!(
        "system.main.concat({}, '.', {schema})",
        as_in_path("database_name")
    ));
    let (place, position, table) = match name {
        [table] => {
            let either = format!("system.main.least({in_database}, {})", position(&schema));
            ("true".to_owned(), either, table)
        }
        [one, table] => {
            let place = format!("({} OR {})", is_in(one), is_of(one));
            (place, in_database, table)
        }
        [database, schema, table] => {
            let place = format!("{} AND {}", is_of(database), is_in(schema));
            (place, in_database, table)
        }
        _ => return None,
    };
    Some(format!(
        "SELECT {columns} FROM system.main.duckdb_tables() WHERE {} AND {place}
         ORDER BY database_name <> '{TEMPORARY}', {position} NULLS LAST, schema_name <> 'main'",
        is_name("table_name", table)
    ))
}

/// An expression of SQL: where in the session's search path an entry is, which is another one.
fn position(entry: &str) -> String {
    // Commas stand in quotes, too.
    format!(
        r#"system.main.list_position(system.main.regexp_extract_all({}, '(?:"(?:[^"]|"")*"|[^",])+'), {entry})"#,
        folded("system.main.current_setting('search_path')")
    )
}

/// An expression of SQL: a name as the search path writes it.
fn as_in_path(name: &str) -> String {
    let name = folded(name);
    format!(
        r#"CASE WHEN system.main.regexp_matches({name}, '[.,"]')
            THEN system.main.concat('"', system.main.replace({name}, '"', '""'), '"') ELSE {name} END"#
    )
}

#[cfg(test)]
mod tests {
    use duck_flight_protocol::quote;

    use super::*;
    use crate::engine::catalog::literal;
    use crate::engine::ffi::Database;

    const SCHEMAS: &[&str] = &["main", "s1", "S2", "a,b", "q\"x.y"];

    /// Where the session may look.
    const PATHS: &[&str] = &[
        "s1",
        "S1",
        "s2,s1",
        "memory.S2,s1",
        "memory.s1,memory.s2",
        "\"a,b\",s1",
        "\"q\"\"x.y\",s2",
        "system,s1",
        "main,s1",
        "s1,main",
    ];

    const NAMES: &[&[&str]] = &[
        &["t"],
        &["T"],
        &["v"],
        &["w"],
        &["s1", "t"],
        &["s2", "W"],
        &["main", "v"],
        &["main", "t"],
        &["a,b", "t"],
        &["memory", "t"],
        &["MEMORY", "w"],
        &["memory", "v"],
        &["temp", "v"],
        &["memory", "s2", "t"],
        &["memory", "main", "v"],
    ];

    /// Makes a table whose only row says where it is.
    fn make(connection: &Connection, place: &[&str; 2], table: &str) {
        let says = literal(&place.join("."));
        let place = place.map(quote).join(".");
        let kind = match place.starts_with("\"temp\"") {
            true => "TEMP TABLE",
            false => "TABLE",
        };
        let sql = format!("CREATE {kind} {place}.{table} AS SELECT {says} AS place");
        connection.execute(&sql).unwrap();
    }

    #[test]
    fn the_first_table_is_the_one_that_duckdb_finds() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        for &schema in SCHEMAS {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quote(schema));
            connection.execute(&sql).unwrap();
            make(&connection, &["memory", schema], "t");
        }
        for (place, table) in [
            (["memory", "main"], "v"),
            (["memory", "s1"], "v"),
            (["temp", "main"], "v"),
            (["memory", "s1"], "w"),
            (["memory", "S2"], "w"),
        ] {
            make(&connection, &place, table);
        }
        let mut found = 0;
        for path in std::iter::once(&"").chain(PATHS) {
            connection.execute("RESET search_path").unwrap();
            if !path.is_empty() {
                let set = format!("SET search_path = {}", literal(path));
                connection.execute(&set).unwrap();
            }
            for name in NAMES {
                let sql: Vec<_> = name.iter().map(|part| quote(part)).collect();
                let sql = format!("SELECT place FROM {}", sql.join("."));
                // Some paths do not lead to it.
                let Ok(places) = texts::<1>(&connection, &sql) else {
                    continue;
                };
                let name: Vec<_> = name.iter().map(|&part| part.to_owned()).collect();
                let tables = tables(&connection, &name).unwrap();
                let first = tables
                    .first()
                    .map(|[database, schema, _]| [format!("{database}.{schema}")]);
                assert_eq!(first.as_ref(), places.first(), "{path}: {name:?}");
                found += 1;
            }
        }
        assert!(found > PATHS.len() * NAMES.len() / 2, "{found}");
        let many = ["a", "b", "c", "d"].map(str::to_owned);
        assert!(tables(&connection, &many).unwrap().is_empty());
    }
}
