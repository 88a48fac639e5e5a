//! Ctrl-C and SIGTERM: the first ends the measuring in order, the second everything at once.

use crate::driver::Stop;

/// Watches for them in a thread of its own. Where that cannot be had, the system's default remains: the program ends.
pub(super) fn watch(stop: Stop) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    std::thread::spawn(move || {
        runtime.block_on(async {
            while next().await.is_ok() {
                stop.request();
            }
        });
    });
}

#[cfg(unix)]
async fn next() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn next() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
