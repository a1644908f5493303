//! Alterations and indexes that mean the same when the log is replayed, and macros that leave it so.
//!
//! DuckDB 1.5.5 logs an ALTER as it was parsed, and to replay it binds and evaluates it again, on a new connection
//! (`WriteAheadLog::WriteAlter`, `ReplayAlter`): at another time, and without the macros and types, the search path, the
//! variables and the time zone of the session. Where something is missing there, the database cannot be opened any more;
//! where something is another there, clients have read and been promised other values.
//!
//! Evaluated again are the USING and the cast of a new type, and the default of a column that is added IF NOT EXISTS, or of a field
//! that is added to a struct. (Any other ADD COLUMN with a default that is no literal DuckDB makes an UPDATE, whose values are logged.)
//! Bound again, whatever is altered, are all defaults, checks and generated columns of the table.
//!
//! So are the expressions of an index, when a table is first written to after a start. Where that fails, whoever writes to it
//! next waits for ever (`TableIndexList::Bind`). So an index is made of DuckDB's own functions alone, and beside one of an expression no
//! macro gets the name of such a function: it would be found in its place, by whoever has its schema in the search path. Which
//! function stands for which piece of syntax (`||`, `[1]`, EXTRACT) only DuckDB knows, so that goes for all of them, also where
//! two transactions make the one and the other ([`beside`]).
//!
//! And whoever writes a row makes its keys, in the time zone of its own session: what depends on that is refused, whoever asks
//! ([`indexed`]).

mod altered;
mod beside;
mod existing;
mod indexed;
mod surroundings;

use super::super::deed::{Deed, How, What, own_name};
use super::super::tokens::{
    Token, contains_any_word, contains_word, is_certain, single_statements, stands_anywhere,
    statements,
};
use crate::engine::ffi::{Connection, StatementKind};
use crate::error::{Error, Result};

use altered::{Added, Altered, added_in_doubt};
pub(in crate::engine) use beside::check_beside;
pub(in crate::engine) use existing::warn_of_indexes;
use indexed::{Indexed, may_depend_on_zone, may_have_expression};
pub(in crate::engine) use surroundings::remember_server_zone;
use surroundings::{Definition, Surroundings, names};

use super::explained::explained;
use super::functions::called;

/// The words for types with a time zone.
const ZONED: &[&str] = &["timestamptz", "timetz", "zone"];

/// The words for what is called like a function.
const MACRO: &[&str] = &["function", "macro"];

/// Refuses an alteration or an index that may not mean the same when the log is replayed, or a macro by which an index may not. To be asked
/// in its transaction, before it runs; of its whole script where it is in doubt which part of that it is.
pub(in crate::engine) fn check_replay(
    connection: &Connection,
    kind: StatementKind,
    sql: &str,
) -> Result<()> {
    let may_be_one = match kind {
        StatementKind::Alteration => true,
        StatementKind::Definition => contains_any_word(sql, &["index", "function", "macro"]),
        // With ANALYZE it runs the statement.
        StatementKind::Explain => contains_any_word(sql, &["alter", "index", "function", "macro"]),
        _ => false,
    };
    if !may_be_one {
        return Ok(());
    }
    let parts = single_statements(sql);
    let statements: Vec<_> = match parts {
        Some(parts) => parts.into_iter().filter_map(Logged::new).collect(),
        None => vec![Logged::unknown(sql)],
    };
    if statements.is_empty() {
        return Ok(());
    }
    let mut surroundings = Surroundings::look(connection)?;
    let is_for_indexes = |it: &Logged<'_>| it.may_make_index || it.made_macro != MadeMacro::None;
    if statements.iter().any(is_for_indexes) {
        surroundings.look_at_indexes(connection)?;
    }
    let mut refusals = statements.iter().filter_map(|it| it.refusal(&surroundings));
    if let Some(refusal) = refusals.next() {
        return Err(Error::Unimplemented(refusal));
    }
    beside::note(connection, &statements, &surroundings);
    Ok(())
}

/// The macro that a statement makes.
#[derive(PartialEq, Eq)]
enum MadeMacro {
    None,
    /// Its name without its qualifiers.
    Named(String),
    /// It may make one, and it is not certain which.
    Any,
}

/// A statement that is replayed, or that makes a macro.
struct Logged<'a> {
    text: &'a str,
    may_make_index: bool,
    /// What a CREATE INDEX says; `None` in doubt.
    index: Option<Indexed<'a>>,
    made_macro: MadeMacro,
    may_alter: bool,
    /// Whether what an ADD COLUMN adds is a field of a column, or may be one.
    may_add_field: bool,
    /// What an ALTER TABLE says; `None` in doubt.
    altered: Option<Altered<'a>>,
}

