//! Linux.

mod addr;
mod cmsg;
#[cfg(target_env = "gnu")]
pub(crate) mod memory;
pub(crate) mod poll;
mod sockopt;
pub(crate) mod tcp;
pub(crate) mod time;
pub(crate) mod udp;
