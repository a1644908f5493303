//! Geometries on their way in. What a `GEOMETRY` leaves as are bytes (WKB), and what DuckDB casts to one is text (WKT).

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;

use super::Failure;

/// How deep collections may be in each other: as deep as DuckDB reads them.
const MAX_DEPTH: usize = 16;

/// The texts of geometries, which are bytes of any kind.
pub(super) fn texts(array: &ArrayRef) -> Result<ArrayRef, Failure> {
    let array = cast(array, &DataType::LargeBinary)?;
    let geometries = array.as_binary::<i64>();
    let mut texts = StringBuilder::with_capacity(geometries.len(), 0);
    for (index, bytes) in geometries.iter().enumerate() {
        let Some(bytes) = bytes else {
            texts.append_null();
            continue;
        };
        let text = text(bytes).ok_or_else(|| Failure::Misfit {
            index,
            reason: format!("{} bytes are no geometry in WKB", bytes.len()),
        })?;
        texts.append_value(text);
    }
    Ok(Arc::new(texts.finish()))
}

/// The text of one geometry; `None` where the bytes are none.
fn text(bytes: &[u8]) -> Option<String> {
    let mut reader = Reader { rest: bytes };
    let mut text = String::new();
    reader.geometry(&mut text, 0)?;
    reader.rest.is_empty().then_some(text)
}

struct Reader<'a> {
    rest: &'a [u8],
}

/// What a geometry's first bytes tell.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    is_little: bool,
    kind: u32,
    has_z: bool,
    has_m: bool,
}

const POINT: u32 = 1;
const LINE: u32 = 2;
const POLYGON: u32 = 3;
const NAMES: [&str; 7] = [
    "POINT",
    "LINESTRING",
    "POLYGON",
    "MULTIPOINT",
    "MULTILINESTRING",
    "MULTIPOLYGON",
    "GEOMETRYCOLLECTION",
];

