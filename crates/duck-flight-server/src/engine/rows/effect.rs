//! What the rows of a put do to their table: each mode as a statement or two over the gathered rows.

use duck_flight_protocol::{Mode, PutOptions, TableName, quote};

use super::types::same_name;
use crate::engine::catalog::qualified;
use crate::error::{Error, Result};

/// The column that tells a row of `mode: changes` that deletes.
pub(in crate::engine) const DELETES: &str = "duck_flight_deletes";

/// The column that tells the order of rows, where it matters.
pub(in crate::engine) const ORDINAL: &str = "duck_flight_ordinal";

/// What the rows of a put do to their table. Names are as the client gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) enum Effect {
    /// They are added.
    Append,
    /// Each replaces the row of its key, or is added.
    Upsert { key: Vec<String> },
    /// The rows of their keys are deleted.
    Delete { key: Vec<String> },
    /// As `op` says, each replaces the row of its key, is added, or deletes it.
    Changes { key: Vec<String>, op: String },
}

impl Effect {
    /// The effect that a put asks for; the table's primary key, where it has one, stands in for a key not given.
    pub(in crate::engine) fn new(
        options: &PutOptions,
        primary_key: Option<Vec<String>>,
    ) -> Result<Self> {
        if options.mode == Mode::Append {
            return Ok(Self::Append);
        }
        let key = options.key.clone().or(primary_key).ok_or_else(|| {
            let table = &options.table;
            Error::Columns(format!(
                "table `{table}` has no primary key to tell rows by: give the put a `key`"
            ))
        })?;
        if let Some((_, twice)) = pairs(&key).find(|(one, other)| same_name(one, other)) {
            let message = format!("`key` names column `{twice}` twice");
            return Err(Error::Columns(message));
        }
        let op = options.op_column();
        if options.mode == Mode::Changes && key.iter().any(|column| same_name(column, op)) {
            let message = format!(
                "the column `{op}` says what each row is, and so is none of the key: name another one as `op`"
            );
            return Err(Error::Columns(message));
        }
        Ok(match options.mode {
            Mode::Append => Self::Append,
            Mode::Upsert => Self::Upsert { key },
            Mode::Delete => Self::Delete { key },
            Mode::Changes => Self::Changes {
                key,
                op: op.to_owned(),
            },
        })
    }

    /// The columns by which rows are told; none where they are only added.
    pub(in crate::engine) fn key(&self) -> &[String] {
        match self {
            Self::Append => &[],
            Self::Upsert { key } | Self::Delete { key } | Self::Changes { key, .. } => key,
        }
    }

    /// Whether rows that are there may be changed, so that two such units must not overlap.
    pub(in crate::engine) fn is_keyed(&self) -> bool {
        *self != Self::Append
    }

    /// Whether this column of a stream is the one that says what each row is.
    pub(super) fn is_op(&self, name: &str) -> bool {
        matches!(self, Self::Changes { op, .. } if same_name(op, name))
    }

    /// Whether values of this column of a stream go into the table, or find a row there.
    pub(super) fn concerns(&self, name: &str) -> bool {
        match self {
            Self::Delete { key } => key.iter().any(|column| same_name(column, name)),
            _ => !self.is_op(name),
        }
    }

