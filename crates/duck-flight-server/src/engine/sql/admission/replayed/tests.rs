//! What is refused, and what is not.

use super::*;
use crate::engine::sql::tokens::reads_of_each;

/// A session that has made all that a replay may lack.
fn surroundings() -> Surroundings {
    let mut around = Surroundings {
        has_own_zone: true,
        ..Surroundings::default()
    };
    for (name, is_lost) in [("lost", true), ("Kept", false), ("random", false)] {
        around.add_function(name, is_lost);
    }
    around.add_function("getvariable", false);
    around.add_type("mood", false, "ENUM");
    around.add_type("own", true, "VARCHAR");
    around.add_type("instant", false, "TIMESTAMP WITH TIME ZONE");
    around.add_definition("plain", "lower('lost')", "VARCHAR");
    around.add_definition("bound", "(1 + lost())", "INTEGER");
    around.add_definition("Größen", "CAST(i AS own)", "INTEGER");
    around.add_definition("zoned", "", "TIMESTAMP WITH TIME ZONE");
    around.add_column("Zoned", "c", "TIMESTAMP WITH TIME ZONE", None);
    around.add_column("Zoned", "l", "STRUCT(a TIME WITH TIME ZONE)[]", None);
    for (name, expression) in [
        ("next", "CAST((day + 1) AS \"DATE\")"),
        ("day", "CAST(CAST(c AS \"DATE\") AS \"DATE\")"),
        ("utc", "CAST(make_timestamp(epoch_us(c)) AS \"TIMESTAMP\")"),
    ] {
        around.add_column("Zoned", name, "DATE", Some(expression));
    }
    around
}

fn refusal(sql: &str) -> Option<String> {
    Logged::new(sql)?.refusal(&surroundings())
}

#[test]
fn what_a_replay_may_find_otherwise_is_refused() {
    for sql in [
        "ALTER TABLE t ALTER c TYPE INTEGER USING lost(c)",
        "ALTER TABLE t ALTER c SET DATA TYPE INTEGER USING (c.\"Lost\" ())",
        "ALTER TABLE t ALTER c TYPE INTEGER USING kept(c)",
        "ALTER TABLE t ALTER c TYPE USING random() + c",
        "EXPLAIN ANALYZE ALTER TABLE t ALTER c TYPE INTEGER USING getvariable('k')",
        "ALTER TABLE t ALTER COLUMN c TYPE Own",
        "ALTER TABLE t ALTER COLUMN c TYPE s.\"own\"[]",
        "ALTER TABLE t ALTER c TYPE VARCHAR USING (c::own)::VARCHAR",
        "ALTER TABLE t ALTER c TYPE JSON USING json_transform(c, '[\"own\"]')",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS id UUID DEFAULT gen_random_uuid()",
        "ALTER TABLE t ADD IF NOT EXISTS c TIMESTAMP DEFAULT current_timestamp",
        "ALTER TABLE IF EXISTS ONLY (s.t) ADD COLUMN IF NOT EXISTS c INTEGER DEFAULT \"now\"()",
        "ALTER TABLE t ADD COLUMN s.at TIMESTAMPTZ DEFAULT now()",
        "ALTER TABLE t ADD \"s\" . \"a t\" UUID DEFAULT (gen_random_uuid())",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS s.at DOUBLE DEFAULT random()",
        "ALTER TABLE t ADD COLUMN c INTEGER DEFAULT lost()",
        "ALTER TABLE t ADD COLUMN c own DEFAULT 'a'::own",
        "ALTER TABLE t ALTER c SET DEFAULT CAST('a' AS s.own)",
        "ALTER TABLE t ALTER c SET DEFAULT lost()",
        "ALTER TABLE bound ADD COLUMN c INTEGER",
        "ALTER TABLE s.\"Bound\" RENAME COLUMN c TO d",
        "ALTER TABLE 'bound' DROP c",
        "ALTER TABLE zoned ALTER c TYPE TIMESTAMP",
        "ALTER TABLE t ALTER c TYPE TIMESTAMP WITH TIME ZONE",
        "ALTER TABLE t ALTER c TYPE TIMESTAMP USING to_timestamp(c)",
        "ALTER TABLE t ADD COLUMN c TIMESTAMPTZ DEFAULT ('2020-01-01')",
        "ALTER TABLE t ADD COLUMN c Instant DEFAULT '2020-01-01'",
        "CREATE INDEX i ON t (lost(c))",
        "CREATE UNIQUE INDEX IF NOT EXISTS i ON t (b, (kept(c) + 1))",
        "CREATE INDEX i ON t ((c::own))",
        "EXPLAIN ANALYZE CREATE INDEX i ON t (CAST(c AS own))",
        // In doubt.
        "CREATE INDEX größe ON t (lost(c))",
        ";\u{a0}CREATE INDEX i ON t (lost(c))",
        "CREATE\u{a0}UNIQUE INDEX i ON t (lost(c))",
        "ALTER\u{a0}TABLE t ALTER c TYPE own",
        ";\u{a0}ALTER TABLE t ALTER c TYPE own",
        "ALTER TABLE t ALTER größe TYPE INTEGER USING lost(größe)",
        "ALTER TABLE t ALTER größe TYPE DOUBLE USING random()",
        "ALTER TABLE t ALTER größe TYPE own",
        "ALTER TABLE größen DROP c",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS größe UUID DEFAULT uuid()",
        "ALTER TABLE t ADD COLUMN größe.at TIMESTAMP DEFAULT now()",
        "ALTER TABLE t ADD COLUMN s\u{a0}.at TIMESTAMP DEFAULT now()",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS größe\u{a0}VARCHAR DEFAULT 'default'",
    ] {
        assert!(refusal(sql).is_some(), "{sql}");
    }
}

