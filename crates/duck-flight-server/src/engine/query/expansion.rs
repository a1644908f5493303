//! What DuckDB makes several statements of when it parses it: an ADD COLUMN with a default that is no literal, which it
//! carries out as ALTER, UPDATE and ALTER, or a table made of a PIVOT without an IN.
//!
//! Outside of a transaction it puts a BEGIN before them and a COMMIT behind, so that all of it is done or nothing. In a
//! transaction it puts a SET there instead, which would let each of their errors end it; that is of a global setting, which
//! the server has locked. So these are left out, and the transaction is spoiled where one of the others fails.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use parking_lot::RwLockReadGuard;

use super::pivots::PIVOTS;
use crate::engine::connections::pool::ClientTransaction;
use crate::engine::ffi::Connection;
use crate::engine::sql::tokens::{
    Token, Tokens, begins_with, contains_any_word, contains_word, single_statements,
    stands_anywhere, statements, tokens,
};
use crate::error::{Error, Result};

/// The words for types that have others inside, beside `[`.
const NESTED: &[&str] = &["array", "list", "map", "row", "struct", "union", "variant"];

/// The statements of a script, some of which DuckDB has made of others, followed while they run.
pub(super) struct Expansions<'a> {
    connection: &'a Connection,
    sql: &'a str,
    /// Whether there was no transaction before the script.
    is_outside: bool,
    /// What each part of a script of several became. Empty where that is not certain.
    parts: Vec<(Range<u64>, &'a str)>,
    current: Option<Rc<Expansion>>,
    /// What is held where DuckDB has begun a transaction, until its end.
    defining: Option<RwLockReadGuard<'a, ()>>,
}

/// The statements that one was made of.
pub(super) struct Expansion {
    /// How many rows the transaction may have written before it.
    pub(super) rows_before: u64,
    /// Whether it began outside of a transaction.
    is_outside: bool,
    /// Whether all of it is to be done or nothing.
    is_whole: Cell<bool>,
    /// Whether its UPDATE runs, or has run.
    has_updated: Cell<bool>,
    end: u64,
}

impl<'a> Expansions<'a> {
    /// Finds what DuckDB has made several statements of in a script that has become `count` of them. The script begins in the state
    /// `transaction`.
    ///
    /// # Errors
    /// When there may be any, and it is in doubt which, or when the script has a statement that DuckDB cannot do.
    pub(super) fn find(
        connection: &'a Connection,
        sql: &'a str,
        count: u64,
        transaction: ClientTransaction,
    ) -> Result<Self> {
        let mut expansions = Self {
            connection,
            sql,
            is_outside: transaction == ClientTransaction::None,
            parts: Vec::new(),
            current: None,
            defining: None,
        };
        let alters = |mut first: Tokens<'_>| first.accept(&["alter"]);
        if count < 2 && !statements(sql).next().is_some_and(alters) {
            // As most are: there is nothing to look for.
            return Ok(expansions);
        }
        let Some(texts) = single_statements(sql) else {
            check_default(sql)?;
            return match count > 1 && may_be_expanded(sql) {
                true => Err(in_doubt()),
                false => Ok(expansions),
            };
        };
        texts.iter().try_for_each(|text| check_default(text))?;
        if count < 2 {
            return Ok(expansions);
        }
        let is_expanded = u64::try_from(texts.len()).is_ok_and(|texts| texts < count);
        let is_one = texts.len() == 1;
        let mut start = 0;
        for text in texts {
            let len = match (is_expanded, is_one) {
                (false, _) => 1,
                (true, true) => count,
                (true, false) => connection.parse(text)?.len(),
            };
            expansions.parts.push((start..start + len, text));
            start += len;
        }
        if start != count {
            expansions.parts.clear();
        }
        Ok(expansions)
    }

