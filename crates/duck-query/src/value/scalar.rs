//! Booleans, numbers, strings and bytes.

use std::fmt::{Display, LowerExp};

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BinaryViewArray,
    FixedSizeBinaryArray, LargeBinaryArray, LargeStringArray, StringArray, StringViewArray,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{
    ArrowNativeType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

use super::{Values, bare, push_hex, quoted};

/// The writer of an array that is neither nested nor about time.
pub(super) fn values(array: &ArrayRef) -> Box<dyn Values> {
    match array.data_type() {
        DataType::Boolean => booleans(array),
        DataType::Int8 => integers::<Int8Type>(array),
        DataType::Int16 => integers::<Int16Type>(array),
        DataType::Int32 => integers::<Int32Type>(array),
        DataType::Int64 => integers::<Int64Type>(array),
        DataType::UInt8 => integers::<UInt8Type>(array),
        DataType::UInt16 => integers::<UInt16Type>(array),
        DataType::UInt32 => integers::<UInt32Type>(array),
        DataType::UInt64 => integers::<UInt64Type>(array),
        DataType::Float16 => half_floats(array),
        DataType::Float32 => Box::new(Floats(array.as_primitive::<Float32Type>().values().clone())),
        DataType::Float64 => Box::new(Floats(array.as_primitive::<Float64Type>().values().clone())),
        DataType::Decimal32(_, scale) => decimals::<Decimal32Type>(array, *scale),
        DataType::Decimal64(_, scale) => decimals::<Decimal64Type>(array, *scale),
        DataType::Decimal128(_, scale) => decimals::<Decimal128Type>(array, *scale),
        DataType::Decimal256(_, scale) => decimals::<Decimal256Type>(array, *scale),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => strings(array),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => {
            let bytes = Bytes::new(array);
            quoted(move |row, out| write_blob(bytes.get(row), out))
        }
        // Only the type Null is left, and its rows are never asked for.
        _ => quoted(|_, _| ()),
    }
}

fn booleans(array: &ArrayRef) -> Box<dyn Values> {
    let array = array.as_boolean().clone();
    bare(move |row, out| out.push_str(if array.value(row) { "true" } else { "false" }))
}

fn integers<T: ArrowPrimitiveType<Native: itoa::Integer>>(array: &ArrayRef) -> Box<dyn Values> {
    let values = array.as_primitive::<T>().values().clone();
    bare(move |row, out| write_integer(values[row], out))
}

/// Appends an integer in decimal digits.
pub(super) fn write_integer(value: impl itoa::Integer, out: &mut String) {
    out.push_str(itoa::Buffer::new().format(value));
}

fn half_floats(array: &ArrayRef) -> Box<dyn Values> {
    let values = array.as_primitive::<Float16Type>().values();
    let wide: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
    Box::new(Floats(wide.into()))
}

struct Floats<T: ArrowNativeType>(ScalarBuffer<T>);

impl<T> Values for Floats<T>
where
    T: ArrowNativeType + ryu::Float + LowerExp + Into<f64>,
{
    fn write_text(&self, row: usize, out: &mut String) {
        write_float(self.0[row], out);
    }

    /// JSON has no number for these, and `null` would lose the value.
    fn write_json(&self, row: usize, out: &mut String) {
        match self.0[row].into() {
            value if value.is_nan() => out.push_str("\"NaN\""),
            f64::INFINITY => out.push_str("\"Infinity\""),
            f64::NEG_INFINITY => out.push_str("\"-Infinity\""),
            _ => self.write_text(row, out),
        }
    }
}

/// Appends the shortest digits that read back as the same number, as DuckDB lays them out: always with a
/// point or an exponent, and with an exponent below 1e-4 and from 1e16 on.
fn write_float<T: ryu::Float + LowerExp + Into<f64>>(value: T, out: &mut String) {
    let wide: f64 = value.into();
    let magnitude = wide.abs();
    if (1e-3..1e12).contains(&magnitude) || magnitude == 0.0 {
        // In this range the fast writer lays the digits out as DuckDB does.
        out.push_str(ryu::Buffer::new().format_finite(value));
    } else if wide.is_nan() {
        out.push_str("nan");
    } else if wide.is_infinite() {
        out.push_str(if wide > 0.0 { "inf" } else { "-inf" });
    } else {
        lay_out_float(&format!("{value:e}"), out);
    }
}

/// Lays out a number given as `digits[.digits]e[-]exponent`.
fn lay_out_float(scientific: &str, out: &mut String) {
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("the format {:e} always has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a small integer");
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        out.push_str(mantissa);
        out.push_str(&format!("e{sign}{:02}", exponent.unsigned_abs()));
        return;
    }
    let (sign, mantissa) = split_sign(mantissa);
    out.push_str(sign);
    let digits = mantissa.replace('.', "");
    let before_point = exponent + 1;
    if let Ok(zeros @ 1..) = usize::try_from(-exponent) {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', zeros - 1));
        out.push_str(&digits);
        return;
    }
    let before_point = usize::try_from(before_point).unwrap_or_default();
    if digits.len() > before_point {
        out.push_str(&digits[..before_point]);
        out.push('.');
        out.push_str(&digits[before_point..]);
    } else {
        out.push_str(&digits);
        out.extend(std::iter::repeat_n('0', before_point - digits.len()));
        out.push_str(".0");
    }
}

