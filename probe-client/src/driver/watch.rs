//! Watches what lies beside the path, in a thread of its own: the way to the network, the gateway, this host's loopback,
//! and where the target's name leads. Twice a second, jittered, so that it is no period of its own: what takes all packets
//! for a third of a second, again and again, must meet the gateway's answers as well if it is this site's fault.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use probe_analysis::observation::{Asked, HostFault, Watch, WatchAnswer};
use probe_net::wait::Waker;
use probe_net::{clock, host};
use probe_protocol::time::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::gateway::Gateway;
use crate::engine::Engine;

/// From one question to the next, about.
const EVERY: Duration = Duration::from_millis(500);
/// From one look at the name to the next, at least.
const NAME_EVERY: Duration = Duration::from_secs(60);
/// What waits for the engine; beyond it answers are dropped.
const MAX_NEWS: usize = 64;
/// How long the loopback is waited for.
const LOOPBACK_LIMIT: Duration = Duration::from_millis(400);
/// How the way is called where there is none.
pub(crate) const NO_WAY: &str = "none";

/// What is to be watched.
#[derive(Debug)]
pub(super) struct Watched {
    /// Where the run goes.
    pub(super) target: SocketAddr,
    /// Its name, where it is not a bare address.
    pub(super) name: Option<String>,
}

#[derive(Debug)]
enum News {
    Answers(Watch),
    Way { from: Timestamp, to: Timestamp, old: String, new: String },
    Name { at: Timestamp, old: Vec<IpAddr>, new: Vec<IpAddr> },
}

/// The thread's end at the driver.
#[derive(Debug)]
pub(super) struct Watcher {
    news: Receiver<News>,
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Everything is silent: the name is looked up as soon as it may be.
    silent: Arc<AtomicBool>,
    name: String,
}

impl Watcher {
    /// Starts watching.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(watched: Watched, waker: Waker) -> io::Result<Self> {
        let (tell, news) = sync_channel(MAX_NEWS);
        let (stop, stopped) = channel();
        let silent = Arc::new(AtomicBool::new(false));
        let name = watched.name.clone().unwrap_or_default();
        let task = Task {
            way: way(watched.target.ip()).0,
            watched,
            tell: Tell { tell, waker },
            silent: Arc::clone(&silent),
            seen: clock::now(),
            gateway: None,
            loopback: loopback().ok(),
            tick: 0,
            name: None,
            looked: None,
            rng: StdRng::from_os_rng(),
        };
        let thread =
            std::thread::Builder::new().name("watch".to_owned()).spawn(move || task.run(&stopped))?;
        Ok(Self { news, stop: Some(stop), thread: Some(thread), silent, name })
    }

    /// Hands the engine what was seen.
    pub(super) fn take_in(&self, engine: &mut Engine) {
        self.silent.store(engine.wants_name(clock::now()), Ordering::Relaxed);
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Answers(watch) => engine.handle_watch(watch),
                News::Way { from, to, old, new } => {
                    engine.handle_host(from, to, HostFault::InterfaceChanged { old, new });
                }
                News::Name { at, old, new } => engine.handle_name(at, &self.name, &old, &new),
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watch beside the path panicked");
        }
    }
}

#[derive(Clone, Debug)]
struct Tell {
    tell: SyncSender<News>,
    waker: Waker,
}

impl Tell {
    fn tell(&self, news: News) {
        // Where the engine is far behind, a moment without answers is no loss.
        if self.tell.try_send(news).is_ok() {
            self.waker.wake();
        }
    }
}

/// A lookup under way: where the name leads, or none where that cannot be had.
type Lookup = Receiver<Option<Vec<IpAddr>>>;

struct Task {
    watched: Watched,
    tell: Tell,
    silent: Arc<AtomicBool>,
    /// The way to the network, in words, and when it was seen last.
    way: String,
    seen: Timestamp,
    gateway: Option<Gateway>,
    loopback: Option<UdpSocket>,
    tick: u64,
    /// Where the name led, and the lookup that is under way.
    name: Option<Vec<IpAddr>>,
    looked: Option<(Timestamp, Option<Lookup>)>,
    rng: StdRng,
}

impl Task {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut next = clock::now();
        loop {
            let now = clock::now();
            // A question that was slept through or came late is not made up for.
            next = (next + EVERY.mul_f64(self.rng.random_range(0.8..1.2))).max(now);
            match stopped.recv_timeout(next.since(now)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
            self.ask();
            self.look_up();
        }
    }

