//! DuckDB's types that Arrow carries as extension types.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Int8Type};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::scalar::{Bytes, Strings, write_integer};
use super::time::{write_offset, write_time};
use super::{Values, bare, quoted, write_json_string};

const NAME_KEY: &str = "ARROW:extension:name";
const METADATA_KEY: &str = "ARROW:extension:metadata";

/// DuckDB stores a time zone's offset as its distance from this many seconds.
const MAX_TIME_TZ_OFFSET: i32 = 16 * 3600 - 1;

/// A type that a field's metadata names and its storage does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extension {
    Json,
    Uuid,
    Boolean,
    HugeInt,
    UnsignedHugeInt,
    BigNum,
    Bit,
    TimeWithZone,
    Geometry,
}

#[derive(Deserialize)]
struct OpaqueMetadata {
    type_name: String,
}

impl Extension {
    /// The extension type of a field, where it has one that is known here and is stored as expected.
    pub(crate) fn of(field: &Field) -> Option<Self> {
        let metadata = field.metadata();
        let extension = match metadata.get(NAME_KEY)?.as_str() {
            "arrow.json" => Self::Json,
            "arrow.uuid" => Self::Uuid,
            "arrow.bool8" => Self::Boolean,
            "geoarrow.wkb" => Self::Geometry,
            "arrow.opaque" => {
                let json = metadata.get(METADATA_KEY)?;
                let opaque: OpaqueMetadata = serde_json::from_str(json).ok()?;
                match opaque.type_name.as_str() {
                    "hugeint" => Self::HugeInt,
                    "uhugeint" => Self::UnsignedHugeInt,
                    "bignum" => Self::BigNum,
                    "bit" => Self::Bit,
                    "time_tz" => Self::TimeWithZone,
                    _ => return None,
                }
            }
            _ => return None,
        };
        extension.fits(field.data_type()).then_some(extension)
    }

    fn fits(self, storage: &DataType) -> bool {
        use DataType::{
            Binary, BinaryView, FixedSizeBinary, Int8, LargeBinary, LargeUtf8, Utf8, Utf8View,
        };
        match self {
            Self::Json => matches!(storage, Utf8 | LargeUtf8 | Utf8View),
            Self::Uuid | Self::HugeInt | Self::UnsignedHugeInt => *storage == FixedSizeBinary(16),
            Self::TimeWithZone => *storage == FixedSizeBinary(8),
            Self::Boolean => *storage == Int8,
            Self::BigNum | Self::Bit | Self::Geometry => {
                matches!(storage, Binary | LargeBinary | BinaryView)
            }
        }
    }

    /// DuckDB's name of the type.
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Uuid => "UUID",
            Self::Boolean => "BOOLEAN",
            Self::HugeInt => "HUGEINT",
            Self::UnsignedHugeInt => "UHUGEINT",
            Self::BigNum => "BIGNUM",
            Self::Bit => "BIT",
            Self::TimeWithZone => "TIME WITH TIME ZONE",
            Self::Geometry => "GEOMETRY",
        }
    }

    /// Whether the values are numbers.
    pub(crate) fn is_numeric(self) -> bool {
        matches!(self, Self::HugeInt | Self::UnsignedHugeInt | Self::BigNum)
    }
}

/// The writer of an array of a known extension type.
pub(super) fn values(field: &Field, array: &ArrayRef) -> Option<Box<dyn Values>> {
    let extension = Extension::of(field)?;
    // A dictionary's field describes the dictionary, but its values come here too.
    if !extension.fits(array.data_type()) {
        return None;
    }
    Some(match extension {
        Extension::Json => Box::new(Json(Strings::new(array))),
        Extension::Boolean => {
            let values = array.as_primitive::<Int8Type>().values().clone();
            bare(move |row, out| out.push_str(if values[row] == 0 { "false" } else { "true" }))
        }
        Extension::Uuid => quoted(fixed(array, |bytes, out| {
            write_uuid(u128::from_be_bytes(bytes), out);
        })),
        Extension::HugeInt => bare(fixed(array, |bytes, out| {
            write_integer(i128::from_le_bytes(bytes), out);
        })),
        Extension::UnsignedHugeInt => bare(fixed(array, |bytes, out| {
            write_integer(u128::from_le_bytes(bytes), out);
        })),
        Extension::TimeWithZone => quoted(fixed(array, |bytes, out| {
            write_time_with_zone(u64::from_le_bytes(bytes), out);
        })),
        Extension::BigNum => {
            let values = Bytes::new(array);
            bare(move |row, out| write_big_number(values.get(row), out))
        }
        Extension::Bit => {
            let values = Bytes::new(array);
            quoted(move |row, out| write_bits(values.get(row), out))
        }
        // Well-known binary stays a blob: only a spatial library reads it.
        Extension::Geometry => return None,
    })
}