fn decimals<T: ArrowPrimitiveType<Native: Display>>(
    array: &ArrayRef,
    scale: i8,
) -> Box<dyn Values> {
    let values = array.as_primitive::<T>().values().clone();
    bare(move |row, out| write_decimal(&values[row].to_string(), scale, out))
}

/// Appends the integer `unscaled` divided by ten to the power of `scale`. Every digit is kept, also those
/// beyond the type's precision, which DuckDB's HUGEINT may have.
fn write_decimal(unscaled: &str, scale: i8, out: &mut String) {
    let places = usize::from(scale.unsigned_abs());
    if scale <= 0 {
        out.push_str(unscaled);
        if unscaled != "0" {
            out.extend(std::iter::repeat_n('0', places));
        }
        return;
    }
    let (sign, digits) = split_sign(unscaled);
    out.push_str(sign);
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(places));
    out.push_str(if whole.is_empty() { "0" } else { whole });
    out.push('.');
    out.extend(std::iter::repeat_n('0', places - fraction.len()));
    out.push_str(fraction);
}

fn split_sign(number: &str) -> (&str, &str) {
    number.split_at(usize::from(number.starts_with('-')))
}

fn strings(array: &ArrayRef) -> Box<dyn Values> {
    let strings = Strings::new(array);
    quoted(move |row, out| out.push_str(strings.get(row)))
}

/// An array of strings, whatever its layout.
pub(super) enum Strings {
    Small(StringArray),
    Large(LargeStringArray),
    View(StringViewArray),
}

impl Strings {
    /// The array, which must be one of strings.
    pub(super) fn new(array: &ArrayRef) -> Self {
        match array.data_type() {
            DataType::LargeUtf8 => Self::Large(array.as_string::<i64>().clone()),
            DataType::Utf8View => Self::View(array.as_string_view().clone()),
            _ => Self::Small(array.as_string::<i32>().clone()),
        }
    }

    /// The string in `row`.
    pub(super) fn get(&self, row: usize) -> &str {
        match self {
            Self::Small(array) => array.value(row),
            Self::Large(array) => array.value(row),
            Self::View(array) => array.value(row),
        }
    }
}

/// An array of byte strings, whatever its layout.
enum Bytes {
    Small(BinaryArray),
    Large(LargeBinaryArray),
    View(BinaryViewArray),
    Fixed(FixedSizeBinaryArray),
}

impl Bytes {
    /// The array, which must be one of byte strings.
    fn new(array: &ArrayRef) -> Self {
        match array.data_type() {
            DataType::LargeBinary => Self::Large(array.as_binary::<i64>().clone()),
            DataType::BinaryView => Self::View(array.as_binary_view().clone()),
            DataType::FixedSizeBinary(_) => Self::Fixed(array.as_fixed_size_binary().clone()),
            _ => Self::Small(array.as_binary::<i32>().clone()),
        }
    }

    /// The bytes in `row`.
    fn get(&self, row: usize) -> &[u8] {
        match self {
            Self::Small(array) => array.value(row),
            Self::Large(array) => array.value(row),
            Self::View(array) => array.value(row),
            Self::Fixed(array) => array.value(row),
        }
    }
}