    /// The text that statement `index` of several has come from, where that is certain.
    pub(super) fn text(&self, index: u64) -> Option<&'a str> {
        self.part(index).map(|(_, text)| *text)
    }

    fn part(&self, index: u64) -> Option<&(Range<u64>, &'a str)> {
        let before = self.parts.partition_point(|(range, _)| range.end <= index);
        self.parts.get(before)
    }

    /// The expansion that statement `index`, which is to run now, is a part of; `None` where it is a statement of
    /// the script itself.
    pub(super) fn enter(
        &mut self,
        index: u64,
        transaction: ClientTransaction,
        rows_written: u64,
    ) -> Option<Rc<Expansion>> {
        let part = self.part(index).map(|(range, _)| range.clone());
        let range = part.filter(|range| range.end - range.start > 1);
        let is_outside = transaction == ClientTransaction::None;
        match range {
            None => self.current = None,
            Some(range) if range.start == index => {
                self.current = Some(Rc::new(Expansion {
                    rows_before: if is_outside { 0 } else { rows_written },
                    is_outside,
                    is_whole: Cell::new(false),
                    has_updated: Cell::new(false),
                    end: range.end,
                }));
            }
            Some(_) => {}
        }
        self.current.clone()
    }

    /// Whether the result of statement `index` of `count` is the script's: it is the last, but for the COMMIT or SET that
    /// DuckDB has put behind it.
    pub(super) fn is_last(&self, index: u64, count: u64) -> bool {
        let ends = |current: &Rc<Expansion>| current.is_whole() && current.end == count;
        let behind = u64::from(self.current.as_ref().is_some_and(ends));
        index + 1 + behind == count
    }

    /// Follows what the statement has done. Where it has failed in a transaction that nobody but DuckDB has begun, that is
    /// rolled back.
    pub(super) fn leave(&mut self, has_failed: bool, transaction: &mut ClientTransaction) {
        if has_failed && *transaction != ClientTransaction::None && self.begins_none() {
            self.connection.roll_back();
            *transaction = ClientTransaction::None;
        }
        let Some(current) = self.current.as_ref().filter(|current| current.is_outside) else {
            return;
        };
        if has_failed {
            self.connection.roll_back();
            *transaction = ClientTransaction::None;
        }
        if *transaction == ClientTransaction::None {
            self.defining = None;
        } else if self.defining.is_none() {
            current.is_whole.set(true);
            self.defining = Some(self.connection.definitions().read());
        }
    }

    /// Whether the script has no BEGIN of its own and no transaction was open before it, so that an open one is DuckDB's.
    fn begins_none(&self) -> bool {
        self.is_outside && !contains_any_word(self.sql, &["begin", "start"])
    }
}

fn in_doubt() -> Error {
    Error::Unimplemented(
        "it cannot be told what DuckDB makes of this script: send the ALTER or PIVOT alone and without a semicolon, or write the \
         script without white space beyond ASCII, and put names in quotes that end a statement with a letter beyond ASCII"
            .to_owned(),
    )
}

/// Whether a script that is in doubt may hold what DuckDB makes several statements of.
fn may_be_expanded(sql: &str) -> bool {
    let says = |word: &&str| stands_anywhere(sql, word);
    ["alter", "add", "default"].iter().all(says) || PIVOTS.iter().any(says)
}

/// Refuses to add a nested column with a default: DuckDB 1.5.5 gives the database up where the table has more rows than a few
/// (`INTERNAL Error: Operation requires a flat vector`).
fn check_default(statement: &str) -> Result<()> {
    let says = |word| contains_word(statement, word);
    let adds = begins_with(statement, &["alter"]) && says("add") && says("default");
    let may_be_nested = |token: Token<'_>| match token {
        Token::Doubt => {
            let is_said = |nested: &&str| stands_anywhere(statement, nested);
            statement.contains('[') || NESTED.iter().any(is_said)
        }
        token => token == Token::Symbol('[') || token.is_any(NESTED),
    };
    if adds && tokens(statement).any(may_be_nested) {
        return Err(Error::Unimplemented(
            "DuckDB 1.5.5 cannot add a nested column together with its default to a table of many rows: add it without the default, \
             UPDATE it, and ALTER it to SET DEFAULT"
                .to_owned(),
        ));
    }
    Ok(())
}

impl Expansion {
    /// Records that DuckDB has put a SET before it.
    pub(super) fn note_set(&self) {
        self.is_whole.set(true);
    }

    /// Whether it must not be committed in part.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.get()
    }

    /// Records that its UPDATE runs.
    pub(super) fn note_update(&self) {
        self.has_updated.set(true);
    }

    /// Whether what comes next of it stands behind its UPDATE.
    pub(super) fn has_updated(&self) -> bool {
        self.has_updated.get()
    }
}