/// Writes values of exactly `N` bytes.
fn fixed<const N: usize>(
    array: &ArrayRef,
    write: impl Fn([u8; N], &mut String) + 'static,
) -> impl Fn(usize, &mut String) + 'static {
    let values = array.as_fixed_size_binary().clone();
    move |row, out| {
        let bytes = values.value(row).try_into();
        write(bytes.expect("the storage was checked to be that wide"), out);
    }
}

fn write_uuid(uuid: u128, out: &mut String) {
    let digits = format!("{uuid:032x}");
    for (position, part) in [0..8, 8..12, 12..16, 16..20, 20..32]
        .into_iter()
        .enumerate()
    {
        if position > 0 {
            out.push('-');
        }
        out.push_str(&digits[part]);
    }
}

/// The upper 40 bits are microseconds of the day, the lower 24 the offset.
fn write_time_with_zone(bits: u64, out: &mut String) {
    let (micros, offset) = (bits >> 24, bits & 0xFF_FFFF);
    write_time(i64::try_from(micros).unwrap_or_default(), 6, out);
    let offset = i32::try_from(offset).unwrap_or_default();
    write_offset(MAX_TIME_TZ_OFFSET - offset, out);
}

/// The first byte says how many bits at the start of the second are padding.
fn write_bits(bytes: &[u8], out: &mut String) {
    let Some((padding, bits)) = bytes.split_first() else {
        return;
    };
    let bit = |position: usize| bits[position / 8] >> (7 - position % 8) & 1;
    let positions = usize::from(*padding)..bits.len() * 8;
    out.extend(positions.map(|position| if bit(position) == 1 { '1' } else { '0' }));
}

/// Three bytes of header, whose first bit is set for what is not negative, then the magnitude with its
/// highest byte first; every bit of a negative number is flipped.
fn write_big_number(bytes: &[u8], out: &mut String) {
    const HEADER_BYTES: usize = 3;
    let Some((header, magnitude)) = bytes.split_at_checked(HEADER_BYTES) else {
        return;
    };
    let negative = header[0] & 0x80 == 0;
    let flip = if negative { 0xFF } else { 0 };
    // Groups of nine decimal digits, lowest first: each byte multiplies them all by 256.
    let mut groups: Vec<u32> = vec![0];
    for byte in magnitude {
        let mut carry = u64::from(byte ^ flip);
        for group in &mut groups {
            let value = u64::from(*group) * 256 + carry;
            *group = u32::try_from(value % 1_000_000_000).unwrap_or_default();
            carry = value / 1_000_000_000;
        }
        if carry > 0 {
            groups.push(u32::try_from(carry).unwrap_or_default());
        }
    }
    if negative {
        out.push('-');
    }
    for (position, group) in groups.iter().rev().enumerate() {
        let width = if position == 0 { 1 } else { 9 };
        out.push_str(&format!("{group:0width$}"));
    }
}

/// Values that are JSON themselves.
struct Json(Strings);

impl Values for Json {
    fn write_text(&self, row: usize, out: &mut String) {
        out.push_str(self.0.get(row));
    }

