//! Schema evolution: what a table lacks for the rows of a stream, as ALTER statements.
//!
//! A column's type is widened only to one that holds every value of the old type and of the stream's, so no
//! value is ever lost. Where there is no such type the column stays, and each value must fit it.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, TimeUnit};
use duck_flight_protocol::{SchemaMode, TableName, quote};
use duckdb::ffi;

use super::effect::Effect;
use super::sql_type::column_definition;
use super::types::{Names, is_text, plain};
use crate::engine::ffi::ColumnShape;
use crate::error::Result;

/// A change of a table.
pub(in crate::engine) struct Alteration {
    pub(in crate::engine) sql: String,
    /// The column that it gives another type, where it does.
    pub(in crate::engine) widened: Option<Widened>,
}

/// A column that is given another type.
pub(in crate::engine) struct Widened {
    pub(in crate::engine) column: String,
    /// Its name, as SQL.
    pub(in crate::engine) name: String,
    /// What becomes of each of its values, as SQL.
    pub(in crate::engine) value: String,
}

/// The changes after which the table has room for the stream's rows; none where it has already. Those of
/// [fixed columns](super::fixed) DuckDB refuses.
pub(in crate::engine) fn alterations(
    table: &TableName,
    columns: &[ColumnShape],
    stream: &Schema,
    effect: &Effect,
    mode: SchemaMode,
) -> Result<Vec<Alteration>> {
    let mut alterations = Vec::new();
    if mode == SchemaMode::Match {
        return Ok(alterations);
    }
    let names = Names::new(columns.iter().map(|column| column.field.name()));
    for field in stream.fields() {
        if !effect.concerns(field.name()) {
            continue;
        }
        let column = names.place(field.name()).map(|place| &columns[place]);
        let (table, name) = (table.to_sql(), quote(field.name()));
        match column {
            None if has_no_type_yet(field, mode) => {}
            None => {
                let column = column_definition(field)?;
                alterations.push(Alteration {
                    sql: format!("ALTER TABLE {table} ADD COLUMN {column}"),
                    widened: None,
                });
            }
            Some(column) => {
                if let Some(wider) = widen(column, field, mode) {
                    // DuckDB has no cast from TIME to TIME_NS.
                    let value = match wider.as_str() {
                        "TIME_NS" => format!("{name}::VARCHAR::TIME_NS"),
                        _ => format!("CAST({name} AS {wider})"),
                    };
                    alterations.push(Alteration {
                        sql: format!(
                            "ALTER TABLE {table} ALTER COLUMN {name} SET DATA TYPE {wider} USING {value}"
                        ),
                        widened: Some(Widened {
                            column: field.name().clone(),
                            name,
                            value,
                        }),
                    });
                }
            }
        }
    }
    Ok(alterations)
}

/// Whether a stream's column holds nothing but nulls and the table may get it later, with a type: any that it were given
/// now would refuse the values of others.
pub(super) fn has_no_type_yet(field: &Field, mode: SchemaMode) -> bool {
    mode != SchemaMode::Match && *plain(field.data_type()) == DataType::Null
}

/// Why a column has a type still that a stream's values may not fit, where the put would give it a wider one: it is
/// [fixed](super::fixed).
pub(super) fn why_it_stays(
    column: &ColumnShape,
    field: &Field,
    mode: SchemaMode,
) -> Option<String> {
    if mode == SchemaMode::Match || column.is_generated {
        return None;
    }
    widen(column, field, mode)?;
    Some(format!(
        "the column stays {}, for a key, a CHECK, a generated column, an index or a foreign key is in the way of \
         another type: drop the index or the generated column first, or make the table anew",
        column.sql_type()
    ))
}

/// The type to widen a column to, where that helps.
fn widen(column: &ColumnShape, field: &Field, mode: SchemaMode) -> Option<String> {
    // An extension type means more than its storage: a UUID is no blob to be widened.
    if field.extension_type_name().is_some() || column.field.extension_type_name().is_some() {
        return None;
    }
    // In Arrow it looks like TIME, which has no place for the offset.
    if column.type_id == ffi::DUCKDB_TYPE_DUCKDB_TYPE_TIME_TZ {
        return None;
    }
    let (old, new) = (column.field.data_type(), plain(field.data_type()));
    if old == new || *new == DataType::Null {
        return None;
    }
    // In Arrow it looks like a BLOB, and leaves as the text that it is parsed from.
    if column.type_id == ffi::DUCKDB_TYPE_DUCKDB_TYPE_BIT && is_text(new) {
        return None;
    }
    let (old_kind, new_kind) = (Kind::of(old)?, Kind::of(new)?);
    match common(old_kind, new_kind) {
        Some(kind) => (old_kind != kind).then(|| kind.sql()),
        // Most moments are both.
        None if old_kind.is_moment() && new_kind.is_moment() => None,
        None if mode == SchemaMode::EvolveText && !is_text(old) => Some("VARCHAR".into()),
        None => None,
    }
}

