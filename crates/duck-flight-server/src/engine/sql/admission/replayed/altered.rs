//! What an ALTER TABLE says, as far as its replay depends on it.

use crate::engine::sql::tokens::{Token, Tokens, stands_anywhere, tokens};

/// What a default may be made of besides numbers, texts and symbols that is the same everywhere.
const LITERALS: &[&str] = &[
    "date",
    "false",
    "interval",
    "null",
    "time",
    "timestamp",
    "true",
];

/// An ALTER TABLE that is read without a doubt.
pub(super) struct Altered<'a> {
    /// The table's name without its qualifiers; `None` where that is not certain.
    pub(super) table: Option<String>,
    /// What follows the table's name.
    action: Tokens<'a>,
}

/// An ADD COLUMN with a default.
pub(super) struct Added<'a> {
    is_if_not_exists: bool,
    /// What follows the word; `None` in doubt.
    default: Option<Tokens<'a>>,
}

impl<'a> Altered<'a> {
    /// What follows ALTER TABLE.
    pub(super) fn new(mut rest: Tokens<'a>) -> Self {
        let name = rest.altered_table();
        Self {
            table: name.and_then(|mut parts| parts.pop()),
            action: rest,
        }
    }

    /// Whether it gives a column another type.
    pub(super) fn changes_type(&self) -> bool {
        self.action.clone().any(|token| token.is("type"))
    }

    /// What follows where something is bound again: the word TYPE, or DEFAULT. (The type of a new column is logged as it was bound.)
    pub(super) fn behind_bound(&self) -> Option<Tokens<'a>> {
        let mut rest = self.action.clone();
        let is_before = |token: &Token<'_>| token.is_any(&["type", "default"]);
        rest.find(is_before).map(|_| rest)
    }

    /// What it adds, where that has a default.
    pub(super) fn added(&self) -> Option<Added<'a>> {
        let mut rest = self.action.clone();
        if !rest.accept(&["add"]) {
            return None;
        }
        rest.accept(&["column"]);
        let is_if_not_exists = rest.accept_all(&["if", "not", "exists"]);
        rest.next();
        rest.find(|token| token.is("default"))?;
        Some(Added {
            is_if_not_exists,
            default: Some(rest),
        })
    }
}

/// As [`Altered::added`], where only the words tell: what stands behind the only DEFAULT is its expression.
pub(super) fn added_in_doubt(text: &str) -> Option<Added<'_>> {
    let says = |word| stands_anywhere(text, word);
    if !(says("add") && says("default")) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let defaults = lower.match_indices("default").count();
    let start = lower.find("default")?;
    let rest = tokens(text.get(start + "default".len()..)?);
    Some(Added {
        is_if_not_exists: says("exists"),
        default: (defaults == 1).then_some(rest),
    })
}

impl Added<'_> {
    /// Why it is refused, whatever is around it; `may_be_field` where it may be a field of a column.
    pub(super) fn refusal(&self, may_be_field: bool) -> Option<&'static str> {
        if self.is_literal() {
            return None;
        }
        if may_be_field {
            return Some(
                "DuckDB 1.5.5 evaluates the default of a new field again when it replays its log, and may find other values: \
                 add the field without it, and UPDATE the column",
            );
        }
        self.is_if_not_exists.then_some(
            "with IF NOT EXISTS, DuckDB 1.5.5 evaluates the default again when it replays its log, and may find other values: \
             leave IF NOT EXISTS out",
        )
    }

    /// Whether the default is the same whenever and wherever it is evaluated, but for a time zone.
    fn is_literal(&self) -> bool {
        let is_literal = |token: Token<'_>| match token {
            Token::Word(_) => token.is_any(LITERALS),
            Token::Name(_) | Token::Doubt => false,
            _ => true,
        };
        let default = self.default.clone();
        default.is_some_and(|rest| rest.until_end().all(is_literal))
    }

    /// Whether the default is a text, or may be one, which is cast to the column's type.
    pub(super) fn may_be_text(&self) -> bool {
        let default = self.default.clone();
        default.is_none_or(|mut rest| {
            let first = rest.find(|token| *token != Token::Symbol('('));
            matches!(
                first,
                Some(Token::Text(_) | Token::Escaped(_) | Token::Doubt)
            )
        })
    }
}
