//! DuckDB runs an ALTER again to replay it from the log, on a connection that knows nothing of the session: what may not mean
//! the same there is refused, and what is done instead, or need not be refused, survives a kill.

use duck_tests::{Client, ServerProcess, SqlClient, assert_refused};
use tonic::Code;

/// An alteration, or an index, that is refused, in a session of its own.
struct Refused {
    table: &'static str,
    /// What is there, or in the session, before it.
    before: &'static [&'static str],
    alter: &'static str,
    /// What the refusal names.
    words: &'static [&'static str],
    instead: &'static [&'static str],
}

const REFUSED: &[Refused] = &[
    Refused {
        table: "with_temporary_macro",
        before: &[
            "CREATE TABLE with_temporary_macro AS SELECT range::INTEGER AS c FROM range(3)",
            "CREATE TEMP MACRO f(x) AS x + 1",
        ],
        alter: "ALTER TABLE with_temporary_macro ALTER c TYPE INTEGER USING f(c)",
        words: &["`f`", "UPDATE"],
        instead: &[
            "ALTER TABLE with_temporary_macro ADD COLUMN d INTEGER",
            "UPDATE with_temporary_macro SET d = f(c)",
            "ALTER TABLE with_temporary_macro DROP c",
            "ALTER TABLE with_temporary_macro RENAME d TO c",
        ],
    },
    Refused {
        table: "with_macro",
        before: &[
            "CREATE TABLE with_macro AS SELECT range::INTEGER AS c FROM range(3)",
            "CREATE MACRO g(x) AS x + round(random())",
        ],
        alter: "ALTER TABLE with_macro ALTER c TYPE DOUBLE USING g(c)",
        words: &["`g`", "UPDATE"],
        instead: &[
            "ALTER TABLE with_macro ADD COLUMN d DOUBLE",
            "UPDATE with_macro SET d = g(c)",
        ],
    },
    Refused {
        table: "main.with_path",
        before: &[
            "CREATE TABLE with_path AS SELECT 'a' AS c",
            "CREATE SCHEMA s",
            "CHECKPOINT",
            "USE s",
            "CREATE TYPE mood AS ENUM ('a', 'b')",
        ],
        alter: "ALTER TABLE main.with_path ALTER c TYPE mood",
        words: &["`mood`", "schema main"],
        instead: &[
            "ALTER TABLE main.with_path ADD COLUMN d mood",
            "UPDATE main.with_path SET d = c",
            "ALTER TABLE main.with_path DROP c",
            "ALTER TABLE main.with_path RENAME d TO c",
        ],
    },
    Refused {
        table: "with_default",
        before: &[
            "CREATE TEMP MACRO h() AS 42",
            "CREATE TABLE with_default (i INTEGER DEFAULT h())",
            "INSERT INTO with_default DEFAULT VALUES",
        ],
        alter: "ALTER TABLE with_default ADD COLUMN j INTEGER",
        words: &["`h`", "default"],
        instead: &["CREATE TABLE other AS SELECT *, NULL::INTEGER AS j FROM with_default"],
    },
    Refused {
        table: "with_id",
        before: &["CREATE TABLE with_id AS SELECT range AS c FROM range(3)"],
        alter: "ALTER TABLE with_id ADD COLUMN IF NOT EXISTS id UUID DEFAULT gen_random_uuid()",
        words: &["IF NOT EXISTS"],
        instead: &["ALTER TABLE with_id ADD COLUMN id UUID DEFAULT gen_random_uuid()"],
    },
    Refused {
        table: "with_field",
        before: &["CREATE TABLE with_field AS SELECT {'a': range} AS s FROM range(3)"],
        alter: "ALTER TABLE with_field ADD COLUMN s.at TIMESTAMPTZ DEFAULT now()",
        words: &["new field", "UPDATE"],
        instead: &[
            "ALTER TABLE with_field ADD COLUMN s.at TIMESTAMPTZ",
            "UPDATE with_field SET s = {'a': s.a, 'at': now()}",
        ],
    },
    Refused {
        table: "with_index",
        before: &[
            "CREATE TABLE with_index AS SELECT range::INTEGER AS c FROM range(3)",
            "CREATE TEMP MACRO k(x) AS x + 1",
        ],
        alter: "CREATE INDEX i ON with_index (k(c))",
        words: &["`k`"],
        instead: &["CREATE INDEX i ON with_index ((c + 1))"],
    },
    Refused {
        table: "with_zoned_index",
        before: &[
            "CREATE TABLE with_zoned_index AS SELECT TIMESTAMPTZ '2020-01-01 20:00:00+00' AS ts",
        ],
        alter: "CREATE INDEX of_day ON with_zoned_index ((ts::DATE))",
        words: &["`of_day`", "make_timestamp(epoch_us(ts))"],
        instead: &[
            "CREATE INDEX of_day ON with_zoned_index ((make_timestamp(epoch_us(ts))::DATE), ts)",
            "SET TimeZone = 'Asia/Tokyo'",
            "INSERT INTO with_zoned_index VALUES (TIMESTAMPTZ '2020-01-02 20:00:00+00')",
            "SET TimeZone = 'America/New_York'",
            "DELETE FROM with_zoned_index WHERE make_timestamp(epoch_us(ts))::DATE = DATE '2020-01-01'",
        ],
    },
    Refused {
        table: "with_generated_index",
        before: &[
            "CREATE TABLE with_generated_index (ts TIMESTAMPTZ DEFAULT now(), day VARCHAR AS (ts::VARCHAR))",
        ],
        alter: "CREATE UNIQUE INDEX of_generated ON with_generated_index (day)",
        words: &["`of_generated`", "TimeZone"],
        instead: &["CREATE UNIQUE INDEX of_generated ON with_generated_index (ts)"],
    },
    Refused {
        table: "with_variable",
        before: &[
            "CREATE TABLE with_variable AS SELECT range::INTEGER AS c FROM range(3)",
            "SET VARIABLE k = 5",
        ],
        alter: "ALTER TABLE with_variable ALTER c TYPE INTEGER USING c * getvariable('k')",
        words: &["`getvariable`", "UPDATE"],
        instead: &["UPDATE with_variable SET c = c * getvariable('k')"],
    },
    Refused {
        table: "with_zone",
        before: &[
            "CREATE TABLE with_zone AS SELECT TIMESTAMP '2020-01-01 12:00:00' AS c",
            "SET TimeZone = 'Pacific/Kiritimati'",
        ],
        alter: "ALTER TABLE with_zone ALTER c TYPE TIMESTAMPTZ",
        words: &["TimeZone", "RESET"],
        instead: &[
            "RESET TimeZone",
            "ALTER TABLE with_zone ALTER c TYPE TIMESTAMPTZ",
        ],
    },
];

