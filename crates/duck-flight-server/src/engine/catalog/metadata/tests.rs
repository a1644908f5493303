use arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::engine::ffi::Database;

/// A session of a database in memory.
struct Session {
    connection: Connection,
    lossless: Lossless,
}

impl Session {
    fn new(sql: &str) -> Self {
        let database = Database::open(":memory:", &[]).expect("a database opens");
        let session = Self {
            connection: database.connect().expect("it connects"),
            lossless: crate::engine::storage::open::lossless(&database).expect("it connects"),
        };
        session
            .connection
            .execute(&format!("CREATE SCHEMA {OWN_SCHEMA}; {sql}"))
            .expect("the database is set up");
        session
    }

    fn tables(&self, filter: &TablesFilter) -> Vec<String> {
        lines(
            &tables(&self.connection, &self.lossless, filter, &Cancel::default())
                .expect("tables are listed"),
        )
    }

    fn schema_of(&self, table: &str) -> Schema {
        let filter = TablesFilter {
            table_pattern: Some(table.into()),
            include_schema: true,
            ..TablesFilter::default()
        };
        let found = tables(
            &self.connection,
            &self.lossless,
            &filter,
            &Cancel::default(),
        )
        .expect("tables are listed");
        assert_eq!(found.num_rows(), 1, "one table `{table}`");
        let message = arrow::array::AsArray::as_binary::<i32>(found.column(4)).value(0);
        Schema::try_from(arrow_flight::IpcMessage(message.to_vec().into())).expect("a schema")
    }
}

/// A batch as text: a line for each row, its values separated by a bar.
fn lines(batch: &RecordBatch) -> Vec<String> {
    let table = pretty_format_batches(std::slice::from_ref(batch)).expect("it can be shown");
    let table = table.to_string();
    let rows = table.lines().skip(3).filter(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells = line.trim_matches('|').split('|').map(str::trim);
        cells.collect::<Vec<_>>().join("|")
    })
    .collect()
}

const SHOP: &str = "
    CREATE MACRO lower(text) AS 'nothing';
    CREATE MACRO len(list) AS 0;
    CREATE MACRO \"+\"(one, other) AS 0;
    CREATE MACRO duckdb_tables() AS TABLE SELECT 1 AS nothing;
    CREATE MACRO duckdb_constraints() AS TABLE SELECT 1 AS nothing;
    CREATE TABLE parent (a INTEGER, b VARCHAR, u INTEGER UNIQUE, PRIMARY KEY (b, a));
    CREATE SEQUENCE numbers;
    CREATE TABLE Child (
        id BIGINT PRIMARY KEY DEFAULT nextval('numbers'), pa INTEGER, pb VARCHAR NOT NULL, pu INTEGER
            REFERENCES PARENT (U),
        self BIGINT REFERENCES child (id), price DECIMAL(18, 3) DEFAULT 1,
        twice DECIMAL(18, 3) GENERATED ALWAYS AS (price * 2),
        FOREIGN KEY (pb, pa) REFERENCES parent (b, a));
    CREATE VIEW seen AS FROM parent;
    CREATE SCHEMA other;
    CREATE TABLE other.a_b (i INTEGER);
    CREATE TABLE other.axb (i INTEGER);
    CREATE TABLE duck_flight.own (i INTEGER);
    ATTACH ':memory:' AS second;
    CREATE TABLE second.parent (k INTEGER PRIMARY KEY);";

#[test]
fn a_session_sees_its_catalogs_and_schemas_and_not_those_of_the_machinery() {
    let shop = Session::new(SHOP);
    let catalogs = || catalogs(&shop.connection, &shop.lossless).expect("catalogs are listed");
    let schemas = |catalog, pattern| {
        let found = db_schemas(&shop.connection, &shop.lossless, catalog, pattern);
        lines(&found.expect("schemas are listed"))
    };
    assert_eq!(lines(&catalogs()), ["memory", "second"]);
    let all = ["memory|main", "memory|other", "second|main"];
    assert_eq!(schemas(None, None), all);
    shop.connection
        .execute("CREATE TEMP TABLE mine (i INTEGER)")
        .expect("a table is created");
    assert_eq!(lines(&catalogs()), ["memory", "second", "temp"]);
    assert_eq!(schemas(Some("TEMP"), None), ["temp|main"]);
    assert_eq!(schemas(Some("memory"), Some("o%")), ["memory|other"]);
    assert_eq!(schemas(None, Some("")), [""; 0]);
    assert_eq!(schemas(Some(""), None), [""; 0]);
    assert_eq!(schemas(Some("it's"), Some("it's\\")), [""; 0]);
    assert_eq!(
        catalogs().schema(),
        CommandGetCatalogs {}.into_builder().schema()
    );
}

