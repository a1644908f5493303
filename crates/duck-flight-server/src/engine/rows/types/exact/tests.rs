use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::*;

use super::*;

/// The place of the first value that does not fit.
fn misfit(array: impl Array + 'static, target: &DataType) -> Option<usize> {
    let array: ArrayRef = Arc::new(array);
    match Cast::new(array.data_type(), target).apply(&array) {
        Ok(cast) => {
            assert_eq!(cast.data_type(), target);
            None
        }
        Err(Failure::Misfit { index, .. }) => Some(index),
        Err(Failure::Arrow(error)) => panic!("{error}"),
    }
}

#[test]
fn decimals_of_every_width_keep_their_digits() {
    let target = DataType::Decimal128(10, 2);
    for scale in [10_050, 10_000] {
        let expected = (scale == 10_050).then_some(1);
        let values = Decimal32Array::from(vec![10_000, scale]);
        let values = values.with_precision_and_scale(9, 4).unwrap();
        assert_eq!(misfit(values.clone(), &target), expected);
        assert_eq!(misfit(values, &DataType::Int32), expected);
        let values = Decimal64Array::from(vec![10_000, i64::from(scale)]);
        let values = values.with_precision_and_scale(18, 4).unwrap();
        assert_eq!(misfit(values, &target), expected);
        let values = Decimal128Array::from(vec![10_000, i128::from(scale)]);
        let values = values.with_precision_and_scale(20, 4).unwrap();
        assert_eq!(misfit(values, &target), expected);
    }
}

#[test]
fn dictionaries_and_runs_are_looked_through() {
    let keys = Int8Array::from(vec![Some(1), None, Some(0)]);
    let of = |values: ArrayRef| DictionaryArray::new(keys.clone(), values);
    let floats = of(Arc::new(Float64Array::from(vec![1.5, 2.0])));
    assert_eq!(misfit(floats, &DataType::Int32), Some(2));
    let nanos = of(Arc::new(TimestampNanosecondArray::from(vec![1, 1000])));
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(misfit(nanos, &micros), Some(2));
    let runs = RunArray::try_new(
        &Int32Array::from(vec![2, 4]),
        &Float64Array::from(vec![1.0, 1.5]),
    );
    assert_eq!(misfit(runs.unwrap(), &DataType::Int32), Some(2));
}

#[test]
fn a_decimal_of_any_scale_becomes_the_nearest_double() {
    for (value, scale, nearest) in [(158_969, -5, 15_896_900_000.0), (-51_339, 23, -5.1339e-19)] {
        let array = Decimal128Array::from(vec![value])
            .with_precision_and_scale(38, scale)
            .unwrap();
        let array: ArrayRef = Arc::new(array);
        let Ok(doubles) = Cast::new(array.data_type(), &DataType::Float64).apply(&array) else {
            panic!("{value} at scale {scale} does not fit");
        };
        assert_eq!(doubles.as_primitive::<Float64Type>().value(0), nearest);
    }
}

#[test]
fn numbers_do_not_become_infinite_and_decimals_stay_what_they_are() {
    let infinite = Float64Array::from(vec![0.1, f64::INFINITY, f64::NAN, 1e300]);
    assert_eq!(misfit(infinite, &DataType::Float32), Some(3));
    let texts = StringArray::from(vec!["inf", "-infinity", "NaN", "1e39"]);
    assert_eq!(misfit(texts.clone(), &DataType::Float32), Some(3));
    assert_eq!(misfit(texts, &DataType::Float64), None);
    let decimals = |value| {
        let values = Decimal128Array::from(vec![1, value]);
        values.with_precision_and_scale(38, 1).unwrap()
    };
    assert_eq!(
        misfit(decimals(9_007_199_254_740_993), &DataType::Float64),
        Some(1)
    );
    assert_eq!(misfit(decimals(123), &DataType::Float32), None);
    assert_eq!(misfit(decimals(167_772_170), &DataType::Float32), Some(1));
}

#[test]
fn dates_do_not_outgrow_a_timestamp() {
    let days = Date32Array::from(vec![0, 2_932_532]);
    let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(misfit(days.clone(), &nanos), Some(1));
    assert_eq!(misfit(days, &micros), None);
    assert_eq!(
        misfit(Date32Array::from(vec![0, 150_000_000]), &micros),
        Some(1)
    );
    let millis = Date64Array::from(vec![0, 2_932_532 * 86_400_000, 1]);
    assert_eq!(misfit(millis.clone(), &nanos), Some(1));
    assert_eq!(misfit(millis.clone(), &micros), None);
    assert_eq!(misfit(millis, &DataType::Date32), Some(2));
}

#[test]
fn text_keeps_its_digits() {
    let cases = [
        ("12", 0),
        ("-12.50", 1),
        ("1.5e3", -2),
        ("1.5e1", 0),
        ("15e-1", 1),
        ("1500e-2", 0),
        ("0e-9", 0),
        ("0.000", 0),
        ("100", 0),
        ("2020-01-01 12:34:56.120+05:30", 2),
        ("12:34:56.123456789", 9),
    ];
    for (text, expected) in cases {
        assert_eq!(places(text), expected, "{text}");
    }
    let texts = |values: [&str; 2]| StringArray::from(values.to_vec());
    let decimal = DataType::Decimal128(10, 2);
    assert_eq!(misfit(texts(["1.50", "1.005"]), &decimal), Some(1));
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let moments = texts([
        "2020-01-01 12:34:56.123456000",
        "2020-01-01T12:34:56.1234567Z",
    ]);
    assert_eq!(misfit(moments, &micros), Some(1));
    let days = texts(["2020-01-01 00:00:00", "2020-01-01 12:34:56"]);
    assert_eq!(misfit(days, &DataType::Date32), Some(1));
}

