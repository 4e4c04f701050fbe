//! A laboratory of network namespaces: a switch, hosts on it, and wires that can be cut.
//!
//! Owns the namespaces and what is plugged into them, and removes them when it is dropped, also by
//! a test that fails. Never touches a rule or a route of the host: there it adds the far ends of
//! the clients' wires only, which go with the namespaces.
//!
//! ```text
//!   here (the test, its clients)
//!     |198.18.x.y/30   one wire per host: clients are never cut
//!   [host 0]   [host 1]   [host 2] ...        a namespace each
//!     |r0        |r0        |r0               10.199.0.1, .2, .3
//!   ==+==========+==========+==== switch      in a namespace of its own
//! ```

use crate::common::{eventually, skipped, Client, Node, DEADLINE};
use crate::compare::logs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What every host's program listens on: clients, peers.
const PORT: u16 = 11211;
const REPL: u16 = 11212;
/// A hardware address that nobody has.
const NOBODY: &str = "02:00:00:00:00:fe";
/// Laboratories of this process: their names and addresses differ.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Namespaces, wires and a switch. See the picture above.
pub struct Lab {
    /// Beginning of all names: `twin-PID-N`.
    name: String,
    number: u32,
    pub hosts: usize,
    /// `netem` is there; otherwise packets are dropped by a filter and slowed down by a bucket.
    netem: bool,
}

