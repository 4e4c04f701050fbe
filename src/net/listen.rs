//! From an address of the command line to sockets that accept.
//!
//! ```text
//!  "host[:port]" -> Address::parse -> resolve -> Bound --listen()--> Listener --accept()--> Stream
//!                                    (early: errors reach            (late: when the first client
//!                                     the user's terminal)            may come)
//! ```
//!
//! Binding and listening are two steps: a node that takes a full copy first holds its port from the
//! start, so that a wrong address is reported at once, and refuses clients until it listens.
//!
//! Owns name resolution, socket options and unix socket files. Never retries.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use nix::sys::stat::{umask, Mode};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::stream::{set_options, PeerName, Stream};
pub use crate::base::address::Address;

/// Environment variable that names the file for the ports in use, memcached's.
pub const PORT_FILE_VARIABLE: &str = "MEMCACHED_PORT_FILENAME";

/// Every socket address that `address` stands for, in the resolver's order; `*` is all addresses of
/// this machine. May ask a name server.
///
/// # Errors
/// The name is unknown or cannot be resolved now.
pub fn resolve(address: &Address, default_port: u16) -> io::Result<Vec<SocketAddr>> {
    let port = address.port.unwrap_or(default_port);
    if let Ok(ip) = address.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    if address.host == "*" {
        return Ok(any_address(port));
    }
    if is_interface(&address.host) {
        let why = "that is a network interface; it takes an address of it instead";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut all: Vec<SocketAddr> = Vec::new();
    for addr in (address.host.as_str(), port).to_socket_addrs()? {
        if !all.contains(&addr) {
            all.push(addr);
        }
    }
    Ok(all)
}

/// Whether this machine has a network interface of that name. Known on Linux only; elsewhere the
/// name is looked up like any other.
fn is_interface(name: &str) -> bool {
    let one_name = !name.contains('/') && !matches!(name, "" | "." | "..");
    one_name && std::path::Path::new("/sys/class/net").join(name).is_dir()
}

fn any_address(port: u16) -> Vec<SocketAddr> {
    vec![
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    ]
}

/// Why nothing could be bound: the address, and the reason.
#[derive(Debug)]
pub struct BindError {
    /// As it was written, or `TCP port N`, `UDP port N`.
    pub at: String,
    /// What the system said.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to listen on {}: {}", self.at, plain(&self.source))
    }
}

impl std::error::Error for BindError {}

/// An error's text without Rust's ` (os error N)` behind it.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_string(),
        None => text,
    }
}

/// A socket that holds its address and does not listen yet.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    /// Where it is bound; `None` for a unix socket.
    addr: Option<SocketAddr>,
    unix: Option<Arc<UnixPath>>,
}

/// A unix socket's file. Removed when the last owner goes, unless another program has put its own
/// socket there since.
#[derive(Debug)]
struct UnixPath {
    path: Arc<PathBuf>,
    inode: Option<u64>,
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _ = fs::remove_file(&*self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|meta| meta.ino())
}

/// Binds every address of `listen` (all addresses if it is empty). `port` 0 means any free one; the
/// second family of a host then tries for the same port as the first.
///
/// A host with several addresses must bind one of them, as memcached wants it; an address family
/// that the kernel lacks is skipped; an address that is in use is an error.
///
/// # Errors
/// The first address that failed.
pub fn bind_tcp(listen: &[String], port: u16) -> Result<Vec<Bound>, BindError> {
    bind_each(listen, port, "TCP", bind_one, Bound::local_addr)
}

/// [`bind_tcp`] for any kind of socket: `bind` makes one, `local_addr` says where it is.
pub(super) fn bind_each<T>(
    listen: &[String],
    port: u16,
    protocol: &str,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
    local_addr: impl Fn(&T) -> Option<SocketAddr>,
) -> Result<Vec<T>, BindError> {
    let bind_all = |addrs: Vec<SocketAddr>| bind_all(addrs, &bind, &local_addr);
    if listen.is_empty() {
        return bind_all(any_address(port))
            .map_err(|source| BindError { at: format!("{protocol} port {port}"), source });
    }
    let mut bound = Vec::new();
    for text in listen {
        let fail = |source| BindError { at: text.clone(), source };
        let address = Address::parse_own(text)
            .map_err(|why| fail(io::Error::new(io::ErrorKind::InvalidInput, why)))?;
        let addrs = resolve(&address, port).map_err(fail)?;
        bound.extend(bind_all(addrs).map_err(fail)?);
    }
    Ok(bound)
}

fn bind_all<T>(
    addrs: Vec<SocketAddr>,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
    local_addr: impl Fn(&T) -> Option<SocketAddr>,
) -> io::Result<Vec<T>> {
    let mut bound: Vec<T> = Vec::new();
    let mut skipped = None;
    for mut addr in addrs {
        let first_port = bound.first().and_then(&local_addr).map_or(0, |a| a.port());
        let any_port = addr.port() == 0;
        if any_port {
            addr.set_port(first_port);
        }
        let mut outcome = bind(addr);
        if any_port && first_port != 0 && outcome.is_err() {
            addr.set_port(0);
            outcome = bind(addr);
        }
        match outcome {
            Ok(one) => bound.push(one),
            Err(error) if is_missing_family(&error) => skipped = Some(error),
            Err(error) => return Err(error),
        }
    }
    match skipped {
        Some(error) if bound.is_empty() => Err(error),
        _ if bound.is_empty() => Err(io::Error::from(io::ErrorKind::AddrNotAvailable)),
        _ => Ok(bound),
    }
}

