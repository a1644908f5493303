//! Names, as statements write them.

use super::{Token, Tokens, skip_space};

impl Tokens<'_> {
    /// Takes the next tokens where they are these keywords, one after the other.
    pub(in crate::engine) fn accept_all(&mut self, keywords: &[&str]) -> bool {
        let mut ahead = self.clone();
        let are_all = keywords.iter().all(|keyword| ahead.accept(&[*keyword]));
        if are_all {
            *self = ahead;
        }
        are_all
    }

    /// Takes the next token where it is this character.
    pub(in crate::engine) fn accept_symbol(&mut self, symbol: char) -> bool {
        let is_it = self.peek() == Some(Token::Symbol(symbol));
        if is_it {
            self.next();
        }
        is_it
    }

    /// Takes these keywords, one after the other, where they come next. `None` in doubt whether they do.
    pub(in crate::engine) fn accept_certain(&mut self, keywords: &[&str]) -> Option<bool> {
        let mut ahead = self.clone();
        for (index, keyword) in keywords.iter().enumerate() {
            if !ahead.accept(&[*keyword]) {
                let is_in_doubt = index > 0 && ahead.peek() == Some(Token::Doubt);
                return (!is_in_doubt).then_some(false);
            }
        }
        *self = ahead;
        Some(true)
    }

    /// Takes what follows ALTER TABLE up to what is done to it, and answers with the table's name and its qualifiers, as DuckDB
    /// knows them. `None` where that is not certain.
    pub(in crate::engine) fn altered_table(&mut self) -> Option<Vec<String>> {
        let is_certain = self.accept_certain(&["if", "exists"]).is_some();
        self.relation().filter(|_| is_certain)
    }

    /// Takes what names a table that a statement changes, and answers with its name and its qualifiers, as DuckDB knows them. `None`
    /// where that is not certain: then as much is taken as can be told.
    pub(in crate::engine) fn relation(&mut self) -> Option<Vec<String>> {
        if self.accept(&["only"]) {
            self.accept_symbol('(');
        }
        let mut behind = self.clone();
        let name = behind.qualified_name();
        if name.is_some() {
            *self = behind;
        } else {
            self.next();
            while self.accept_symbol('.') {
                self.next();
            }
        }
        self.accept_symbol(')');
        self.accept_symbol('*');
        name
    }

    /// Takes a name with its qualifiers, as DuckDB knows them. `None` where that is not certain.
    pub(in crate::engine) fn qualified_name(&mut self) -> Option<Vec<String>> {
        let mut parts = vec![self.name_part()?];
        while self.accept_symbol('.') {
            parts.push(self.name_part()?);
        }
        (!self.may_go_on()).then_some(parts)
    }

    /// Whether more of a name may follow: what continues a text, or another part behind white space that only DuckDB takes for it.
    fn may_go_on(&self) -> bool {
        if matches!(self.peek(), Some(Token::Text(_) | Token::Escaped(_))) {
            return true;
        }
        let mut rest = self.rest;
        loop {
            let behind = skip_space(rest).trim_start_matches(is_space);
            if behind.len() == rest.len() {
                return rest.starts_with('.');
            }
            rest = behind;
        }
    }

    fn name_part(&mut self) -> Option<String> {
        self.rest = skip_space(self.rest);
        if self.rest.starts_with('$') {
            // A text in dollar quotes, in which nothing is doubled.
            return match self.next()? {
                Token::Text(name) => Some(name.to_owned()),
                _ => None,
            };
        }
        let end = self.end_of_name();
        if end == 0 {
            return match self.next()? {
                Token::Name(name) => Some(name.replace("\"\"", "\"")),
                Token::Text(name) => Some(name.replace("''", "'")),
                _ => None,
            };
        }
        let name = self.take(end);
        // Where a quote stands in a comment before it, DuckDB does not take the white space for that.
        let is_end = |c: char| c.is_ascii() && c != '\'' && c != '"' && c != '&';
        let ends = self.rest.chars().next().is_none_or(is_end);
        ends.then(|| name.to_owned())
    }
}

