//! What of the session and the catalog the meaning of a statement may depend on.

use crate::engine::catalog::texts;
use crate::engine::ffi::Connection;
use crate::engine::sql::tokens::contains_word;
use crate::error::Result;

use super::super::functions::called;

/// The functions that a replay may find missing (`lost`), or that may answer otherwise there. DuckDB finds those in the
/// schema `main` of the file.
const FUNCTIONS_SQL: &str = "
    SELECT function_name, CASE WHEN NOT internal AND (schema_name <> 'main' OR database_name = 'temp') THEN 'lost' ELSE '' END
    FROM system.main.duckdb_functions()
    WHERE function_type IN ('scalar', 'macro')
        AND (NOT internal OR stability <> 'CONSISTENT' OR schema_name = 'pg_catalog')";

/// Functions of DuckDB's own that tell of the session or the present, and do not say that they do.
const OF_SESSION: &[&str] = &[
    "age",
    "ago",
    "current_catalog",
    "current_connection_id",
    "current_localtime",
    "current_localtimestamp",
    "current_query",
    "current_query_id",
    "current_setting",
    "current_transaction_id",
    "get_block_size",
    "getvariable",
];

/// The types that clients have made, whether a replay may find them missing, and what they are made of.
const TYPES_SQL: &str = "
    SELECT type_name, CASE WHEN schema_name <> 'main' OR database_name = 'temp' THEN 'lost' ELSE '' END, logical_type
    FROM system.main.duckdb_types() WHERE NOT internal";

/// What of each table is bound again, and the types of its columns.
const DEFINITIONS_SQL: &str = "
    SELECT table_name, coalesce(column_default, ''), data_type FROM system.main.duckdb_columns() WHERE NOT internal
    UNION ALL
    SELECT table_name, expression, '' FROM system.main.duckdb_constraints() WHERE constraint_type = 'CHECK'";

/// The columns of all tables. What a generated one is made of is told as its default, cast to its type.
const COLUMNS_SQL: &str = "
    SELECT table_name, column_name, data_type, coalesce(column_default, '') FROM system.main.duckdb_columns() WHERE NOT internal";

/// The tables that have generated columns.
const GENERATING_SQL: &str = "
    SELECT table_name, sql FROM system.main.duckdb_tables()
    WHERE NOT internal AND system.main.contains(sql, 'GENERATED ALWAYS AS(')";

/// The indexes that are bound again after a start.
const INDEXES_SQL: &str = "
    SELECT index_name, table_name, expressions FROM system.main.duckdb_indexes() WHERE database_name <> 'temp'";

/// The macros that clients have made and that are called like functions.
const MACROS_SQL: &str = "
    SELECT function_name FROM system.main.duckdb_functions() WHERE NOT internal AND function_type = 'macro'";

/// DuckDB's own functions that an expression of an index may call, be it as an operator.
const BUILT_IN_SQL: &str = "
    SELECT DISTINCT function_name FROM system.main.duckdb_functions()
    WHERE internal AND function_type IN ('scalar', 'macro')";

/// The settings that times depend on, where DuckDB has ICU.
const ZONE_SQL: &str = "
    SELECT name, value FROM system.main.duckdb_settings() WHERE name IN ('Calendar', 'TimeZone') ORDER BY name";

/// Remembers the time zone of the server, which a new connection has, and which a replay goes by.
pub(in crate::engine) fn remember_server_zone(connection: &Connection) -> Result<()> {
    let zone = texts(connection, ZONE_SQL)?;
    connection.zone().get_or_init(|| zone);
    Ok(())
}

/// What of the session and the catalog the meaning may depend on. Names are in lower case.
#[derive(Default)]
pub(super) struct Surroundings {
    /// Functions that a replay may not find.
    pub(super) lost_functions: Vec<String>,
    /// Functions that are not certain to answer the same.
    pub(super) varying_functions: Vec<String>,
    pub(super) lost_types: Vec<String>,
    pub(super) zoned_types: Vec<String>,
    pub(super) definitions: Vec<Definition>,
    pub(super) has_own_zone: bool,
    /// The columns that have a time zone, or are generated, where an index or a macro is made.
    pub(super) columns: Vec<Column>,
    /// DuckDB's own functions, where an index or a macro is made.
    pub(super) built_in: Vec<String>,
    /// A macro that has the name of one of them.
    pub(super) shadow: Option<String>,
    /// An index that has an expression.
    pub(super) bound_index: Option<String>,
}

/// A column on which the keys of an index may depend.
pub(super) struct Column {
    pub(super) table: String,
    pub(super) name: String,
    pub(super) is_zoned: bool,
    /// What it is made of, where it is generated.
    pub(super) generated: Option<String>,
}

/// An expression of a table that is bound again, or a column of it.
pub(super) struct Definition {
    pub(super) table: String,
    expression: String,
    pub(super) is_zoned: bool,
}

