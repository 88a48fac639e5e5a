//! Linux.

mod addr;
mod cmsg;
pub(crate) mod poll;
mod sockopt;
pub(crate) mod tcp;
pub(crate) mod time;
pub(crate) mod udp;
