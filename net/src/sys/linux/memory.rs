//! The C library's heap.
#![allow(unsafe_code)]

/// Gives what the heap holds and does not use back to the system.
pub(crate) fn trim() {
    // SAFETY: takes no pointer, and locks the heap it works on; any thread may call it at any time (malloc_trim(3)).
    let _ = unsafe { libc::malloc_trim(0) };
}