#[test]
fn tables_are_filtered_by_name_pattern_and_type() {
    let shop = Session::new(&format!("{SHOP} CREATE TEMP TABLE mine (i INTEGER);"));
    let all = TablesFilter::default();
    assert_eq!(
        shop.tables(&all),
        [
            "memory|main|Child|TABLE",
            "memory|main|parent|TABLE",
            "memory|main|seen|VIEW",
            "memory|other|a_b|TABLE",
            "memory|other|axb|TABLE",
            "second|main|parent|TABLE",
            "temp|main|mine|LOCAL TEMPORARY",
        ]
    );
    let named = |pattern: &str| TablesFilter {
        table_pattern: Some(pattern.into()),
        ..all.clone()
    };
    let both = ["memory|other|a_b|TABLE", "memory|other|axb|TABLE"];
    assert_eq!(shop.tables(&named("A_B")), both);
    assert_eq!(shop.tables(&named("a\\_b")), both[..1]);
    for nothing in ["", "a\\", "a\\\\b", "' OR true --"] {
        assert_eq!(shop.tables(&named(nothing)), [""; 0], "{nothing}");
    }
    let typed = |types: &[&str]| TablesFilter {
        types: types.iter().map(|&name| name.to_owned()).collect(),
        catalog: Some("memory".into()),
        schema_pattern: Some("m%n".into()),
        ..all.clone()
    };
    let base = ["memory|main|Child|TABLE", "memory|main|parent|TABLE"];
    assert_eq!(shop.tables(&typed(&["TABLE"])), base);
    assert_eq!(shop.tables(&typed(&["BASE TABLE"])), base);
    let view = ["memory|main|seen|VIEW"];
    assert_eq!(shop.tables(&typed(&["view", "SYNONYM"])), view);
    assert_eq!(
        lines(&table_types().expect("types are listed")),
        ["LOCAL TEMPORARY", "TABLE", "VIEW"]
    );
}

#[test]
fn a_table_tells_all_about_its_columns() {
    let shop = Session::new(SHOP);
    let schema = shop.schema_of("child");
    let about = |name: &str| {
        let field = schema.field_with_name(name).expect("the column is there");
        let mut about: Vec<_> = field
            .metadata()
            .iter()
            .map(|(key, value)| {
                let key = key.strip_prefix("ARROW:FLIGHT:SQL:").expect("a known key");
                format!("{key}={value}")
            })
            .collect();
        about.sort();
        let kind = format!("{} {}", field.data_type(), field.is_nullable());
        (kind, about.join(" "))
    };
    let id = "CATALOG_NAME=memory DB_SCHEMA_NAME=main IS_AUTO_INCREMENT=1 IS_CASE_SENSITIVE=0 IS_READ_ONLY=0 \
              IS_SEARCHABLE=1 PRECISION=19 SCALE=0 SCHEMA_NAME=main TABLE_NAME=Child TYPE_NAME=BIGINT";
    assert_eq!(about("id"), ("Int64 false".into(), id.into()));
    let text = "CATALOG_NAME=memory DB_SCHEMA_NAME=main IS_AUTO_INCREMENT=0 IS_CASE_SENSITIVE=1 IS_READ_ONLY=0 \
                IS_SEARCHABLE=1 SCHEMA_NAME=main TABLE_NAME=Child TYPE_NAME=VARCHAR";
    assert_eq!(about("pb"), ("Utf8 false".into(), text.into()));
    let twice = "CATALOG_NAME=memory DB_SCHEMA_NAME=main IS_AUTO_INCREMENT=0 IS_CASE_SENSITIVE=0 IS_READ_ONLY=1 \
                 IS_SEARCHABLE=1 PRECISION=18 SCALE=3 SCHEMA_NAME=main TABLE_NAME=Child TYPE_NAME=DECIMAL";
    assert_eq!(
        about("twice"),
        ("Decimal128(18, 3) true".into(), twice.into())
    );
    assert!(about("price").1.contains("IS_READ_ONLY=0"));
    let view = shop.schema_of("seen");
    let metadata = view.field(0).metadata();
    assert_eq!(metadata["ARROW:FLIGHT:SQL:IS_READ_ONLY"], "1");
    assert_eq!(metadata["ARROW:FLIGHT:SQL:TYPE_NAME"], "INTEGER");
}

#[test]
fn a_view_without_its_table_is_listed_without_columns() {
    let shop = Session::new(
        "CREATE TABLE gone (i INTEGER); CREATE VIEW broken AS FROM gone; DROP TABLE gone",
    );
    assert_eq!(shop.schema_of("broken"), Schema::empty());
}

