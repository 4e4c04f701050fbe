//! One byte stream, TCP or unix, as the event loops see it.
//!
//! Owns the socket options of an accepted or dialled stream and its name in `stats conns`. Never
//! blocks and never buffers.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

/// Silence after which the kernel asks whether a peer is still there, and the pause between its
/// questions: a dead client's slot comes back within some ten minutes without any load on live
/// ones.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// A connected, non-blocking stream.
#[derive(Debug)]
pub enum Stream {
    /// Over IPv4 or IPv6.
    Tcp(mio::net::TcpStream),
    /// Over a unix socket.
    Unix(mio::net::UnixStream),
}

/// No delay (a reply leaves when it is written), and keepalive. Set on a listening socket they hold
/// for what it accepts, without four system calls a client. A socket that refuses an option is used
/// without it: a dialled one may already be reset by its peer, which the next read will tell.
pub(super) fn set_options(socket: SockRef<'_>) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

impl Stream {
    /// Takes over a TCP stream that was not accepted by our [`super::listen::Listener`], which has
    /// its options already.
    pub fn tcp(stream: mio::net::TcpStream) -> Stream {
        set_options(SockRef::from(&stream));
        Stream::Tcp(stream)
    }

    /// Begins to connect to `addr`. The stream is writable once connected; [`Stream::take_error`]
    /// then tells whether it worked.
    ///
    /// # Errors
    /// No descriptors are left, or the address can be known to be unreachable at once.
    pub fn connect(addr: SocketAddr) -> io::Result<Stream> {
        Ok(Stream::tcp(mio::net::TcpStream::connect(addr)?))
    }

    /// Begins to connect to a unix socket, as [`Stream::connect`].
    ///
    /// # Errors
    /// No descriptors are left, there is no such socket, or nobody accepts there.
    pub fn connect_unix(path: &Path) -> io::Result<Stream> {
        Ok(Stream::Unix(mio::net::UnixStream::connect(path)?))
    }

    /// The error of a failed connect, if any.
    ///
    /// # Errors
    /// The socket cannot be asked.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Stream::Tcp(s) => s.take_error(),
            Stream::Unix(s) => s.take_error(),
        }
    }

    /// Says that nothing more will be read, written, or both.
    ///
    /// # Errors
    /// The stream is not connected any more.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.shutdown(how),
            Stream::Unix(s) => s.shutdown(how),
        }
    }

    /// Is it a unix socket?
    pub fn is_unix(&self) -> bool {
        matches!(self, Stream::Unix(_))
    }
}

macro_rules! each {
    ($self:expr, $s:ident => $body:expr) => {
        match $self {
            Stream::Tcp($s) => $body,
            Stream::Unix($s) => $body,
        }
    };
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        each!(self, s => s.read(buf))
    }

    #[inline]
    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        each!(self, s => s.read_vectored(bufs))
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        each!(self, s => s.write(buf))
    }

    #[inline]
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, s => s.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, r: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        each!(self, s => s.register(r, token, interests))
    }

    fn reregister(&mut self, r: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        each!(self, s => s.reregister(r, token, interests))
    }

    fn deregister(&mut self, r: &Registry) -> io::Result<()> {
        each!(self, s => s.deregister(r))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, s => s.as_fd())
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        each!(self, s => s.as_raw_fd())
    }
}

/// Who is at the other end, as `stats conns` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerName {
    /// Displays as `tcp:127.0.0.1:1234` or `tcp6:[::1]:1234`.
    Tcp(SocketAddr),
    /// A client of our unix socket: displays as `unix:/path` of the socket, since clients have
    /// none.
    Unix(Arc<PathBuf>),
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerName::Tcp(addr) if addr.is_ipv6() => write!(f, "tcp6:{addr}"),
            PeerName::Tcp(addr) => write!(f, "tcp:{addr}"),
            PeerName::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