/// A machine without IPv6 (or IPv4) says one of these for any address of that family.
fn is_missing_family(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT, EPROTONOSUPPORT};
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL | EPROTONOSUPPORT))
}

/// Binds one TCP address. `SO_REUSEADDR`, so that a restart does not wait for old connections; an
/// IPv6 socket takes no IPv4 clients, so that both can be bound.
///
/// # Errors
/// In use, not ours, or not permitted.
pub fn bind_one(addr: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_options(SockRef::from(&socket));
    socket.bind(&addr.into())?;
    let addr = socket.local_addr()?.as_socket();
    Ok(Bound { socket, addr, unix: None })
}

/// Binds a unix socket with the permission bits `mode` (octal of `-a`). A socket that a dead server
/// left there is removed first; any other file there is an error. Call it before threads start: it
/// changes the process's umask for a moment.
///
/// # Errors
/// The path is too long, in use by another kind of file, or its directory is not writable.
pub fn bind_unix(path: &Path, mode: u32) -> Result<Bound, BindError> {
    let fail = |source| BindError { at: format!("UNIX socket: {}", path.display()), source };
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        fs::remove_file(path).map_err(fail)?;
    }
    let bind = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let address = SockAddr::unix(path)?;
        let before = umask(Mode::from_bits_truncate(!mode & 0o777));
        let outcome = socket.bind(&address);
        umask(before);
        outcome.map(|()| socket)
    };
    let socket = bind().map_err(fail)?;
    // An absolute path still names the file after daemonizing has changed the directory.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let inode = inode(&path);
    let unix = Some(Arc::new(UnixPath { path: Arc::new(path), inode }));
    Ok(Bound { socket, addr: None, unix })
}

impl Bound {
    /// Where it is bound, with the real port; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Starts to listen, with room for `backlog` connections that wait to be accepted.
    ///
    /// # Errors
    /// Another process listens there since.
    pub fn listen(self, backlog: u32) -> io::Result<Listener> {
        self.socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(match self.unix {
            None => Listener::Tcp(mio::net::TcpListener::from_std(self.socket.into())),
            Some(file) => {
                Listener::Unix(mio::net::UnixListener::from_std(self.socket.into()), UnixFile(file))
            }
        })
    }
}

/// Keeps a unix socket's file until it is dropped.
#[derive(Debug)]
pub struct UnixFile(Arc<UnixPath>);

impl UnixFile {
    /// The socket's absolute path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

/// A non-blocking socket that accepts. A unix one removes its file when dropped.
#[derive(Debug)]
pub enum Listener {
    /// Over IPv4 or IPv6.
    Tcp(mio::net::TcpListener),
    /// Over a unix socket.
    Unix(mio::net::UnixListener, UnixFile),
}

impl Listener {
    /// Takes the next waiting connection. `WouldBlock` when there is none.
    ///
    /// # Errors
    /// Among others `EMFILE`, when no descriptor is left: the connection then still waits.
    pub fn accept(&self) -> io::Result<(Stream, PeerName)> {
        match self {
            Listener::Tcp(l) => {
                let (stream, addr) = l.accept()?;
                Ok((Stream::Tcp(stream), PeerName::Tcp(addr)))
            }
            Listener::Unix(l, file) => {
                let (stream, _) = l.accept()?;
                Ok((Stream::Unix(stream), PeerName::Unix(Arc::clone(&file.0.path))))
            }
        }
    }

    /// Where it listens; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(l) => l.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// Where it listens, as `stats conns` names it (`tcp:127.0.0.1:11211`, `unix:/path`).
    pub fn name(&self) -> String {
        match self {
            Listener::Tcp(l) => match l.local_addr() {
                Ok(addr) => PeerName::Tcp(addr).to_string(),
                Err(_) => "tcp:".to_string(),
            },
            Listener::Unix(_, file) => PeerName::Unix(Arc::clone(&file.0.path)).to_string(),
        }
    }
}

macro_rules! each {
    ($self:expr, $l:ident => $body:expr) => {
        match $self {
            Listener::Tcp($l) => $body,
            Listener::Unix($l, _) => $body,
        }
    };
}

impl Source for Listener {
    fn register(&mut self, r: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        each!(self, l => l.register(r, token, interests))
    }

    fn reregister(&mut self, r: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        each!(self, l => l.reregister(r, token, interests))
    }

    fn deregister(&mut self, r: &Registry) -> io::Result<()> {
        each!(self, l => l.deregister(r))
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        each!(self, l => l.as_raw_fd())
    }
}

/// Writes the ports in use to `path`, one `TCP INET: 12345` or `UDP INET6: 12345` line each, as
/// memcached does for [`PORT_FILE_VARIABLE`]: under another name first, so that a reader that waits
/// for the file finds it whole.
///
/// # Errors
/// The file cannot be written.
pub fn write_port_file(path: &Path, tcp: &[SocketAddr], udp: &[SocketAddr]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".lck");
    let mut text = String::new();
    for (protocol, addrs) in [("TCP", tcp), ("UDP", udp)] {
        for addr in addrs {
            let family = if addr.is_ipv6() { "INET6" } else { "INET" };
            text.push_str(&format!("{protocol} {family}: {}\n", addr.port()));
        }
    }
    fs::File::create(&temporary)?.write_all(text.as_bytes())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
