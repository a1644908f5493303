//! DuckDB's types, as its C API hands them out.

use duck_flight_protocol::quote;
use duckdb::ffi;

use super::take_text;

/// How many members of a union Arrow tells apart; DuckDB's may have twice as many.
pub(crate) const MAX_MEMBERS: u64 = 128;

/// A DuckDB type, owned.
pub(super) struct LogicalType(pub(super) ffi::duckdb_logical_type);

// SAFETY: a type is never changed once it is made, and what it shares inside is counted atomically.
unsafe impl Send for LogicalType {}
// SAFETY: as above.
unsafe impl Sync for LogicalType {}

impl Drop for LogicalType {
    fn drop(&mut self) {
        // SAFETY: made by DuckDB for us, freed only here; null is allowed.
        unsafe { ffi::duckdb_destroy_logical_type(&raw mut self.0) };
    }
}

impl LogicalType {
    pub(super) fn id(&self) -> ffi::duckdb_type {
        // SAFETY: the type is live or null, which has the id of no type.
        unsafe { ffi::duckdb_get_type_id(self.0) }
    }

    /// Whether it is a type at all: a parameter's may be left to its value.
    pub(super) fn is_known(&self) -> bool {
        !matches!(
            self.id(),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_INVALID | ffi::DUCKDB_TYPE_DUCKDB_TYPE_ANY
        )
    }

    /// Whether Arrow has values of it, as DuckDB exports them.
    pub(super) fn has_arrow_type(&self) -> bool {
        let children = self.children();
        let is_told = match self.id() {
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARIANT => false,
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_UNION => children.len() as u64 <= MAX_MEMBERS,
            _ => true,
        };
        is_told && children.iter().all(|(_, child)| child.has_arrow_type())
    }