    fn ask(&mut self) {
        let at = clock::now();
        let (new, route) = way(self.watched.target.ip());
        if new != self.way {
            let old = std::mem::replace(&mut self.way, new.clone());
            self.tell.tell(News::Way { from: self.seen, to: at, old, new });
        }
        self.seen = at;
        let address = route.as_ref().and_then(|route| route.gateway);
        if self.gateway.as_ref().map(Gateway::address) != address {
            self.gateway = address.and_then(Gateway::new);
        }
        let gateway = self.gateway.as_mut().map(Gateway::ask);
        let loopback = self.ask_loopback();
        self.tell.tell(News::Answers(Watch { at, gateway, loopback, interface_up: Some(route.is_some()) }));
    }

    /// A datagram to oneself: what this takes, the host takes.
    fn ask_loopback(&mut self) -> Option<WatchAnswer> {
        let socket = self.loopback.as_ref()?;
        self.tick += 1;
        let began = clock::now();
        let mut answer = WatchAnswer { who: None, asked: Asked::Datagram, reachable: false, rtt: None };
        if socket.send(&self.tick.to_be_bytes()).is_ok() {
            let mut buffer = [0; 8];
            // An answer to an earlier question may have come too late for it.
            while let Ok(8) = socket.recv(&mut buffer) {
                if buffer == self.tick.to_be_bytes() {
                    answer.reachable = true;
                    answer.rtt = Some(clock::now().since(began));
                    break;
                }
            }
        }
        Some(answer)
    }

    /// Looks the name up each minute, in a thread of its own since the system's resolver cannot be told to hurry.
    fn look_up(&mut self) {
        let Some(name) = self.watched.name.clone() else { return };
        let now = clock::now();
        match &self.looked {
            Some((_, Some(answer))) => match answer.try_recv() {
                Ok(found) => {
                    if let Some((_, answer)) = self.looked.as_mut() {
                        *answer = None;
                    }
                    self.led_to(now, found);
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Err(std::sync::mpsc::TryRecvError::Disconnected) => self.looked = Some((now, None)),
            },
            Some((at, None)) => {
                let wait = if self.silent.load(Ordering::Relaxed) { NAME_EVERY } else { NAME_EVERY * 2 };
                if now.since(*at) >= wait {
                    self.begin_lookup(now, name);
                }
            }
            None => self.begin_lookup(now, name),
        }
    }

    fn begin_lookup(&mut self, now: Timestamp, name: String) {
        let (done, answer) = channel();
        let port = self.watched.target.port();
        let spawned = std::thread::Builder::new().name("name".to_owned()).spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().ok();
            let found = found.map(|all| {
                let mut all: Vec<IpAddr> = all.map(|a| a.ip()).collect();
                // Name servers turn the order with each answer.
                all.sort_unstable();
                all.dedup();
                all
            });
            // The asker may be gone.
            let _ = done.send(found);
        });
        self.looked = Some((now, spawned.is_ok().then_some(answer)));
    }

    fn led_to(&mut self, at: Timestamp, found: Option<Vec<IpAddr>>) {
        let Some(new) = found.filter(|found| !found.is_empty()) else { return };
        if let Some(old) = self.name.replace(new.clone())
            && old != new
        {
            self.tell.tell(News::Name { at, old, new });
        }
    }
}

/// The way to the network, in words.
fn way(target: IpAddr) -> (String, Option<host::Route>) {
    let Ok(route) = host::route_towards(target) else { return (NO_WAY.to_owned(), None) };
    let interface = route.interface.as_deref().unwrap_or("an interface");
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    (format!("{interface} {}{via}", route.local), Some(route))
}

fn loopback() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(socket.local_addr()?)?;
    socket.set_read_timeout(Some(LOOPBACK_LIMIT))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_answers_and_the_way_to_it_has_no_gateway() {
        let target = "127.0.0.1:9".parse().unwrap();
        let poller = probe_net::wait::Poller::new().unwrap();
        let watcher = Watcher::start(Watched { target, name: None }, poller.waker()).unwrap();
        let News::Answers(watch) = watcher.news.recv_timeout(Duration::from_secs(60)).unwrap() else {
            panic!("the way changed")
        };
        let loopback = watch.loopback.unwrap();
        assert!(loopback.reachable && loopback.rtt.is_some(), "{watch:?}");
        assert_eq!((watch.gateway, watch.interface_up), (None, Some(true)));
    }
}
