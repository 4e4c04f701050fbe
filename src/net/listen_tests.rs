//! Real sockets on loopback; every port is the kernel's choice.

use super::*;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

/// A directory of our own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("twincached-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_bound_port_refuses_until_it_listens() {
    let bound = bind_tcp(&["127.0.0.1".into()], 0).unwrap().remove(0);
    let addr = bound.local_addr().unwrap();
    assert_eq!(
        std::net::TcpStream::connect(addr).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    let listener = bound.listen(8).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut client = std::net::TcpStream::connect(addr).unwrap();
    let (mut stream, name) = listener.accept().unwrap();
    assert_eq!(name.to_string(), format!("tcp:{}", client.local_addr().unwrap()));
    assert_eq!(listener.name(), format!("tcp:{addr}"));
    let options = SockRef::from(&stream);
    assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap(), "not inherited");
    stream.write_all(b"hello").unwrap();
    drop(stream);
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "hello");
}

#[test]
fn a_port_in_use_is_an_error() {
    let first = bind_tcp(&["127.0.0.1".into()], 0).unwrap().remove(0);
    let port = first.local_addr().unwrap().port();
    let _listening = first.listen(1).unwrap();
    let error = bind_tcp(&["127.0.0.1".into()], port).unwrap_err();
    assert_eq!(error.to_string(), "failed to listen on 127.0.0.1: Address already in use");
    let error = bind_tcp(&[], port).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("failed to listen on TCP port {port}: Address already in use")
    );
}

#[test]
fn both_families_share_an_ephemeral_port() {
    let bound = bind_tcp(&[], 0).unwrap();
    let ports: Vec<u16> = bound.iter().map(|b| b.local_addr().unwrap().port()).collect();
    assert!(ports[0] != 0 && ports.iter().all(|p| *p == ports[0]), "{ports:?}");
}

#[test]
fn unix_socket_has_its_mode_and_goes_away() {
    let scratch = Scratch::new("unix");
    let path = scratch.0.join("sock");
    // What a killed server leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = bind_unix(&path, 0o600).unwrap().listen(1).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let (stream, name) = listener.accept().unwrap();
    assert!(stream.is_unix());
    assert_eq!(name.to_string(), format!("unix:{}", path.display()));
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn unix_socket_never_removes_what_is_not_its_own() {
    let scratch = Scratch::new("unix-other");
    let path = scratch.0.join("sock");
    fs::write(&path, "data").unwrap();
    assert!(bind_unix(&path, 0o700).unwrap_err().to_string().contains("Address already in use"));
    assert_eq!(fs::read(&path).unwrap(), b"data");
    fs::remove_file(&path).unwrap();
    let ours = bind_unix(&path, 0o700).unwrap();
    let theirs = bind_unix(&path, 0o700).unwrap();
    drop(ours);
    assert!(path.exists(), "the successor's socket was removed");
    drop(theirs);
    assert!(!path.exists());
}

#[test]
fn port_file_reads_as_memcacheds() {
    let scratch = Scratch::new("ports");
    let path = scratch.0.join("ports");
    let addrs = ["127.0.0.1:1234".parse().unwrap(), "[::1]:1235".parse().unwrap()];
    write_port_file(&path, &addrs, &addrs[..1]).unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "TCP INET: 1234\nTCP INET6: 1235\nUDP INET: 1234\n"
    );
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
}