impl Reader<'_> {
    fn geometry(&mut self, out: &mut String, depth: usize) -> Option<()> {
        let head = self.head()?;
        let place = usize::try_from(head.kind).ok()?.checked_sub(1)?;
        out.push_str(NAMES.get(place)?);
        out.push_str(match (head.has_z, head.has_m) {
            (false, false) => " ",
            (true, false) => " Z ",
            (false, true) => " M ",
            (true, true) => " ZM ",
        });
        let part_kind = match head.kind {
            POINT..=POLYGON => return self.plain(head, out),
            4 => POINT,
            5 => LINE,
            6 => POLYGON,
            _ if depth == MAX_DEPTH => return None,
            _ => return self.list(head, out, |reader, out| reader.geometry(out, depth + 1)),
        };
        self.list(head, out, |reader, out| {
            let part = reader.head()?;
            let is_alike =
                (part.kind, part.has_z, part.has_m) == (part_kind, head.has_z, head.has_m);
            is_alike.then_some(())?;
            reader.plain(part, out)
        })
    }

    /// The body of a point, a line or a polygon.
    fn plain(&mut self, head: Head, out: &mut String) -> Option<()> {
        match head.kind {
            POINT => {
                let start = out.len();
                out.push('(');
                let is_empty = self.vertex(head, out)?;
                out.push(')');
                if is_empty {
                    out.replace_range(start.., "EMPTY");
                }
                Some(())
            }
            LINE => self.line(head, out),
            // A ring without points has no text.
            _ => self.list(head, out, |reader, out| {
                let start = out.len();
                reader.line(head, out)?;
                (!out[start..].starts_with('E')).then_some(())
            }),
        }
    }

    fn line(&mut self, head: Head, out: &mut String) -> Option<()> {
        self.list(head, out, |reader, out| reader.vertex(head, out).map(drop))
    }

    /// As many parts as the next number says, in brackets.
    fn list(
        &mut self,
        head: Head,
        out: &mut String,
        mut part: impl FnMut(&mut Self, &mut String) -> Option<()>,
    ) -> Option<()> {
        let count = self.number(head.is_little)?;
        if count == 0 {
            out.push_str("EMPTY");
            return Some(());
        }
        for index in 0..count {
            out.push_str(if index == 0 { "(" } else { ", " });
            part(self, out)?;
        }
        out.push(')');
        Some(())
    }

    /// The coordinates of a point; true where it has none.
    fn vertex(&mut self, head: Head, out: &mut String) -> Option<bool> {
        let dimensions = 2 + usize::from(head.has_z) + usize::from(head.has_m);
        let mut is_empty = true;
        for dimension in 0..dimensions {
            let bytes = self.take::<8>()?;
            let coordinate = match head.is_little {
                true => f64::from_le_bytes(bytes),
                false => f64::from_be_bytes(bytes),
            };
            is_empty &= coordinate.is_nan();
            let space = if dimension == 0 { "" } else { " " };
            write!(out, "{space}{coordinate:?}").ok()?;
        }
        Some(is_empty)
    }

    fn head(&mut self) -> Option<Head> {
        let is_little = match self.take::<1>()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let meta = self.number(is_little)?;
        // Two dialects tell the dimensions, one in thousands and one in the highest bits, which may add a system.
        let (kind, thousands) = ((meta & 0xFFFF) % 1000, (meta & 0xFFFF) / 1000);
        if meta & 0x2000_0000 != 0 {
            self.number(is_little)?;
        }
        (thousands < 4).then_some(Head {
            is_little,
            kind,
            has_z: thousands & 1 != 0 || meta & 0x8000_0000 != 0,
            has_m: thousands & 2 != 0 || meta & 0x4000_0000 != 0,
        })
    }

    fn number(&mut self, is_little: bool) -> Option<u32> {
        let bytes = self.take::<4>()?;
        Some(match is_little {
            true => u32::from_le_bytes(bytes),
            false => u32::from_be_bytes(bytes),
        })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::rows;
    use crate::engine::ffi::Database;
    use crate::engine::storage::open::lossless;

    #[test]
    fn what_duckdb_makes_of_the_text_are_the_same_bytes() {
        let database = Database::open(":memory:", &[]).unwrap();
        let (connection, lossless) = (database.connect().unwrap(), lossless(&database).unwrap());
        let bytes_of = |wkt: &str| {
            let sql = format!("SELECT '{wkt}'::GEOMETRY");
            let found = rows(&connection, &lossless, &sql).unwrap();
            found.column(0).as_binary::<i32>().value(0).to_vec()
        };
        for wkt in [
            "POINT (1 2)",
            "POINT EMPTY",
            "POINT Z (1.5 -2 1e300)",
            "POINT M (0.1 0.2 0.3)",
            "POINT ZM (1 2 3 4)",
            "LINESTRING (0 0, 1 1, 2 -0.5)",
            "LINESTRING EMPTY",
            "POLYGON ((0 0, 4 0, 4 4, 0 0), (1 1, 2 1, 2 2, 1 1))",
            "MULTIPOINT (1 2, EMPTY)",
            "MULTILINESTRING Z ((0 0 0, 1 1 1), EMPTY)",
            "MULTIPOLYGON (((0 0, 4 0, 4 4, 0 0)), EMPTY)",
            "GEOMETRYCOLLECTION (POINT (1 2), GEOMETRYCOLLECTION (LINESTRING (0 0, 1 1)), POINT EMPTY)",
            "GEOMETRYCOLLECTION EMPTY",
        ] {
            let bytes = bytes_of(wkt);
            let told = text(&bytes).unwrap();
            assert_eq!(bytes_of(&told), bytes, "{wkt}: {told}");
            for end in 0..bytes.len() {
                assert_eq!(text(&bytes[..end]), None, "{wkt}");
            }
        }
    }

    #[test]
    fn both_orders_of_bytes_and_both_dialects_are_read() {
        let point = |meta: u32| {
            let mut bytes = vec![0];
            bytes.extend(meta.to_be_bytes());
            if meta & 0x2000_0000 != 0 {
                bytes.extend(4326_u32.to_be_bytes());
            }
            for coordinate in [1.0_f64, 2.0, 3.0] {
                bytes.extend(coordinate.to_be_bytes());
            }
            bytes
        };
        let z = Some("POINT Z (1.0 2.0 3.0)");
        assert_eq!(text(&point(1001)).as_deref(), z);
        assert_eq!(text(&point(0xA000_0001)).as_deref(), z);
        assert_eq!(text(&point(2001)).as_deref(), Some("POINT M (1.0 2.0 3.0)"));
        for other in [1, 0, 8, 4001, 3001] {
            assert_eq!(text(&point(other)), None, "{other}");
        }
    }
}