#[test]
fn a_text_without_digits_is_no_decimal() {
    for text in ["", " ", "-", "+", ".", "-.", "e5", ".e5"] {
        for scale in [0, 2] {
            let texts = StringArray::from(vec!["0", text]);
            let decimal = DataType::Decimal128(10, scale);
            assert_eq!(misfit(texts, &decimal), Some(1), "{text:?}, {scale}");
        }
    }
    let texts = StringArray::from(vec!["0", ".5", "-1."]);
    assert_eq!(misfit(texts, &DataType::Decimal128(10, 2)), None);
}

#[test]
fn a_text_of_more_digits_than_any_decimal_has_is_none() {
    let decimal = DataType::Decimal128(10, 2);
    // 2^254: a hundred times that is 0 in 256 bits.
    let wraps = "28948022309329048855892746252171976963317496166410141009864396001978282409984";
    for text in [format!("{wraps}.000"), format!(" -0{wraps}.000 ")] {
        let texts = StringArray::from(vec!["0.000", &text]);
        assert_eq!(misfit(texts, &decimal), Some(1), "{text}");
    }
    let zeros = "0".repeat(60);
    let texts = StringArray::from(vec![format!("-{zeros}1.500"), format!("1.5{zeros}")]);
    assert_eq!(misfit(texts, &decimal), None);
}

#[test]
fn a_value_that_arrow_refuses_is_found() {
    let bad = i64::MAX;
    let days =
        |values: Vec<i64>| misfit(TimestampMicrosecondArray::from(values), &DataType::Date32);
    assert_eq!(days(vec![0, 86_400_000_000, bad, 0, bad]), Some(2));
    assert_eq!(days(vec![bad]), Some(0));
    // One that Arrow does not refuse comes before it, and one behind it.
    assert_eq!(days(vec![0, 1, 0, bad]), Some(1));
    assert_eq!(days(vec![0, bad, 0, 1]), Some(1));
    let zoned = |values: Vec<i64>| TimestampMicrosecondArray::from(values).with_timezone("+00:00");
    assert_eq!(misfit(zoned(vec![0, 0, bad]), &DataType::Utf8), Some(2));
    // In a dictionary it counts where a row refers to it.
    let values: ArrayRef = Arc::new(zoned(vec![0, bad]));
    for (keys, expected) in [(vec![0, 0, 0], None), (vec![0, 0, 1], Some(2))] {
        let dictionary = DictionaryArray::new(Int8Array::from(keys), values.clone());
        assert_eq!(misfit(dictionary, &DataType::Utf8), expected);
    }
}

#[test]
fn a_zone_that_nobody_knows_is_no_value_s_fault() {
    let lost = TimestampSecondArray::from(vec![0]).with_timezone("Atlantis/Port");
    let lost: ArrayRef = Arc::new(lost);
    let outcome = Cast::new(lost.data_type(), &DataType::Utf8).apply(&lost);
    assert!(matches!(outcome, Err(Failure::Arrow(_))), "{outcome:?}");
}

#[test]
fn a_text_is_a_time_only_where_it_tells_hours_and_minutes() {
    let micros = DataType::Time64(TimeUnit::Microsecond);
    let nanos = DataType::Time64(TimeUnit::Nanosecond);
    let millis = DataType::Time32(TimeUnit::Millisecond);
    for target in [&micros, &nanos, &millis] {
        for text in ["093000", "0", "1", "86399"] {
            let texts = StringArray::from(vec!["9:30:00", "09:30", text]);
            assert_eq!(misfit(texts, target), Some(2), "{text}");
        }
    }
    let texts = StringArray::from(vec!["09:30:00.123456", "09:30:00.1234567"]);
    assert_eq!(misfit(texts, &micros), Some(1));
}

#[test]
fn a_text_tells_a_day_only_where_no_zone_can_shift_it() {
    for text in [
        "2020-01-01 00:00:00 Europe/Berlin",
        "2020-01-01 00:00:00 UTC",
        "2020-01-01T00:00:00+05:30",
    ] {
        let texts = StringArray::from(vec!["2020-01-01", text]);
        assert_eq!(misfit(texts, &DataType::Date32), Some(1), "{text}");
    }
    let texts = StringArray::from(vec![
        "2020-01-01T00:00:00Z",
        "2020-01-01 00:00:00.000",
        "20200101",
    ]);
    assert_eq!(misfit(texts, &DataType::Date32), None);
}

#[test]
fn times_that_are_none_do_not_become_some_in_finer_units() {
    // In nanoseconds it is 2^64 and a bit.
    let wraps = (1_i64 << 61) / 125 + 1;
    let times = Time64MicrosecondArray::from(vec![0, wraps]);
    let nanos = DataType::Time64(TimeUnit::Nanosecond);
    assert_eq!(misfit(times, &nanos), Some(1));
}
