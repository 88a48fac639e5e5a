//! Socket options that `socket2` does not offer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};

/// Sets an option that is an `int`.
pub(super) fn set(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed and open; the option's value points to one int of the length given.
    let done = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option as an array of `N` words; answers how many of them the kernel wrote.
pub(super) fn get<const N: usize>(
    socket: &impl AsFd,
    level: c_int,
    name: c_int,
) -> io::Result<([u32; N], usize)> {
    let fd = socket.as_fd().as_raw_fd();
    let mut value = [0_u32; N];
    let mut len = size_of_val(&value) as socklen_t;
    // SAFETY: the descriptor is borrowed and open; `value` is writable for the `len` bytes given, any content of
    // which is a valid array of integers.
    let done = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast::<c_void>(), &mut len) };
    if done == 0 { Ok((value, len as usize / size_of::<u32>())) } else { Err(io::Error::last_os_error()) }
}
