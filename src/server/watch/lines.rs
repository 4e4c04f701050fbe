//! The lines that a watcher reads, in memcached's formats.
//!
//! Owns their text. Never knows who reads them.
//!
//! ```text
//! ts=1795360373.956968 gid=16 type=item_store key=k status=stored cmd=set ttl=0 clsid=1 cfd=28 size=5
//! ```

use std::fmt::Arguments;
use std::io::Write;

use crate::base::clock::Now;
use crate::store::{Evicted, Exptime, Mode, Stored};

/// No line is longer: a key of 250 bytes, each as `%NN`, and about 200 bytes around it.
pub const LINE_MAX: usize = 1024;

/// What a look at a key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing is there.
    NotFound,
    /// It is there.
    Found {
        /// Length of its value.
        len: usize,
        /// The class that memcached would have it in.
        class: u8,
    },
    /// It was there and is flushed.
    Flushed,
    /// It was there and has expired.
    Expired,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CloseReason {
    /// It broke, or what the client sent is not the protocol.
    #[default]
    Error,
    /// The client left.
    Normal,
    /// `-o idle_timeout`.
    IdleTimeout,
    /// The `shutdown` command.
    Shutdown,
}

impl CloseReason {
    /// memcached's name for it.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::Error => "error",
            CloseReason::Normal => "normal",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::Shutdown => "shutdown",
        }
    }
}

fn put(out: &mut Vec<u8>, args: Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(args);
}

/// Keys may hold anything: all but letters, digits and `-._~` are written as `%NN`.
fn encoded(out: &mut Vec<u8>, key: &[u8]) {
    for &byte in key {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte);
        } else {
            put(out, format_args!("%{byte:02X}"));
        }
    }
}

/// What every line begins with. The microseconds are not padded, as in memcached.
pub fn head(out: &mut Vec<u8>, now: Now, gid: u64) {
    let (secs, us) = (now.unix_us / 1_000_000, now.unix_us % 1_000_000);
    put(out, format_args!("ts={secs}.{us} gid={gid} type="));
}

/// A look at a key.
pub fn item_get(out: &mut Vec<u8>, key: &[u8], fetched: Fetched, cfd: u64) {
    let (status, class, size) = match fetched {
        Fetched::NotFound => ("not_found", 0, 0),
        Fetched::Found { len, class } => ("found", class, len),
        Fetched::Flushed => ("flushed", 0, 0),
        Fetched::Expired => ("expired", 0, 0),
    };
    out.extend_from_slice(b"item_get key=");
    encoded(out, key);
    put(out, format_args!(" status={status} clsid={class} cfd={cfd} size={size}\n"));
}

/// What a storage command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Stored,
    /// Its condition does not hold.
    NotStored,
    /// Somebody changed the item.
    Exists,
    /// There is no item.
    NotFound,
    /// Over `-I`.
    TooLarge,
    /// No room.
    NoMemory,
}

impl Status {
    /// The status of an outcome.
    pub fn of(stored: Stored) -> Status {
        match stored {
            Stored::Stored(_) => Status::Stored,
            Stored::NotStored => Status::NotStored,
            Stored::Exists => Status::Exists,
            Stored::NotFound => Status::NotFound,
            Stored::TooLarge => Status::TooLarge,
            Stored::OutOfMemory => Status::NoMemory,
        }
    }
}

/// A storage command.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// The key.
    pub key: &'a [u8],
    /// How.
    pub mode: Mode,
    /// What came of it.
    pub status: Status,
    /// When what was (or would have been) stored expires.
    pub exptime: Exptime,
    /// Length of the value that was (or would have been) stored; 0 where it was not taken in.
    pub size: usize,
    /// The class that memcached would have it in; 0 where it was not taken in.
    pub class: u8,
}

/// A storage command.
pub fn item_store(out: &mut Vec<u8>, store: &Store<'_>, now: Now, cfd: u64) {
    let status = match store.status {
        Status::Stored => "stored",
        Status::NotStored => "not_stored",
        Status::Exists => "exists",
        Status::NotFound => "not_found",
        Status::TooLarge => "too_large",
        Status::NoMemory => "no_memory",
    };
    let command = match store.mode {
        Mode::Set => "set",
        Mode::Add => "add",
        Mode::Replace => "replace",
        Mode::Append => "append",
        Mode::Prepend => "prepend",
        Mode::Cas(_) => "cas",
    };
    // A past exptime wraps, as memcached's unsigned number does.
    let ttl = match store.exptime {
        Exptime::Never => 0,
        Exptime::At(secs) => secs.wrapping_sub(now.unix_secs()),
    };
    out.extend_from_slice(b"item_store key=");
    encoded(out, store.key);
    let (class, size) = (store.class, store.size);
    put(
        out,
        format_args!(
            " status={status} cmd={command} ttl={ttl} clsid={class} cfd={cfd} size={size}\n"
        ),
    );
}

