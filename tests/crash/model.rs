//! Any interleaving of puts, retries, kills and schema changes equals a model in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use duck_flight_protocol::{Ack, Commit, Mode, PutOptions, SchemaMode};
use duck_tests::{Client, ServerProcess, soon};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::put::Put;

/// Few cases by default, for each starts servers; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 12;

/// Keys are few, so that they meet.
const KEYS: i64 = 6;

/// The two tables: rows of one are told apart by their key, the other one takes them as they come.
const TABLES: [&str; 2] = ["keyed", "heap"];

/// A row as it is sent: what to do, its key, its value, and the value of the column that comes later.
#[derive(Debug, Clone, Copy)]
struct Row {
    deletes: bool,
    key: i64,
    value: i64,
    late: Option<i32>,
}

#[derive(Debug, Clone)]
struct Unit {
    sequence: u64,
    mode: Mode,
    rows: Vec<Row>,
    /// The type of the late column in this unit, where it has one.
    late: Late,
}

/// What the late column of a table has become.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Late {
    #[default]
    Missing,
    Int,
    BigInt,
}

#[derive(Debug, Clone)]
enum Step {
    /// New units of one producer for one table.
    Put {
        table: usize,
        producer: usize,
        mode: Mode,
        units: Vec<Vec<Row>>,
        commit: Commit,
        /// The server is killed before the acks are read; then all units are sent again.
        is_cut: bool,
    },
    /// The last units of a producer once more.
    Again {
        table: usize,
        producer: usize,
    },
    /// From now on the units for a table have the next schema.
    Evolve {
        table: usize,
    },
    Checkpoint,
    Kill,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (any::<bool>(), 0..KEYS, 0..1000_i64, any::<Option<i32>>());
    let row = row.prop_map(|(deletes, key, value, late)| Row {
        deletes,
        key,
        value,
        late,
    });
    vec(row, 1..6)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![
        Just(Mode::Append),
        Just(Mode::Upsert),
        Just(Mode::Delete),
        Just(Mode::Changes)
    ];
    let commit = prop_oneof![Just(Commit::Stream), Just(Commit::Batch)];
    let put = (
        0..2_usize,
        0..2_usize,
        mode,
        vec(rows(), 1..4),
        commit,
        prop::bool::weighted(0.2),
    );
    let put = put.prop_map(|(table, producer, mode, units, commit, is_cut)| Step::Put {
        table,
        producer,
        mode,
        units,
        commit,
        is_cut,
    });
    let step = prop_oneof![
        8 => put,
        2 => (0..2_usize, 0..2_usize).prop_map(|(table, producer)| Step::Again { table, producer }),
        2 => (0..2_usize).prop_map(|table| Step::Evolve { table }),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Kill),
    ];
    vec(step, 4..20)
}

/// A table as it must be: its rows in order, and how far each producer has come.
#[derive(Debug, Default)]
struct Table {
    exists: bool,
    rows: Vec<(i64, i64, Option<i32>)>,
    late: Late,
    /// The schema the next units have.
    next: Late,
    sequences: [u64; 2],
    /// What each producer sent last.
    sent: [Vec<Unit>; 2],
}

impl Table {
    fn apply(&mut self, unit: &Unit) {
        self.exists = true;
        self.late = self.late.max(unit.late);
        for row in &unit.rows {
            if unit.mode != Mode::Append {
                self.rows.retain(|(key, ..)| *key != row.key);
            }
            if unit.mode != Mode::Delete && !(unit.mode == Mode::Changes && row.deletes) {
                let late = row.late.filter(|_| unit.late > Late::Missing);
                self.rows.push((row.key, row.value, late));
            }
        }
    }

    /// The rows as SQL shows them.
    fn shown(&self) -> Vec<String> {
        let mut rows = self.rows.clone();
        // NULL comes last, as in DuckDB.
        rows.sort_by_key(|(key, value, late)| (*key, *value, late.is_none(), *late));
        let late = |late: Option<i32>| late.map_or("NULL".into(), |late| late.to_string());
        let shown = rows.into_iter().map(|(key, value, x)| match self.late {
            Late::Missing => format!("{key}|{value}"),
            Late::Int | Late::BigInt => format!("{key}|{value}|{}", late(x)),
        });
        shown.collect()
    }
}