#[test]
fn what_is_the_same_everywhere_is_let_through() {
    for sql in [
        "ALTER TABLE t ADD COLUMN c INTEGER",
        "ALTER TABLE t ADD COLUMN id UUID DEFAULT gen_random_uuid()",
        "ALTER TABLE t ADD COLUMN c TIMESTAMPTZ DEFAULT now()",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS c DECIMAL(10, 2) DEFAULT -1.5",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS c DATE DEFAULT DATE '2020-01-01'",
        "ALTER TABLE t ADD COLUMN c.f VARCHAR DEFAULT 'random()'",
        "ALTER TABLE t ADD COLUMN s.at TIMESTAMP DEFAULT TIMESTAMP '2020-01-01'",
        "ALTER TABLE t ADD COLUMN \"s.at\" TIMESTAMP DEFAULT now()",
        "ALTER TABLE t ADD COLUMN m mood DEFAULT 'a'",
        "ALTER TABLE t ADD COLUMN \"if\" INTEGER DEFAULT kept()",
        "ALTER TABLE t ALTER c TYPE BIGINT",
        "ALTER TABLE t ALTER c SET DATA TYPE VARCHAR(10)",
        "ALTER TABLE t ALTER own TYPE VARCHAR",
        "ALTER TABLE t ADD COLUMN own INTEGER DEFAULT 5",
        "ALTER TABLE t ADD COLUMN c s.own",
        "ALTER TABLE t ALTER random TYPE STRUCT(a INTEGER)",
        "ALTER TABLE t ALTER c SET DEFAULT random()",
        "ALTER TABLE t ALTER c SET NOT NULL",
        "ALTER TABLE plain ADD COLUMN type VARCHAR",
        "ALTER TABLE t DROP COLUMN type",
        "ALTER TABLE zoned ADD COLUMN c INTEGER DEFAULT 5",
        "ALTER TABLE zoned RENAME TO t",
        "ALTER VIEW bound RENAME TO t",
        "CREATE INDEX own ON t (own, lower(c))",
        "CREATE INDEX i ON t (lost, (c + 1))",
        "CREATE TABLE u AS SELECT \"index\", lost(c), c::own FROM t",
        "CREATE TABLE größen AS SELECT \"index\", lost(c), c::own FROM t",
        "COMMENT ON TABLE bound IS 'alter table t alter c type own'",
        "SELECT 'ALTER TABLE t ALTER c TYPE own'",
        // In doubt.
        "ALTER TABLE t ADD COLUMN größe INTEGER DEFAULT (2 + 3)",
        "ALTER TABLE t ADD COLUMN größe TIMESTAMP DEFAULT now()",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS größe INTEGER DEFAULT 0",
        "ALTER TABLE t ALTER größe TYPE DOUBLE",
        "ALTER TABLE t RENAME größe TO breite",
    ] {
        assert_eq!(refusal(sql), None, "{sql}");
    }
    let mut around = surroundings();
    around.has_own_zone = false;
    for sql in [
        "ALTER TABLE zoned ALTER c TYPE TIMESTAMP",
        "ALTER TABLE t ALTER c TYPE INTEGER USING length(c) + random",
        "ALTER TABLE t ALTER c TYPE mood USING lower(c)::mood",
        "ALTER TABLE t ALTER c TYPE BIGINT USING CASE WHEN (c > 1) THEN (2) ELSE abs(c) END",
    ] {
        let statement = Logged::new(sql).unwrap();
        assert_eq!(statement.refusal(&around), None, "{sql}");
    }
}

