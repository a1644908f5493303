//! The constraints of a table: what DuckDB's catalog says a row must be like.

use std::sync::Arc;

use duck_flight_protocol::{TableName, quote};

use super::types::same_name;
use crate::engine::catalog::{is_name, qualified, texts};
use crate::engine::ffi::Connection;
use crate::error::Result;

/// What a row must be like to be in its table.
pub(super) struct Constraint {
    pub(super) kind: Kind,
    /// The columns that it looks at in a row; empty where they are not known.
    names: Vec<String>,
    /// The columns that it is about, for people.
    pub(super) columns: Arc<str>,
    /// What is wrong with a row that breaks it.
    pub(super) reason: Arc<str>,
}

/// What kind of constraint it is. Expressions and names are SQL.
pub(super) enum Kind {
    /// An expression that is not true of any row.
    Never(String),
    /// No two rows have the same values of these expressions, none of them NULL.
    Unique(Vec<String>),
    /// Without a NULL among these columns, there is such a row of the other table.
    Refers(Reference),
    /// A row that another table refers to stays.
    Referred(Reference),
}

impl Constraint {
    /// Whether it is known to look at such columns only.
    pub(super) fn is_about(&self, columns: impl Fn(&String) -> bool) -> bool {
        match self.kind {
            // It looks at the row that is there.
            Kind::Referred(_) => true,
            _ => !self.names.is_empty() && self.names.iter().all(columns),
        }
    }
}

/// Columns of a table that are equal to those of another one.
pub(super) struct Reference {
    pub(super) columns: Vec<String>,
    pub(super) other: String,
    pub(super) other_columns: Vec<String>,
}

impl Reference {
    /// The condition that row `one` of the table and row `other` of the other one belong together.
    pub(super) fn is_met(&self, one: &str, other: &str) -> String {
        let columns = self.columns.iter().zip(&self.other_columns);
        let same = columns.map(|(column, its)| format!("{one}.{column} = {other}.{its}"));
        same.collect::<Vec<_>>().join(" AND ")
    }
}

/// All constraints of a table that DuckDB checks, in the order in which they were made; those of its unique indexes are
/// the last.
pub(super) fn constraints(connection: &Connection, table: &TableName) -> Result<Vec<Constraint>> {
    let described = describe(connection, table)?;
    let mut constraints = Vec::new();
    for row in described.iter() {
        if same_name(&row.table, &table.table) {
            constraints.extend(row.constraint(table));
        }
        if same_name(&row.referenced, &table.table) {
            constraints.push(row.referred(table));
        }
    }
    constraints.extend(unique_indexes(connection, table)?);
    Ok(constraints)
}

/// Whether a table has any constraint that DuckDB checks.
pub(in crate::engine) fn has_constraints(
    connection: &Connection,
    table: &TableName,
) -> Result<bool> {
    Ok(!constraints(connection, table)?.is_empty())
}

/// Whether a table may refuse one row with a key and take another one: for any constraint but those of the key, which is never NULL.
pub(super) fn refuses_rows(
    connection: &Connection,
    table: &TableName,
    key: &[&str],
) -> Result<bool> {
    let is_of_key = |name: &String| key.iter().any(|column| same_name(column, name));
    let is_key = |names: &[String]| names.len() == key.len() && names.iter().all(is_of_key);
    let is_harmless = |row: &Described| {
        let is_own = same_name(&row.table, &table.table);
        match row.kind.as_str() {
            "NOT NULL" => !is_own || row.columns.iter().all(is_of_key),
            "PRIMARY KEY" | "UNIQUE" => !is_own || is_key(&row.columns),
            "CHECK" => !is_own,
            _ => !is_own && !same_name(&row.referenced, &table.table),
        }
    };
    if !describe(connection, table)?.iter().all(is_harmless) {
        return Ok(true);
    }
    let is_of_key = |value: &String| {
        let mut key = key.iter();
        key.any(|column| same_name(column, value) || same_name(&quote(column), value))
    };
    let is_other = |one: &Constraint| match &one.kind {
        Kind::Unique(values) => values.len() != key.len() || !values.iter().all(is_of_key),
        _ => true,
    };
    Ok(unique_indexes(connection, table)?.iter().any(is_other))
}