/// An item that was deleted by `delete` or `md`.
pub fn deleted(out: &mut Vec<u8>, key: &[u8], command: &str, class: u8, size: usize) {
    out.extend_from_slice(b"deleted key=");
    encoded(out, key);
    put(out, format_args!(" cmd={command} clsid={class} size={size}\n"));
}

/// An item that was dropped for room.
pub fn eviction(out: &mut Vec<u8>, item: &Evicted<'_>) {
    let fetch = if item.fetched { "yes" } else { "no" };
    let ttl = match item.exptime {
        Exptime::Never => -1,
        Exptime::At(secs) => i64::from(secs) - i64::from(item.at.unix_secs()),
    };
    out.extend_from_slice(b"eviction key=");
    encoded(out, item.key);
    let (idle, class, size) = (item.idle_secs, item.class, item.len);
    put(out, format_args!(" fetch={fetch} ttl={ttl} la={idle} clsid={class} size={size}\n"));
}

/// A connection that came, or (with a reason) went. `addr` is its name in `stats conns`.
pub fn connection(out: &mut Vec<u8>, addr: &str, cfd: u64, reason: Option<CloseReason>) {
    let (transport, ip, port) = peer(addr);
    out.extend_from_slice(if reason.is_some() { b"conn_close" } else { b"conn_new" });
    put(out, format_args!(" rip={ip} rport={port} transport={transport}"));
    if let Some(reason) = reason {
        put(out, format_args!(" reason={}", reason.name()));
    }
    put(out, format_args!(" cfd={cfd}\n"));
}

/// Transport, address and port of `tcp:1.2.3.4:5`, `tcp6:[::1]:5` or `unix:/path`.
fn peer(addr: &str) -> (&str, &str, &str) {
    let Some((kind, name)) = addr.split_once(':') else { return ("local", "unix", "0") };
    let transport = match kind {
        "tcp" | "tcp6" => "tcp",
        "udp" | "udp6" => "udp",
        _ => return ("local", "unix", "0"),
    };
    let (ip, port) = name.rsplit_once(':').unwrap_or((name, "0"));
    (transport, ip.trim_start_matches('[').trim_end_matches(']'), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { unix_us: 1_795_360_373_000_042, mono_us: 0 };

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("lines are ASCII")
    }

    // The expected lines are what memcached 1.6.45 wrote.
    #[test]
    fn lines_are_memcacheds() {
        assert_eq!(text(|out| head(out, NOW, 5)), "ts=1795360373.42 gid=5 type=");
        assert_eq!(
            text(|out| item_get(out, b"nokey", Fetched::NotFound, 28)),
            "item_get key=nokey status=not_found clsid=0 cfd=28 size=0\n"
        );
        assert_eq!(
            text(|out| item_get(out, b"a/%\x01b", Fetched::Found { len: 5, class: 1 }, 28)),
            "item_get key=a%2F%25%01b status=found clsid=1 cfd=28 size=5\n"
        );
        let store = Store {
            key: b"k",
            mode: Mode::Set,
            status: Status::Stored,
            exptime: Exptime::At(NOW.unix_secs() + 100),
            size: 5,
            class: 1,
        };
        assert_eq!(
            text(|out| item_store(out, &store, NOW, 28)),
            "item_store key=k status=stored cmd=set ttl=100 clsid=1 cfd=28 size=5\n"
        );
        assert_eq!(
            text(|out| deleted(out, b"n", "delete", 1, 1)),
            "deleted key=n cmd=delete clsid=1 size=1\n"
        );
        assert_eq!(
            text(|out| connection(out, "tcp:127.0.0.1:57838", 30, None)),
            "conn_new rip=127.0.0.1 rport=57838 transport=tcp cfd=30\n"
        );
        assert_eq!(
            text(|out| connection(out, "tcp6:[::1]:7", 30, Some(CloseReason::Normal))),
            "conn_close rip=::1 rport=7 transport=tcp reason=normal cfd=30\n"
        );
        assert_eq!(
            text(|out| connection(out, "unix:/tmp/s", 30, Some(CloseReason::IdleTimeout))),
            "conn_close rip=unix rport=0 transport=local reason=idle_timeout cfd=30\n"
        );
        let item = Evicted {
            key: b"n,foo",
            fetched: false,
            exptime: Exptime::Never,
            idle_secs: 3,
            len: 11_000,
            class: 22,
            at: NOW,
        };
        assert_eq!(
            text(|out| eviction(out, &item)),
            "eviction key=n%2Cfoo fetch=no ttl=-1 la=3 clsid=22 size=11000\n"
        );
    }

    #[test]
    fn the_longest_key_fits_a_line() {
        let key = [b'#'; crate::store::KEY_MAX];
        let far = Now { unix_us: u64::MAX, mono_us: 0 };
        let store = Store {
            key: &key,
            mode: Mode::Prepend,
            status: Status::NotStored,
            exptime: Exptime::At(1),
            size: usize::MAX,
            class: u8::MAX,
        };
        let line = text(|out| {
            head(out, far, u64::MAX);
            item_store(out, &store, NOW, u64::MAX);
        });
        assert!(line.len() < LINE_MAX, "{}", line.len());
    }
}