#[test]
fn an_index_of_what_depends_on_the_time_zone_is_refused() {
    for sql in [
        "CREATE INDEX i ON zoned ((c::DATE))",
        "CREATE INDEX i ON main.zoned (hour(c))",
        "CREATE UNIQUE INDEX i ON Zoned USING art (n, (zoned.\"C\" + INTERVAL 1 DAY) DESC)",
        "CREATE INDEX i ON zoned ((c AT TIME ZONE 'UTC'))",
        "CREATE INDEX i ON zoned ((l[1]::VARCHAR))",
        "CREATE INDEX i ON zoned ((epoch(c::DATE)))",
        "CREATE INDEX i ON zoned ((epoch(c) > epoch(c + n)))",
        "CREATE INDEX i ON zoned (day)",
        "CREATE INDEX i ON zoned (n, (\"Next\"))",
        "CREATE INDEX i ON zoned ((next + 1))",
        "CREATE INDEX i ON t ((s::TIMESTAMPTZ::DATE))",
        "CREATE INDEX i ON t ((CAST(s AS TIMESTAMP WITH TIME ZONE)::DATE))",
        "CREATE INDEX i ON t ((n AT TIME ZONE 'UTC'))",
        "CREATE INDEX i ON t ((s::Instant > n))",
        "CREATE INDEX i ON t ((to_timestamp(n)::DATE))",
        "CREATE INDEX i ON t ((strptime(s, '%Y %Z')::DATE))",
        "EXPLAIN (ANALYZE) CREATE INDEX i ON zoned ((c::DATE))",
        // In doubt.
        ";\u{a0}CREATE INDEX i ON zoned ((c::DATE))",
        "CREATE INDEX i ON zoned ((c::DATE), größe\u{a0})",
        "CREATE INDEX i ON zoned\u{a0}(hour(c))",
    ] {
        let refusal = refusal(sql).unwrap_or_else(|| panic!("{sql}"));
        assert!(refusal.contains("TimeZone"), "{sql}: {refusal}");
    }
    let named = refusal("CREATE INDEX of_day ON zoned ((c::DATE))").unwrap();
    assert!(named.contains("`of_day`"), "{named}");
}

#[test]
fn an_index_of_what_is_the_same_in_each_time_zone_is_let_through() {
    for sql in [
        "CREATE INDEX i ON zoned (c)",
        "CREATE INDEX i ON zoned USING art ((c), n DESC NULLS LAST)",
        "CREATE INDEX i ON zoned (lower(s), c)",
        "CREATE INDEX i ON zoned (epoch(c))",
        "CREATE INDEX i ON zoned ((make_timestamp(epoch_us(zoned.\"c\"))::DATE))",
        "CREATE INDEX i ON zoned (utc, (utc + 1))",
        "CREATE INDEX i ON t ((c::DATE))",
        "CREATE INDEX i ON t ((s::TIMESTAMP WITHOUT TIME ZONE))",
        "CREATE INDEX i ON t (day, lower(zone), lower(timezone), lower(to_timestamp))",
        "CREATE INDEX i ON t ((strptime(s, '%Y')::DATE))",
        "CREATE INDEX i ON t ((lower(s) || '%z at time zone'))",
        "CREATE INDEX größe ON t ((größe * 2))",
    ] {
        assert_eq!(refusal(sql), None, "{sql}");
    }
}