/// Appends bytes as DuckDB shows a BLOB: printable ASCII as it is, the rest as `\xAB`.
fn write_blob(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        if matches!(byte, b' '..=b'~') && !matches!(byte, b'\\' | b'\'' | b'"') {
            out.push(char::from(byte));
        } else {
            out.push_str("\\x");
            push_hex(byte, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Decimal256Array, Float32Array,
        Float64Array, Int64Array, NullArray, StringViewArray, UInt64Array,
    };
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, i256};

    use super::super::testing::{jsons, plain_field, texts};

    fn both(array: ArrayRef) -> (Vec<String>, Vec<String>) {
        let field = plain_field(&array);
        (texts(&field, &array), jsons(&field, &array))
    }

    #[test]
    fn doubles_read_as_duckdb_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-3, "0.001"),
            (0.0001234, "0.0001234"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (-1234567890123456.5, "-1234567890123456.5"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
            (f64::NAN, "nan"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        let array: ArrayRef = Arc::new(Float64Array::from_iter_values(cases.map(|(v, _)| v)));
        assert_eq!(texts(&plain_field(&array), &array), cases.map(|(_, t)| t));
    }

    #[test]
    fn narrow_floats_keep_their_own_shortest_digits() {
        let array: ArrayRef = Arc::new(Float32Array::from(vec![0.1, 1e10, 1e15, 16777216.0]));
        let expected = ["0.1", "10000000000.0", "1000000000000000.0", "16777216.0"];
        assert_eq!(both(array).0, expected);
        let half = cast(&Float32Array::from(vec![1.5]), &DataType::Float16).unwrap();
        assert_eq!(both(half).0, ["1.5"]);
    }

    #[test]
    fn json_has_a_string_where_it_has_no_number() {
        let array = Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY, 2.5]);
        let expected = ["\"NaN\"", "\"-Infinity\"", "2.5"];
        assert_eq!(both(Arc::new(array)).1, expected);
    }

    #[test]
    fn integers_of_every_size_are_exact() {
        let (text, json) = both(Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])));
        assert_eq!(text, ["-9223372036854775808", "9223372036854775807"]);
        assert_eq!(json, text);
        let (_, json) = both(Arc::new(UInt64Array::from(vec![u64::MAX])));
        assert_eq!(json, ["18446744073709551615"]);
    }

    #[test]
    fn decimals_keep_their_scale_and_every_digit() {
        let of = |values: Vec<i128>, precision, scale| -> ArrayRef {
            let array = Decimal128Array::from(values);
            Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
        };
        let (text, json) = both(of(vec![-105, 150, 5, 0, -5], 10, 2));
        assert_eq!(text, ["-1.05", "1.50", "0.05", "0.00", "-0.05"]);
        assert_eq!(json, text);
        let largest_hugeint = both(of(vec![i128::MAX], 38, 0)).0;
        assert_eq!(largest_hugeint, ["170141183460469231731687303715884105727"]);
        assert_eq!(both(of(vec![12, 0], 5, -2)).0, ["1200", "0"]);
        let wide = Decimal256Array::from(vec![i256::from(12345)]);
        let wide = wide.with_precision_and_scale(50, 3).unwrap();
        assert_eq!(both(Arc::new(wide)).0, ["12.345"]);
    }

    #[test]
    fn blobs_show_what_is_printable_and_escape_the_rest() {
        let array = BinaryArray::from(vec![b"\x00ab" as &[u8], b"a\\'\"~\xff\n", b""]);
        let expected = ["\\x00ab", "a\\x5C\\x27\\x22~\\xFF\\x0A", ""];
        assert_eq!(both(Arc::new(array)).0, expected);
    }

    #[test]
    fn strings_are_escaped_in_json_only() {
        let value = "a\"b\\c\n\u{1}é";
        let (text, json) = both(Arc::new(StringViewArray::from(vec![value])));
        assert_eq!(text, [value]);
        assert_eq!(json, ["\"a\\\"b\\\\c\\n\\u0001é\""]);
    }

    #[test]
    fn booleans_are_words_and_nulls_are_null() {
        let (text, json) = both(Arc::new(BooleanArray::from(vec![Some(true), None])));
        assert_eq!(
            (text.join(" "), json.join(" ")),
            ("true NULL".into(), "true null".into())
        );
        assert_eq!(both(Arc::new(NullArray::new(1))).1, ["null"]);
    }
}
