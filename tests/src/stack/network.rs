//! Ports for servers that are stopped and started again.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use super::StackError;

/// Below the ports that systems draw for outgoing connections (from 32768 on Linux, 49152 elsewhere): a client that
/// keeps dialling a stopped server there would sooner or later be given that very port and talk to itself, or sit on
/// the port when the server wants it back.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A loopback port that nobody listens on, and that this process gives out only once. Another process may still take it
/// before the caller binds it: a server that then fails to start is started on another one.
pub fn reserve_port() -> Result<u16, StackError> {
    static GIVEN_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1_000 {
        let port = rand::random_range(PORTS);
        let is_new = GIVEN_OUT
            .lock()
            .expect("no holder of this lock can panic")
            .insert(port);
        if is_new && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(StackError::new(format!(
        "no free port between {} and {}",
        PORTS.start, PORTS.end
    )))
}
