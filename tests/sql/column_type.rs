//! The types of a result's columns, a letter for each.

use arrow::datatypes::DataType;

/// What clients see of a column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Boolean,
    Integer,
    /// A number with a fixed count of digits after the point.
    Decimal,
    /// A floating-point number.
    Real,
    Text,
    /// Bytes.
    Blob,
    Date,
    /// A time of day.
    Clock,
    /// A timestamp: without a time zone, or with one.
    Point,
    Zoned,
    /// An interval.
    Span,
    /// A list, array, struct, map or union.
    Nested,
    Other,
}

/// Each type's letter.
const LETTERS: [(ColumnType, char); 13] = [
    (ColumnType::Boolean, 'B'),
    (ColumnType::Integer, 'I'),
    (ColumnType::Decimal, 'N'),
    (ColumnType::Real, 'R'),
    (ColumnType::Text, 'T'),
    (ColumnType::Blob, 'X'),
    (ColumnType::Date, 'D'),
    (ColumnType::Clock, 'C'),
    (ColumnType::Point, 'P'),
    (ColumnType::Zoned, 'Z'),
    (ColumnType::Span, 'S'),
    (ColumnType::Nested, 'L'),
    (ColumnType::Other, '?'),
];

impl ColumnType {
    pub(crate) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Boolean,
            data_type if data_type.is_integer() => Self::Integer,
            DataType::Decimal128(..) | DataType::Decimal256(..) => Self::Decimal,
            DataType::Float32 | DataType::Float64 => Self::Real,
            DataType::Utf8 => Self::Text,
            DataType::Binary => Self::Blob,
            DataType::Date32 => Self::Date,
            DataType::Time64(_) => Self::Clock,
            DataType::Timestamp(_, None) => Self::Point,
            DataType::Timestamp(_, Some(_)) => Self::Zoned,
            DataType::Interval(_) => Self::Span,
            data_type if data_type.is_nested() => Self::Nested,
            _ => Self::Other,
        }
    }
}

impl sqllogictest::ColumnType for ColumnType {
    fn from_char(letter: char) -> Option<Self> {
        let found = LETTERS.iter().find(|(_, known)| *known == letter);
        found.map(|(column_type, _)| *column_type)
    }

    fn to_char(&self) -> char {
        let found = LETTERS.iter().find(|(known, _)| known == self);
        found.map_or('?', |(_, letter)| *letter)
    }
}
