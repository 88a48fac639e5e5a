//! Ctrl-C and SIGTERM: the first ends the measuring in order, the second everything at once.

use crate::driver::Stop;

/// Watches for them in a thread of its own. Where that cannot be had, the system's default remains: the program ends.
pub(super) fn watch(stop: Stop) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(mut signals) = Signals::new() else { return };
            // Nobody waits any more where this fails.
            let _ = ready.send(());
            while signals.next().await.is_some() {
                stop.request();
            }
        });
    });
    // From here on a signal is ours, or the thread is gone and it is the system's.
    let _ = is_ready.recv();
}

/// Both signals, registered once, so that none falls between two waits.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Option<()> {
        tokio::select! {
            interrupted = self.interrupt.recv() => interrupted,
            terminated = self.terminate.recv() => terminated,
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> Option<()> {
        self.0.recv().await
    }
}
