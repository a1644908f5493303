//! The words of SQL text, told apart from literals and comments as DuckDB's own scanner tells them.
//!
//! DuckDB's C API tells the statements of a script, not its tokens. This scanner reads only as much of the language as
//! it takes to know what is a word, and gives up with [`Token::Doubt`] where DuckDB might read on otherwise. Whoever
//! asks must then take the answer that is never wrong, whatever it costs.

mod names;

/// More parts than the name of a table has: DuckDB takes no more than a catalog, a schema and the table.
pub(in crate::engine) const MAX_NAME_PARTS: usize = 4;

/// A part of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Token<'a> {
    /// A keyword, or a name without quotes.
    Word(&'a str),
    /// A name, without its quotes; a quote inside of them stays doubled.
    Name(&'a str),
    /// A literal text, without its quotes.
    Text(&'a str),
    /// A literal text with escapes, without its quotes: what it says is another text.
    Escaped(&'a str),
    /// A whole number, or a part of another.
    Digits(&'a str),
    /// Any other character.
    Symbol(char),
    /// Nothing is certain from here on: the last token.
    Doubt,
}

impl<'a> Token<'a> {
    /// Whether it is this keyword.
    pub(in crate::engine) fn is(self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// Whether it is one of these keywords.
    pub(in crate::engine) fn is_any(self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }

    /// The name that it may be.
    pub(in crate::engine) fn name(self) -> Option<&'a str> {
        match self {
            Token::Word(name) | Token::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// The statements of a script, each as the tokens from its first one on. In doubt the last one begins with it, or holds it.
pub(in crate::engine) fn statements(sql: &str) -> impl Iterator<Item = Tokens<'_>> {
    let mut rest = tokens(sql);
    let mut has_ended = true;
    std::iter::from_fn(move || {
        loop {
            let from_here = rest.clone();
            if rest.next()? == Token::Symbol(';') {
                has_ended = true;
            } else if std::mem::take(&mut has_ended) {
                return Some(from_here);
            }
        }
    })
}

/// The texts of the statements of a script. `None` in doubt how many there are.
pub(in crate::engine) fn single_statements(sql: &str) -> Option<Vec<&str>> {
    let mut starts: Vec<_> = statements(sql)
        .map(|statement| sql.len() - statement.rest.len())
        .collect();
    starts.push(sql.len());
    let texts: Vec<_> = starts
        .windows(2)
        .filter_map(|ends| sql.get(ends[0]..ends[1]))
        .collect();
    let is_single = |text: &&str| {
        let is_end = |c: char| c == ';' || c.is_whitespace();
        !text.trim_end_matches(is_end).contains(';')
    };
    let is_known = is_certain(sql) || texts.last().is_none_or(is_single);
    is_known.then_some(texts)
}

/// Whether every token of a script is certain.
pub(in crate::engine) fn is_certain(sql: &str) -> bool {
    tokens(sql).all(|token| token != Token::Doubt)
}

/// The tokens of a script, without white space and comments.
pub(in crate::engine) fn tokens(sql: &str) -> Tokens<'_> {
    // In front of everything else it is certain that DuckDB takes that for white space, such as the byte order mark of a file.
    let is_any_space = |c: char| c == ' ' || c.is_ascii_control() || names::is_space(c);
    Tokens {
        rest: sql.trim_start_matches(is_any_space),
        is_after_escapes: false,
    }
}

/// Whether a word is part of a script, be it as a name in quotes. Where that is not certain, whether it stands in the
/// script anywhere.
pub(in crate::engine) fn contains_word(sql: &str, word: &str) -> bool {
    contains_any_word(sql, &[word])
}

/// Whether any of these words is part of a script, as [`contains_word`] tells.
pub(in crate::engine) fn contains_any_word(sql: &str, words: &[&str]) -> bool {
    let is_one = |found: &str| words.iter().any(|word| found.eq_ignore_ascii_case(word));
    let answer = |token: Token<'_>| match token {
        Token::Doubt => Some(words.iter().any(|word| stands_anywhere(sql, word))),
        _ => is_one(token.name()?).then_some(true),
    };
    tokens(sql).find_map(answer).unwrap_or(false)
}

/// Whether a word stands anywhere in a script, be it in a text or a comment.
pub(in crate::engine) fn stands_anywhere(sql: &str, word: &str) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|found| found.eq_ignore_ascii_case(word))
}

/// Whether the first statement of a script begins with one of these words.
pub(in crate::engine) fn begins_with(sql: &str, words: &[&str]) -> bool {
    let first = tokens(sql).find(|token| *token != Token::Symbol(';'));
    first.is_some_and(|first| first.is_any(words))
}

/// How often a keyword is part of a script, and how often another one follows it at once. `None` where that is not certain.
pub(in crate::engine) fn count_pairs(sql: &str, word: &str, next: &str) -> Option<(usize, usize)> {
    let (mut words, mut pairs) = (0, 0);
    let mut was_word = false;
    for token in tokens(sql) {
        if token == Token::Doubt {
            return None;
        }
        pairs += usize::from(was_word && token.is(next));
        was_word = token.is(word);
        words += usize::from(was_word);
    }
    Some((words, pairs))
}

/// What follows after white space and comments. A comment that does not end goes on to the end of the script.
pub(super) fn skip_space(mut sql: &str) -> &str {
    loop {
        let rest = sql.trim_start_matches(|c: char| c.is_ascii_control() || c == ' ');
        sql = if rest.starts_with("--") {
            rest.find(['\n', '\r']).map_or("", |end| &rest[end..])
        } else if rest.starts_with("/*") {
            after_comment(rest)
        } else {
            return rest;
        };
    }
}

/// What follows after a comment, which may hold others.
fn after_comment(sql: &str) -> &str {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(two) = sql.as_bytes().get(at..at + 2) {
        match two {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return &sql[at..];
                }
            }
            _ => at += 1,
        }
    }
    ""
}