/// Whether DuckDB takes a character beyond ASCII for white space (`Parser::StripUnicodeSpaces`).
pub(super) fn is_space(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{2000}'
            ..='\u{200b}' | '\u{202f}' | '\u{205f}' | '\u{2060}' | '\u{3000}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::super::tokens;

    #[test]
    fn names_are_read_as_duckdb_knows_them() {
        for (sql, parts) in [
            ("t", Some(&["t"][..])),
            (" /* */ Main . t rest", Some(&["Main", "t"])),
            ("db.\"a \"\" b\".\"T\"(i)", Some(&["db", "a \" b", "T"])),
            ("größe", Some(&["größe"])),
            ("🦆", Some(&["🦆"])),
            ("cafe\u{301}", Some(&["cafe\u{301}"])),
            ("x\u{2028} rest", Some(&["x\u{2028}"])),
            ("t \u{feff}ADD", Some(&["t"])),
            ("'t''x'", Some(&["t'x"])),
            ("$$t''$$", Some(&["t''"])),
            // In doubt.
            ("s.größe\u{a0}ADD", None),
            ("$1", None),
            ("'x'\n'p'", None),
            ("U&\"t\"", None),
            ("e't'", None),
            ("s.", None),
            ("(t)", None),
            ("s\u{a0}.t", None),
            ("größe /* */\u{200b} -- \n \u{feff}.t", None),
        ] {
            let found = tokens(sql).qualified_name();
            let found: Option<Vec<_>> = found
                .as_ref()
                .map(|found| found.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), parts, "{sql}");
        }
    }

    #[test]
    fn the_table_of_an_alteration_is_read_as_duckdb_reads_it() {
        for (sql, parts) in [
            ("t ADD", Some(&["t"][..])),
            ("if exists s.\"T x\" ADD", Some(&["s", "T x"])),
            ("if ADD", Some(&["if"])),
            ("ONLY t ADD", Some(&["t"])),
            ("IF EXISTS ONLY (db.s.t) ADD", Some(&["db", "s", "t"])),
            ("t * ADD", Some(&["t"])),
            ("'t''x' ADD", Some(&["t'x"])),
            ("$$it''s$$ ADD", Some(&["it''s"])),
            ("only ($x$T x$x$) ADD", Some(&["T x"])),
            ("größe ADD", Some(&["größe"])),
            ("IF EXISTS s.onlyé ADD", Some(&["s", "onlyé"])),
            ("onlyé ADD", Some(&["onlyé"])),
            // In doubt.
            ("(t) ADD", None),
            ("only.t ADD", None),
            ("e't' ADD", None),
            ("'t'\n'x' ADD", None),
            ("🦆\u{a0}ADD", None),
            ("IF\u{a0}EXISTS t ADD", None),
            ("ONLY\u{a0}t ADD", None),
            ("t\u{a0}.u ADD", None),
        ] {
            let mut rest = tokens(sql);
            let found = rest.altered_table();
            let found: Option<Vec<_>> = found
                .as_ref()
                .map(|found| found.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), parts, "{sql}");
            assert!(parts.is_none() || rest.accept(&["add"]), "{sql}");
        }
    }

    #[test]
    fn what_follows_a_name_in_doubt_is_found_all_the_same() {
        let mut rest = tokens("ONLY (s.e'a\\'b') ADD");
        assert_eq!(rest.altered_table(), None);
        assert!(rest.accept(&["add"]));
    }

    #[test]
    fn keywords_are_taken_all_or_none() {
        let mut rest = tokens("if exists t");
        assert!(!rest.accept_all(&["if", "not", "exists"]));
        assert!(rest.accept_all(&["if", "exists"]));
        assert_eq!(rest.qualified_name().unwrap(), ["t"]);
        for (sql, is_there) in [
            ("IF EXISTS t", Some(true)),
            ("if ADD", Some(false)),
            ("\u{a0}IF EXISTS t", Some(true)),
            ("IF\u{a0}EXISTS t", None),
        ] {
            assert_eq!(
                tokens(sql).accept_certain(&["if", "exists"]),
                is_there,
                "{sql}"
            );
        }
    }
}
