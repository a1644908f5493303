//! What a CREATE INDEX says, as far as its keys may come out otherwise when they are made again.
//!
//! DuckDB makes them whenever a row is written, and again to delete it, on the connection of whoever does that. What has a time zone is
//! made into anything else by the TimeZone and the Calendar of that session, be it by `AT TIME ZONE 'UTC'`: an index of such keys answers
//! wrongly in another zone, and where the key of a row is not found, its DELETE ends the process.

use crate::engine::sql::deed::{Named, own_name};
use crate::engine::sql::tokens::{Token, Tokens, stands_anywhere, statements, tokens};

use super::super::explained::explained;
use super::surroundings::{Column, Surroundings, names};
use super::{ZONED, may_say};

/// Functions that make something with a time zone of what has none.
const MAKE_ZONED: &[&str] = &[
    "make_timestamptz",
    "timezone",
    "to_timestamp",
    "uuid_extract_timestamp",
];

/// Functions that do so where the format has a zone, and that part of it.
const PARSE: &[&str] = &["strptime", "try_strptime"];
const FORMATTED_ZONE: &str = "%z";

/// Functions that make the same of a time in every zone and calendar.
const SINCE_EPOCH: &[&str] = &["epoch", "epoch_ms", "epoch_ns", "epoch_us"];

/// A CREATE INDEX that is read without a doubt.
pub(super) struct Indexed<'a> {
    pub(super) name: String,
    /// The table's name without its qualifiers; `None` where that is not certain.
    table: Option<String>,
    keys: Vec<Vec<Token<'a>>>,
}

impl<'a> Indexed<'a> {
    /// What a statement says; `None` in doubt.
    pub(super) fn new(text: &'a str, name: Option<String>, table: &Named) -> Option<Self> {
        let mut statement = statements(text).next()?;
        if let Some(explained) = explained(statement.clone()) {
            statement = explained.statement;
        }
        Some(Self {
            name: name?,
            table: own_name(table.as_deref()).map(str::to_owned),
            keys: keys(statement)?,
        })
    }

    /// Whether its keys depend on the time zone of who makes them.
    pub(super) fn depends_on_zone(&self, around: &Surroundings) -> bool {
        let columns = around
            .columns
            .iter()
            .filter(|column| self.may_be_of(column));
        let columns: Vec<_> = columns.collect();
        let zoned = zoned_columns(&columns, &around.zoned_types);
        let depends = |tokens: &[Token<'_>]| depends_on_zone(tokens, &zoned, &around.zoned_types);
        let has_own = self.keys.iter().any(|key| !is_column(key) && depends(key));
        has_own || {
            let mut generated = self.generated(&around.columns);
            generated.any(|text| depends(&tokens(text).collect::<Vec<_>>()))
        }
    }

    /// Whether any of its keys is more than a column that holds values.
    pub(super) fn has_expression(&self, around: &Surroundings) -> bool {
        self.keys.iter().any(|key| !is_column(key))
            || self.generated(&around.columns).next().is_some()
    }

    /// The expressions of the generated columns that it names.
    pub(super) fn generated<'c>(&self, columns: &'c [Column]) -> impl Iterator<Item = &'c str> {
        let named = columns
            .iter()
            .filter(move |column| self.may_be_of(column) && self.names(&column.name));
        named.filter_map(|column| column.generated.as_deref())
    }

    fn may_be_of(&self, column: &Column) -> bool {
        let table = self.table.as_ref();
        table.is_none_or(|table| table.eq_ignore_ascii_case(&column.table))
    }

    fn names(&self, column: &str) -> bool {
        let mut tokens = self.keys.iter().flatten();
        tokens.any(|token| is_name_of(*token, column))
    }
}

/// As [`Indexed::depends_on_zone`], where only the words tell.
pub(super) fn may_depend_on_zone(text: &str, around: &Surroundings) -> bool {
    let words = ZONED.iter().chain(MAKE_ZONED);
    let says_zone = |name: &str| may_say(text, &name.to_ascii_lowercase());
    may_have_expression(text)
        && (words.copied().any(|word| stands_anywhere(text, word))
            || text.to_ascii_lowercase().contains(FORMATTED_ZONE)
            || names(&around.zoned_types).any(says_zone)
            || around.columns.iter().any(|it| says_zone(&it.name)))
}

/// Whether an index of which nothing is certain may have a key that is more than a column.
pub(super) fn may_have_expression(text: &str) -> bool {
    text.matches('(').count() > 1
}

