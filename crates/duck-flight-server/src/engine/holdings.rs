//! The memory of what waits: unread results, prepared statements and their values, texts of statements, dictionaries and
//! large schemas of puts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// How many bytes all of it may take.
const MAX_HELD_BYTES: usize = 256 << 20;

/// What all clients hold together.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings(Arc<AtomicUsize>);

/// A part of it, until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    all: Holdings,
    bytes: usize,
}

impl Holdings {
    /// Takes a part.
    ///
    /// # Errors
    /// When all would hold too much.
    pub(super) fn take(&self, bytes: usize) -> Result<HeldBytes> {
        let mut held = HeldBytes {
            all: self.clone(),
            bytes: 0,
        };
        held.grow(bytes)?;
        Ok(held)
    }
}

impl HeldBytes {
    /// How large the part is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more.
    ///
    /// # Errors
    /// When all would hold too much.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes;
        if self.all.0.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_HELD_BYTES {
            return Err(Error::TooMuchHeld(MAX_HELD_BYTES));
        }
        Ok(())
    }

    /// Takes more, or gives some back: the part is as large as that then.
    ///
    /// # Errors
    /// When all would hold too much.
    pub(crate) fn resize(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        let less = self.bytes - bytes;
        self.all.0.fetch_sub(less, Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_or_dropped_is_held_no_longer() {
        let all = Holdings::default();
        let mut half = all.take(MAX_HELD_BYTES / 2).unwrap();
        half.grow(MAX_HELD_BYTES / 4).unwrap();
        assert!(all.take(MAX_HELD_BYTES / 2).is_err());
        let quarter = all.take(MAX_HELD_BYTES / 4).unwrap();
        assert!(all.take(1).is_err());
        drop(half);
        assert!(all.take(MAX_HELD_BYTES).is_err());
        drop(quarter);
        let mut part = all.take(MAX_HELD_BYTES).unwrap();
        part.resize(1).unwrap();
        assert!(all.take(MAX_HELD_BYTES).is_err());
        assert!(all.take(MAX_HELD_BYTES - 1).is_ok());
        drop(part);
        assert!(all.take(MAX_HELD_BYTES).is_ok());
    }
}
