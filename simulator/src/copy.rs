//! Postgres's binary COPY format, written straight from columns of plain values.
//! Source: PostgreSQL documentation, COPY, "Binary Format"; numeric as `numeric_recv` reads it.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// A chunk is handed on at this size: large enough that a message costs nothing, small enough to stay in cache.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// 2000-01-01T00:00:00Z, Postgres's own zero, in microseconds since 1970.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Rows of one table in binary COPY format.
pub(crate) struct Rows {
    buffer: BytesMut,
    columns: i16,
}

impl Rows {
    pub(crate) fn new(columns: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + 4096);
        buffer.put_slice(SIGNATURE);
        let columns = i16::try_from(columns).expect("a shop table has few columns");
        Self { buffer, columns }
    }

    /// Begins a row; exactly one call a column must follow, in order.
    pub(crate) fn row(&mut self) -> &mut Self {
        self.buffer.put_i16(self.columns);
        self
    }

    pub(crate) fn int8(&mut self, value: i64) -> &mut Self {
        self.buffer.put_i32(8);
        self.buffer.put_i64(value);
        self
    }

    pub(crate) fn int4(&mut self, value: i32) -> &mut Self {
        self.buffer.put_i32(4);
        self.buffer.put_i32(value);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.buffer.put_i32(i32::try_from(value.len()).expect("a text cell is far below 2 GiB"));
        self.buffer.put_slice(value.as_bytes());
        self
    }

    pub(crate) fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.buffer.put_i32(16);
        self.buffer.put_slice(value.as_bytes());
        self
    }

    /// timestamptz from microseconds since 1970.
    pub(crate) fn time(&mut self, micros: i64) -> &mut Self {
        self.int8(micros - POSTGRES_EPOCH_MICROS)
    }

    pub(crate) fn null(&mut self) -> &mut Self {
        self.buffer.put_i32(-1);
        self
    }

    pub(crate) fn option<T>(
        &mut self,
        value: Option<T>,
        put: impl FnOnce(&mut Self, T) -> &mut Self,
    ) -> &mut Self {
        match value {
            Some(value) => put(self, value),
            None => self.null(),
        }
    }

    /// numeric with two decimals from cents: groups of four decimal digits around the point.
    pub(crate) fn money(&mut self, cents: i64) -> &mut Self {
        let (sign, cents) = (if cents < 0 { 0x4000 } else { 0 }, cents.unsigned_abs());
        let (mut whole, fraction) = (cents / 100, cents % 100 * 100);
        let mut groups = [0_i16; 5];
        let mut weight = 0;
        while whole > 0 {
            groups[weight] = (whole % 10_000) as i16;
            whole /= 10_000;
            weight += 1;
        }
        self.buffer.put_i32(8 + 2 * (weight as i32 + 1));
        self.buffer.put_i16(weight as i16 + 1);
        self.buffer.put_i16(weight as i16 - 1);
        self.buffer.put_i16(sign);
        self.buffer.put_i16(2);
        for group in groups[..weight].iter().rev() {
            self.buffer.put_i16(*group);
        }
        self.buffer.put_i16(fraction as i16);
        self
    }

    /// A full chunk, if there is one; what is left stays.
    pub(crate) fn full_chunk(&mut self) -> Option<Bytes> {
        (self.buffer.len() >= CHUNK_BYTES).then(|| {
            let chunk = self.buffer.split().freeze();
            self.buffer.reserve(CHUNK_BYTES + 4096);
            chunk
        })
    }

    /// The last chunk, with the format's trailer.
    pub(crate) fn finish(mut self) -> Bytes {
        self.buffer.put_i16(-1);
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::Decimal;
    use tokio_postgres::types::{FromSql, Type};

    use super::Rows;

    proptest! {
        /// Read back by another implementation of the same binary format.
        #[test]
        fn money_is_a_numeric_with_two_decimals(cents in -999_999_999_999_i64..=999_999_999_999) {
            let mut rows = Rows::new(1);
            rows.row().money(cents);
            // Signature, number of columns, length, value.
            let value = &rows.buffer[19 + 2 + 4..];
            let length = i32::from_be_bytes(rows.buffer[21..25].try_into().unwrap());
            prop_assert_eq!(length as usize, value.len());
            prop_assert_eq!(Decimal::from_sql(&Type::NUMERIC, value).unwrap(), Decimal::new(cents, 2));
        }
    }
}