#[test]
fn a_macro_in_the_place_of_a_function_is_refused_beside_an_index_of_an_expression() {
    let mut around = surroundings();
    around.built_in = ["Lower", "||"].map(str::to_owned).into();
    let refusal = |sql: &str, around: &Surroundings| Logged::new(sql)?.refusal(around);
    let shadowing = [
        "CREATE MACRO lower(x, y) AS x",
        "CREATE OR REPLACE TEMP MACRO s.\"LOWER\"() AS 1",
        "CREATE FUNCTION IF NOT EXISTS main.lower(x) AS TABLE SELECT x",
        "EXPLAIN ANALYZE CREATE MACRO \"||\"(x) AS x",
        // In doubt.
        "CREATE\u{a0}MACRO other(x) AS x",
        "CREATE MACRO other\u{a0}(x) AS x",
    ];
    let others = [
        "CREATE MACRO lower_of(x) AS lower(x) || x",
        "CREATE TABLE lower (macro INTEGER)",
        "CREATE TABLE größer AS SELECT 'create macro lower(x)' AS macro",
        "CREATE VIEW lower AS SELECT 1 AS function",
        "DROP MACRO lower",
    ];
    for sql in shadowing.iter().chain(&others) {
        assert_eq!(refusal(sql, &around), None, "{sql}");
    }
    around.bound_index = Some("of_lower".to_owned());
    for sql in shadowing {
        let refused = refusal(sql, &around).unwrap_or_else(|| panic!("{sql}"));
        assert!(refused.contains("`of_lower`"), "{sql}: {refused}");
    }
    for sql in others {
        assert_eq!(refusal(sql, &around), None, "{sql}");
    }
}

#[test]
fn an_index_of_an_expression_is_refused_beside_a_macro_in_the_place_of_a_function() {
    let mut around = surroundings();
    around.shadow = Some("||".to_owned());
    let refusal = |sql: &str| Logged::new(sql)?.refusal(&around);
    for sql in [
        "CREATE INDEX i ON t ((a || 'x'))",
        "CREATE INDEX i ON t (b, upper(a))",
        "CREATE INDEX i ON zoned (utc)",
        "CREATE\u{a0}INDEX i ON t ((a || 'x'))",
    ] {
        let refused = refusal(sql).unwrap_or_else(|| panic!("{sql}"));
        assert!(refused.contains("`||`"), "{sql}: {refused}");
    }
    for sql in [
        "CREATE INDEX i ON t (a)",
        "CREATE UNIQUE INDEX i ON zoned USING art ((a), c DESC)",
        "CREATE TABLE t AS SELECT \"index\" || 'x' AS a FROM u",
    ] {
        assert_eq!(refusal(sql), None, "{sql}");
    }
}

#[test]
fn an_index_of_a_generated_column_is_one_of_what_that_is_made_of() {
    let mut around = surroundings();
    around.add_column("t", "g", "INTEGER", Some("CAST(kept(a) AS INTEGER)"));
    let refusal = |sql: &str| Logged::new(sql)?.refusal(&around);
    let refused = refusal("CREATE INDEX i ON t (a, g)").unwrap();
    assert!(refused.contains("`kept`"), "{refused}");
    assert_eq!(refusal("CREATE INDEX i ON t (a)"), None);
    assert_eq!(refusal("CREATE INDEX i ON u (g)"), None);
}

#[test]
fn a_long_statement_is_looked_through_no_more_often_than_a_short_one() {
    let around = surroundings();
    for part in [
        "a.",
        "type ",
        "default ",
        "(",
        "if not exists ",
        "lost ",
        "add ",
    ] {
        for end in ["", "é"] {
            let sql = format!("ALTER TABLE {}{end}", part.repeat(1 << 12));
            let reads = reads_of_each(&sql, || {
                if let Some(statement) = Logged::new(&sql) {
                    statement.refusal(&around);
                }
            });
            assert!(reads < 100, "{part}: {reads}");
        }
    }
}
