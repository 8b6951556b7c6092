//! Free loopback ports that nobody else takes between the choice and the server's own bind.
//!
//! Ports come from below the range that the kernel hands out for outgoing connections, and each one is claimed by a
//! locked file for as long as this process lives: tests of several processes on one machine never meet.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

static NEXT: AtomicU16 = AtomicU16::new(0);
static CLAIMS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port on which nobody listens, and which no later call returns again.
pub fn free_port() -> u16 {
    let start = (std::process::id().wrapping_mul(61) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if claim(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

fn claim(port: u16) -> bool {
    let dir = std::env::temp_dir().join("etcdbr-ports");
    fs::create_dir_all(&dir).expect("the temporary directory is writable");
    let file = File::create(dir.join(port.to_string())).expect("the directory was just made");
    let claimed = file.try_lock().is_ok();
    if claimed {
        CLAIMS.lock().expect("no holder panics").push(file);
    }
    claimed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_handed_out_twice() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_claimed_port_is_refused_to_others() {
        assert!(!claim(free_port()));
    }
}
