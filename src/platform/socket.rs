//! What the kernel knows of a connection that no library tells.
//!
//! Owns one question. Never reads, writes or closes a socket.

use nix::libc;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes that were written to a TCP socket and not acknowledged by the other machine's kernel; also
/// of one that has just broken. 0 where the system does not tell.
pub fn unacknowledged(socket: &impl AsFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        u64::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn counts_what_has_not_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut there, _) = listener.accept().unwrap();
        assert_eq!(unacknowledged(&here), 0);
        here.set_nonblocking(true).unwrap();
        let block = vec![0u8; 1 << 16];
        while here.write(&block).is_ok() {}
        let waiting = unacknowledged(&here);
        assert!(waiting > 0, "the other side has no room for all of it");
        there.set_nonblocking(true).unwrap();
        let mut into = block;
        while unacknowledged(&here) > 0 {
            let _ = there.read(&mut into);
        }
    }
}