/// See [`tokens`].
#[derive(Clone)]
pub(in crate::engine) struct Tokens<'a> {
    rest: &'a str,
    /// Whether the last token was a text with escapes. One that stands behind it may be its continuation, escapes and
    /// all.
    is_after_escapes: bool,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        #[cfg(test)]
        READ.set(READ.get() + 1);
        self.rest = skip_space(self.rest);
        let first = self.rest.chars().next()?;
        let is_after_escapes = std::mem::take(&mut self.is_after_escapes);
        let token = match first {
            '\'' if is_after_escapes => None,
            '\'' => self.quoted(Token::Text),
            '"' => self.quoted(Token::Name),
            '$' => self.dollar(),
            '0'..='9' => self.number(),
            _ if is_name(first) => self.word(),
            // DuckDB takes it for white space, unless a quote in a comment before keeps it from that.
            _ if names::is_space(first) => None,
            _ => {
                self.take(first.len_utf8());
                Some(Token::Symbol(first))
            }
        };
        if token.is_none() {
            self.rest = "";
        }
        token.or(Some(Token::Doubt))
    }
}

impl<'a> Tokens<'a> {
    /// The tokens up to the end of the statement.
    pub(in crate::engine) fn until_end(self) -> impl Iterator<Item = Token<'a>> {
        self.take_while(|token| *token != Token::Symbol(';'))
    }

    /// Takes the next token where it is one of these keywords.
    pub(in crate::engine) fn accept(&mut self, keywords: &[&str]) -> bool {
        let is_one = self.peek().is_some_and(|token| token.is_any(keywords));
        if is_one {
            self.next();
        }
        is_one
    }

    /// Whether this keyword follows in the statement, outside of parentheses. Where that is not certain, whether the word follows at
    /// all.
    pub(super) fn says(self, keyword: &str) -> bool {
        let rest = self.rest;
        let mut depth = 0_usize;
        for token in self.until_end() {
            match token {
                Token::Doubt => return stands_anywhere(rest, keyword),
                Token::Symbol('(') => depth += 1,
                Token::Symbol(')') => depth = depth.saturating_sub(1),
                _ if depth == 0 && token.is(keyword) => return true,
                _ => {}
            }
        }
        false
    }

    /// Whether a word stands anywhere in what is left of the script, be it in a text or a comment.
    pub(super) fn may_say(&self, word: &str) -> bool {
        stands_anywhere(self.rest, word)
    }

    /// The token that comes next.
    pub(in crate::engine) fn peek(&self) -> Option<Token<'a>> {
        self.clone().next()
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    /// What stands in quotes, in which a quote is doubled.
    fn quoted(&mut self, token: fn(&'a str) -> Token<'a>) -> Option<Token<'a>> {
        let quote = self.take(1);
        let mut end = 0;
        loop {
            end += self.rest[end..].find(quote)?;
            if !self.rest[end + 1..].starts_with(quote) {
                break;
            }
            end += 2;
        }
        let inside = self.take(end);
        self.take(1);
        Some(token(inside))
    }

    /// A text in dollar quotes, or the sign before a parameter.
    fn dollar(&mut self) -> Option<Token<'a>> {
        let rest = &self.rest[1..];
        let tag = rest.find(|c| !is_name(c) || c == '$');
        let is_quote = |tag: &usize| {
            rest[*tag..].starts_with('$') && !rest.starts_with(|c: char| c.is_ascii_digit())
        };
        let Some(tag) = tag.filter(is_quote) else {
            self.take(1);
            return Some(Token::Symbol('$'));
        };
        let quote = self.take(tag + 2);
        let inside = self.take(self.rest.find(quote)?);
        self.take(quote.len());
        Some(Token::Text(inside))
    }

    /// The digits a number begins with. What follows directly is a word of its own for DuckDB as well, unless it is
    /// part of the number, where no `$` may stand.
    fn number(&mut self) -> Option<Token<'a>> {
        let end = self.end_of_name();
        if self.rest[..end].contains('$') {
            return None;
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit());
        Some(Token::Digits(self.take(end.unwrap_or(self.rest.len()))))
    }

    fn word(&mut self) -> Option<Token<'a>> {
        let word = self.take(self.end_of_name());
        // What is beyond ASCII DuckDB drops at the end of a statement, where the script as a whole is not understood (`StringUtil::RTrim`).
        let is_dropped = |c: char| c.is_ascii_control() || c == ' ' || !c.is_ascii();
        let rest = self.rest.trim_start_matches(is_dropped);
        if !word.ends_with(|c: char| c.is_ascii()) && (rest.is_empty() || rest.starts_with(';')) {
            return None;
        }
        if word.eq_ignore_ascii_case("e") && self.rest.starts_with('\'') {
            return self.text_with_escapes();
        }
        // A name or a text of Unicode escapes could be any.
        let is_escaped = word.eq_ignore_ascii_case("u")
            && ["&'", "&\""]
                .iter()
                .any(|quote| self.rest.starts_with(quote));
        (!is_escaped).then_some(Token::Word(word))
    }

    /// A text in which a backslash takes the meaning from what follows.
    fn text_with_escapes(&mut self) -> Option<Token<'a>> {
        self.take(1);
        let mut end = 0;
        loop {
            end += self.rest[end..].find(['\'', '\\'])?;
            let pair = &self.rest[end..];
            if !pair.starts_with('\\') && !pair.starts_with("''") {
                break;
            }
            end += 1 + pair[1..].chars().next()?.len_utf8();
        }
        let inside = self.take(end);
        self.take(1);
        self.is_after_escapes = true;
        Some(Token::Escaped(inside))
    }

    fn end_of_name(&self) -> usize {
        let end = self.rest.find(|c| !is_name(c));
        end.unwrap_or(self.rest.len())
    }
}