impl<'a> Logged<'a> {
    /// A statement, if it makes an index or a macro, or alters a table, or may do so.
    fn new(text: &'a str) -> Option<Self> {
        match Deed::of(text) {
            Deed::Doubt => Some(Self::unknown(text)),
            Deed::MakesIndex { name, table } => Some(Self {
                text,
                may_make_index: true,
                index: Indexed::new(text, name, &table),
                made_macro: MadeMacro::None,
                may_alter: false,
                may_add_field: false,
                altered: None,
            }),
            Deed::Creates {
                what: What::Macro,
                name,
                ..
            } => Some(Self {
                text,
                may_make_index: false,
                index: None,
                made_macro: match own_name(name.as_deref()) {
                    Some(name) => MadeMacro::Named(name.to_owned()),
                    None => MadeMacro::Any,
                },
                may_alter: false,
                may_add_field: false,
                altered: None,
            }),
            Deed::Alters { how, .. } => {
                let mut statement = statements(text).next()?;
                if let Some(explained) = explained(statement.clone()) {
                    statement = explained.statement;
                }
                statement.accept_all(&["alter", "table"]);
                Some(Self {
                    text,
                    may_make_index: false,
                    index: None,
                    made_macro: MadeMacro::None,
                    may_alter: true,
                    may_add_field: matches!(how, How::ChangesType | How::Any),
                    altered: is_certain(text).then(|| Altered::new(statement)),
                })
            }
            _ => None,
        }
    }

    /// Statements of which nothing is certain.
    fn unknown(text: &'a str) -> Self {
        let may_make_macro = MACRO.iter().any(|word| stands_anywhere(text, word));
        Self {
            text,
            may_make_index: stands_anywhere(text, "index"),
            index: None,
            made_macro: match may_make_macro {
                true => MadeMacro::Any,
                false => MadeMacro::None,
            },
            may_alter: true,
            may_add_field: false,
            altered: None,
        }
    }

    fn names_table(&self, table: &str) -> bool {
        match &self.altered {
            Some(altered) => {
                let name = altered.table.as_ref();
                name.is_none_or(|name| name.eq_ignore_ascii_case(table))
            }
            None => may_say(self.text, table),
        }
    }

    /// Whether it gives a column another type.
    fn changes_type(&self) -> bool {
        match &self.altered {
            Some(altered) => altered.changes_type(),
            None => stands_anywhere(self.text, "type"),
        }
    }

