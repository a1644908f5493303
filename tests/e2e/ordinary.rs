//! Ordinary SQL, as tools and people write it, with names that only look like what the gate refuses.

use duck_tests::start;

/// What dbt sends for a table, a view and an incremental model.
const DBT: &[&str] = &[
    "create schema if not exists \"test\".\"analytics\"",
    "create table raw_orders as select range as \"index\", range % 7 as category, 'photocopy' as genre,
         timestamp '2024-01-01' + to_days((range % 30)::integer) as ordered_at from range(1000)",
    "/* {\"app\": \"dbt\", \"node_id\": \"model.copy.export\"} */
     create table \"test\".\"analytics\".\"daily__dbt_tmp\" as (
         with source as (select * from \"test\".\"main\".\"raw_orders\"), renamed as (
             select ordered_at::date as day, \"index\" % 3 as \"index\", genre as copyright from source)
         select day, index, any_value(copyright) as copyright, count(*) as n from renamed group by all
     );",
    "begin; alter table \"test\".\"analytics\".\"daily__dbt_tmp\" rename to \"daily\"; commit",
    "create temporary table daily__dbt_tmp2 as (select day, 9 as index, 'copyleft' as copyright, 1 as n
         from analytics.daily where day >= date '2024-01-20')",
    "begin",
    "delete from analytics.daily where (day) in (select (day) from daily__dbt_tmp2)",
    "insert into analytics.daily (\"day\", \"index\", \"copyright\", \"n\")
         (select \"day\", \"index\", \"copyright\", \"n\" from daily__dbt_tmp2)",
    "commit",
    "create or replace view analytics.secrets as (
         select copyright, sum(n) as \"global\" from analytics.daily group by \"copyright\"
     );",
    "comment on table analytics.daily is 'export of the index; force a checkpoint, attach nothing'",
    "comment on column analytics.daily.index is 'pragma import_database'",
    "alter table analytics.daily add column loaded_at timestamp default current_timestamp",
    "alter table analytics.daily alter n type bigint using n * 2 + length(copyright)",
    "alter table analytics.daily alter column \"index\" set data type varchar",
    "drop view if exists analytics.secrets cascade",
];

/// A frame that pandas has written, and people who name columns in their own language.
const NAMES: &[&str] = &[
    "CREATE TABLE frame (\"index\" BIGINT, \"größe\" DOUBLE, \"prénom\" VARCHAR, \"copyright\" VARCHAR, \"secret\" VARCHAR)",
    "INSERT INTO frame (\"index\", \"größe\", \"prénom\", \"copyright\", \"secret\") VALUES (0, 1.5, 'Zoë', '© copy', 'database')",
    "CREATE TABLE bilder (index BIGINT, größe DOUBLE, prénom VARCHAR, copyright VARCHAR, secretary VARCHAR)",
    "INSERT INTO bilder SELECT index, größe, prénom, 'photocopy', 'exported' FROM frame",
    "SELECT größe, copyright FROM bilder WHERE copyright = 'photocopy'",
    "UPDATE bilder SET größe = größe * 2, secretary = 'globally' WHERE prénom = 'Zoë'",
    "DELETE FROM bilder WHERE größe > 100 AND copyright <> 'reinforced'",
    "EXPLAIN SELECT größe, 'explained' FROM bilder",
    "EXPLAIN ANALYZE SELECT \"index\", sum(größe) FROM bilder GROUP BY \"index\"",
    "CREATE TABLE database_log (größe INTEGER)",
    "ALTER TABLE database_log ADD COLUMN straße VARCHAR DEFAULT 'unbekannt'",
    "ALTER TABLE database_log ADD COLUMN IF NOT EXISTS höhe INTEGER DEFAULT 0",
    "ALTER TABLE database_log RENAME COLUMN straße TO anschrift",
    "ALTER TABLE bilder ALTER größe TYPE DECIMAL(10, 2)",
    "ALTER TABLE bilder ALTER prénom SET NOT NULL",
    "CREATE VIEW größen AS SELECT größe AS globalement, copyright AS préparé FROM bilder",
    "SET VARIABLE größe = 'globally'",
    "CREATE UNIQUE INDEX bilder_index ON bilder (index)",
    "MERGE INTO bilder USING frame USING (index) WHEN MATCHED THEN UPDATE SET secretary = 'copied'",
    "PIVOT bilder ON prénom USING sum(größe) GROUP BY index",
    "SUMMARIZE bilder",
    "WITH été AS (SELECT 'attached' AS x) SELECT x FROM été",
    "CREATE MACRO größer(x) AS x + 1",
    "SELECT größer(index) FROM bilder",
    "PRAGMA table_info('bilder')",
    "CALL duckdb_tables()",
];

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_sql_passes_the_gate() {
    let (server, client) = start().await;
    let mut session = client.session().await;
    for sql in [DBT, NAMES].concat() {
        if let Err(error) = session.update(sql, None).await {
            panic!("{sql}: {error:?}");
        }
    }
    let daily =
        "SELECT count(*), count(DISTINCT \"index\"), min(n), count(loaded_at) FROM analytics.daily";
    assert_eq!(client.rows(daily).await, ["30|4|10|30"]);
    let found = client.rows("FROM bilder").await;
    assert_eq!(found, ["0|3.00|Zoë|photocopy|copied"]);
    server.shutdown().await;
}

/// A plan that was made in another transaction relies on what was in the tables then.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_planned_in_the_transaction_that_it_runs_in() {
    let (server, client) = start().await;
    // The first is taken by the plan, the second when it runs: both tell when their transaction began.
    client
        .execute("CREATE MACRO times() AS TABLE SELECT localtimestamp AS planned, now()::TIMESTAMP AS run")
        .await;
    for _ in 0..20 {
        let found = client.rows("CALL times()").await;
        let (planned, run) = found[0].split_once('|').unwrap();
        assert_eq!(planned, run);
    }
    client.checkpoint().await;
    server.shutdown().await;
}