    /// The type itself, or that of texts where Arrow has none for it.
    pub(super) fn or_text(self) -> Self {
        if self.has_arrow_type() {
            return self;
        }
        // SAFETY: the id is one of a plain type; the type is freed by its wrapper.
        Self(unsafe { ffi::duckdb_create_logical_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR) })
    }

    /// The type itself, or that of NULL where it, or a type inside it, is left to a value.
    pub(super) fn or_null(self) -> Self {
        if !self.contains(&[
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_INVALID,
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_ANY,
        ]) {
            return self;
        }
        // SAFETY: the id is one of a plain type; the type is freed by its wrapper.
        Self(unsafe { ffi::duckdb_create_logical_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_SQLNULL) })
    }

    /// Whether the type, or a type inside it, is one of `ids`.
    pub(super) fn contains(&self, ids: &[ffi::duckdb_type]) -> bool {
        ids.contains(&self.id()) || self.children().iter().any(|(_, child)| child.contains(ids))
    }

    /// Whether values of one type are values of the other as they are. Where that is hard to tell, they are not.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.is_plain() && other.is_plain() && self.name() == other.name()
    }

    /// Whether they are one type, to the values of enums.
    pub(super) fn is_equal(&self, other: &Self) -> bool {
        let (children, others) = (self.children(), other.children());
        self.id() == other.id()
            && self.alias() == other.alias()
            && self.enum_size() == other.enum_size()
            && self.enum_values().eq(other.enum_values())
            && children.len() == others.len()
            && children
                .iter()
                .zip(&others)
                .all(|((name, child), (other_name, other))| {
                    name == other_name && child.is_equal(other)
                })
    }

    /// Whether it is text that is JSON.
    pub(super) fn is_json(&self) -> bool {
        self.id() == ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR && self.alias() == "JSON"
    }

    fn enum_size(&self) -> u32 {
        if self.id() != ffi::DUCKDB_TYPE_DUCKDB_TYPE_ENUM {
            return 0;
        }
        // SAFETY: the type is a live enum.
        unsafe { ffi::duckdb_enum_dictionary_size(self.0) }
    }

    fn enum_values(&self) -> impl Iterator<Item = String> {
        (0..self.enum_size()).map(|index| {
            // SAFETY: the type is a live enum with this many values; each comes back owned.
            unsafe { take_text(ffi::duckdb_enum_dictionary_value(self.0, index.into())) }
        })
    }

    /// Whether the name tells all about the type.
    pub(super) fn is_plain(&self) -> bool {
        let is_special = matches!(
            self.id(),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_INVALID
                | ffi::DUCKDB_TYPE_DUCKDB_TYPE_ENUM
                | ffi::DUCKDB_TYPE_DUCKDB_TYPE_UNION
        );
        let is_plain = |(_, child): &(String, Self)| child.is_plain();
        !is_special && self.alias().is_empty() && self.children().iter().all(is_plain)
    }

    /// The name that the type was given beside its own; empty where it has none.
    fn alias(&self) -> String {
        // SAFETY: the type is live or null; the alias comes back owned, or null.
        unsafe { take_text(ffi::duckdb_logical_type_get_alias(self.0)) }
    }

    /// The types inside, with their names where they have some.
    pub(super) fn children(&self) -> Vec<(String, Self)> {
        let unnamed = |child| (String::new(), Self(child));
        // SAFETY: the type is live; children and names come back owned and are freed by their wrappers.
        unsafe {
            match self.id() {
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_LIST => {
                    vec![unnamed(ffi::duckdb_list_type_child_type(self.0))]
                }
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_ARRAY => {
                    vec![unnamed(ffi::duckdb_array_type_child_type(self.0))]
                }
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_MAP => vec![
                    unnamed(ffi::duckdb_map_type_key_type(self.0)),
                    unnamed(ffi::duckdb_map_type_value_type(self.0)),
                ],
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_STRUCT => {
                    (0..ffi::duckdb_struct_type_child_count(self.0))
                        .map(|index| {
                            let name = take_text(ffi::duckdb_struct_type_child_name(self.0, index));
                            let child = ffi::duckdb_struct_type_child_type(self.0, index);
                            (name, Self(child))
                        })
                        .collect()
                }
                ffi::DUCKDB_TYPE_DUCKDB_TYPE_UNION => {
                    (0..ffi::duckdb_union_type_member_count(self.0))
                        .map(|index| {
                            let name = take_text(ffi::duckdb_union_type_member_name(self.0, index));
                            let member = ffi::duckdb_union_type_member_type(self.0, index);
                            (name, Self(member))
                        })
                        .collect()
                }
                _ => Vec::new(),
            }
        }
    }

    /// The type as SQL writes it: `DECIMAL(18,3)`, `INTEGER[]`. An enum is its name, or `ENUM`.
    pub(super) fn name(&self) -> String {
        let alias = self.alias();
        if !alias.is_empty() {
            return alias;
        }
        let children = self.children();
        let names = || {
            let names = children.iter().map(|(_, child)| child.name());
            names.collect::<Vec<_>>()
        };
        let members = || {
            let members = children
                .iter()
                .map(|(name, child)| format!("{} {}", quote(name), child.name()));
            members.collect::<Vec<_>>().join(", ")
        };
        match self.id() {
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_DECIMAL => {
                // SAFETY: the type is a live decimal.
                let (width, scale) = unsafe {
                    (
                        ffi::duckdb_decimal_width(self.0),
                        ffi::duckdb_decimal_scale(self.0),
                    )
                };
                format!("DECIMAL({width},{scale})")
            }
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_LIST => format!("{}[]", names().concat()),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_ARRAY => {
                // SAFETY: the type is a live array.
                let size = unsafe { ffi::duckdb_array_type_array_size(self.0) };
                format!("{}[{size}]", names().concat())
            }
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_MAP => format!("MAP({})", names().join(", ")),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_STRUCT => format!("STRUCT({})", members()),
            ffi::DUCKDB_TYPE_DUCKDB_TYPE_UNION => format!("UNION({})", members()),
            id => plain_name(id).to_owned(),
        }
    }
}

fn plain_name(id: ffi::duckdb_type) -> &'static str {
    match id {
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_BOOLEAN => "BOOLEAN",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TINYINT => "TINYINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_SMALLINT => "SMALLINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_INTEGER => "INTEGER",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGINT => "BIGINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_UTINYINT => "UTINYINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_USMALLINT => "USMALLINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_UINTEGER => "UINTEGER",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_UBIGINT => "UBIGINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_HUGEINT => "HUGEINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_UHUGEINT => "UHUGEINT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIGNUM => "BIGNUM",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_FLOAT => "FLOAT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_DOUBLE => "DOUBLE",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARCHAR => "VARCHAR",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_BLOB => "BLOB",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIT => "BIT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_UUID => "UUID",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_ENUM => "ENUM",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_DATE => "DATE",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME => "TIME",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_NS => "TIME_NS",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_TZ => "TIME WITH TIME ZONE",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP => "TIMESTAMP",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_S => "TIMESTAMP_S",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_MS => "TIMESTAMP_MS",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_NS => "TIMESTAMP_NS",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIMESTAMP_TZ => "TIMESTAMP WITH TIME ZONE",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_INTERVAL => "INTERVAL",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_GEOMETRY => "GEOMETRY",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_VARIANT => "VARIANT",
        ffi::DUCKDB_TYPE_DUCKDB_TYPE_SQLNULL => "\"NULL\"",
        _ => "UNKNOWN",
    }
}