/// Alterations as people write them, each in a call of its own.
const ORDINARY: &[&str] = &[
    "CREATE TABLE t AS SELECT range::INTEGER AS c, '[' || range || ']' AS n, {'a': range} AS s,
         TIMESTAMP '2020-01-01' AS ts, ['a'] AS l FROM range(1000)",
    "CREATE MACRO answer() AS 42",
    "CREATE TYPE mood AS ENUM ('a', 'b')",
    "ALTER TABLE t ALTER c TYPE BIGINT",
    "ALTER TABLE t ALTER COLUMN c SET DATA TYPE DECIMAL(18, 3) USING round(c / 3, 2)",
    "ALTER TABLE t ALTER n TYPE JSON",
    "ALTER TABLE t ALTER ts TYPE DATE USING date_trunc('day', ts + INTERVAL 1 DAY)::DATE",
    "ALTER TABLE t ALTER l TYPE VARCHAR USING array_to_string(l, ',') || CASE WHEN (c > 3) THEN ('x') ELSE upper(n) END",
    "ALTER TABLE t ADD COLUMN i INTEGER",
    "ALTER TABLE t ADD COLUMN IF NOT EXISTS i INTEGER DEFAULT 5",
    "ALTER TABLE t ADD COLUMN IF NOT EXISTS j INTEGER DEFAULT -5",
    "ALTER TABLE t ADD COLUMN größe DOUBLE DEFAULT (1.5 + 1)",
    "ALTER TABLE t ALTER größe TYPE FLOAT",
    "ALTER TABLE t ADD COLUMN id UUID DEFAULT gen_random_uuid()",
    "ALTER TABLE t ADD COLUMN loaded_at TIMESTAMPTZ DEFAULT now()",
    "ALTER TABLE t ADD COLUMN k INTEGER DEFAULT answer()",
    "ALTER TABLE t ADD COLUMN m mood DEFAULT 'a'",
    "ALTER TABLE t ADD COLUMN s.b VARCHAR DEFAULT 'b'",
    "ALTER TABLE t ALTER i SET DEFAULT 7",
    "ALTER TABLE t ALTER k SET NOT NULL",
    "ALTER TABLE t RENAME COLUMN i TO \"index\"",
    "ALTER TABLE t DROP COLUMN k",
];