fn batch_of(unit: &Unit) -> RecordBatch {
    let longs = |value: fn(&Row) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(unit.rows.iter().map(value)))
    };
    let mut columns = vec![("k", longs(|row| row.key))];
    if unit.mode != Mode::Delete {
        columns.push(("v", longs(|row| row.value)));
        let late = unit.rows.iter().map(|row| row.late);
        match unit.late {
            Late::Missing => {}
            Late::Int => columns.push(("late", Arc::new(Int32Array::from_iter(late)))),
            Late::BigInt => {
                let late = Int64Array::from_iter(late.map(|late| late.map(i64::from)));
                columns.push(("late", Arc::new(late)));
            }
        }
    }
    if unit.mode == Mode::Changes {
        let ops = unit
            .rows
            .iter()
            .map(|row| if row.deletes { "D" } else { "I" });
        columns.push(("op", Arc::new(StringArray::from_iter_values(ops))));
    }
    // Nullable whether this batch has a NULL or not: all batches of a put have one schema.
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

fn options(table: usize, producer: usize, mode: Mode, commit: Commit) -> PutOptions {
    PutOptions {
        mode,
        commit,
        // Deletes change no table.
        schema: match mode {
            Mode::Delete => SchemaMode::Match,
            _ => SchemaMode::Evolve,
        },
        key: (mode != Mode::Append).then(|| vec!["k".into()]),
        producer: Some(format!("p{producer}")),
        ..PutOptions::new(TABLES[table])
    }
}

/// The server, and what it must hold.
struct Pair {
    server: Option<ServerProcess>,
    client: Client,
    tables: [Table; 2],
}

impl Pair {
    async fn start() -> Self {
        let server = ServerProcess::start(&[]);
        Self {
            client: server.client().await,
            server: Some(server),
            tables: Default::default(),
        }
    }

