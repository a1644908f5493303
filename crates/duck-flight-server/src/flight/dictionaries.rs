//! The dictionaries of a stream, and the memory that they keep.
//!
//! They stay until the stream ends or sends others in their place, and a delta makes one longer. So what all of them take is
//! bounded, and counted among what waits for clients. A batch keeps the dictionaries that it was read with: they
//! weigh with the first batch behind them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef};
use arrow::buffer::Buffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema};
use arrow_ipc::{DictionaryBatch, MetadataVersion};

use super::decode::{empty, invalid_batch, malformed};
use super::{headers, intervals};
use crate::engine::HeldBytes;
use crate::error::Result;

/// The dictionaries that batches are read with.
pub(super) struct Dictionaries {
    by_id: HashMap<i64, ArrayRef>,
    memory: Memory,
    max_bytes: usize,
    held: HeldBytes,
    /// What is held for something else.
    held_besides: usize,
}

impl Dictionaries {
    /// None as yet; they may take as many bytes as that, and are added to what is held already.
    pub(super) fn new(max_bytes: usize, held: HeldBytes) -> Self {
        Self {
            by_id: HashMap::new(),
            memory: Memory::default(),
            max_bytes,
            held_besides: held.bytes(),
            held,
        }
    }

    /// Reads a message of `bytes` bytes, once it is decompressed.
    ///
    /// # Errors
    /// When it is malformed, or all dictionaries would take too much.
    pub(super) fn read(
        &mut self,
        message: DictionaryBatch<'_>,
        body: &Buffer,
        bytes: usize,
        schema: &Schema,
        version: MetadataVersion,
    ) -> Result<()> {
        let id = message.id();
        let extended = match message.isDelta() {
            true => self.by_id.get(&id).cloned(),
            false => {
                // What it replaces goes first.
                if let Some(replaced) = self.by_id.remove(&id) {
                    self.memory.release(&replaced.to_data());
                }
                None
            }
        };
        self.check(self.memory.bytes.saturating_add(bytes))?;
        let is_delta = message.isDelta();
        let mut values = self.values(message, body, schema, version)?;
        match &extended {
            Some(extended) => {
                let both = concat(&[extended.as_ref(), values.as_ref()]).map_err(invalid_batch)?;
                values = intervals::aligned_array(&both).map_err(invalid_batch)?;
            }
            None if is_delta => {
                return Err(malformed("a delta of a dictionary that was not sent"));
            }
            None => {}
        }
        self.memory.keep(&values.to_data());
        self.by_id.insert(id, values);
        if let Some(extended) = extended {
            self.memory.release(&extended.to_data());
        }
        self.check(self.memory.bytes)?;
        self.held.resize(self.held_besides + self.memory.bytes)
    }

    /// The values in a message, as Arrow's own reader of dictionaries reads them; that one puts a delta behind the others before
    /// its intervals stand where they can be copied.
    fn values(
        &self,
        message: DictionaryBatch<'_>,
        body: &Buffer,
        schema: &Schema,
        version: MetadataVersion,
    ) -> Result<ArrayRef> {
        let id = message.id();
        #[expect(
            deprecated,
            reason = "Arrow's reader of batches finds dictionaries by it as well"
        )]
        let fields = schema.fields_with_dict_id(id);
        let Some(DataType::Dictionary(_, of)) = fields.first().map(|field| field.data_type())
        else {
            return Err(malformed(format!("no column has the dictionary {id}")));
        };
        let data = message.data().ok_or_else(|| empty("dictionary"))?;
        headers::check_batch(&data, version, std::iter::once(of.as_ref()))?;
        let field = Field::new("", of.as_ref().clone(), true);
        let rows = arrow_ipc::reader::read_record_batch(
            body,
            data,
            Arc::new(Schema::new(vec![field])),
            &self.by_id,
            None,
            &version,
        )
        .map_err(invalid_batch)?;
        intervals::aligned_array(rows.column(0)).map_err(invalid_batch)
    }

    fn check(&self, bytes: usize) -> Result<()> {
        if bytes <= self.max_bytes {
            return Ok(());
        }
        Err(malformed(format!(
            "the dictionaries of the stream would take {bytes} bytes (limit {}); send smaller ones, or plain values",
            self.max_bytes
        )))
    }

    /// The values of each.
    pub(super) fn by_id(&self) -> &HashMap<i64, ArrayRef> {
        &self.by_id
    }

    /// The bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes
    }

    /// The bytes of the dictionaries that no batch was read with before.
    pub(super) fn take_new_bytes(&mut self) -> usize {
        self.memory.round += 1;
        std::mem::take(&mut self.memory.new_bytes)
    }
}

