//! The thread that carries packets between the TUN devices and the middlebox. It alone reads clocks.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use probe_protocol::time::{Timestamp, WallTime};

use crate::middlebox::{Middlebox, Port};
use crate::packet::Packet;
use crate::rules::Moment;

/// Room for a whole packet of a link of the largest MTU used here.
const BUFFER: usize = 2048;

/// Packets taken from one device before the other devices and the timers get their turn.
const BATCH: usize = 64;

/// The longest sleep, so that a mistake in a deadline is a delay and no standstill.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What the lab and its thread share.
struct Shared {
    middlebox: Mutex<Middlebox>,
    wake: EventFd,
    stop: AtomicBool,
    unwritable: AtomicU64,
    thread: AtomicI32,
}

/// The running thread; it ends when this is dropped.
pub(super) struct Driver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Now.
pub(super) fn moment() -> io::Result<Moment> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let wall = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
    Ok(Moment { now: Timestamp(now.as_nanos() as u64), wall: WallTime(wall.as_nanos() as i64) })
}

impl Driver {
    /// Starts to carry packets. `log` gets a line of JSON per packet touched.
    pub(super) fn start(
        middlebox: Middlebox,
        devices: Vec<(Port, File)>,
        log: Option<File>,
    ) -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let shared = Arc::new(Shared {
            middlebox: Mutex::new(middlebox),
            wake: EventFd::from_value_and_flags(0, flags)?,
            stop: AtomicBool::new(false),
            unwritable: AtomicU64::new(0),
            thread: AtomicI32::new(0),
        });
        let inner = shared.clone();
        let thread = std::thread::Builder::new().name("middlebox".into()).spawn(move || {
            let mut carrier =
                Carrier { shared: inner, devices, log: log.map(BufWriter::new), ready: Vec::new() };
            carrier.shared.thread.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
            // Only a device that is gone ends it, and then the lab is ending too.
            let _ = carrier.carry();
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The middlebox, which stands still until the guard is dropped. Call [`Self::wake`] after a change.
    pub(super) fn middlebox(&self) -> MutexGuard<'_, Middlebox> {
        lock(&self.shared.middlebox)
    }

    /// Lets the thread look at its deadlines again.
    pub(super) fn wake(&self) {
        // A full counter is a wake-up that is already due.
        let _ = self.shared.wake.write(1);
    }

    /// Processor time that the thread has used.
    pub(super) fn processor_time(&self) -> io::Result<Duration> {
        let thread = self.shared.thread.load(Ordering::Relaxed);
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
        let first = text.split(' ').next().and_then(|ns| ns.parse().ok());
        first.map(Duration::from_nanos).ok_or_else(|| io::Error::other("the kernel does not account threads"))
    }

    /// Packets that a host's kernel would not take.
    pub(super) fn unwritable(&self) -> u64 {
        self.shared.unwritable.load(Ordering::Relaxed)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(middlebox: &Mutex<Middlebox>) -> MutexGuard<'_, Middlebox> {
    middlebox.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Carrier {
    shared: Arc<Shared>,
    devices: Vec<(Port, File)>,
    log: Option<BufWriter<File>>,
    ready: Vec<(Port, Packet)>,
}

impl Carrier {
    fn carry(&mut self) -> io::Result<()> {
        // The default would let timers be 50 us late.
        nix::sys::prctl::set_timerslack(1)?;
        super::sys::run_first();
        let mut readable = vec![true; self.devices.len()];
        while !self.shared.stop.load(Ordering::Relaxed) {
            let deadline = self.turn(&mut readable)?;
            if readable.contains(&true) {
                continue;
            }
            self.wait(deadline, &mut readable)?;
        }
        self.write_log()
    }

    /// Moves what is there to move: a batch from each readable device, and what is due.
    fn turn(&mut self, readable: &mut [bool]) -> io::Result<Timestamp> {
        let shared = self.shared.clone();
        let mut middlebox = lock(&shared.middlebox);
        for (index, readable) in readable.iter_mut().enumerate() {
            if *readable {
                *readable = self.take_batch(index, &mut middlebox)?;
                self.deliver(&mut middlebox);
            }
        }
        middlebox.poll(moment()?);
        self.deliver(&mut middlebox);
        let deadline = middlebox.next();
        if let Some(log) = &mut self.log {
            for line in middlebox.sink().truth.fresh() {
                serde_json::to_writer(&mut *log, line)?;
                log.write_all(b"\n")?;
            }
        }
        Ok(deadline)
    }

    /// Reads from a device; `false` when it has no more.
    fn take_batch(&mut self, index: usize, middlebox: &mut Middlebox) -> io::Result<bool> {
        let (port, device) = &mut self.devices[index];
        for _ in 0..BATCH {
            let mut buffer = middlebox.sink().pool.pop().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            match device.read(&mut buffer) {
                Ok(length) => {
                    buffer.truncate(length);
                    middlebox.receive(moment()?, *port, buffer);
                }
                Err(error) => {
                    middlebox.sink().recycle(buffer);
                    let again = error.kind() == io::ErrorKind::Interrupted;
                    let empty = error.kind() == io::ErrorKind::WouldBlock;
                    return if again || empty { Ok(again) } else { Err(error) };
                }
            }
        }
        Ok(true)
    }

    fn deliver(&mut self, middlebox: &mut Middlebox) {
        middlebox.take_ready(&mut self.ready);
        for (port, packet) in self.ready.drain(..) {
            let device = self.devices.iter_mut().find(|(known, _)| *known == port);
            let taken = device.is_some_and(|(_, device)| device.write(packet.bytes()).is_ok());
            if !taken {
                self.shared.unwritable.fetch_add(1, Ordering::Relaxed);
            }
            middlebox.sink().recycle(packet.into_bytes());
        }
    }

    fn wait(&mut self, deadline: Timestamp, readable: &mut [bool]) -> io::Result<()> {
        let sleep = deadline.since(moment()?.now).min(LONGEST_SLEEP);
        if sleep > Duration::from_millis(1) {
            self.write_log()?;
        }
        let mut polled: Vec<PollFd<'_>> =
            self.devices.iter().map(|(_, device)| PollFd::new(device.as_fd(), PollFlags::POLLIN)).collect();
        polled.push(PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut polled, Some(TimeSpec::from_duration(sleep)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (flag, polled) in readable.iter_mut().zip(&polled) {
            *flag = polled.any().unwrap_or(true);
        }
        if polled.last().and_then(PollFd::any).unwrap_or(false) {
            let _ = self.shared.wake.read();
        }
        Ok(())
    }

    fn write_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}