    async fn kill(&mut self) {
        let directory = self.server.take().expect("a server").kill();
        let server = ServerProcess::start_in(directory, &[]);
        self.client = server.client().await;
        self.server = Some(server);
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Put {
                table,
                producer,
                mode,
                units,
                commit,
                is_cut,
            } => {
                let new = self.new_units(*table, *producer, *mode, units);
                if new.is_empty() {
                    return;
                }
                if *is_cut {
                    self.send_into_a_kill(*table, *producer, *commit, &new)
                        .await;
                }
                let acks = self.send(*table, *producer, *commit, &new).await;
                self.take(*table, *producer, &new, &acks, *is_cut);
            }
            Step::Again { table, producer } => {
                let old = self.tables[*table].sent[*producer].clone();
                let acks = self.send(*table, *producer, Commit::Stream, &old).await;
                assert!(acks.iter().all(|ack| ack.duplicate), "{acks:?}");
            }
            Step::Evolve { table } => {
                let next = &mut self.tables[*table].next;
                *next = match next {
                    Late::Missing => Late::Int,
                    Late::Int | Late::BigInt => Late::BigInt,
                };
            }
            Step::Checkpoint => {
                // A put that was cut off may be in its commit still, and then it is refused.
                let checkpoint = async {
                    while let Err(status) = self.client.try_execute("CHECKPOINT").await {
                        assert!(status.message().contains("Cannot CHECKPOINT"), "{status:?}");
                    }
                };
                soon("a checkpoint", checkpoint).await;
            }
            Step::Kill => self.kill().await,
        }
    }

    /// The units of a step, as far as its table takes them.
    fn new_units(
        &self,
        table: usize,
        producer: usize,
        mode: Mode,
        units: &[Vec<Row>],
    ) -> Vec<Unit> {
        let target = &self.tables[table];
        // Rows without a key are appended and deleted; rows with one are never there twice.
        let mode = match (TABLES[table], mode) {
            ("keyed", Mode::Append) => Mode::Upsert,
            ("heap", Mode::Upsert | Mode::Changes) => Mode::Append,
            (_, mode) => mode,
        };
        if mode == Mode::Delete && !target.exists {
            return Vec::new();
        }
        let unit = |(index, rows): (usize, &Vec<Row>)| Unit {
            // Gaps are allowed.
            sequence: target.sequences[producer] + 1 + 2 * index as u64,
            mode,
            rows: if mode == Mode::Upsert {
                one_of_each_key(rows)
            } else {
                rows.clone()
            },
            late: if mode == Mode::Delete {
                Late::Missing
            } else {
                target.next
            },
        };
        units.iter().enumerate().map(unit).collect()
    }

    async fn send(
        &self,
        table: usize,
        producer: usize,
        commit: Commit,
        units: &[Unit],
    ) -> Vec<Ack> {
        let mut acks = Vec::new();
        for mut put in self.open(table, producer, commit, units) {
            put.end();
            if commit == Commit::Batch {
                let resume = soon("resume_after", put.resume()).await;
                let last = self.tables[table].sequences[producer];
                let resume = resume.expect("it is open");
                assert!(resume >= last && resume < units[units.len() - 1].sequence + 1);
            }
            while let Some(ack) = soon("an ack", put.ack()).await.expect("an ack") {
                acks.push(ack);
            }
        }
        assert_eq!(acks.len(), units.len());
        acks
    }

    /// Puts that hold these units, everything sent.
    fn open<'a>(
        &'a self,
        table: usize,
        producer: usize,
        commit: Commit,
        units: &'a [Unit],
    ) -> impl Iterator<Item = Put> + 'a {
        let each = if commit == Commit::Batch {
            units.len()
        } else {
            1
        };
        units.chunks(each.max(1)).map(move |chunk| {
            let mut options = options(table, producer, chunk[0].mode, commit);
            options.sequence = (commit == Commit::Stream).then_some(chunk[0].sequence);
            let put = Put::open(&self.client, &options, &batch_of(&chunk[0]).schema());
            for unit in chunk {
                let of_batch = (commit == Commit::Batch).then_some(unit.sequence);
                put.send(&batch_of(unit), of_batch);
            }
            put
        })
    }

    /// Sends units to a server that is killed meanwhile: nobody knows which of them it has.
    async fn send_into_a_kill(
        &mut self,
        table: usize,
        producer: usize,
        commit: Commit,
        units: &[Unit],
    ) {
        let puts: Vec<_> = self.open(table, producer, commit, units).collect();
        let sending = tokio::spawn(async move {
            for mut put in puts {
                put.end();
                while let Ok(Some(_)) = put.ack().await {}
            }
        });
        // A round trip later the first of them is on its way at least.
        self.client.ping().await;
        self.kill().await;
        sending.await.expect("no panic");
    }

    /// Applies units that were acknowledged to the model.
    fn take(
        &mut self,
        table: usize,
        producer: usize,
        units: &[Unit],
        acks: &[Ack],
        may_repeat: bool,
    ) {
        for (unit, ack) in units.iter().zip(acks) {
            assert_eq!(ack.sequence, Some(unit.sequence));
            assert!(may_repeat || !ack.duplicate, "{ack:?}");
            self.tables[table].apply(unit);
        }
        let target = &mut self.tables[table];
        target.sequences[producer] = units[units.len() - 1].sequence;
        target.sent[producer] = units.to_vec();
    }

    async fn assert_equal(&self) {
        for (name, table) in TABLES.iter().zip(&self.tables) {
            if table.exists {
                let sql = format!("SELECT * FROM {name} ORDER BY ALL NULLS LAST");
                assert_eq!(self.client.rows(&sql).await, table.shown(), "{name}");
            }
        }
    }
}

fn one_of_each_key(rows: &[Row]) -> Vec<Row> {
    let by_key: BTreeMap<_, _> = rows.iter().map(|row| (row.key, *row)).collect();
    by_key.into_values().collect()
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_interleaving_of_puts_retries_and_kills_equals_the_model(steps in steps()) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut pair = Pair::start().await;
            for step in &steps {
                pair.step(step).await;
                pair.assert_equal().await;
            }
            pair.kill().await;
            pair.assert_equal().await;
        });
    }
}