    /// The value as it is, so that no number loses digits, but on one line.
    fn write_json(&self, row: usize, out: &mut String) {
        let text = self.0.get(row);
        if serde_json::from_str::<IgnoredAny>(text).is_err() {
            return write_json_string(text, out);
        }
        // A line break in valid JSON is white space between its tokens.
        out.extend(text.trim().chars().map(|character| match character {
            '\n' | '\r' => ' ',
            other => other,
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, FixedSizeBinaryArray, Int8Array, StringArray};

    use super::super::testing::{jsons, texts};
    use super::*;

    fn field(array: &ArrayRef, name: &str, metadata: &str) -> Field {
        Field::new("x", array.data_type().clone(), true).with_metadata(
            [(NAME_KEY, name), (METADATA_KEY, metadata)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        )
    }

    fn opaque(array: &ArrayRef, type_name: &str) -> Field {
        let metadata = format!("{{\"type_name\":\"{type_name}\",\"vendor_name\":\"DuckDB\"}}");
        field(array, "arrow.opaque", &metadata)
    }

    fn fixed_bytes(values: &[&[u8]]) -> ArrayRef {
        Arc::new(FixedSizeBinaryArray::try_from_iter(values.iter()).unwrap())
    }

    #[test]
    fn huge_integers_are_numbers_with_every_digit() {
        let array = fixed_bytes(&[&i128::MAX.to_le_bytes(), &(-5_i128).to_le_bytes()]);
        let field = opaque(&array, "hugeint");
        let expected = ["170141183460469231731687303715884105727", "-5"];
        assert_eq!(texts(&field, &array), expected);
        assert_eq!(jsons(&field, &array), expected);
        let array = fixed_bytes(&[&u128::MAX.to_le_bytes()]);
        let expected = ["340282366920938463463374607431768211455"];
        assert_eq!(texts(&opaque(&array, "uhugeint"), &array), expected);
    }

    #[test]
    fn big_numbers_read_as_decimal() {
        let values: [&[u8]; 4] = [
            &[0x80, 0, 1, 0],
            &[0x80, 0, 2, 1, 0],
            &[0x7f, 0xff, 0xfd, 0xfe, 0xd3],
            &[0x80, 0, 5, 2, 0x54, 0x0b, 0xe4, 0x00],
        ];
        let array: ArrayRef = Arc::new(BinaryArray::from_iter_values(values));
        let expected = ["0", "256", "-300", "10000000000"];
        assert_eq!(texts(&opaque(&array, "bignum"), &array), expected);
    }

    #[test]
    fn bits_leave_out_their_padding() {
        let array: ArrayRef = Arc::new(BinaryArray::from(vec![&[3, 0xf5][..], &[0, 1, 2]]));
        let expected = ["10101", "0000000100000010"];
        assert_eq!(texts(&opaque(&array, "bit"), &array), expected);
    }

    #[test]
    fn times_with_a_zone_keep_their_offset() {
        let array = fixed_bytes(&[
            &[0x5b, 0xc1, 0x00, 0x00, 0x82, 0x35, 0x7a, 0x0a],
            &[0x1f, 0xfd, 0x00, 0x20, 0x23, 0x3d, 0x7a, 0x0a],
        ]);
        let expected = ["12:30:00+02:15", "12:30:00.5-02"];
        assert_eq!(texts(&opaque(&array, "time_tz"), &array), expected);
    }

    #[test]
    fn uuids_and_booleans_are_told_by_their_metadata() {
        let array = fixed_bytes(&[&0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128.to_be_bytes()]);
        let expected = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"];
        assert_eq!(texts(&field(&array, "arrow.uuid", ""), &array), expected);
        let array: ArrayRef = Arc::new(Int8Array::from(vec![0, 1]));
        assert_eq!(
            jsons(&field(&array, "arrow.bool8", ""), &array),
            ["false", "true"]
        );
    }

    #[test]
    fn json_is_embedded_as_it_is_on_one_line() {
        let values = vec![
            "{\"a\": 12345678901234567890123,\n \"b\":\"\\n\"}",
            "broken",
        ];
        let array: ArrayRef = Arc::new(StringArray::from(values));
        let expected = [
            "{\"a\": 12345678901234567890123,  \"b\":\"\\n\"}",
            "\"broken\"",
        ];
        assert_eq!(jsons(&field(&array, "arrow.json", ""), &array), expected);
    }

    #[test]
    fn an_extension_stored_otherwise_is_shown_as_its_storage() {
        let array: ArrayRef = Arc::new(StringArray::from(vec!["u"]));
        assert_eq!(texts(&field(&array, "arrow.uuid", ""), &array), ["u"]);
    }
}