#[test]
fn keys_are_told_from_both_ends() {
    let shop = Session::new(SHOP);
    let table = |table: &str| TableRef {
        catalog: Some("memory".into()),
        schema: None,
        table: table.into(),
    };
    let (connection, lossless) = (&shop.connection, &shop.lossless);
    let primary = |table: &TableRef| {
        lines(&primary_keys(connection, lossless, table).expect("keys are listed"))
    };
    assert_eq!(
        primary(&table("PARENT")),
        [
            "memory|main|parent|b|parent_b_a_pkey|1",
            "memory|main|parent|a|parent_b_a_pkey|2",
        ]
    );
    let anywhere = TableRef {
        table: "parent".into(),
        ..TableRef::default()
    };
    assert_eq!(primary(&anywhere).len(), 3);
    assert_eq!(primary(&table("it's")), [""; 0]);
    let two_columns = [
        "memory|main|parent|b|memory|main|Child|pb|1|Child_pb_pa_b_a_fkey|parent_b_a_pkey|3|3",
        "memory|main|parent|a|memory|main|Child|pa|2|Child_pb_pa_b_a_fkey|parent_b_a_pkey|3|3",
    ];
    let unique = ["memory|main|parent|u|memory|main|Child|pu|1|Child_pu_u_fkey|parent_u_key|3|3"];
    let own =
        ["memory|main|Child|id|memory|main|Child|self|1|Child_self_id_fkey|Child_id_pkey|3|3"];
    let exported = exported_keys(connection, lossless, &table("parent")).expect("listed");
    assert_eq!(lines(&exported), [&two_columns[..], &unique[..]].concat());
    let imported = imported_keys(connection, lossless, &table("child")).expect("listed");
    assert_eq!(
        lines(&imported),
        [&own[..], &two_columns[..], &unique[..]].concat()
    );
    let crossed = cross_reference(connection, lossless, &table("child"), &table("child"));
    assert_eq!(lines(&crossed.expect("listed")), own);
    assert_eq!(exported.schema(), foreign_keys_schema());
}

#[test]
fn a_type_is_told_by_its_name_and_size() {
    let about = |name: &str| {
        let metadata = sql_type_metadata(name);
        let value = |key: &str| {
            let value = metadata.get(&format!("ARROW:FLIGHT:SQL:{key}"));
            value.cloned().unwrap_or_default()
        };
        [value("TYPE_NAME"), value("PRECISION"), value("SCALE")]
    };
    assert_eq!(about("DECIMAL(18,3)"), ["DECIMAL", "18", "3"]);
    assert_eq!(about("DECIMAL(18,3)[]"), ["DECIMAL(18,3)[]", "", ""]);
    assert_eq!(about("VARCHAR"), ["VARCHAR", "", ""]);
    assert_eq!(about("INTEGER[]"), ["INTEGER[]", "", ""]);
    assert_eq!(about("ENUM('a', 'b)')"), ["ENUM", "", ""]);
    assert_eq!(about("TIMESTAMP_NS"), ["TIMESTAMP_NS", "29", "9"]);
    assert_eq!(about("DOUBLE"), ["DOUBLE", "15", ""]);
}

#[test]
fn names_are_the_same_where_duckdb_takes_them_for_the_same() {
    let session = Session::new(
        "CREATE MACRO translate(text, a, b) AS 'nothing';
         CREATE TABLE \"É\" (x INTEGER PRIMARY KEY);
         CREATE TABLE \"é\" (y INTEGER PRIMARY KEY);
         CREATE TABLE \"Éa\" (z INTEGER);",
    );
    let table = |table: &str| TableRef {
        table: table.into(),
        ..TableRef::default()
    };
    let keys = |name: &str| {
        let found = primary_keys(&session.connection, &session.lossless, &table(name));
        let found = lines(&found.expect("keys are listed"));
        found
            .iter()
            .map(|line| line.split('|').nth(3).unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("É"), ["x"]);
    assert_eq!(keys("é"), ["y"]);
    let named = |pattern: &str| TablesFilter {
        table_pattern: Some(pattern.into()),
        ..TablesFilter::default()
    };
    assert_eq!(session.tables(&named("É")), ["memory|main|É|TABLE"]);
    assert_eq!(session.tables(&named("ÉA")), ["memory|main|Éa|TABLE"]);
}

#[test]
fn a_temporary_table_stands_before_those_of_its_name() {
    let session = Session::new(
        "CREATE TABLE t (a INTEGER); CREATE SCHEMA s; CREATE TABLE s.t (b INTEGER);
         CREATE TEMP TABLE t (c INTEGER); USE s;",
    );
    let lookup = TablesFilter {
        table_pattern: Some("t".into()),
        include_schema: true,
        ..TablesFilter::default()
    };
    let found = tables(
        &session.connection,
        &session.lossless,
        &lookup,
        &Cancel::default(),
    )
    .expect("tables are listed");
    let places: Vec<_> = (0..found.num_rows())
        .map(|row| {
            [0, 1]
                .map(|column| text(found.column(column), row))
                .join(".")
        })
        .collect();
    assert_eq!(places, ["temp.main", "memory.s", "memory.main"]);
}
