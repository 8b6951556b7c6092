//! A network between two processes that can be cut, and that can stand still.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Connections are open, new ones are taken, and nothing goes through.
    Still,
    /// Connections are cut, and new ones are closed at once.
    Cut,
}

/// A way to one server, on a free loopback port. Gone when dropped, with all connections.
#[derive(Debug)]
pub struct Proxy {
    endpoint: String,
    weather: Arc<watch::Sender<Weather>>,
    accepting: AbortHandle,
}

impl Proxy {
    /// A way to `target`, `http://host:port`.
    ///
    /// # Panics
    /// Where there is no loopback.
    pub async fn to(target: &str) -> Self {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let weather = Arc::new(watch::Sender::new(Weather::Fair));
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&weather))).abort_handle();
        Self { endpoint, weather, accepting }
    }

    /// `http://127.0.0.1:port`
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Cuts all connections, and every new one.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }

    /// Nothing goes through any more; nobody is told.
    pub fn stall(&self) {
        self.weather.send_replace(Weather::Still);
    }

    /// Everything goes through again.
    pub fn mend(&self) {
        self.weather.send_replace(Weather::Fair);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, target: String, weather: Arc<watch::Sender<Weather>>) {
    while let Ok((near, _)) = listener.accept().await {
        let (target, weather) = (target.clone(), weather.subscribe());
        tokio::spawn(async move {
            if *weather.borrow() == Weather::Cut {
                return;
            }
            let Ok(far) = TcpStream::connect(target).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::select! {
                () = carry(near_in, far_out, weather.clone()) => {}
                () = carry(far_in, near_out, weather) => {}
            }
        });
    }
}

/// Carries bytes one way until either end closes or the connection is cut.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            changed = weather.wait_for(|now| *now == Weather::Cut) => { drop(changed); return }
        };
        let Ok(read @ 1..) = read else { return };
        // Held back for as long as nothing goes through.
        let Ok(now) = weather.wait_for(|now| *now != Weather::Still).await.map(|now| *now) else { return };
        if now == Weather::Cut || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