/// Whether a character can be part of a name without quotes, and is certain to be: whatever is beyond ASCII can, to DuckDB's scanner.
fn is_name(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || c == '_' || c == '$',
        false => !names::is_space(c),
    }
}

#[cfg(test)]
thread_local! {
    /// How many tokens this thread has read.
    static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many tokens `work` reads for each one of the script.
#[cfg(test)]
pub(in crate::engine) fn reads_of_each(sql: &str, work: impl FnOnce()) -> usize {
    let length = tokens(sql).count();
    let before = READ.get();
    work();
    (READ.get() - before).div_ceil(length)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::EngineOptions;
    use crate::engine::ffi::Connection;
    use crate::engine::storage::open::open_database;

    fn words(sql: &str) -> Vec<&str> {
        tokens(sql)
            .filter_map(|token| match token {
                Token::Doubt => Some("?"),
                _ => token.name(),
            })
            .collect()
    }

    #[test]
    fn names_and_keywords_are_words() {
        for (sql, found) in [
            (
                "SELECT a.b,c FROM t",
                vec!["SELECT", "a", "b", "c", "FROM", "t"],
            ),
            ("\"a b\" \"c\"\"d\"", vec!["a b", "c\"\"d"]),
            ("_x$1 \"é\"", vec!["_x$1", "é"]),
            (
                "éSELECT größe, a😀$$ 🦆 b",
                vec!["éSELECT", "größe", "a😀$$", "🦆", "b"],
            ),
            (
                "WHERE i = 1RETURNING i",
                vec!["WHERE", "i", "RETURNING", "i"],
            ),
            ("$name + $1", vec!["name"]),
        ] {
            assert_eq!(words(sql), found, "{sql}");
        }
    }

    #[test]
    fn words_in_literals_and_comments_are_none() {
        for sql in [
            "'hidden' '' 'a''hidden' '\\'",
            "-- hidden ' \" /*\n1",
            "/* hidden /* hidden */ ' hidden */ 1",
            "$$hidden$$ $a$ hidden $$ hidden $b$ $a$",
            "e'\\'hidden''hidden\\\\', E'hidden'",
        ] {
            assert!(words(sql).is_empty(), "{sql}: {:?}", words(sql));
        }
    }

    #[test]
    fn what_duckdb_may_read_otherwise_is_in_doubt() {
        for (sql, found) in [
            ("a 'b", vec!["a", "?"]),
            ("a \"b", vec!["a", "?"]),
            ("a $$b", vec!["a", "?"]),
            ("e'b", vec!["?"]),
            // DuckDB takes the second for a text with escapes as well.
            ("e'a'\n'\\' b", vec!["?"]),
            // A number, and then a text in dollar quotes.
            ("1$$ b $$", vec!["?"]),
            // White space for DuckDB, or a part of a name.
            ("a\u{a0}b", vec!["a", "?"]),
            ("\u{a0}a", vec!["a"]),
            (",\u{2003}", vec!["?"]),
            // Dropped at the end of a statement.
            ("a é", vec!["a", "?"]),
            ("dropé 😀\n; b", vec!["?"]),
            // Escapes of Unicode.
            ("a, U&\"\\0061\"", vec!["a", "?"]),
            ("u&'\\0061'", vec!["?"]),
        ] {
            assert_eq!(words(sql), found, "{sql}");
        }
    }

    #[test]
    fn a_word_is_found_in_doubt_wherever_it_stands() {
        assert!(contains_word(
            "INSERT INTO t VALUES (1) returning i",
            "returning"
        ));
        assert!(contains_word("SELECT \"nextval\"('s')", "nextval"));
        assert!(!contains_word("SELECT 'nextval'", "nextval"));
        assert!(contains_word("SELECT 'nextval' AS \u{a0}x", "nextval"));
        assert!(!contains_word("SELECT next_nextval AS \u{a0}x", "nextval"));
    }

    #[test]
    fn a_name_in_quotes_is_no_keyword() {
        assert!(!begins_with("\"select\" 1", &["select"]));
        assert_eq!(
            count_pairs("RENAME \"to\" TO b", "rename", "to"),
            Some((1, 0))
        );
        assert_eq!(tokens("u & 'a'").next(), Some(Token::Word("u")));
        assert_eq!(tokens("u&1").next(), Some(Token::Word("u")));
    }

    #[test]
    fn a_keyword_is_found_outside_of_parentheses() {
        for (sql, says) in [
            ("t (i INTEGER) AS SELECT 1", true),
            ("t AS (SELECT 1)", true),
            ("t (i INTEGER, j INTEGER AS (i))", false),
            ("t \"as\" 'as' -- as", false),
            ("t; u AS v", false),
            // In doubt.
            ("t (\u{a0}e, j INTEGER AS (i))", true),
            ("t (\u{a0}e, 'ask')", false),
        ] {
            assert_eq!(tokens(sql).says("as"), says, "{sql}");
        }
    }

    #[test]
    fn a_statement_ends_where_the_next_one_begins() {
        let firsts = |sql: &'static str| statements(sql).map(|mut tokens| tokens.next().unwrap());
        let found: Vec<_> = firsts(";; a b ; 'x;' -- ;\n; \"c\"; é b; \u{a0}").collect();
        let expected = [
            Token::Word("a"),
            Token::Text("x;"),
            Token::Name("c"),
            Token::Word("é"),
            Token::Doubt,
        ];
        assert_eq!(found, expected);
        let all: Vec<_> = statements("a b; c")
            .map(|tokens| tokens.until_end().count())
            .collect();
        assert_eq!(all, [2, 1]);
    }

    #[test]
    fn a_script_begins_with_its_first_word() {
        assert!(begins_with(
            "-- why\n/* what */ Select 1",
            &["with", "select"]
        ));
        assert!(begins_with("; ;SELECT 1", &["select"]));
        assert!(!begins_with("(SELECT 1)", &["select"]));
        assert!(!begins_with("'select'", &["select"]));
        assert!(!begins_with("", &["select"]));
    }

    /// Pieces of SQL that open, close and hide others.
    const PIECES: &[&str] = &[
        ";", " ", "\n", "'", "''", "\"", "\\", "e'", "1e", "x'", "$", "$$", "$a$", "$1", "--",
        "/*", "*/", "/", "*", "-", "a", "_", "1", ",", "é", "\u{a0}", "😀", "$é$",
    ];

    /// What begins and ends a literal, a name or a comment.
    const AROUND: &[(&str, &str)] = &[
        (", '", "'"),
        (", e'", "'"),
        ("\n'", "'"),
        (", $$", "$$"),
        (", $a$", "$a$"),
        (", 1 as \"", "\""),
        ("--", "\n"),
        ("/*", "*/"),
        (", 1", ", 1"),
        (", a", ""),
        (";", "select 1"),
    ];

    fn script() -> impl Strategy<Value = String> {
        let around = proptest::sample::select(AROUND);
        let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 0..4);
        let part = (around, pieces)
            .prop_map(|((begin, end), pieces)| format!("{begin}{}{end}", pieces.concat()));
        proptest::collection::vec(part, 0..6)
            .prop_map(|parts| format!("select 1{}", parts.concat()))
    }

    /// How many statements the scanner sees. `None` in doubt.
    fn count(sql: &str) -> Option<u64> {
        let (mut count, mut is_empty) = (0, true);
        for token in tokens(sql) {
            match token {
                Token::Doubt => return None,
                Token::Symbol(';') => is_empty = true,
                _ => count += u64::from(std::mem::take(&mut is_empty)),
            }
        }
        Some(count)
    }

    #[test]
    fn a_script_is_parted_into_its_statements() {
        for (sql, texts) in [
            ("; /* ; */ SELECT 1", &[" /* ; */ SELECT 1"][..]),
            ("a ';' ; b;;", &["a ';' ;", " b;;"]),
            ("a; SELECT é ;\n", &["a;", " SELECT é ;\n"]),
            ("ä a; é b; c", &["ä a;", " é b;", " c"]),
            ("a; SELECT \u{a0}e ;\n", &["a;", " SELECT \u{a0}e ;\n"]),
        ] {
            assert_eq!(single_statements(sql).unwrap(), texts, "{sql}");
        }
        assert_eq!(single_statements("a; \u{a0}e; b"), None);
    }

    fn connection() -> Connection {
        open_database(&EngineOptions::in_memory())
            .unwrap()
            .database
            .connect()
            .unwrap()
    }

    #[test]
    fn words_that_follow_each_other_are_counted() {
        for (sql, counts) in [
            ("ALTER TABLE t RENAME TO u", Some((1, 1))),
            (
                "alter table t rename/**/ to u; ALTER TABLE u RENAME a TO b",
                Some((2, 1)),
            ),
            ("SELECT 'rename to', 1 -- rename to", Some((0, 0))),
            ("SELECT rename, to", Some((1, 0))),
        ] {
            assert_eq!(count_pairs(sql, "rename", "to"), counts, "{sql}");
        }
    }

    #[test]
    fn duckdb_sees_the_same_statements() {
        let connection = connection();
        let compared = Cell::new(0);
        proptest!(ProptestConfig::with_cases(20_000), |(sql in script())| {
            if let (Some(count), Ok(script)) = (count(&sql), connection.parse(&sql)) {
                compared.set(compared.get() + 1);
                prop_assert_eq!(count, script.len());
            }
        });
        let compared = compared.get();
        assert!(compared > 1000, "only {compared} scripts were compared");
    }

    proptest! {
        #[test]
        fn any_text_comes_to_an_end(sql in "\\PC*") {
            tokens(&sql).count();
        }
    }
}
