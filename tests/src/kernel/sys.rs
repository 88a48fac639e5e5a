//! The few things that need `unsafe`, each behind a safe face.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;

/// `struct ifreq` as far as `TUNSETIFF` reads it: a name and flags, padded to the struct's size.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Makes an open `/dev/net/tun` the TUN device of this name in the calling thread's network namespace: whole IP
/// packets, without a header of its own.
pub(super) fn become_tun(file: &File, name: &str) -> io::Result<()> {
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the device's name is too long"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: `file` is open for the call, and `request` is at least as large as the `struct ifreq` (40 bytes) that
    // the kernel reads and writes, and lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the calling thread run before others where the system allows it, so that a busy machine is not taken for a
/// slow network. Where it is not allowed, nothing changes.
pub(super) fn run_first() {
    const NICE: libc::c_int = -15;
    // SAFETY: takes numbers only; `PRIO_PROCESS` with 0 means the calling thread on Linux.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// Lets the command's process start in a network namespace, and die with the thread that started it.
pub(super) fn start_inside(command: &mut Command, namespace: Arc<File>) {
    let parent = std::process::id();
    let enter = move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above.
        if std::os::unix::process::parent_id() != parent {
            return Err(io::Error::other("the lab has ended"));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only; it neither allocates nor takes a lock (the
    // error of the last line is a static one on the path where the process ends anyway).
    unsafe { command.pre_exec(enter) };
}

/// The same, as the first process of a process namespace of its own: when it ends, or the lab does, everything that
/// it has started ends too. A process between passes on how it ended.
pub(super) fn start_contained(command: &mut Command, namespace: Arc<File>) {
    start_inside(command, namespace);
    let contain = || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        // SAFETY: after the fork of `Command` there is one thread; both sides go on with system calls only.
        match unsafe { nix::unistd::fork() }? {
            nix::unistd::ForkResult::Child => {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            }
            nix::unistd::ForkResult::Parent { child } => wait_and_exit(child),
        }
    };
    // SAFETY: as above; the closure neither allocates nor takes a lock.
    unsafe { command.pre_exec(contain) };
}

/// Waits for the child and ends as it did, as shells say it: 128 and the signal's number.
fn wait_and_exit(child: nix::unistd::Pid) -> ! {
    use nix::sys::wait::{WaitStatus, waitpid};
    // Else a descriptor inherited here keeps the other end of the parent's pipes open for longer than need be, and
    // `Command::spawn` waits for its own to be closed by exec.
    close_all_but_standard();
    let code = loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => break code,
            Ok(WaitStatus::Signaled(_, signal, _)) => break 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => break 1,
        }
    };
    // SAFETY: ends the process without running anything of the program it was forked from.
    unsafe { libc::_exit(code) }
}

fn close_all_but_standard() {
    // SAFETY: closes descriptors of this process, which runs no other code of the program it was forked from.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Lets this process outlive Ctrl-C, which the program in the foreground deals with. Children started afterwards get
/// the default back in [`start_contained`] only if they set it themselves, so it is handled, not ignored.
pub(super) fn outlive_interrupts() -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: the handler does nothing, and so nothing that a handler must not do.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Lets the command's process start in a user namespace of its own, in which the caller is root.
pub(super) fn start_as_root_of_own_namespace(command: &mut Command) {
    let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ];
    let enter = move || {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        for (path, text) in &maps {
            let file = nix::fcntl::open(*path, nix::fcntl::OFlag::O_WRONLY, nix::sys::stat::Mode::empty())?;
            nix::unistd::write(&file, text.as_bytes())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, on texts made before the fork.
    unsafe { command.pre_exec(enter) };
}
