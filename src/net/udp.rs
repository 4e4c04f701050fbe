//! From an address of the command line to UDP sockets.
//!
//! ```text
//!   one address ---> socket 1 (worker 1)     the kernel gives every client, by its address and
//!                \-> socket 2 (worker 2)     port, one of the sockets: no worker is woken for a
//!                \-> ...                     datagram that another one takes
//! ```
//!
//! Owns the binding, the options and the names of the sockets. Never reads or writes one, except to
//! throw away what came too early.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use socket2::{Domain, Protocol, Socket, Type};

use super::listen::{bind_each, BindError};

/// What the kernel may keep of requests and of replies for each socket, where its own limit allows
/// it: a few of the largest values, so that sending one rarely has to wait.
const KERNEL_BUFFER: usize = 4 << 20;

/// Datagrams that [`discard`] throws away: the smallest ones that fill the kernel's buffer.
const DISCARD_MAX: usize = 64 * 1024;

/// Binds every address of `listen` (all addresses if it is empty), each `sockets` times. `port` 0
/// means any free one, and the same for all families of a host if possible.
///
/// Nobody else can take such an address, nor can we where somebody has it.
///
/// # Errors
/// The first address that failed.
pub fn bind(
    listen: &[String],
    port: u16,
    sockets: usize,
) -> Result<Vec<Vec<UdpSocket>>, BindError> {
    let addr = |group: &Vec<UdpSocket>| group.first().and_then(|one| one.local_addr().ok());
    bind_each(listen, port, "UDP", |addr| bind_group(addr, sockets), addr)
}

fn bind_group(addr: SocketAddr, sockets: usize) -> io::Result<Vec<UdpSocket>> {
    let first = socket(addr)?;
    // Not before it is bound: an address that somebody else has must be an error, even where he
    // would share it.
    first.bind(&addr.into())?;
    let addr = first.local_addr()?;
    let mut group = vec![first];
    if sockets > 1 {
        group[0].set_reuse_port(true)?;
    }
    for _ in 1..sockets {
        let next = socket(addr.as_socket().ok_or(ErrorKind::Unsupported)?)?;
        next.set_reuse_port(true)?;
        next.bind(&addr)?;
        group.push(next);
    }
    Ok(group.into_iter().map(|socket| UdpSocket::from_std(socket.into())).collect())
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Larger buffers are welcome and not needed.
    let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
    let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    Ok(socket)
}

/// Throws away what has come in so far: requests to a node that was not filled yet, whose clients
/// have given up on them.
pub fn discard(socket: &UdpSocket) {
    for _ in 0..DISCARD_MAX {
        match socket.recv_from(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

/// Where a socket is bound, as `stats conns` names it (`udp:127.0.0.1:11211`).
pub fn name(socket: &UdpSocket) -> String {
    match socket.local_addr() {
        Ok(addr @ SocketAddr::V4(_)) => format!("udp:{addr}"),
        Ok(addr @ SocketAddr::V6(_)) => format!("udp6:{addr}"),
        Err(_) => "udp:".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as StdSocket;

    fn loopback() -> Vec<String> {
        vec!["127.0.0.1".to_owned()]
    }

    #[test]
    fn several_sockets_share_one_port_and_nobody_else_does() {
        let groups = bind(&loopback(), 0, 3).unwrap();
        assert_eq!((groups.len(), groups[0].len()), (1, 3));
        let addr = groups[0][0].local_addr().unwrap();
        for socket in &groups[0] {
            assert_eq!(name(socket), format!("udp:127.0.0.1:{}", addr.port()));
        }
        let error = bind(&loopback(), addr.port(), 3).unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
        assert!(StdSocket::bind(addr).is_err());
    }

    #[test]
    fn what_came_too_early_is_thrown_away() {
        let groups = bind(&loopback(), 0, 1).unwrap();
        let socket = &groups[0][0];
        let client = StdSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..10 {
            client.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        }
        discard(socket);
        let error = socket.recv_from(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn ipv6_has_a_name_of_its_own() {
        if let Ok(groups) = bind(&["::1".to_owned()], 0, 1) {
            assert!(name(&groups[0][0]).starts_with("udp6:[::1]:"));
        }
    }
}
