//! Bytes of memory counted in grains, so that as many as there may be fit a semaphore's range.

pub(crate) const GRAIN_BYTES: usize = 1024;

/// How many grains this many bytes are: one at least, and no more than a semaphore takes where an address has 32 bits.
pub(crate) fn grains(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(GRAIN_BYTES).max(1)).unwrap_or(u32::MAX >> 3)
}
