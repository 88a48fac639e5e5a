//! The simulated network: both ends in one process, with a virtual clock.
//!
//! The client is `probe-client`'s engine, the listener `probe-server`'s core, and between them the lab's middlebox
//! carries IP packets under the lab's rules. Time is a number that jumps to the next wake-up, so a night takes
//! seconds, and everything random follows from a seed: the same setup gives the same observations.
//!
//! | carrier | is |
//! | --- | --- |
//! | UDP | exact: the packets that a kernel would send, NATs, ICMP errors, MTU, TTL and TOS |
//! | TCP | a small model whose omissions its module's text names (`tcp`) |
//! | TLS | real rustls on that model; the listener's certificate is of Ed25519 |
//! | QUIC | quinn's own state machine, quinn-proto, on virtual sockets and virtual time; not quinn's tokio shell |
//!
//! What it omits of hosts: scheduling (a process works in no time, unless a [`Fault`] stalls it), ARP and
//! neighbour discovery, the exact times at which drivers compare clocks.
//!
//! | To learn | read |
//! | --- | --- |
//! | what can be simulated | [`setup`] |
//! | how time passes | `world` |
//! | what really became of each probe | [`truth`] |
//! | a host's kernel and drivers | `client`, `listener`, `stream`, `serve`, `quic`, `watch` |

mod certificate;
mod client;
mod listener;
mod quic;
mod serve;
pub mod setup;
mod stream;
mod tcp;
pub mod truth;
mod watch;
mod world;

pub use certificate::CertificateError;
pub use setup::{Fault, Hosts, Listening, Setup};
pub use truth::{Truth, Way};
pub use world::{Held, Ran, SimError, World, simulate};
