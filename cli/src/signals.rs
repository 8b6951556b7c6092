//! SIGINT and SIGTERM: the first one stops the work in order, the second one at once.

use etcdbr_engine::ErrorKind;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output;

/// A token that the first signal cancels. A second signal ends the process: what was begun may be left behind then.
pub(crate) fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    // Without handlers the default action stands: the process ends at the first signal.
    if let (Ok(interrupt), Ok(terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        tokio::spawn(wait(interrupt, terminate, told));
    }
    stop
}

async fn wait(mut interrupt: Signal, mut terminate: Signal, stop: CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    next().await;
    output::log("stopping: taking back what was begun (once more to stop at once)");
    stop.cancel();
    next().await;
    std::process::exit(ErrorKind::Interrupted.exit_code().into());
}