async fn contents(client: &Client, table: &str) -> [Vec<String>; 2] {
    [
        client.rows(&format!("DESCRIBE {table}")).await,
        client.rows(&format!("FROM {table} ORDER BY ALL")).await,
    ]
}

async fn run(session: &mut SqlClient, statements: &[&str]) {
    for sql in statements {
        if let Err(error) = session.update(sql, None).await {
            panic!("{sql}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alteration_that_a_replay_may_find_otherwise_is_refused() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    for case in REFUSED {
        let mut session = client.session().await;
        run(&mut session, case.before).await;
        for begin in [None, Some("BEGIN")] {
            run(&mut session, begin.as_slice()).await;
            let refused = session.update(case.alter, None).await;
            assert_refused(refused, Code::Unimplemented, case.words);
            if begin.is_some() {
                run(&mut session, &["ROLLBACK"]).await;
            }
            let explained = format!("EXPLAIN ANALYZE {}", case.alter);
            let refused = session.update(&explained, None).await;
            assert_refused(refused, Code::Unimplemented, case.words);
        }
        run(&mut session, case.instead).await;
    }
    let mut before = Vec::new();
    for case in REFUSED {
        before.push(contents(&client, case.table).await);
    }
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    for (case, before) in REFUSED.iter().zip(before) {
        assert_eq!(
            contents(&client, case.table).await,
            before,
            "{}",
            case.table
        );
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_alterations_survive_a_kill() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    for sql in ORDINARY {
        client.execute(sql).await;
    }
    let before = contents(&client, "t").await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(contents(&client, "t").await, before);
    client
        .execute("INSERT INTO t (c, id) VALUES (1, NULL)")
        .await;
    let added = "SELECT \"index\", j, \"größe\", m FROM t WHERE id IS NULL";
    assert_eq!(client.rows(added).await, ["7|-5|2.5|a"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_index_is_bound_to_a_macro_in_the_place_of_a_function() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let made = "CREATE TABLE t (i BIGINT, a VARCHAR, g VARCHAR AS (lower(a))); INSERT INTO t VALUES (1, 'A'), (2, 'B')";
    client.execute(made).await;
    // No index is bound again yet, nor by the one of a column.
    client.execute("CREATE MACRO \"%\"(one) AS one").await;
    client.execute("CREATE INDEX plain ON t (i)").await;
    client.execute("CREATE MACRO reverse(x, y) AS x").await;
    let index = client.try_execute("CREATE INDEX next ON t ((i + 1))").await;
    assert_refused(index, Code::Unimplemented, &["macro", "drop"]);
    client
        .execute("DROP MACRO \"%\"; DROP MACRO reverse; DROP INDEX plain")
        .await;
    for (index, name) in [
        ("CREATE INDEX halves ON t ((i % 2))", "halves"),
        ("CREATE UNIQUE INDEX lowered ON t (g)", "lowered"),
    ] {
        client.execute(index).await;
        for made in [
            "CREATE MACRO lower(x, y) AS x || y",
            "CREATE OR REPLACE MACRO main.\"Lower\"(x) AS 'same'",
            "CREATE FUNCTION \"%\"(one) AS one",
            "CREATE TEMP MACRO reverse(x) AS 5",
            "EXPLAIN ANALYZE CREATE MACRO lower(x, y) AS x || y",
        ] {
            let refused = client.try_execute(made).await;
            assert_refused(refused, Code::Unimplemented, &[name, "another name"]);
        }
        client
            .execute("CREATE OR REPLACE MACRO doubled(x) AS x * 2")
            .await;
        client.execute(&format!("DROP INDEX {name}")).await;
    }
    client
        .execute("CREATE UNIQUE INDEX lowered ON t (lower(a))")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    let sql = "INSERT INTO t VALUES (3, 'a')";
    let refused = client.try_execute(sql).await;
    assert_refused(refused, Code::InvalidArgument, &["Duplicate key"]);
    client.execute("DELETE FROM t WHERE i = 1").await;
    client.execute(sql).await;
    assert_eq!(client.count("t").await, 2);
    server.stop();
}

/// What a transaction is about to commit nobody else sees.
#[tokio::test(flavor = "multi_thread")]
async fn a_macro_and_an_index_that_may_call_it_are_not_both_committed() {
    const INDEX: &str = "CREATE UNIQUE INDEX lowered ON t (lower(a))";
    const SHADOW: &str = "CREATE MACRO lower(x) AS upper(x)";
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (i BIGINT, a VARCHAR); INSERT INTO t VALUES (1, 'A'), (2, 'B')")
        .await;
    let (mut one, mut other) = (client.session().await, client.session().await);
    for (late, early, named, undo) in [
        (SHADOW, INDEX, "`lowered`", "DROP INDEX lowered"),
        (INDEX, SHADOW, "`lower`", "DROP MACRO lower"),
    ] {
        // The other one is a statement by itself, or a transaction, too.
        for begin in [None, Some("BEGIN")] {
            run(&mut one, &["BEGIN", late]).await;
            run(&mut other, begin.as_slice()).await;
            run(&mut other, &[early]).await;
            run(&mut other, begin.map(|_| "COMMIT").as_slice()).await;
            let refused = one.update("COMMIT", None).await;
            assert_refused(refused, Code::Unimplemented, &[named, "rolled back"]);
            // It has ended.
            run(&mut one, &["BEGIN", "COMMIT"]).await;
            // Now it is seen.
            let refused = one.update(late, None).await;
            assert_refused(refused, Code::Unimplemented, &["index"]);
            client.execute(undo).await;
        }
    }
    run(&mut one, &["BEGIN", "CREATE MACRO doubled(x) AS x * 2"]).await;
    run(&mut other, &["BEGIN", INDEX]).await;
    run(&mut one, &["COMMIT"]).await;
    run(&mut other, &["COMMIT"]).await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    let duplicate = client.try_execute("INSERT INTO t VALUES (3, 'a')").await;
    assert_refused(duplicate, Code::InvalidArgument, &["Duplicate key"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_a_script_is_judged_by_what_those_before_it_have_left() {
    const INDEX: &str = "CREATE INDEX lowered ON t (lower(a))";
    const SHADOW: &str = "CREATE MACRO lower(x, y) AS x || y";
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client
        .execute(&format!("CREATE TABLE t (a VARCHAR); {INDEX}"))
        .await;
    let indexes = "SELECT index_name FROM duckdb_indexes()";
    let too_early = format!("{SHADOW}; DROP INDEX lowered");
    let refused = client.try_execute(too_early).await;
    assert_refused(refused, Code::Unimplemented, &["`lowered`"]);
    assert_eq!(client.rows(indexes).await, ["lowered"]);
    for script in [
        format!("DROP INDEX lowered; {SHADOW}"),
        format!("DROP MACRO lower; {INDEX}; INSERT INTO t VALUES ('A')"),
    ] {
        client.execute(&script).await;
    }
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    client.execute("DELETE FROM t WHERE lower(a) = 'a'").await;
    assert_eq!(client.count("t").await, 0);
    server.stop();
}

/// DuckDB by itself makes them.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_would_be_refused_is_told_of_at_the_start_until_it_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let database = duckdb::Connection::open(directory.path().join("test.db")).unwrap();
    let made = "
        CREATE TABLE plain AS SELECT 1 AS i; CREATE INDEX of_column ON plain (i);
        CREATE TABLE t AS SELECT 'A' AS a; CREATE INDEX lowered ON t (lower(a));
        CREATE TABLE zoned AS SELECT TIMESTAMPTZ '2020-01-01 20:00:00+00' AS ts;
        CREATE INDEX of_day ON zoned ((ts::DATE));
        CHECKPOINT; CREATE MACRO lower(x, y) AS x || y; CHECKPOINT";
    database.execute_batch(made).unwrap();
    drop(database);
    let warning = |index: &str| format!("DROP INDEX \"main\".\"{index}\"");
    let server = ServerProcess::start_in(directory, &[]);
    for index in ["lowered", "of_day"] {
        server.until_told(&warning(index)).await;
    }
    assert!(!server.stderr().contains("of_column"));
    let client = server.client().await;
    for sql in [
        "DROP INDEX lowered",
        "DROP INDEX of_day",
        "DROP MACRO lower",
        "CREATE INDEX in_utc ON zoned ((make_timestamp(epoch_us(ts))::DATE))",
        "DELETE FROM zoned",
        "INSERT INTO t VALUES ('B')",
    ] {
        client.execute(sql).await;
    }
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_eq!(server.client().await.count("t").await, 2);
    let told = server.stderr();
    assert!(!told.contains("DROP INDEX"), "{told}");
    server.stop();
}
