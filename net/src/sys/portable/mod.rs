//! What platforms without batches and control messages of their own here have in common: `std` and `socket2`, with
//! the few calls of [`super::platform`] beneath.

pub(crate) mod poll;
pub(crate) mod udp;

pub(crate) mod tcp {
    use crate::tcp::TcpInfo;

    pub(crate) fn info<S>(_: &S) -> Option<TcpInfo> {
        None
    }
}