/// Runs `ip` (or `tc`) and says whether it went well.
fn tool(program: &str, args: &str) -> Result<(), String> {
    let output = Command::new(program).args(args.split_whitespace()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("{program} {args}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn ip(args: &str) {
    tool("ip", args).expect("a command of iproute2 that worked before");
}

impl Lab {
    /// So many hosts on one switch; `None`, loudly, where this machine does not let us.
    pub fn new(hosts: usize) -> Option<Lab> {
        sweep();
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("twin-{}-{made}", std::process::id());
        let number = std::process::id().wrapping_mul(31).wrapping_add(made);
        let mut lab = Lab { name, number, hosts, netem: false };
        if let Err(error) = tool("ip", &format!("netns add {}", lab.switch())) {
            skipped(&format!("ip netns (as root): {error}: it"));
            return None;
        }
        ip(&format!("-n {} link add br0 type bridge", lab.switch()));
        ip(&format!("-n {} link set br0 up", lab.switch()));
        for host in 0..hosts {
            lab.plug(host);
        }
        let try_netem = format!("-n {} qdisc add dev p0 root netem loss 0%", lab.switch());
        lab.netem = tool("tc", &try_netem).is_ok();
        Some(lab)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    /// The namespace of a host.
    pub fn space(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    fn plug(&self, host: usize) {
        let (space, switch) = (self.space(host), self.switch());
        ip(&format!("netns add {space}"));
        ip(&format!("-n {space} link set lo up"));
        ip(&format!("-n {switch} link add p{host} type veth peer name r0 netns {space}"));
        ip(&format!("-n {switch} link set p{host} master br0 up"));
        ip(&format!("-n {space} addr add {}/24 dev r0", Lab::address(host)));
        ip(&format!("-n {space} addr add {}/64 dev r0 nodad", Lab::address6(host)));
        ip(&format!("-n {space} link set r0 up"));
        let (ours, theirs) = self.clients_wire(host);
        let wire = self.wire(host);
        ip(&format!("link add {wire} type veth peer name c0 netns {space}"));
        ip(&format!("-n {space} addr add {theirs}/30 dev c0"));
        ip(&format!("-n {space} link set c0 up"));
        ip(&format!("addr add {ours}/30 dev {wire}"));
        ip(&format!("link set {wire} up"));
    }

    /// The name of our end of the wire that clients use.
    fn wire(&self, host: usize) -> String {
        format!("tw{:x}h{host}", self.number & 0xff_ffff)
    }

    /// Both ends of the wire that clients use: a net of four from the range for benchmarks.
    fn clients_wire(&self, host: usize) -> (Ipv4Addr, Ipv4Addr) {
        let net = (self.number.wrapping_mul(8).wrapping_add(host as u32)) % 32_768;
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + net * 4;
        (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2))
    }

    /// The address by which hosts know each other.
    pub fn address(host: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 199, 0, 1 + host as u8)
    }

    /// The same in IPv6. Cuts are of IPv4 only.
    pub fn address6(host: usize) -> Ipv6Addr {
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1 + host as u16)
    }

    /// Gives a host another address instead of its own one.
    pub fn moves(&self, host: usize, to: Ipv4Addr) {
        let space = self.space(host);
        ip(&format!("-n {space} addr del {}/24 dev r0", Lab::address(host)));
        ip(&format!("-n {space} addr add {to}/24 dev r0"));
    }

    /// Where clients find the program of a host.
    pub fn door(&self, host: usize) -> SocketAddrV4 {
        SocketAddrV4::new(self.clients_wire(host).1, PORT)
    }

    /// Packets from one host to another one arrive nowhere, and nobody is told.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        let (space, to) = (self.space(from), Lab::address(to));
        ip(&format!("-n {space} neigh replace {to} lladdr {NOBODY} dev r0 nud permanent"));
    }

    /// Nothing passes between two hosts, in either direction.
    pub fn cut(&self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Undoes [`Lab::cut`] and [`Lab::cut_one_way`].
    pub fn heal(&self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            // Not there: it was not cut.
            let _ = tool(
                "ip",
                &format!("-n {} neigh del {} dev r0", self.space(from), Lab::address(to)),
            );
        }
    }

    /// Pulls a host's wire out of the switch. It sees that at its own end.
    pub fn unplug(&self, host: usize) {
        ip(&format!("-n {} link set p{host} down", self.switch()));
    }

    /// Undoes [`Lab::unplug`].
    pub fn replug(&self, host: usize) {
        ip(&format!("-n {} link set p{host} up", self.switch()));
    }

    /// Takes a host's own interface down: connections that are tried then fail at once.
    pub fn interface(&self, host: usize, up: bool) {
        let state = if up { "up" } else { "down" };
        ip(&format!("-n {} link set r0 {state}", self.space(host)));
    }

    /// There is a way to a peer, and it ends at once: an unreachable network.
    pub fn unroute(&self, from: usize, to: usize) {
        ip(&format!("-n {} route add unreachable {}/32", self.space(from), Lab::address(to)));
    }

    /// Undoes [`Lab::unroute`].
    pub fn reroute(&self, from: usize, to: usize) {
        ip(&format!("-n {} route del unreachable {}/32", self.space(from), Lab::address(to)));
    }

    /// Drops so many packets of a hundred that leave a host for its peers, at random.
    pub fn lossy(&self, host: usize, percent: u32) {
        let space = self.space(host);
        self.clear(host);
        if self.netem {
            return ip_tc(&format!("-n {space} qdisc add dev r0 root netem loss {percent}%"));
        }
        // Load a random word; above the limit it is no match; a match goes into a wire whose other
        // end is down.
        let limit = u32::MAX / 100 * percent;
        let _ = tool("ip", &format!("-n {space} link add hole type veth peer name nowhere"));
        ip(&format!("-n {space} link set hole up"));
        ip_tc(&format!("-n {space} qdisc add dev r0 clsact"));
        let program = format!("4,32 0 0 4294963256,37 1 0 {limit},6 0 0 4294967295,6 0 0 0");
        let args = ["-n", &space, "filter", "add", "dev", "r0", "egress", "bpf", "bytecode"];
        let redirect = "flowid 1:1 action mirred egress redirect dev hole";
        let status = Command::new("tc")
            .args(args)
            .arg(program)
            .args(redirect.split(' '))
            .status()
            .expect("tc runs");
        assert!(status.success(), "packets of {space} are dropped at random");
    }

    /// Makes what leaves a host late: 40 ms and 20 ms of jitter; without `netem` a narrow wire
    /// before which packets queue up.
    pub fn slow(&self, host: usize) {
        let space = self.space(host);
        self.clear(host);
        let how = if self.netem {
            "netem delay 40ms 20ms distribution normal"
        } else {
            "tbf rate 16mbit burst 10kb latency 300ms"
        };
        ip_tc(&format!("-n {space} qdisc add dev r0 root {how}"));
    }

    /// Undoes [`Lab::lossy`] and [`Lab::slow`].
    pub fn clear(&self, host: usize) {
        for kind in ["root", "clsact"] {
            // Not there: nothing to undo.
            let _ = tool("tc", &format!("-n {} qdisc del dev r0 {kind}", self.space(host)));
        }
    }

    /// Starts the program on a host, every other host being its peer.
    pub fn start(&self, host: usize, more: &[&str]) -> Host {
        let others: Vec<usize> = (0..self.hosts).filter(|&other| other != host).collect();
        self.start_with(host, &others, more)
    }

    /// Starts the program on a host with these peers.
    pub fn start_with(&self, host: usize, peers: &[usize], more: &[&str]) -> Host {
        let peers: Vec<String> = peers.iter().map(|&p| Lab::address(p).to_string()).collect();
        self.start_in(host, &peers, more, "exec \"$@\"")
    }

    /// Starts the program by a line of the shell that ends in `exec "$@"`, its peers as `-x` says.
    pub fn start_in(&self, host: usize, peers: &[String], more: &[&str], shell: &str) -> Host {
        let space = self.space(host);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &space, "sh", "-c", shell, "sh"]);
        command.arg(env!("CARGO_BIN_EXE_twincached"));
        command.args(["-v", "-u", "root", "-p", &PORT.to_string(), "-X", &REPL.to_string()]);
        for peer in peers {
            command.args(["-x", peer]);
        }
        let node = Node::spawn(command.args(more), PORT);
        Host { node, door: self.door(host), number: host }
    }
}