/// The types that can be widened, and what tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signed { bits: u8 },
    Unsigned { bits: u8 },
    Float { bits: u8 },
    Decimal { digits: u8, scale: u8 },
    Date,
    Timestamp(TimeUnit),
    Zoned,
    Time { nanos: bool },
    Text,
    Bool,
    Blob,
}

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        use DataType::*;
        Some(match data_type {
            Int8 => Self::Signed { bits: 8 },
            Int16 => Self::Signed { bits: 16 },
            Int32 => Self::Signed { bits: 32 },
            Int64 => Self::Signed { bits: 64 },
            UInt8 => Self::Unsigned { bits: 8 },
            UInt16 => Self::Unsigned { bits: 16 },
            UInt32 => Self::Unsigned { bits: 32 },
            UInt64 => Self::Unsigned { bits: 64 },
            Float16 | Float32 => Self::Float { bits: 32 },
            Float64 => Self::Float { bits: 64 },
            Decimal32(digits, scale) | Decimal64(digits, scale) | Decimal128(digits, scale) => {
                Self::Decimal {
                    digits: *digits,
                    scale: u8::try_from(*scale).ok()?,
                }
            }
            Date32 | Date64 => Self::Date,
            Timestamp(unit, None) => Self::Timestamp(*unit),
            Timestamp(_, Some(_)) => Self::Zoned,
            Time32(_) | Time64(TimeUnit::Microsecond) => Self::Time { nanos: false },
            Time64(_) => Self::Time { nanos: true },
            Boolean => Self::Bool,
            Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Self::Blob,
            text if is_text(text) => Self::Text,
            _ => return None,
        })
    }

    fn sql(self) -> String {
        let name = match self {
            Self::Signed { bits: 8 } => "TINYINT",
            Self::Signed { bits: 16 } => "SMALLINT",
            Self::Signed { bits: 32 } => "INTEGER",
            Self::Signed { bits: 64 } => "BIGINT",
            Self::Signed { .. } => "HUGEINT",
            Self::Unsigned { bits: 8 } => "UTINYINT",
            Self::Unsigned { bits: 16 } => "USMALLINT",
            Self::Unsigned { bits: 32 } => "UINTEGER",
            Self::Unsigned { .. } => "UBIGINT",
            Self::Float { bits: 32 } => "FLOAT",
            Self::Float { .. } => "DOUBLE",
            Self::Decimal { digits, scale } => return format!("DECIMAL({digits}, {scale})"),
            Self::Date => "DATE",
            Self::Timestamp(TimeUnit::Second) => "TIMESTAMP_S",
            Self::Timestamp(TimeUnit::Millisecond) => "TIMESTAMP_MS",
            Self::Timestamp(TimeUnit::Microsecond) => "TIMESTAMP",
            Self::Timestamp(TimeUnit::Nanosecond) => "TIMESTAMP_NS",
            Self::Zoned => "TIMESTAMP WITH TIME ZONE",
            Self::Time { nanos: false } => "TIME",
            Self::Time { nanos: true } => "TIME_NS",
            Self::Text => "VARCHAR",
            Self::Bool => "BOOLEAN",
            Self::Blob => "BLOB",
        };
        name.into()
    }

    /// Whether its values are days or moments of no zone.
    fn is_moment(self) -> bool {
        matches!(self, Self::Date | Self::Timestamp(_))
    }

    /// An integer as the decimal that holds all its values.
    fn as_decimal(self) -> Option<(u8, u8)> {
        let digits = match self {
            Self::Decimal { digits, scale } => return Some((digits, scale)),
            Self::Signed { bits: 8 } | Self::Unsigned { bits: 8 } => 3,
            Self::Signed { bits: 16 } | Self::Unsigned { bits: 16 } => 5,
            Self::Signed { bits: 32 } | Self::Unsigned { bits: 32 } => 10,
            Self::Signed { bits: 64 } => 19,
            Self::Unsigned { bits: 64 } => 20,
            _ => return None,
        };
        Some((digits, 0))
    }
}

