//! `twincached demo`: the pair and the proxy before the reader's eyes.
//!
//! Owns the story. Everything is real: child processes of this program on free loopback ports,
//! killed with kill -9, their own log lines, clients that type what an operator would, timings as
//! measured. Every answer is checked; a wrong one ends the play with status 1. Leaves nothing
//! behind.

/// `println!` that goes on where nobody reads any more (`twincached demo | head`): the play still
/// ends by itself, and takes its children along.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}

mod cable;
mod stage;

use std::time::Instant;

pub use cable::Cable;
use stage::{await_event, during, free_port, heading, ms, tell, Client, Node, Outcome};

/// What `demo` was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DemoConfig {
    /// `--stay`: keep a pair and a proxy running until Ctrl-C.
    pub stay: bool,
}

/// Plays, and gives the process's exit status.
pub fn run(config: DemoConfig) -> i32 {
    let outcome = if config.stay { stay() } else { stage::interruptible(story) };
    match outcome {
        Ok(()) => 0,
        Err(why) => {
            say!("\n  The demonstration stopped: {why}");
            1
        }
    }
}

fn story() -> Outcome<()> {
    let start = Instant::now();
    pair()?;
    cable_story()?;
    proxy()?;
    say!("\nAll of it took {:.1} s; nothing is left behind.", start.elapsed().as_secs_f64());
    Ok(())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn start_pair_node(name: &str, repl: u16) -> Outcome<Node> {
    let port = free_port()?;
    let args = format!("-v -u root -l 127.0.0.1 -p {port} -x 127.0.0.1 -X {repl}");
    Node::start(name, port, &words(&args))
}

fn pair() -> Outcome<()> {
    heading("1. A pair: two nodes with the same -x and -X");
    let repl = free_port()?;
    let mut a = start_pair_node("node A", repl)?;
    let opened = a.await_port()?;
    a.await_log("replication: listen", 0)?;
    let seen_a = a.show_log(0);
    tell(format!("A found nobody, listens, and serves after {}.", ms(opened)));
    let mut on_a = a.client()?;
    on_a.ask("set key1 0 0 2\naa", "STORED")?;

    let mut b = start_pair_node("node B", repl)?;
    let opened = b.await_port()?;
    b.await_log("replication: start", 0)?;
    a.await_log("replication: marugoto owari", seen_a)?;
    let seen_b = b.show_log(0);
    a.show_log(seen_a);
    tell(format!("B took the full copy and only then opened its port, after {}.", ms(opened)));
    let mut on_b = b.client()?;
    on_b.ask("get key1", "VALUE key1 0 2 / aa / END")?;

    tell("Both take writes, and everything travels both ways:");
    both_ways(&mut on_a, &mut on_b)?;

    tell("A machine is lost:");
    let seen = b.log().len();
    a.kill()?;
    let noticed = b.await_log("replication: listen", seen_b.max(seen))?;
    b.show_log(seen);
    tell(format!("B noticed after {} and goes on:", ms(noticed)));
    on_b.ask("get key1", "VALUE key1 5 2 / 42 / END")?;
    on_b.ask("set key3 0 0 5\nalone", "STORED")?;

    tell("It comes back, and is filled before it answers:");
    let mut a = a.restart()?;
    let opened = a.await_port()?;
    a.await_log("replication: start", 0)?;
    a.show_log(0);
    tell(format!("A's port opened after {}; its first answers:", ms(opened)));
    let mut on_a = a.client()?;
    on_a.ask("get key3", "VALUE key3 0 5 / alone / END")?;
    on_a.ask("get key1", "VALUE key1 5 2 / 42 / END")?;
    await_event("the roles have changed", || {
        let role = |client: &mut Client| client.stat("replication").unwrap_or_default();
        role(&mut on_a) == "SLAVE" && role(&mut on_b) == "MASTER"
    })?;
    tell("Roles have changed: A is SLAVE (it connected), B is MASTER (it listens).");
    Ok(())
}

/// Writes on one node, reads on the other, with every command that writes.
fn both_ways(on_a: &mut Client, on_b: &mut Client) -> Outcome<()> {
    on_b.ask("append key1 0 0 2\nbb", "STORED")?;
    on_a.ask_until("get key1", "VALUE key1 0 4 / aabb / END")?;
    on_a.ask("prepend key1 0 0 2\n00", "STORED")?;
    on_b.ask_until("get key1", "VALUE key1 0 6 / 00aabb / END")?;
    on_b.ask("replace key1 5 0 2\n41", "STORED")?;
    on_a.ask_until("get key1", "VALUE key1 5 2 / 41 / END")?;
    on_a.ask("incr key1 1", "42")?;
    on_b.ask_until("get key1", "VALUE key1 5 2 / 42 / END")?;
    on_b.ask("add key2 0 0 3\nnew", "STORED")?;
    on_a.ask_until("get key2", "VALUE key2 0 3 / new / END")?;
    on_a.ask("touch key2 1000", "TOUCHED")?;
    on_a.ask("delete key2", "DELETED")?;
    on_b.ask_until("get key2", "END")?;
    on_b.ask("set gone 0 0 1\nx", "STORED")?;
    on_a.ask_until("get gone", "VALUE gone 0 1 / x / END")?;
    on_a.ask("flush_all", "OK")?;
    on_b.ask_until("get gone", "END")?;
    on_b.ask("set key1 5 0 2\n42", "STORED")?;
    on_a.ask_until("get key1", "VALUE key1 5 2 / 42 / END").map(drop)
}

fn cable_story() -> Outcome<()> {
    heading("2. A cut cable: both live, both write, and they agree again");
    let (repl_c, repl_d) = (free_port()?, free_port()?);
    let to_c = during("a cable", Cable::to(repl_c))?;
    let to_d = during("a cable", Cable::to(repl_d))?;
    let start = |name: &str, repl: u16, peer: u16| {
        let port = free_port()?;
        let args = format!("-v -u root -l 127.0.0.1 -p {port} -x 127.0.0.1:{peer} -X {repl}");
        Node::start(name, port, &words(&args))
    };
    let mut c = start("node C", repl_c, to_d.port())?;
    c.await_port()?;
    let mut d = start("node D", repl_d, to_c.port())?;
    d.await_port()?;
    let (mut on_c, mut on_d) = (c.client()?, d.client()?);
    on_c.ask("set old 0 0 3\nold", "STORED")?;
    on_d.ask_until("get old", "VALUE old 0 3 / old / END")?;

    let (seen_c, seen_d) = (c.log().len(), d.log().len());
    to_c.cut();
    to_d.cut();
    tell("The cable between them is cut:");
    c.await_log("replication: listen", seen_c)?;
    d.await_log("replication: listen", seen_d)?;
    c.show_log(seen_c);
    d.show_log(seen_d);
    on_c.ask("set c 0 0 6\nfrom c", "STORED")?;
    on_d.ask("set d 0 0 6\nfrom d", "STORED")?;
    on_c.ask("delete old", "DELETED")?;
    on_c.ask("set both 0 0 5\nfirst", "STORED")?;
    on_d.ask("set both 0 0 6\nsecond", "STORED")?; // the newest write wins

    tell("The cable is mended:");
    let mended = Instant::now();
    to_c.mend();
    to_d.mend();
    on_d.ask_until("get c", "VALUE c 0 6 / from c / END")?;
    on_c.ask_until("get d", "VALUE d 0 6 / from d / END")?;
    on_d.ask_until("get old", "END")?;
    on_c.ask_until("get both", "VALUE both 0 6 / second / END")?;
    let same = on_c.ask_quietly("gets both")?;
    on_d.ask_until("gets both", &same)?;
    tell(format!("Healed by itself, {} after the cable was back.", ms(mended.elapsed())));
    Ok(())
}

/// The three plain nodes and the proxy of the second transcript.
struct Site {
    nodes: [Node; 3],
    proxy: Node,
}

fn start_site() -> Outcome<Site> {
    let plain = |name: &str| -> Outcome<Node> {
        let port = free_port()?;
        let args = format!("-u root -l 127.0.0.1 -p {port} -m 1");
        let mut node = Node::start(name, port, &words(&args))?;
        node.await_port()?;
        Ok(node)
    };
    let nodes = [plain("node 1")?, plain("node 2")?, plain("backup")?];
    let port = free_port()?;
    let [one, two, backup] = [&nodes[0], &nodes[1], &nodes[2]].map(|node| node.port);
    let args = format!(
        "proxy -D -u root -n 51200 -l 127.0.0.1 -p {port} -s 127.0.0.1:{one} -s 127.0.0.1:{two} \
         -b 127.0.0.1:{backup}"
    );
    let mut proxy = Node::start("proxy", port, &words(&args))?;
    proxy.await_port()?;
    Ok(Site { nodes, proxy })
}

fn proxy() -> Outcome<()> {
    heading("3. A proxy over three plain nodes, the third one a backup");
    let Site { nodes: [mut one, mut two, backup], proxy } = start_site()?;
    let mut front = proxy.client()?;
    front.ask("set key1 0 0 3\none", "STORED")?;
    front.ask("set key2 0 0 3\ntwo", "STORED")?;
    tell("key1 went to node 2 and to the backup, key2 to node 1 and to the backup:");
    let value1 = "VALUE key1 0 3 / one / END";
    let value2 = "VALUE key2 0 3 / two / END";
    two.client()?.ask("get key1", value1)?;
    one.client()?.ask("get key2", value2)?;
    let mut on_backup = backup.client()?;
    on_backup.ask_until("get key1", value1)?;
    on_backup.ask_until("get key2", value2)?;
    one.client()?.ask("get key1", "END")?;

    tell("Both servers are lost:");
    one.kill()?;
    two.kill()?;
    front.ask("get key1", value1)?;
    front.ask("get key2", value2)?;

    tell("They come back empty. What they lost is read from the backup, and put back:");
    let mut one = one.restart()?;
    one.await_port()?;
    let mut two = two.restart()?;
    two.await_port()?;
    two.client()?.ask("get key1", "END")?;
    front.ask_until("get key1", value1)?;
    front.ask_until("get key2", value2)?;
    // While a server is still being probed its reads go to the backup; then it is filled.
    let (mut on_one, mut on_two) = (one.client()?, two.client()?);
    let put_back = await_event("key1 and key2 are put back", || {
        let mut read = |key: &str| front.ask_quietly(&format!("get {key}")).is_ok();
        read("key1")
            && read("key2")
            && on_two.ask_quietly("get key1").as_deref() == Ok(value1)
            && on_one.ask_quietly("get key2").as_deref() == Ok(value2)
    })?;
    on_two.ask("get key1", value1)?;
    on_one.ask("get key2", value2)?;
    tell(format!("Put back within {}. The proxy, as magent would say it:", ms(put_back)));
    for line in front.ask_quietly("stats")?.split(" / ") {
        say!("      {line}");
    }
    Ok(())
}

fn stay() -> Outcome<()> {
    heading("A pair and a proxy, until Ctrl-C");
    let repl = free_port()?;
    let mut a = start_pair_node("node A", repl)?;
    a.await_port()?;
    let mut b = start_pair_node("node B", repl)?;
    b.await_port()?;
    let site = start_site()?;
    tell("Try:");
    for (node, what) in [
        (&a, "node A of the pair"),
        (&b, "node B of the pair"),
        (&site.proxy, "the proxy"),
        (&site.nodes[0], "its node 1"),
        (&site.nodes[1], "its node 2"),
        (&site.nodes[2], "its backup"),
    ] {
        say!("      telnet 127.0.0.1 {}        # {what} ({})", node.port, node.name());
    }
    say!();
    stage::await_interrupt()
}
