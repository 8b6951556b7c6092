//! SIGINT, SIGTERM and SIGHUP: the first one stops the work in order, the second one at once.

use etcdbr_engine::ErrorKind;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output;

/// A token that the first signal cancels. A second signal ends the process: what was begun may be left behind then.
pub(crate) fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    // Without handlers the default action stands: the process ends at the first signal.
    let [interrupt, terminate, hang_up] =
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    if let (Ok(interrupt), Ok(terminate), Ok(hang_up)) = (interrupt, terminate, hang_up) {
        tokio::spawn(wait([interrupt, terminate, hang_up], told));
    }
    stop
}

async fn wait([mut interrupt, mut terminate, mut hang_up]: [Signal; 3], stop: CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    };
    next().await;
    stop.cancel();
    output::log("stopping in order (once more to stop at once)");
    next().await;
    std::process::exit(ErrorKind::Interrupted.exit_code().into());
}