/// The keys of an index, which stand in the first parentheses. `None` in doubt.
fn keys(statement: Tokens<'_>) -> Option<Vec<Vec<Token<'_>>>> {
    let mut keys = vec![Vec::new()];
    let mut depth = 0_usize;
    for token in statement.until_end() {
        match token {
            Token::Doubt => return None,
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth = depth.checked_sub(1)?,
            _ => {}
        }
        match (token, depth) {
            (Token::Symbol(')'), 0) => return Some(keys),
            // Before the list, or its beginning.
            (_, 0) => {}
            (Token::Symbol('('), 1) => {}
            (Token::Symbol(','), 1) => keys.push(Vec::new()),
            _ => keys.last_mut()?.push(token),
        }
    }
    None
}

/// Whether a key is a column by itself, or a field of one, be it in parentheses.
fn is_column(key: &[Token<'_>]) -> bool {
    if !key.contains(&Token::Symbol('(')) {
        return true;
    }
    let is_parenthesis = |token: &&Token<'_>| matches!(token, Token::Symbol('(' | ')'));
    let mut parts = key
        .iter()
        .filter(|token| !is_parenthesis(token))
        .enumerate();
    parts.all(|(index, token)| match index % 2 {
        0 => token.name().is_some(),
        _ => *token == Token::Symbol('.'),
    })
}

/// The names of the columns that have a time zone, or that are generated of such ones.
fn zoned_columns<'c>(columns: &[&'c Column], types: &[String]) -> Vec<&'c str> {
    let zoned = columns.iter().filter(|column| column.is_zoned);
    let mut zoned: Vec<_> = zoned.map(|column| column.name.as_str()).collect();
    loop {
        let before = zoned.len();
        for column in columns {
            let (name, generated) = (column.name.as_str(), column.generated.as_deref());
            let tokens: Vec<_> = generated.into_iter().flat_map(tokens).collect();
            if !zoned.contains(&name) && depends_on_zone(&tokens, &zoned, types) {
                zoned.push(name);
            }
        }
        if zoned.len() == before {
            return zoned;
        }
    }
}

/// Whether the value of an expression depends on the time zone of who asks for it.
fn depends_on_zone(expression: &[Token<'_>], columns: &[&str], types: &[String]) -> bool {
    let has_zone = |token: &Token<'_>| match token {
        Token::Text(text) | Token::Escaped(text) => {
            text.to_ascii_lowercase().contains(FORMATTED_ZONE)
        }
        _ => false,
    };
    let parses_zone = expression.iter().any(has_zone);
    let mut rest = expression;
    while let Some((first, behind)) = rest.split_first() {
        if let Some(behind) = behind_epoch(rest) {
            rest = behind;
            continue;
        }
        if let [time, zone, behind @ ..] = behind
            && (first.is("without") && time.is("time") && zone.is("zone"))
        {
            rest = behind;
            continue;
        }
        let is = |name: &str| is_name_of(*first, name);
        let is_called = behind.first() == Some(&Token::Symbol('('));
        if *first == Token::Doubt
            || columns.iter().copied().any(is)
            || names(types).any(is)
            || is_zoned_type(*first, behind)
            || is_called && MAKE_ZONED.iter().copied().any(is)
            || is_called && parses_zone && PARSE.iter().copied().any(is)
        {
            return true;
        }
        rest = behind;
    }
    false
}

/// Whether a type with a time zone begins here, or a word of AT TIME ZONE stands here.
fn is_zoned_type(first: Token<'_>, behind: &[Token<'_>]) -> bool {
    let is_zone = |token: &Token<'_>| token.is("zone");
    match first {
        Token::Word(_) if first.is("time") => behind.first().is_some_and(is_zone),
        Token::Word(_) => first.is_any(&["timestamptz", "timetz"]),
        // As DuckDB writes it.
        Token::Name(name) => {
            let name = name.to_ascii_lowercase();
            name.contains("time zone") || matches!(&*name, "timestamptz" | "timetz")
        }
        _ => false,
    }
}

/// What follows where a time is made into a number first.
fn behind_epoch<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
    let (function, rest) = tokens.split_first()?;
    if !SINCE_EPOCH.iter().any(|name| is_name_of(*function, name)) {
        return None;
    }
    let mut expected = Token::Symbol('(');
    for (index, token) in rest.iter().enumerate() {
        match (index % 2, token) {
            (1, token) => {
                token.name()?;
                expected = Token::Symbol('.');
            }
            (_, Token::Symbol(')')) if index > 0 => return rest.get(index + 1..),
            (_, token) if *token == expected => {}
            _ => return None,
        }
    }
    None
}

/// Whether a token is this name, in quotes or not.
fn is_name_of(token: Token<'_>, name: &str) -> bool {
    let found = token.name();
    found.is_some_and(|found| found.replace("\"\"", "\"").eq_ignore_ascii_case(name))
}
