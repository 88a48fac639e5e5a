//! Whether the machine may go to sleep.

/// Asks the system not to sleep as long as the calling thread lives, or lets it again. Whether it agreed is the answer.
///
/// Only on Windows is this a call of the system; elsewhere programs of the system do it, and the answer is no.
pub fn stay_awake(on: bool) -> bool {
    #[cfg(windows)]
    {
        crate::sys::power::stay_awake(on)
    }
    #[cfg(not(windows))]
    {
        let _ = on;
        false
    }
}