    /// What applies the rows of `source` to these columns of the table: one statement, or, where what is new among the
    /// rows may fill a row group, two.
    ///
    /// DuckDB 1.5.5 lets all threads of a MERGE insert, and shows a row group that one of them has filled to everybody
    /// before its commit is done (`PhysicalInsert::Combine`). An INSERT has one thread where the rows have an order that
    /// was asked for, or the first of a UNION ALL do (`OrderPreservationRecursive`): here none, so that nothing is sorted.
    pub(super) fn statements(
        &self,
        table: &TableName,
        source: &str,
        columns: &[&str],
        key: &[&str],
        may_fill_row_group: bool,
    ) -> Vec<String> {
        let into = qualified(table);
        let list = |prefix: &str| {
            let columns = columns
                .iter()
                .map(|name| format!("{prefix}{}", quote(name)));
            columns.collect::<Vec<_>>().join(", ")
        };
        let same_key = same_key(key, "old", "new");
        if matches!(self, Self::Append) {
            let names = list("");
            return vec![format!(
                "INSERT INTO {into} ({names}) SELECT {names} FROM {source}"
            )];
        }
        if matches!(self, Self::Delete { .. }) {
            let sql = format!("DELETE FROM {into} AS old USING {source} AS new WHERE {same_key}");
            return vec![sql];
        }
        let keys = key.iter().map(|name| quote(name)).collect::<Vec<_>>();
        let changed = columns
            .iter()
            .filter(|name| !key.contains(name))
            .map(|name| format!("{0} = new.{0}", quote(name)))
            .collect::<Vec<_>>();
        let update = match changed.is_empty() {
            true => "DO NOTHING".to_owned(),
            false => format!("UPDATE SET {}", changed.join(", ")),
        };
        let (delete, unless_deleted) = match self {
            Self::Changes { .. } => (
                format!("WHEN MATCHED AND new.{DELETES} THEN DELETE "),
                format!(" AND NOT new.{DELETES}"),
            ),
            _ => (String::new(), String::new()),
        };
        // Of the rows with one key the last one counts.
        let rows = format!(
            "(FROM {source} QUALIFY row_number() OVER (PARTITION BY {} ORDER BY {ORDINAL} DESC) = 1)",
            keys.join(", ")
        );
        let (names, values) = (list(""), list("new."));
        let merge = format!(
            "MERGE INTO {into} AS old USING {rows} AS new ON ({same_key}) {delete}WHEN MATCHED THEN {update}"
        );
        if may_fill_row_group {
            let changes_none = changed.is_empty() && delete.is_empty();
            let nulls = vec!["NULL"; columns.len()].join(", ");
            let insert = format!(
                "INSERT INTO {into} ({names}) \
                 (SELECT {nulls} FROM system.main.range(0) AS r(nothing) ORDER BY nothing) \
                 UNION ALL SELECT {values} FROM {rows} AS new \
                 ANTI JOIN {into} AS old ON ({same_key}) WHERE true{unless_deleted}"
            );
            return match changes_none {
                true => vec![insert],
                false => vec![merge, insert],
            };
        }
        vec![format!(
            "{merge} WHEN NOT MATCHED{unless_deleted} THEN INSERT ({names}) VALUES ({values})"
        )]
    }
}

/// Refuses columns with the names of those that go with rows that are gathered.
pub(in crate::engine) fn check_names<'a>(
    names: impl IntoIterator<Item = &'a String>,
) -> Result<()> {
    let is_own = |name: &&String| [ORDINAL, DELETES].iter().any(|own| same_name(own, name));
    match names.into_iter().find(is_own) {
        None => Ok(()),
        Some(name) => Err(Error::Columns(format!(
            "the server itself uses the name of column `{name}` where it gathers rows, as those that have a key, that may be put \
             aside, or that are many and make their table: rename the column"
        ))),
    }
}

/// The condition that rows `one` and `other` have the same key.
pub(super) fn same_key(key: &[&str], one: &str, other: &str) -> String {
    let same = key
        .iter()
        .map(|name| format!("{one}.{0} = {other}.{0}", quote(name)));
    same.collect::<Vec<_>>().join(" AND ")
}

fn pairs(key: &[String]) -> impl Iterator<Item = (&String, &String)> {
    key.iter()
        .enumerate()
        .flat_map(|(index, one)| key[index + 1..].iter().map(move |other| (one, other)))
}

/// The values of the `op` column, for people.
pub(super) const OPS: &str = "I, C, R, U, D, i, c, r, u, d";

/// Whether a value of the `op` column deletes: `None` where it is none of those that change-data tools write.
pub(super) fn deletes(op: &str) -> Option<bool> {
    match op {
        "I" | "i" | "C" | "c" | "R" | "r" | "U" | "u" => Some(false),
        "D" | "d" => Some(true),
        _ => None,
    }
}
