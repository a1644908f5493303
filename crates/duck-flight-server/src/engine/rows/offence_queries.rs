//! Constraints as queries over staged rows.

use duck_flight_protocol::{TableName, quote};

use super::constraints::{Constraint, Kind, Reference};
use super::effect::{DELETES, Effect, ORDINAL};
use super::plan::Plan;
use super::stored::Stored;
use super::types::same_name;
use crate::engine::catalog::qualified;

/// What the rows of a unit are taken to do to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// They are applied all at once: a value that one gives up is another's to take.
    AtOnce,
    /// A value is free, and a row that others refer to is replaced, only where that is so before the unit. DuckDB demands
    /// it of some units.
    AsBefore,
}

/// The queries for the rows of a unit that are at fault.
pub(super) struct Queries<'a> {
    pub(super) table: &'a TableName,
    pub(super) effect: &'a Effect,
    pub(super) plan: &'a Plan,
    pub(super) stored: Stored,
}

impl Queries<'_> {
    /// The one for the rows at fault, each with the number of a constraint that it breaks: of the rows that the queries of these
    /// constraints find, those behind which none with their key is that none of them finds, another that counts in their place.
    pub(super) fn at_fault(&self, broken: &[(usize, String)]) -> String {
        let found = broken.iter().map(|(number, sql)| {
            format!("SELECT {ORDINAL} AS ordinal, {number}::UBIGINT AS number FROM ({sql})")
        });
        let found = format!(
            "SELECT ordinal, system.main.min(number) AS number FROM ({}) GROUP BY ordinal",
            found.collect::<Vec<_>>().join(" UNION ALL ")
        );
        let keys = numbered("key", self.plan.key_columns().len());
        if keys.is_empty() {
            return found;
        }
        format!(
            "SELECT ordinal, number FROM (
                 SELECT new.*, found.number
                 FROM ({found}) AS found RIGHT JOIN {all} AS new ON (found.ordinal = new.ordinal))
             QUALIFY system.main.bool_and(number IS NOT NULL) OVER (PARTITION BY {keys} ORDER BY ordinal DESC)",
            all = self.values(&self.stored.all, &[], true),
            keys = keys.join(", "),
        )
    }

    /// The one for the ordinals of all rows that break a constraint, be there others with their key or not; `None` where none can.
    pub(super) fn broken(&self, constraint: &Constraint, sight: Sight) -> Option<String> {
        let all = &self.stored.all;
        let stays = match self.effect {
            Effect::Changes { .. } => format!("NOT {DELETES}"),
            Effect::Append | Effect::Upsert { .. } | Effect::Delete { .. } => "true".to_owned(),
        };
        match &constraint.kind {
            Kind::Referred(reference) => self.referred(reference, sight),
            // What is deleted breaks nothing else, whatever its row says.
            _ if matches!(self.effect, Effect::Delete { .. }) => None,
            Kind::Never(condition) => Some(format!(
                "SELECT {ORDINAL} FROM {all} AS {name} WHERE ({condition}) AND {stays}",
                // The condition may name the table.
                name = quote(&self.table.table),
            )),
            Kind::Refers(reference) => Some(format!(
                "SELECT new.{ORDINAL} FROM {all} AS new ANTI JOIN {other} AS other ON ({same}) WHERE {given} AND {stays}",
                other = reference.other,
                same = reference.is_met("new", "other"),
                given = all_given(&reference.columns),
            )),
            Kind::Unique(values) if self.is_key(values) => None,
            Kind::Unique(values) => Some(self.taken(values, sight)),
        }
    }

    /// Whether a row that breaks a constraint may do so for want of another row, or for another one.
    pub(super) fn depends_on_others(&self, constraint: &Constraint) -> bool {
        match &constraint.kind {
            Kind::Unique(values) => self.effect.is_keyed() && !self.is_key(values),
            Kind::Never(_) | Kind::Refers(_) | Kind::Referred(_) => self.effect.is_keyed(),
        }
    }

    /// Whether rows are told by these values: then no two of them count, and one that is there is replaced.
    fn is_key(&self, values: &[String]) -> bool {
        let mut key = self.effect.key().iter().map(|name| quote(name));
        let is_value = |name: String| values.iter().any(|value| same_name(value, &name));
        values.len() == self.effect.key().len() && key.all(is_value)
    }

    /// The one for rows with values that a row of the table has, which is not to be replaced.
    fn taken(&self, values: &[String], sight: Sight) -> String {
        let new = self.values(&self.stored.all, values, true);
        let old = self.values(&qualified(self.table), values, false);
        let same_values = each("new", "=", "old", &numbered("value", values.len()));
        let rows = format!(
            "SELECT new.ordinal AS {ORDINAL} FROM {new} AS new JOIN {old} AS old ON ({same_values})"
        );
        let key = numbered("key", self.plan.key_columns().len());
        if key.is_empty() {
            return rows;
        }
        let is_other = format!(
            "NOT new.deletes AND ({}) IS NOT TRUE",
            each("new", "=", "old", &key)
        );
        match sight {
            Sight::AsBefore => format!("{rows} WHERE {is_other}"),
            // Unless the other row gives them up.
            Sight::AtOnce => format!(
                "{rows} LEFT JOIN {effective} AS next ON ({same_key})
                 WHERE {is_other} AND (next.ordinal IS NULL OR NOT next.deletes AND {same_values})",
                effective = self.values(&self.stored.effective, values, true),
                same_key = each("next", "=", "old", &key),
                same_values = each(
                    "next",
                    "IS NOT DISTINCT FROM",
                    "old",
                    &numbered("value", values.len())
                ),
            ),
        }
    }

    /// The one for the rows with values that a row of the table has and another one of the unit takes from it, each with that other
    /// one. Rows that are not the only ones with their key are left out: a third one may count in their place.
    pub(super) fn given_up(&self, values: &[String]) -> Option<String> {
        let is_of_rows = matches!(self.effect, Effect::Upsert { .. } | Effect::Changes { .. });
        if !is_of_rows || self.is_key(values) {
            return None;
        }
        let columns = numbered("value", values.len());
        let key = numbered("key", self.plan.key_columns().len());
        let only = self.values(&self.stored.only, values, true);
        Some(format!(
            "SELECT new.ordinal, next.ordinal AS giver FROM {only} AS new
             JOIN {old} AS old ON ({same_values}) JOIN {only} AS next ON ({same_key})
             WHERE NOT new.deletes AND ({is_own}) IS NOT TRUE AND (next.deletes OR NOT ({is_kept}))",
            old = self.values(&qualified(self.table), values, false),
            same_values = each("new", "=", "old", &columns),
            same_key = each("next", "=", "old", &key),
            is_own = each("new", "=", "old", &key),
            is_kept = each("next", "IS NOT DISTINCT FROM", "old", &columns),
        ))
    }

    /// The one for the rows that share values, each with the first such row; `None` where none takes any.
    pub(super) fn repeated(&self, values: &[String]) -> Option<String> {
        if matches!(self.effect, Effect::Delete { .. }) || self.is_key(values) {
            return None;
        }
        let columns = numbered("value", values.len());
        Some(format!(
            "SELECT ordinal, system.main.min(ordinal) OVER same_values FROM {rows} AS new
             WHERE NOT deletes AND {given}
             WINDOW same_values AS (PARTITION BY {values}) QUALIFY system.main.count_star() OVER same_values > 1",
            rows = self.values(&self.stored.effective, values, true),
            given = all_given(&columns),
            values = columns.join(", "),
        ))
    }

    /// The one for rows that take another away, to which a third one refers.
    fn referred(&self, reference: &Reference, sight: Sight) -> Option<String> {
        let all = &self.stored.all;
        let rows = match (self.effect, sight) {
            (Effect::Append, _) | (Effect::Upsert { .. }, Sight::AtOnce) => return None,
            (Effect::Changes { .. }, Sight::AtOnce) => format!("(FROM {all} WHERE {DELETES})"),
            // DuckDB replaces a row whose columns in an index are sent, whatever values they have.
            (Effect::Delete { .. }, _) | (_, Sight::AsBefore) => all.clone(),
        };
        Some(format!(
            "SELECT new.{ORDINAL} FROM {rows} AS new JOIN {table} AS old ON ({same_key})
             SEMI JOIN {other} AS other ON ({same})",
            table = qualified(self.table),
            same_key = self.plan.same_key("new", "old"),
            other = reference.other,
            same = reference.is_met("old", "other"),
        ))
    }

    /// The rows of a relation with what is compared: `key0` and so on, `value0` and so on; and of staged rows the
    /// `ordinal`, and whether the row `deletes`.
    fn values(&self, relation: &str, values: &[String], is_staged: bool) -> String {
        let mut columns = Vec::new();
        if is_staged {
            let deletes = if self.plan.has_op() { DELETES } else { "false" };
            columns.push(format!("{ORDINAL} AS ordinal, {deletes} AS deletes"));
        }
        let keys = self.plan.key_columns();
        let keys = keys.iter().enumerate();
        columns.extend(keys.map(|(index, name)| format!("{} AS key{index}", quote(name))));
        let values = values.iter().enumerate();
        columns.extend(values.map(|(index, value)| format!("({value}) AS value{index}")));
        let name = quote(&self.table.table);
        format!("(SELECT {} FROM {relation} AS {name})", columns.join(", "))
    }
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}{index}")).collect()
}

/// The condition that columns of two relations compare, one by one.
fn each(one: &str, operator: &str, other: &str, columns: &[String]) -> String {
    let columns = columns.iter();
    let same = columns.map(|column| format!("{one}.{column} {operator} {other}.{column}"));
    same.collect::<Vec<_>>().join(" AND ")
}

/// The condition that none of these columns is NULL.
fn all_given(columns: &[String]) -> String {
    let given = columns.iter().map(|column| format!("{column} IS NOT NULL"));
    given.collect::<Vec<_>>().join(" AND ")
}