    /// Which one of these types is named where it is bound again, be it in a text.
    fn named_type<'n>(&self, types: &'n [String]) -> Option<&'n str> {
        let is_named = |name: &str, token: Token<'_>| match token {
            Token::Word(found) | Token::Name(found) => {
                found.replace("\"\"", "\"").eq_ignore_ascii_case(name)
            }
            Token::Text(found) | Token::Escaped(found) => may_say(found, name),
            _ => false,
        };
        match &self.altered {
            Some(altered) => altered
                .behind_bound()?
                .find_map(|token| names(types).find(|name| is_named(name, token))),
            None => {
                let binds = ["type", "default"].iter();
                let mut binds = binds.filter(|word| stands_anywhere(self.text, word));
                binds.next()?;
                names(types).find(|name| may_say(self.text, name))
            }
        }
    }

    fn added(&self) -> Option<Added<'a>> {
        match &self.altered {
            Some(altered) => altered.added(),
            None => added_in_doubt(self.text),
        }
    }

    /// Why it is refused.
    fn refusal(&self, around: &Surroundings) -> Option<String> {
        let of_alteration = || {
            self.added()
                .and_then(|added| added.refusal(self.may_add_field))
                .map(str::to_owned)
                .or_else(|| self.type_refusal(around))
                .or_else(|| self.binding_refusal(around))
                .or_else(|| self.zone_refusal(around))
        };
        self.refusal_of_index(around)
            .or_else(|| self.macro_refusal(around))
            .or_else(|| self.may_alter.then(of_alteration).flatten())
    }

    /// Why the index is refused that it makes, or may make.
    fn refusal_of_index(&self, around: &Surroundings) -> Option<String> {
        let refusal = || {
            self.index_refusal(around)
                .or_else(|| self.key_refusal(around))
        };
        self.may_make_index.then(refusal).flatten()
    }

    /// Whether it makes an index of an expression, or may do so.
    fn binds(&self, around: &Surroundings) -> bool {
        self.may_make_index
            && match &self.index {
                Some(index) => index.has_expression(around),
                None => may_have_expression(self.text),
            }
    }

    /// Whether it makes a macro with the name of one of DuckDB's own functions, or may do so.
    fn shadows(&self, around: &Surroundings) -> bool {
        match &self.made_macro {
            MadeMacro::None => false,
            MadeMacro::Named(name) => around.is_built_in(name),
            MadeMacro::Any => true,
        }
    }

    fn index_refusal(&self, around: &Surroundings) -> Option<String> {
        let named = self.index.iter();
        let generated = named.flat_map(|index| index.generated(&around.columns));
        let mut bound = std::iter::once(self.text).chain(generated);
        if let Some(name) = bound.find_map(|expression| unsteady_in(expression, around)) {
            return Some(format!(
                "DuckDB 1.5.5 binds the expressions of an index again after each start, where `{name}` may be missing or another \
                 one: do without it, or index a column that is given its values"
            ));
        }
        let name = around.shadow.as_ref().filter(|_| self.binds(around))?;
        Some(format!(
            "DuckDB 1.5.5 binds the expressions of an index again after each start, and may find the macro `{name}` there in the \
             place of its own function: drop that macro first, or index a column that is given its values"
        ))
    }

    fn macro_refusal(&self, around: &Surroundings) -> Option<String> {
        let index = around.bound_index.as_ref()?;
        let of = match &self.made_macro {
            _ if !self.shadows(around) => return None,
            MadeMacro::Named(name) => format!("its own function `{name}`"),
            MadeMacro::None | MadeMacro::Any => "a function of its own".to_owned(),
        };
        Some(format!(
            "DuckDB 1.5.5 binds the expressions of the index `{index}` again after each start, and may find this macro there in the \
             place of {of}: give the macro another name, or drop each index of an expression first"
        ))
    }

    fn key_refusal(&self, around: &Surroundings) -> Option<String> {
        let depends_on_zone = match &self.index {
            Some(index) => index.depends_on_zone(around),
            None => may_depend_on_zone(self.text, around),
        };
        let name = self
            .index
            .as_ref()
            .map(|index| format!(" `{}`", index.name));
        depends_on_zone.then(|| {
            format!(
                "the keys of the index{} would depend on the TimeZone and the Calendar of each session, and DuckDB 1.5.5 does not \
                 find a row by them where these are others: make a TIMESTAMP in UTC of the column ts by \
                 make_timestamp(epoch_us(ts)), or index a column that is given its values",
                name.unwrap_or_default()
            )
        })
    }

    fn type_refusal(&self, around: &Surroundings) -> Option<String> {
        if !self.changes_type() {
            return None;
        }
        let name = called(self.text, names(&around.varying_functions))?;
        Some(format!(
            "DuckDB 1.5.5 evaluates this again when it replays its log, where `{name}` may be missing or another one: add a \
             column, UPDATE it, drop the old one, and rename the new one"
        ))
    }

    /// Why it is refused for what a replay binds, and may not find.
    fn binding_refusal(&self, around: &Surroundings) -> Option<String> {
        if let Some(name) = called(self.text, names(&around.lost_functions)) {
            return Some(format!(
                "DuckDB 1.5.5 binds this again when it replays its log, where `{name}` may be missing: make the macro in the \
                 schema main, or do without it"
            ));
        }
        if let Some(name) = self.named_type(&around.lost_types) {
            return Some(format!(
                "DuckDB 1.5.5 binds this again when it replays its log, where `{name}` may be missing: make the type in the \
                 schema main, or do without it"
            ));
        }
        let mut definitions = around.definitions.iter();
        let name = definitions.find_map(|definition| {
            let name = around.lost_in(definition)?;
            self.names_table(&definition.table).then_some(name)
        })?;
        Some(format!(
            "DuckDB 1.5.5 binds each default, check and generated column of the table again when it replays its log, where \
             `{name}` may be missing: make a table without it"
        ))
    }

    fn zone_refusal(&self, around: &Surroundings) -> Option<String> {
        self.depends_on_zone(around).then(|| {
            "DuckDB 1.5.5 evaluates this again when it replays its log, without the TimeZone and the Calendar of this session: \
             RESET them first, or give each value its time zone"
                .to_owned()
        })
    }

    /// Whether a time zone of the session's own may matter to values that are evaluated again.
    fn depends_on_zone(&self, around: &Surroundings) -> bool {
        if !around.has_own_zone {
            return false;
        }
        let is_zoned = contains_any_word(self.text, ZONED)
            || names(&around.zoned_types).any(|name| contains_word(self.text, name));
        if self.changes_type() {
            let has_zoned_column = |it: &Definition| it.is_zoned && self.names_table(&it.table);
            return is_zoned
                || contains_word(self.text, "using")
                || around.definitions.iter().any(has_zoned_column);
        }
        is_zoned && self.added().is_some_and(|added| added.may_be_text())
    }
}

/// A function or a type of an expression that is not certain to be the same when it is bound again.
fn unsteady_in<'n>(expression: &str, around: &'n Surroundings) -> Option<&'n str> {
    let function = called(expression, names(&around.varying_functions));
    let casts = expression.contains("::") || contains_word(expression, "cast");
    let is_named = |name: &&str| casts && contains_word(expression, name);
    function.or_else(|| names(&around.lost_types).find(is_named))
}

/// Whether a text that is in doubt may name this, which is in lower case.
fn may_say(text: &str, name: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let is_plain = name.chars().all(|c| c.is_alphanumeric() || c == '_');
    match is_plain {
        true => stands_anywhere(&lower, name) || lower.contains("u&\""),
        false => lower.contains(name) || lower.contains("u&\""),
    }
}

#[cfg(test)]
mod tests;
