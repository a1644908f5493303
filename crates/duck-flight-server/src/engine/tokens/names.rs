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

    /// Takes a name with its qualifiers, as DuckDB knows them. `None` where that is not certain.
    pub(in crate::engine) fn qualified_name(&mut self) -> Option<Vec<String>> {
        let mut parts = vec![self.name_part()?];
        while self.peek() == Some(Token::Symbol('.')) {
            self.next();
            parts.push(self.name_part()?);
        }
        Some(parts)
    }

    /// Letters beyond ASCII are a part of it, unlike in a [`Token::Word`]: what follows them is white space, or in doubt.
    fn name_part(&mut self) -> Option<String> {
        self.rest = skip_space(self.rest);
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return match self.next()? {
                Token::Name(name) => Some(name.replace("\"\"", "\"")),
                Token::Text(name) => Some(name.replace("''", "'")),
                _ => None,
            };
        }
        let name = self.take(end);
        let is_end =
            |c: char| c.is_whitespace() || c.is_ascii() && c != '\'' && c != '"' && c != '&';
        let ends = self.rest.chars().next().is_none_or(is_end);
        ends.then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::tokens::tokens;

    #[test]
    fn names_are_read_as_duckdb_knows_them() {
        for (sql, parts) in [
            ("t", Some(&["t"][..])),
            (" /* */ Main . t rest", Some(&["Main", "t"])),
            ("db.\"a \"\" b\".\"T\"(i)", Some(&["db", "a \" b", "T"])),
            ("größe", Some(&["größe"])),
            ("s.größe\u{a0}ADD", Some(&["s", "größe"])),
            ("'t''x'", Some(&["t'x"])),
            // In doubt.
            ("🦆", None),
            ("cafe\u{301}", None),
            ("U&\"t\"", None),
            ("e't'", None),
            ("s.", None),
            ("(t)", None),
        ] {
            let found = tokens(sql).qualified_name();
            let found: Option<Vec<_>> = found
                .as_ref()
                .map(|found| found.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), parts, "{sql}");
        }
    }

    #[test]
    fn keywords_are_taken_all_or_none() {
        let mut rest = tokens("if exists t");
        assert!(!rest.accept_all(&["if", "not", "exists"]));
        assert!(rest.accept_all(&["if", "exists"]));
        assert_eq!(rest.qualified_name().unwrap(), ["t"]);
    }
}