/// Whether a table has a column that is compared by a collation, to which texts that differ may be the same. DuckDB tells of that in
/// the table's definition alone, where a name may have the word, too.
pub(super) fn collates(connection: &Connection, table: &TableName) -> Result<bool> {
    let sql = format!(
        "SELECT table_name FROM system.main.duckdb_tables()
         WHERE {is_of} AND {place} AND system.main.contains(sql, ' COLLATE ')",
        is_of = is_name("table_name", &table.table),
        place = is_in_schema(table),
    );
    Ok(!texts::<1>(connection, &sql)?.is_empty())
}

/// The columns of a table's primary key, in their order; `None` where it has none.
pub(in crate::engine) fn primary_key(
    connection: &Connection,
    table: &TableName,
) -> Result<Option<Vec<String>>> {
    let described = describe(connection, table)?;
    let key = described
        .into_iter()
        .find(|row| row.kind == "PRIMARY KEY" && same_name(&row.table, &table.table));
    Ok(key.map(|key| key.columns))
}

/// A constraint as DuckDB describes it.
pub(super) struct Described {
    /// The table that it is of.
    pub(super) table: String,
    pub(super) kind: String,
    text: String,
    pub(super) columns: Vec<String>,
    expression: String,
    /// The table that a foreign key refers to; empty where there is none.
    referenced: String,
    referenced_columns: Vec<String>,
}

/// The constraints of a table, and the foreign keys that refer to it. DuckDB's do so within one schema.
pub(super) fn describe(connection: &Connection, table: &TableName) -> Result<Vec<Described>> {
    let sql = format!(
        "SELECT table_name, constraint_type, constraint_text,
             {columns}, coalesce(expression, ''), coalesce(referenced_table, ''), {its_columns}
         FROM system.main.duckdb_constraints()
         WHERE ({is_of} OR {refers}) AND {place}
         ORDER BY table_oid, constraint_index",
        columns = joined("constraint_column_names"),
        its_columns = joined("referenced_column_names"),
        is_of = is_name("table_name", &table.table),
        refers = is_name("referenced_table", &table.table),
        place = is_in_schema(table),
    );
    let found = texts::<7>(connection, &sql)?.into_iter();
    let described = |[
        table,
        kind,
        text,
        columns,
        expression,
        referenced,
        its_columns,
    ]: [String; 7]| Described {
        table,
        kind,
        text,
        columns: parts(&columns),
        expression,
        referenced,
        referenced_columns: parts(&its_columns),
    };
    Ok(found.map(described).collect())
}

/// The condition that something in the catalog is in the schema of a table.
pub(in crate::engine) fn is_in_schema(table: &TableName) -> String {
    let schema = is_name("schema_name", table.schema.as_deref().unwrap_or("main"));
    let catalog = match &table.catalog {
        Some(catalog) => is_name("database_name", catalog),
        None => "database_name = system.main.current_database()".to_owned(),
    };
    format!("{schema} AND {catalog}")
}

impl Described {
    /// What it demands of the rows of its own table.
    fn constraint(&self, table: &TableName) -> Option<Constraint> {
        let kind = match self.kind.as_str() {
            "NOT NULL" => Kind::Never(format!("{} IS NULL", quote(self.columns.first()?))),
            // A row for which it fails is refused, too; one for which it is NULL is not.
            "CHECK" => Kind::Never(format!(
                "TRY(CAST(({}) AS BOOLEAN) IS NOT FALSE) IS NOT TRUE",
                self.expression
            )),
            "PRIMARY KEY" | "UNIQUE" => Kind::Unique(quoted(&self.columns)),
            "FOREIGN KEY" => Kind::Refers(Reference {
                columns: quoted(&self.columns),
                other: beside(table, &self.referenced),
                other_columns: quoted(&self.referenced_columns),
            }),
            _ => return None,
        };
        Some(Constraint {
            kind,
            names: self.columns.clone(),
            columns: self.columns.join(", ").into(),
            reason: format!("breaks the table's {}", self.told()).into(),
        })
    }

    /// What it is called, for people.
    fn told(&self) -> String {
        let columns = self.columns.join(", ");
        match self.kind.as_str() {
            "NOT NULL" => format!("NOT NULL of column `{columns}`"),
            // DuckDB 1.5.5 has no text for one that refers to its own table.
            "FOREIGN KEY" if self.text.is_empty() => {
                let its_columns = self.referenced_columns.join(", ");
                format!(
                    "FOREIGN KEY ({columns}) REFERENCES {}({its_columns})",
                    self.referenced
                )
            }
            _ => self.text.clone(),
        }
    }

