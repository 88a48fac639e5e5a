//! Memory that the process holds and does not use.

/// Gives freed memory back to the system, where the C library keeps it for itself (glibc). Takes milliseconds: for after
/// something large and rare.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    crate::sys::memory::trim();
}