/// The narrowest kind that holds every value of both, where DuckDB has one.
fn common(one: Kind, other: Kind) -> Option<Kind> {
    use Kind::{Date, Decimal, Float, Signed, Time, Timestamp, Unsigned};
    if one == other {
        return Some(one);
    }
    match (one, other) {
        (Signed { bits: a }, Signed { bits: b }) => Some(Signed { bits: a.max(b) }),
        (Unsigned { bits: a }, Unsigned { bits: b }) => Some(Unsigned { bits: a.max(b) }),
        // A signed type needs a bit more than the unsigned one; beyond 64 there is HUGEINT.
        (Signed { bits: s }, Unsigned { bits: u }) | (Unsigned { bits: u }, Signed { bits: s }) => {
            Some(Signed {
                bits: s.max(u.saturating_mul(2)),
            })
        }
        (Float { bits: a }, Float { bits: b }) => Some(Float { bits: a.max(b) }),
        // A float holds integers of up to 24 bits exactly, a double those of up to 53.
        (Signed { bits } | Unsigned { bits }, Float { bits: float })
        | (Float { bits: float }, Signed { bits } | Unsigned { bits }) => match bits {
            8 | 16 => Some(Float { bits: float }),
            32 => Some(Float { bits: 64 }),
            _ => None,
        },
        (Decimal { .. }, Decimal { .. } | Signed { .. } | Unsigned { .. })
        | (Signed { .. } | Unsigned { .. }, Decimal { .. }) => {
            let ((p, s), (q, t)) = (one.as_decimal()?, other.as_decimal()?);
            let scale = s.max(t);
            let digits = p.saturating_sub(s).max(q.saturating_sub(t)) + scale;
            (digits <= DECIMAL128_MAX_PRECISION).then_some(Decimal { digits, scale })
        }
        // Those of nanoseconds end in 2262.
        (Date | Timestamp(_), Timestamp(TimeUnit::Nanosecond))
        | (Timestamp(TimeUnit::Nanosecond), Date | Timestamp(_)) => None,
        (Date, Timestamp(unit)) | (Timestamp(unit), Date) => Some(Timestamp(unit)),
        (Timestamp(one), Timestamp(other)) => Some(Timestamp(finer(one, other))),
        (Time { .. }, Time { .. }) => Some(Time { nanos: true }),
        _ => None,
    }
}

fn finer(one: TimeUnit, other: TimeUnit) -> TimeUnit {
    let units = [TimeUnit::Microsecond, TimeUnit::Millisecond];
    let finest = units
        .into_iter()
        .find(|unit| *unit == one || *unit == other);
    finest.unwrap_or(TimeUnit::Second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common_type(one: &DataType, other: &DataType) -> Option<String> {
        let kinds = Kind::of(one).zip(Kind::of(other));
        let both = kinds.and_then(|(one, other)| common(one, other));
        let swapped = kinds.and_then(|(one, other)| common(other, one));
        assert_eq!(both, swapped, "{one} and {other}");
        both.map(Kind::sql)
    }

    #[test]
    fn a_common_type_holds_every_value_of_both() {
        use DataType::*;
        let micros = Timestamp(TimeUnit::Microsecond, None);
        let nanos = Timestamp(TimeUnit::Nanosecond, None);
        let cases = [
            (Int32, Int64, Some("BIGINT")),
            (UInt8, Int8, Some("SMALLINT")),
            (UInt32, Int64, Some("BIGINT")),
            (UInt64, Int8, Some("HUGEINT")),
            (Int16, Float32, Some("FLOAT")),
            (Int32, Float32, Some("DOUBLE")),
            (Int64, Float64, None),
            (Float32, Float64, Some("DOUBLE")),
            (Decimal128(10, 2), Decimal128(12, 6), Some("DECIMAL(14, 6)")),
            (Decimal128(10, 2), Int64, Some("DECIMAL(21, 2)")),
            (Decimal128(38, 2), Decimal128(38, 6), None),
            (Date32, micros.clone(), Some("TIMESTAMP")),
            (
                Timestamp(TimeUnit::Second, None),
                micros.clone(),
                Some("TIMESTAMP"),
            ),
            (Date32, nanos.clone(), None),
            (micros.clone(), nanos.clone(), None),
            (nanos.clone(), nanos, Some("TIMESTAMP_NS")),
            (
                Timestamp(TimeUnit::Second, Some("UTC".into())),
                micros,
                None,
            ),
            (Boolean, Int32, None),
            (Utf8, Int32, None),
        ];
        for (one, other, expected) in cases {
            assert_eq!(
                common_type(&one, &other).as_deref(),
                expected,
                "{one}, {other}"
            );
        }
    }
}
