//! How long DuckDB's allocator keeps memory that was freed.
//!
//! The official library has a jemalloc of its own for blocks and vectors, apart from the process's. What was freed stays in it for a
//! second (`dirty_decay_ms` in DuckDB's `allocator_jemalloc.cpp`), unless DuckDB's own threads give it back before, of which it starts
//! none here. That is the garbage of a second beside the memory limit: on a fast machine more than the limit of a small server.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::LazyLock;

/// How long freed memory is kept for whoever needs some next. Loads are hardly slower than with a second of it; where it is given back at
/// once they are by a sixth to a quarter.
const KEPT_MILLISECONDS: isize = 100;

/// jemalloc's `mallctl`: a name, where its value goes to, and what it is to be.
type Mallctl =
    unsafe extern "C" fn(*const c_char, *mut c_void, *mut usize, *mut c_void, usize) -> c_int;

/// That of DuckDB's library; a library that was built without has none.
static MALLCTL: LazyLock<Option<Mallctl>> = LazyLock::new(|| {
    // SAFETY: the name is NUL-terminated.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"duckdb_je_mallctl".as_ptr()) };
    // SAFETY: the symbol of this name is this function of jemalloc's (`jemalloc.h`), and null is no function.
    unsafe { std::mem::transmute::<*mut c_void, Option<Mallctl>>(found) }
});

/// Has freed memory given back soon, by all of the process's databases.
pub(in crate::engine) fn keep_freed_memory_briefly() {
    // For the arenas that there will be, and for those that there are.
    set(c"arenas.dirty_decay_ms", KEPT_MILLISECONDS);
    let arenas = get::<c_uint>(c"arenas.narenas").unwrap_or(0);
    for arena in 0..arenas {
        let name = CString::new(format!("arena.{arena}.dirty_decay_ms"));
        // It is refused for one that nobody uses yet.
        set(&name.expect("a name without NUL"), KEPT_MILLISECONDS);
    }
}

fn set(name: &CStr, mut value: isize) {
    if let Some(mallctl) = *MALLCTL {
        // SAFETY: the name is NUL-terminated, and the value of these names an `ssize_t`.
        unsafe {
            mallctl(
                name.as_ptr(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                (&raw mut value).cast(),
                size_of::<isize>(),
            );
        }
    }
}

/// The value of a name, which must be a number of this type.
fn get<T: Default>(name: &CStr) -> Option<T> {
    let (mut value, mut bytes) = (T::default(), size_of::<T>());
    // SAFETY: the name is NUL-terminated; jemalloc writes `bytes` at most, and answers with an error where that is not the size.
    let status = unsafe {
        (*MALLCTL)?(
            name.as_ptr(),
            (&raw mut value).cast(),
            &raw mut bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    (status == 0).then_some(value)
}

#[cfg(all(test, target_os = "linux", not(feature = "bundled")))]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;

    #[test]
    fn freed_memory_is_given_back_soon_in_every_arena() {
        let _database = Database::open(":memory:", &[]).unwrap();
        keep_freed_memory_briefly();
        let of = |name: &CStr| get::<isize>(name);
        assert_eq!(of(c"arenas.dirty_decay_ms"), Some(KEPT_MILLISECONDS));
        assert_eq!(of(c"arena.0.dirty_decay_ms"), Some(KEPT_MILLISECONDS));
    }
}