fn ip_tc(args: &str) {
    tool("tc", args).expect("a command of iproute2");
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            // By itself: connections that wait for a lost packet keep a namespace alive for
            // minutes.
            let _ = tool("ip", &format!("link del {}", self.wire(host)));
            remove(&self.space(host));
        }
        remove(&self.switch());
    }
}

/// Removes a namespace and ends what still runs in it.
fn remove(space: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", space]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
        }
    }
    if let Err(error) = tool("ip", &format!("netns del {space}")) {
        let _ = writeln!(std::io::stderr(), "left behind: {error}");
    }
}

/// Removes what a test left behind that was itself killed: its number is nobody's now.
fn sweep() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let space = line.split(' ').next().unwrap_or_default();
        let Some(pid) = space.strip_prefix("twin-").and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            remove(space);
        }
    }
}

/// A program on a host.
pub struct Host {
    pub node: Node,
    pub door: SocketAddrV4,
    pub number: usize,
}

impl Host {
    pub fn client(&self) -> Client {
        Client::at(self.door)
    }

    /// Waits until clients may come.
    pub fn await_port(&self) {
        let what = format!("host {} serves", self.number);
        eventually(&what, || std::net::TcpStream::connect(self.door).ok());
    }

    /// Waits until so many links are live.
    pub fn await_linked(&self, links: usize) {
        let (mut client, wanted) = (self.client(), links.to_string());
        let begin = Instant::now();
        while client.stat("repl_peers_linked").as_deref() != Some(&wanted) {
            let late = begin.elapsed() > DEADLINE;
            assert!(!late, "host {} has not {links} links:\n{}", self.number, logs(&[self]));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it has noticed that a link is over.
    pub fn await_fewer(&self, links: usize) {
        let mut client = self.client();
        eventually(&format!("host {} notices; log:\n{}", self.number, self.node.log()), || {
            let linked = client.stat("repl_peers_linked").expect("a figure");
            (linked.parse::<usize>().expect("a number") < links).then_some(())
        });
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.node.child.id());
        let status = std::fs::read_to_string(path).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).expect("a figure").parse().expect("a number")
    }
}
