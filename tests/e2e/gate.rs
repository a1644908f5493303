//! What the gate lets through, and what it refuses whatever the statement looks like.

use std::collections::BTreeSet;

use duck_tests::{Client, ServerProcess, TestServer, assert_refused, start};
use tonic::Code;

/// Statements that EXPLAIN would run for others to notice, or out of sight of what follows transactions.
const NOT_TO_EXPLAIN: &[&str] = &[
    "SET TimeZone = 'Asia/Tokyo'",
    "SET GLOBAL TimeZone = 'America/New_York'",
    "SET VARIABLE x = 'secret'",
    "SET search_path = 'duck_flight'",
    "SET enable_progress_bar = true",
    "RESET TimeZone",
    "PRAGMA enable_verification",
    "PRAGMA disable_checkpoint_on_shutdown",
    "PRAGMA enable_progress_bar",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "PREPARE p AS SELECT 'secret'",
    "DEALLOCATE p",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "LOAD json",
    "VACUUM",
    "CALL duckdb_tables()",
    "COPY t TO '/tmp/duck-flight-explained.csv'",
    "CREATE TEMP TABLE leak AS SELECT 'secret' AS s",
];

/// What others see of the connections and settings that they share.
async fn as_others_see_it(client: &Client) -> Vec<String> {
    let sql = "SELECT name, value FROM duckdb_settings() ORDER BY name";
    let mut seen = client.rows(sql).await;
    for sql in [
        "SELECT getvariable('x')",
        "SELECT table_name FROM duckdb_tables() ORDER BY ALL",
        "SELECT name FROM duckdb_prepared_statements()",
        "SELECT current_schemas(false)",
        "SELECT name FROM duckdb_secrets()",
    ] {
        seen.extend(client.rows(sql).await);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_runs_nothing_that_others_would_notice() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS i").await;
    let before = as_others_see_it(&client).await;
    for statement in NOT_TO_EXPLAIN {
        for explain in [
            "EXPLAIN ANALYZE",
            "explain /* SELECT */ analyse",
            "EXPLAIN (ANALYZE, FORMAT json)",
        ] {
            let sql = format!("{explain} {statement}");
            let error = client.query(sql.clone()).await.expect_err(&sql);
            let codes = [Code::PermissionDenied, Code::FailedPrecondition];
            assert!(codes.contains(&error.code()), "{sql}: {error:?}");
        }
        assert_eq!(as_others_see_it(&client).await, before, "{statement}");
    }
    // What such a script leaves is gone with its call, too.
    client
        .query("EXPLAIN ANALYZE CREATE TEMP TABLE leak AS SELECT 1 AS i; FROM leak")
        .await
        .unwrap();
    assert_eq!(as_others_see_it(&client).await, before);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_ends_no_transaction() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let insert = "INSERT INTO t VALUES (1)";
    sql.update(insert, Some(&transaction)).await.unwrap();
    let mut session = client.session().await;
    session.update("BEGIN", None).await.unwrap();
    session.update(insert, None).await.unwrap();
    for statement in ["COMMIT", "ROLLBACK", "BEGIN"] {
        let explain = format!("EXPLAIN ANALYZE {statement}");
        let words = ["EXPLAIN", "run the statement itself"];
        let refused = sql.try_rows(&explain, Some(&transaction)).await;
        assert_refused(refused, Code::PermissionDenied, &words);
        let refused = session.try_rows(&explain, None).await;
        assert_refused(refused, Code::PermissionDenied, &words);
    }
    assert_eq!(client.count("t").await, 0);
    sql.roll_back(&transaction).await.unwrap();
    session.update("ROLLBACK", None).await.unwrap();
    assert_eq!(client.count("t").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_explained_is_explained_and_analyzed() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT 1 AS i, 2 AS copy_count")
        .await;
    let mut session = client.session().await;
    for statement in [
        "SELECT copy_count FROM t WHERE i <> 3",
        "(SELECT 1) UNION (SELECT 2)",
        "(SELECT 'copy')",
        "FROM t",
        "WITH é AS (SELECT 1) FROM é",
        "VALUES (1)",
        "TABLE t",
        "SUMMARIZE t",
        "INSERT INTO t VALUES (2, 3)",
        "UPDATE t SET i = 4 WHERE i = 2",
        "WITH c AS (SELECT 4 AS i) DELETE FROM t WHERE i IN (FROM c)",
        "MERGE INTO t USING (SELECT 1 AS i) AS s USING (i) WHEN MATCHED THEN UPDATE SET copy_count = 9",
        "CREATE TABLE made (i INTEGER)",
        "ALTER TABLE made ADD COLUMN j INTEGER",
        "CREATE VIEW v AS FROM made",
        "DROP VIEW v",
        "CREATE TEMP TABLE mine AS FROM t",
    ] {
        for explain in ["EXPLAIN", "EXPLAIN (FORMAT json)", "EXPLAIN ANALYZE"] {
            let sql = format!("{explain} {statement}");
            assert_eq!(session.rows(&sql, None).await.len(), 1, "{sql}");
        }
    }
    assert_eq!(client.rows("FROM t").await, ["1|9"]);
    let columns = "SELECT column_name FROM duckdb_columns() WHERE table_name = 'made'";
    assert_eq!(client.rows(columns).await, ["i", "j"]);
    assert_eq!(session.rows("FROM mine", None).await, ["1|9"]);
    server.shutdown().await;
}

/// Calls of functions that would harm other clients, each with what its refusal names.
const REFUSED_CALLS: &[(&str, &str)] = &[
    ("enable_profiling()", "EXPLAIN ANALYZE"),
    ("enable_profiling(format = 'json')", "EXPLAIN ANALYZE"),
    ("disable_profiling()", "EXPLAIN ANALYZE"),
    ("enable_peg_parser()", "enable_peg_parser"),
    ("system.main.\"Disable_PEG_Parser\" ()", "peg_parser"),
    ("force_checkpoint()", "CHECKPOINT"),
    ("query('SELECT 1')", "query()"),
    (
        "json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "serialized",
    ),
    (
        "(SELECT json_serialize_plan('FROM check_peg_parser(''('')'))",
        "json_serialize_plan",
    ),
    (
        "(SELECT json_deserialize_sql('{}'))",
        "json_deserialize_sql",
    ),
    ("enable_logging()", "logging"),
    ("disable_logging()", "logging"),
    ("truncate_duckdb_logs()", "logging"),
    ("check_peg_parser(repeat('(', 100000))", "check_peg_parser"),
    ("sql_auto_complete('select (')", "sql_auto_complete"),
    ("arrow_scan(0, 0, 0)", "files"),
    ("arrow_scan_dumb(0, 0, 0)", "files"),
    ("glob('*')", "files"),
    ("parquet_bloom_probe('x', 'a', 1)", "files"),
    ("parquet_file_metadata('x')", "files"),
    ("parquet_full_metadata('x')", "files"),
    ("parquet_kv_metadata('x')", "files"),
    ("parquet_metadata('x')", "files"),
    ("parquet_scan('x')", "files"),
    ("parquet_schema('x')", "files"),
    ("Read_Blob(['x'])", "files"),
    ("read_csv('x', header = true)", "files"),
    ("read_csv_auto('x')", "files"),
    ("read_duckdb('x')", "files"),
    ("read_json('x')", "files"),
    ("read_json_auto('x')", "files"),
    ("read_json_objects('x')", "files"),
    ("read_json_objects_auto('x')", "files"),
    ("read_ndjson('x')", "files"),
    ("read_ndjson_auto('x')", "files"),
    ("read_ndjson_objects('x')", "files"),
    ("read_parquet('x')", "files"),
    ("read_text('x')", "files"),
    ("sniff_csv('x')", "files"),
];

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_change_all_clients_are_refused() {
    let server = TestServer::with_max_queries(1).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS i").await;
    let before = as_others_see_it(&client).await;
    for (call, word) in REFUSED_CALLS {
        for sql in [
            format!("FROM {call}"),
            format!("CALL {call}"),
            format!("SELECT \u{a0}é FROM t, {call}"),
            format!("CREATE MACRO m() AS TABLE FROM {call}"),
            format!("EXPLAIN ANALYZE FROM {call}"),
        ] {
            let error = client.query(sql.clone()).await.expect_err(&sql);
            // An unknown name in doubt is DuckDB's to find.
            if !sql.contains('é') {
                assert_eq!(error.code(), Code::PermissionDenied, "{sql}: {error:?}");
                assert!(error.message().contains(word), "{sql}: {error:?}");
            }
        }
        for _ in 0..3 {
            assert_eq!(client.rows("SELECT i, 'x' FROM t").await, ["1|x"], "{call}");
        }
        assert_eq!(as_others_see_it(&client).await, before, "{call}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_forces_a_checkpoint_that_all_others_wait_for() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i INTEGER)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("INSERT INTO t VALUES (1)", Some(&transaction))
        .await
        .unwrap();
    for statement in [
        "FORCE CHECKPOINT",
        "FROM force_checkpoint()",
        "FROM checkpoint()",
        "CALL checkpoint()",
        "CALL pragma_table_info('t'); SELECT 1 AS \u{a0}checkpoint; SELECT 2",
        "CREATE VIEW v AS SELECT 1 FROM t, system.main.\"Checkpoint\" ()",
        "PRAGMA force_checkpoint",
        "SELECT 1; force /* */ checkpoint test",
    ] {
        let refused = client.try_execute(statement).await;
        assert_refused(refused, Code::PermissionDenied, &[]);
    }
    assert_eq!(client.count("t").await, 0);
    sql.commit(&transaction).await.unwrap();
    client.checkpoint().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_plan_is_kept_that_leaves_out_rows_of_later_commits() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t AS SELECT range AS i FROM range(50)")
        .await;
    let mut session = client.session().await;
    let later = "FROM t WHERE i > 100";
    // Planned by what is in the table now, it would be found to answer with nothing.
    for sql in [
        format!("PREPARE p AS {later}"),
        "PREPARE p AS DELETE FROM t WHERE i > 100".to_owned(),
        "EXPLAIN PREPARE p AS SELECT 1".to_owned(),
        "SELECT é FROM (SELECT 1 AS é); PREPARE p AS SELECT 1".to_owned(),
        "PREPARE p AS COPY (SELECT 1) TO '/tmp/duck-flight-prepared.csv'".to_owned(),
    ] {
        let refused = session.update(&sql, None).await;
        let words: &[&str] = if sql.contains('é') {
            &[]
        } else {
            &["Flight SQL"]
        };
        assert_refused(refused, Code::PermissionDenied, words);
    }
    let mut prepared = session.raw().prepare(later.to_owned(), None).await.unwrap();
    client.execute("INSERT INTO t VALUES (101)").await;
    let info = prepared.execute().await.unwrap();
    assert_eq!(session.fetch(&info).await.unwrap(), ["101"]);
    prepared.close().await.unwrap();
    server.shutdown().await;
}

/// Changes to the server's own schema, in all spellings that DuckDB takes.
const OWN_TABLE_CHANGES: &[&str] = &[
    "DELETE FROM ONLY duck_flight.sequences",
    "DELETE FROM ONLY ( \"duck_flight\" . sequences )",
    "DELETE FROM test.duck_flight.sequences",
    "UPDATE ONLY duck_flight.sequences SET sequence = 0",
    "TRUNCATE ONLY duck_flight.sequences",
    "TRUNCATE TABLE ONLY duck_flight.rejects",
    "MERGE INTO ONLY duck_flight.sequences USING (SELECT 1) AS s ON true WHEN MATCHED THEN DELETE",
    "WITH insert AS (SELECT 1) DELETE FROM duck_flight.sequences",
    "ALTER TABLE ONLY duck_flight.rejects ADD COLUMN zz INTEGER",
    "ALTER TABLE ONLY (duck_flight.rejects) ADD COLUMN zz INTEGER",
    "ALTER TABLE IF EXISTS ONLY duck_flight.rejects RENAME TO r",
    "COMMENT ON TABLE duck_flight.rejects IS 'x'",
    "COMMENT ON COLUMN duck_flight.rejects.row IS 'x'",
    "COMMENT ON COLUMN test.duck_flight.rejects.row IS 'x'",
    "COMMENT ON COLUMN (duck_flight.sequences.producer) IS 'x'",
    "CREATE SEQUENCE duck_flight.s",
    "CREATE TYPE duck_flight.e AS ENUM ('a')",
    "CREATE MACRO duck_flight.m() AS 1",
    "CREATE OR REPLACE FUNCTION test.duck_flight.m() AS TABLE SELECT 1",
    "CREATE TABLE duck_flight.t AS SELECT 1 AS i",
    "CREATE INDEX i ON duck_flight.rejects (row)",
    "CREATE OR REPLACE SCHEMA e'duck\\x5fflight'",
    "DROP SCHEMA test.duck_flight CASCADE",
    "DROP VIEW duck_flight.producers",
    "EXPLAIN ANALYZE DELETE FROM ONLY duck_flight.sequences",
    "EXPLAIN ANALYZE DROP VIEW duck_flight.producers",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_tables_cannot_be_changed_however_they_are_named() {
    let (server, client) = start().await;
    let mut session = client.session().await;
    let contents = "SELECT schema_name, sql FROM duckdb_tables() WHERE schema_name = 'duck_flight'
        UNION ALL SELECT schema_name, function_name FROM duckdb_functions() WHERE schema_name = 'duck_flight'
        UNION ALL SELECT schema_name, comment FROM duckdb_columns() WHERE schema_name = 'duck_flight'
        UNION ALL SELECT schema_name, type_name FROM duckdb_types() WHERE schema_name = 'duck_flight'
        ORDER BY ALL";
    let before = client.rows(contents).await;
    for sql in OWN_TABLE_CHANGES {
        let refused = session.update(sql, None).await;
        // What a producer's row is deleted for has a way of its own.
        let words = ["duck_flight", "forget_producers", "duck-load --forget"];
        assert_refused(refused, Code::PermissionDenied, &words);
    }
    assert_eq!(client.rows(contents).await, before);
    assert_eq!(
        client.execute("DELETE FROM ONLY duck_flight.rejects").await,
        0
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_names_that_look_like_what_is_refused_are_let_through() {
    let (server, client) = start().await;
    let mut session = client.session().await;
    for sql in [
        "CREATE TABLE log (m VARCHAR)",
        "INSERT INTO log VALUES ('slow query (12s): …'), ('setseed(1)'), ('naïve')",
        "INSERT INTO log VALUES ('FORCE CHECKPOINT'), ('DELETE FROM duck_flight.sequences')",
        "SELECT count(*) FROM log WHERE m LIKE '%query (%'",
        "CREATE TABLE query (i INTEGER)",
        "INSERT INTO query (i) VALUES (1)",
        "WITH query (i) AS (SELECT 1) SELECT query FROM query",
        "CREATE TABLE t (i INTEGER, copy_count INTEGER, secret INTEGER)",
        "EXPLAIN SELECT copy_count FROM t",
        "CREATE VIEW seeds AS SELECT 'call setseed(1)' AS x",
        "CREATE TABLE secret (secret INTEGER)",
        "COMMENT ON TABLE log IS 'query (of duck_flight.rejects)'",
        "SET VARIABLE x = 'global'",
        "INSERT INTO log SELECT producer FROM log JOIN duck_flight.producers ON duck_flight.producers.producer = log.m",
        "DELETE FROM log WHERE m IN (SELECT producer FROM duck_flight.producers)",
    ] {
        if let Err(error) = session.update(sql, None).await {
            panic!("{sql}: {error:?}");
        }
    }
    let found = "SELECT count(*) FROM log WHERE m LIKE '%query (%' OR m LIKE '%duck_flight%'";
    assert_eq!(client.rows(found).await, ["2"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_keeps_a_secret_on_the_server() {
    let (server, client) = start().await;
    for sql in [
        "CREATE SECRET s (TYPE http)",
        "CREATE OR REPLACE TEMPORARY SECRET s (TYPE http, BEARER_TOKEN 'x')",
        "create /* */ secret (TYPE http)",
        "CREATE PERSISTENT SECRET s (TYPE http)",
    ] {
        let refused = client.try_execute(sql).await;
        assert_refused(refused, Code::PermissionDenied, &["SECRET"]);
    }
    let secrets = "SELECT count(*) FROM duckdb_secrets()";
    assert_eq!(client.rows(secrets).await, ["0"]);
    server.shutdown().await;
}

/// The table functions that DuckDB offers, each thought about: what it reads, and whom else it might change.
const TABLE_FUNCTIONS: &[&str] = &[
    "duck_flight_files",
    "duck_flight_handed_rows",
    "duckdb_approx_database_count",
    "duckdb_columns",
    "duckdb_connection_count",
    "duckdb_constraints",
    "duckdb_coordinate_systems",
    "duckdb_databases",
    "duckdb_dependencies",
    "duckdb_extensions",
    "duckdb_external_file_cache",
    "duckdb_functions",
    "duckdb_indexes",
    "duckdb_keywords",
    "duckdb_log_contexts",
    "duckdb_logs",
    "duckdb_memory",
    "duckdb_optimizers",
    "duckdb_prepared_statements",
    "duckdb_schemas",
    "duckdb_secret_types",
    "duckdb_secrets",
    "duckdb_sequences",
    "duckdb_settings",
    "duckdb_table_sample",
    "duckdb_tables",
    "duckdb_temporary_files",
    "duckdb_types",
    "duckdb_variables",
    "duckdb_views",
    "generate_series",
    "icu_calendar_names",
    "json_each",
    "json_tree",
    "pg_timezone_names",
    "pragma_collations",
    "pragma_database_size",
    "pragma_metadata_info",
    "pragma_platform",
    "pragma_show",
    "pragma_storage_info",
    "pragma_table_info",
    "pragma_user_agent",
    "pragma_version",
    "query_table",
    "range",
    "repeat",
    "repeat_row",
    "seq_scan",
    "summary",
    "test_all_types",
    "test_vector_types",
    "unnest",
    "which_secret",
];

/// The table functions that the gate refuses.
const REFUSED_TABLE_FUNCTIONS: &[&str] = &[
    "arrow_scan",
    "arrow_scan_dumb",
    "check_peg_parser",
    "checkpoint",
    "disable_logging",
    "disable_peg_parser",
    "disable_profiling",
    "enable_logging",
    "enable_peg_parser",
    "enable_profiling",
    "force_checkpoint",
    "glob",
    "json_execute_serialized_sql",
    "parquet_bloom_probe",
    "parquet_file_metadata",
    "parquet_full_metadata",
    "parquet_kv_metadata",
    "parquet_metadata",
    "parquet_scan",
    "parquet_schema",
    "query",
    "read_blob",
    "read_csv",
    "read_csv_auto",
    "read_duckdb",
    "read_json",
    "read_json_auto",
    "read_json_objects",
    "read_json_objects_auto",
    "read_ndjson",
    "read_ndjson_auto",
    "read_ndjson_objects",
    "read_parquet",
    "read_text",
    "sniff_csv",
    "sql_auto_complete",
    "truncate_duckdb_logs",
];

/// The PRAGMAs that DuckDB offers: it turns those that read into a SELECT, and what else they do is refused by their kind,
/// by what they are turned into, or by the locked configuration.
const PRAGMAS: &[&str] = &[
    "add_parquet_key",
    "all_profiling_output",
    "collations",
    "copy_database",
    "database_list",
    "database_size",
    "disable_checkpoint_on_shutdown",
    "disable_object_cache",
    "disable_optimizer",
    "disable_print_progress_bar",
    "disable_profile",
    "disable_profiling",
    "disable_progress_bar",
    "disable_verification",
    "disable_verify_external",
    "disable_verify_fetch_row",
    "disable_verify_parallelism",
    "disable_verify_serializer",
    "enable_checkpoint_on_shutdown",
    "enable_object_cache",
    "enable_optimizer",
    "enable_print_progress_bar",
    "enable_profile",
    "enable_profiling",
    "enable_progress_bar",
    "enable_verification",
    "extension_versions",
    "force_checkpoint",
    "functions",
    "import_database",
    "json_execute_serialized_sql",
    "metadata_info",
    "platform",
    "show",
    "show_databases",
    "show_tables",
    "show_tables_expanded",
    "storage_info",
    "table_info",
    "user_agent",
    "verify_external",
    "verify_fetch_row",
    "verify_parallelism",
    "verify_serializer",
    "version",
];

/// The functions that answer with a value and whose names have to do with files: none of them opens one.
const ABOUT_FILES: &[&str] = &[
    "in_search_path",
    "json_extract_path",
    "json_extract_path_text",
    "parse_dirname",
    "parse_dirpath",
    "parse_filename",
    "parse_path",
    "pg_conf_load_time",
    "write_log",
];

/// Fails where DuckDB offers other functions of a type than those that were thought about: each new one must be judged, and
/// refused where it changes other clients.
async fn check_functions(client: &Client, function_type: &str, known: BTreeSet<&str>) {
    let sql = format!(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = '{function_type}'"
    );
    let offered = client.rows(&sql).await;
    let offered: BTreeSet<_> = offered.iter().map(String::as_str).collect();
    let new: Vec<_> = offered.difference(&known).collect();
    let gone: Vec<_> = known.difference(&offered).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "of type {function_type}, new: {new:?}, gone: {gone:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_offers_no_function_that_nobody_has_thought_about() {
    let (server, client) = start().await;
    let tables = TABLE_FUNCTIONS.iter().chain(REFUSED_TABLE_FUNCTIONS);
    check_functions(&client, "table", tables.copied().collect()).await;
    check_functions(&client, "pragma", PRAGMAS.iter().copied().collect()).await;
    for name in REFUSED_TABLE_FUNCTIONS {
        let calls = |call: &str| call.to_ascii_lowercase().contains(name);
        let is_tested = REFUSED_CALLS.iter().any(|(call, _)| calls(call));
        assert!(is_tested, "{name} is not among the calls that are refused");
    }
    let about_files = client
        .rows(
            "SELECT DISTINCT function_name FROM duckdb_functions()
            WHERE function_type NOT IN ('table', 'table_macro', 'pragma')
                AND regexp_matches(function_name, 'read|write|file|glob|path|dir|env|load|import|export|attach')
            ORDER BY ALL",
        )
        .await;
    assert_eq!(about_files, ABOUT_FILES);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_database_that_is_called_as_the_own_schema_can_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("duck_flight.db");
    let flags = [
        "--database",
        database.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ];
    let mut server = ServerProcess::try_start(&flags).unwrap();
    let client = server.client().await;
    for sql in [
        "CREATE TABLE duck_flight_db.main.t AS SELECT 1 AS i",
        "UPDATE duck_flight_db.main.t SET i = 2",
        "INSERT INTO duck_flight_db.main.t VALUES (3)",
        "DELETE FROM duck_flight_db.main.t WHERE i = 2",
        "ALTER TABLE duck_flight_db.main.t ADD COLUMN j INTEGER",
        "CREATE SCHEMA duck_flight_db.s",
        "CREATE TABLE duck_flight_db.s.t AS SELECT 1 AS größe",
    ] {
        client.execute(sql).await;
    }
    assert_eq!(client.rows("FROM t").await, ["3|NULL"]);
    for sql in [
        "DELETE FROM duck_flight_db.duck_flight.sequences",
        "DROP SCHEMA duck_flight_db.duck_flight CASCADE",
    ] {
        let refused = client.try_execute(sql).await;
        assert_refused(refused, Code::PermissionDenied, &["duck_flight"]);
    }
    server.signal("TERM");
    server.wait();
}

/// DuckDB takes each of these for an alteration of the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_altered_by_alter_table_alone() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t AS SELECT 1 AS i; CREATE VIEW v AS SELECT 2 AS i; CREATE SEQUENCE s",
        )
        .await;
    for sql in [
        "ALTER VIEW t ALTER i SET NOT NULL",
        ";ALTER VIEW IF EXISTS main.t ADD PRIMARY KEY (i)",
        "ALTER INDEX t ALTER COLUMN i SET NOT NULL",
        "ALTER SEQUENCE t ADD PRIMARY KEY (i)",
        "EXPLAIN ANALYZE ALTER VIEW t ALTER i SET NOT NULL",
        "BEGIN; ALTER VIEW t ALTER i SET NOT NULL; COMMIT",
    ] {
        let refused = client.try_execute(sql).await;
        assert_refused(refused, Code::Unimplemented, &["write ALTER TABLE"]);
    }
    client.execute("INSERT INTO t VALUES (NULL), (1)").await;
    client
        .execute("ALTER VIEW v RENAME TO w; ALTER SEQUENCE s OWNED BY t")
        .await;
    assert_eq!(client.rows("FROM w").await, ["2"]);
    server.shutdown().await;
}