    /// What it demands, as a foreign key, of the rows of the table that it refers to.
    fn referred(&self, table: &TableName) -> Constraint {
        let reason = format!("table `{}` refers to its row: {}", self.table, self.told());
        Constraint {
            kind: Kind::Referred(Reference {
                columns: quoted(&self.referenced_columns),
                other: beside(table, &self.table),
                other_columns: quoted(&self.columns),
            }),
            names: Vec::new(),
            columns: self.referenced_columns.join(", ").into(),
            reason: reason.into(),
        }
    }
}

fn unique_indexes(connection: &Connection, table: &TableName) -> Result<Vec<Constraint>> {
    let sql = format!(
        "SELECT table_name, index_name, {expressions}
         FROM system.main.duckdb_indexes()
         WHERE is_unique AND {is_of} AND {place}
         ORDER BY index_oid",
        expressions = joined("CAST(expressions AS VARCHAR[])"),
        is_of = is_name("table_name", &table.table),
        place = is_in_schema(table),
    );
    let found = texts::<3>(connection, &sql)?.into_iter();
    let of_table = found.filter(|[of, ..]| same_name(of, &table.table));
    let index = |[_, name, expressions]: [String; 3]| {
        let expressions = parts(&expressions);
        Constraint {
            names: Vec::new(),
            columns: expressions.join(", ").into(),
            reason: format!("breaks the table's UNIQUE INDEX {}", quote(&name)).into(),
            kind: Kind::Unique(expressions),
        }
    };
    Ok(of_table.map(index).collect())
}

/// An expression of SQL: the texts of a list, joined by zeros. DuckDB's `array_to_string` is a macro itself, and calls functions by
/// names that a client may have given to others.
fn joined(list: &str) -> String {
    format!("coalesce(system.main.list_aggregate({list}, 'string_agg', system.main.chr(0)), '')")
}

/// A list of texts that was joined by zeros.
fn parts(joined: &str) -> Vec<String> {
    let parts = joined.split('\0').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn quoted(names: &[String]) -> Vec<String> {
    names.iter().map(|name| quote(name)).collect()
}

/// Another table of the same schema, as SQL.
fn beside(table: &TableName, other: &str) -> String {
    qualified(&TableName {
        table: other.to_owned(),
        ..table.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;

    #[test]
    fn a_table_with_nothing_but_its_key_takes_all_rows_of_a_key_or_none() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        for (sql, expected) in [
            ("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT)", false),
            ("CREATE TABLE t (k BIGINT UNIQUE NOT NULL, v BIGINT)", false),
            (
                "CREATE TABLE t (K BIGINT, v BIGINT); CREATE UNIQUE INDEX i ON t (K)",
                false,
            ),
            ("CREATE TABLE t (k BIGINT, v BIGINT PRIMARY KEY)", true),
            ("CREATE TABLE t (k BIGINT, v BIGINT, UNIQUE (k, v))", true),
            (
                "CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT NOT NULL)",
                true,
            ),
            ("CREATE TABLE t (k BIGINT PRIMARY KEY CHECK (k > 0))", true),
            (
                "CREATE TABLE t (k BIGINT, v BIGINT); CREATE UNIQUE INDEX i ON t ((k + v))",
                true,
            ),
            (
                "CREATE TABLE t (k BIGINT PRIMARY KEY); CREATE TABLE c (k BIGINT NOT NULL REFERENCES t (k))",
                true,
            ),
            (
                "CREATE TABLE p (k BIGINT PRIMARY KEY); CREATE TABLE t (k BIGINT REFERENCES p (k))",
                true,
            ),
        ] {
            let schema = "DROP SCHEMA IF EXISTS s CASCADE; CREATE SCHEMA s; USE s";
            connection.execute(&format!("USE main; {schema}")).unwrap();
            connection.execute(sql).unwrap();
            let table = TableName {
                catalog: None,
                schema: Some("s".to_owned()),
                table: "t".to_owned(),
            };
            let refuses = refuses_rows(&connection, &table, &["k"]).unwrap();
            assert_eq!(refuses, expected, "{sql}");
        }
    }
}