/// The memory behind arrays, each piece of it counted once: arrays share it, and hold each other.
#[derive(Default)]
struct Memory {
    /// By the addresses where they start.
    pieces: HashMap<usize, Piece>,
    bytes: usize,
    /// The bytes of the pieces that are new in this round.
    new_bytes: usize,
    round: u64,
}

struct Piece {
    users: usize,
    bytes: usize,
    round: u64,
}

impl Memory {
    fn keep(&mut self, data: &ArrayData) {
        each_buffer(data, &mut |buffer| {
            let address = buffer.data_ptr().addr().get();
            let piece = self.pieces.entry(address).or_insert_with(|| {
                self.bytes += buffer.capacity();
                self.new_bytes += buffer.capacity();
                Piece {
                    users: 0,
                    bytes: buffer.capacity(),
                    round: self.round,
                }
            });
            piece.users += 1;
        });
    }

    /// Counts an array no longer that was kept.
    fn release(&mut self, data: &ArrayData) {
        each_buffer(data, &mut |buffer| {
            let address = buffer.data_ptr().addr().get();
            let Some(piece) = self.pieces.get_mut(&address) else {
                return;
            };
            piece.users -= 1;
            if piece.users > 0 {
                return;
            }
            self.bytes -= piece.bytes;
            if piece.round == self.round {
                self.new_bytes -= piece.bytes;
            }
            self.pieces.remove(&address);
        });
    }
}

/// Calls `visit` for each buffer of an array that has memory of its own.
fn each_buffer(data: &ArrayData, visit: &mut impl FnMut(&Buffer)) {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    let buffers = data.buffers().iter().chain(nulls);
    buffers
        .filter(|buffer| buffer.capacity() > 0)
        .for_each(&mut *visit);
    for child in data.child_data() {
        each_buffer(child, visit);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array, StructArray};

    use super::*;

    fn numbers(count: usize) -> ArrayRef {
        Arc::new(Int64Array::from(vec![0; count]))
    }

    #[test]
    fn memory_counts_once_for_as_long_as_anybody_keeps_it() {
        let mut memory = Memory::default();
        let (one, other) = (numbers(1000), numbers(500));
        let field = Field::new("n", DataType::Int64, true);
        let holder = StructArray::from(vec![(Arc::new(field), one.clone())]);
        memory.keep(&one.to_data());
        memory.keep(&one.slice(10, 10).to_data());
        memory.keep(&holder.to_data());
        memory.keep(&other.to_data());
        assert_eq!((memory.bytes, memory.new_bytes), (12_000, 12_000));
        memory.release(&one.to_data());
        memory.release(&one.slice(10, 10).to_data());
        assert_eq!(memory.bytes, 12_000);
        memory.release(&holder.to_data());
        assert_eq!((memory.bytes, memory.new_bytes), (4000, 4000));
        (memory.round, memory.new_bytes) = (1, 0);
        let more: ArrayRef = Arc::new(Int32Array::from(vec![0; 10]));
        memory.keep(&more.to_data());
        memory.release(&other.to_data());
        assert_eq!((memory.bytes, memory.new_bytes), (40, 40));
        memory.release(&more.to_data());
        assert_eq!((memory.bytes, memory.new_bytes), (0, 0));
        assert!(memory.pieces.is_empty());
    }
}