impl Surroundings {
    /// Looks at the open transaction's catalog, and at the session.
    pub(super) fn look(connection: &Connection) -> Result<Self> {
        let mut found = Self {
            has_own_zone: connection.zone().get() != Some(&texts(connection, ZONE_SQL)?),
            ..Self::default()
        };
        found.varying_functions = OF_SESSION.iter().map(|&name| name.to_owned()).collect();
        for [name, lost] in texts(connection, FUNCTIONS_SQL)? {
            found.add_function(&name, !lost.is_empty());
        }
        for [name, lost, logical_type] in texts(connection, TYPES_SQL)? {
            found.add_type(&name, !lost.is_empty(), &logical_type);
        }
        if found.has_own_zone || !found.lost_functions.is_empty() || !found.lost_types.is_empty() {
            for [table, expression, data_type] in texts(connection, DEFINITIONS_SQL)? {
                found.add_definition(&table, &expression, &data_type);
            }
        }
        Ok(found)
    }

    /// What is committed of indexes, and of macros that they may call.
    pub(super) fn committed(connection: &Connection) -> Result<Self> {
        let other = connection.another()?;
        let mut found = Self::default();
        found.look_at_columns(&other)?;
        found.look_for_pairs(&other)?;
        Ok(found)
    }

    /// Looks at what the keys of an index may depend on, and whether any do.
    pub(super) fn look_at_indexes(&mut self, connection: &Connection) -> Result<()> {
        self.look_at_columns(connection)?;
        self.look_for_pairs(connection)?;
        // What others have committed since the transaction began counts as well.
        self.look_for_pairs(&connection.another()?)
    }

    fn look_at_columns(&mut self, connection: &Connection) -> Result<()> {
        let generating: Vec<[String; 2]> = texts(connection, GENERATING_SQL)?;
        for [table, name, data_type, default] in texts(connection, COLUMNS_SQL)? {
            let mut made = generating.iter().filter(|[of, _]| *of == table);
            let is_generated = made.any(|[_, sql]| generates(sql, &default));
            self.add_column(&table, &name, &data_type, is_generated.then_some(&*default));
        }
        let built_in: Vec<[String; 1]> = texts(connection, BUILT_IN_SQL)?;
        self.built_in = built_in.into_iter().map(|[name]| name).collect();
        Ok(())
    }

    /// Looks for macros that an index may call, and for indexes that may call one.
    fn look_for_pairs(&mut self, connection: &Connection) -> Result<()> {
        for [name] in texts(connection, MACROS_SQL)? {
            if self.is_built_in(&name) {
                self.shadow = Some(name);
            }
        }
        for [name, table, keys] in texts(connection, INDEXES_SQL)? {
            if self.has_expression(&table, &keys) {
                self.bound_index = Some(name);
            }
        }
        Ok(())
    }

    /// Whether DuckDB has a function of this name itself.
    pub(super) fn is_built_in(&self, name: &str) -> bool {
        let mut built_in = self.built_in.iter();
        built_in.any(|function| function.eq_ignore_ascii_case(name))
    }

    /// Whether keys of a table, as DuckDB writes them, have an expression, if only that of a generated column.
    fn has_expression(&self, table: &str, keys: &str) -> bool {
        let is_named = |column: &Column| {
            let name = column.name.replace('"', "\"\"");
            column.generated.is_some() && column.table == table && keys.contains(&name)
        };
        keys.contains('(') || self.columns.iter().any(is_named)
    }

    pub(super) fn add_column(
        &mut self,
        table: &str,
        name: &str,
        data_type: &str,
        generated: Option<&str>,
    ) {
        let is_zoned = is_zoned(data_type);
        if is_zoned || generated.is_some() {
            self.columns.push(Column {
                table: table.to_owned(),
                name: name.to_owned(),
                is_zoned,
                generated: generated.map(str::to_owned),
            });
        }
    }

    pub(super) fn add_function(&mut self, name: &str, is_lost: bool) {
        let name = name.to_ascii_lowercase();
        if is_lost {
            self.lost_functions.push(name.clone());
        }
        self.varying_functions.push(name);
    }

    pub(super) fn add_type(&mut self, name: &str, is_lost: bool, logical_type: &str) {
        let name = name.to_ascii_lowercase();
        if is_lost {
            self.lost_types.push(name.clone());
        }
        if is_zoned(logical_type) {
            self.zoned_types.push(name);
        }
    }

    pub(super) fn add_definition(&mut self, table: &str, expression: &str, data_type: &str) {
        self.definitions.push(Definition {
            table: table.to_ascii_lowercase(),
            expression: expression.to_owned(),
            is_zoned: is_zoned(data_type),
        });
    }

    /// A function or type that an expression of a table names, and that a replay may not find.
    pub(super) fn lost_in(&self, definition: &Definition) -> Option<&str> {
        let Definition { expression, .. } = definition;
        let is_named = |name: &&String| contains_word(expression, name);
        called(expression, names(&self.lost_functions))
            .or_else(|| self.lost_types.iter().find(is_named).map(String::as_str))
    }
}

/// Whether a table that is made by this statement has a generated column with this default.
fn generates(sql: &str, default: &str) -> bool {
    let cast = default.strip_prefix("CAST(");
    let expression = cast.and_then(|cast| cast.rsplit_once(" AS "));
    let expression = expression.map_or(default, |(expression, _)| expression);
    sql.contains(&format!("GENERATED ALWAYS AS({expression})"))
}

/// Whether a type has a time zone, or has one inside.
fn is_zoned(data_type: &str) -> bool {
    data_type.contains("TIME ZONE")
}

pub(super) fn names(names: &[String]) -> impl Iterator<Item = &str> + Clone {
    names.iter().map(String::as_str)
}
