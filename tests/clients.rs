//! Real client libraries through their real APIs: against our server, through a replicated pair
//! (what is written on one node is read on the other), through our proxy, and against the real
//! memcached, so that what the scripts expect is proven.
//!
//! The scripts are in tests/clients/; cases.py there says how they are started. `.ci/run` installs
//! the libraries. Where one is missing that is a loud note, and a failure under
//! `TWINCACHED_REQUIRE_PEERS`.

mod common;

use common::{eventually, free_port, pair, peer_program, skipped, Node};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long one script may take. They wait for items to expire, and for nothing longer.
const PATIENCE: Duration = Duration::from_secs(240);

/// Who the scripts say they are where the server asks. A colon is a part of the password.
const USER: &str = "user";
const PASSWORD: &str = "secret:pw";

/// How a server is to ask who a client is.
#[derive(Clone, Copy, PartialEq)]
enum Auth {
    None,
    /// `-S`: binary clients, SASL PLAIN.
    Sasl,
    /// `-Y`: classic clients, whose first `set` holds user and password.
    Ascii,
}

/// One or two servers to run a script against. Killed when dropped.
struct Servers {
    name: &'static str,
    write: u16,
    read: u16,
    nodes: Vec<Node>,
}

/// A folder for a test's files, new and empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder under target/tmp");
    folder
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("the path is text").to_owned()
}

/// The flags for `auth`, with the file of users where there is one.
fn auth_flags(auth: Auth, folder: &Path) -> Vec<String> {
    let users = folder.join("users");
    std::fs::write(&users, format!("{USER}:{PASSWORD}\n")).expect("a file of users");
    let file = path_text(&users);
    match auth {
        Auth::None => Vec::new(),
        Auth::Sasl => ["-S", "-B", "binary", "-Y", &file].map(str::to_owned).to_vec(),
        Auth::Ascii => ["-Y", &file].map(str::to_owned).to_vec(),
    }
}

fn ours(auth: Auth, folder: &Path) -> Servers {
    let flags = auth_flags(auth, folder);
    let port = free_port();
    let node =
        Node::plain(port, &flags.iter().map(String::as_str).chain(MEMORY).collect::<Vec<_>>());
    Servers { name: "ours", write: port, read: port, nodes: vec![node] }
}

/// Room for the values of a megabyte.
const MEMORY: [&str; 2] = ["-m", "64"];

fn our_pair(auth: Auth, folder: &Path) -> Servers {
    let flags = auth_flags(auth, folder);
    let (first, second, _) = pair(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    Servers { name: "pair", write: first.port, read: second.port, nodes: vec![first, second] }
}

/// The real one. None where it cannot be had, or cannot ask for passwords here.
fn memcached(auth: Auth, folder: &Path) -> Option<Servers> {
    let program = peer_program("memcached")?;
    let port = free_port();
    let mut command = Command::new(program);
    command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]);
    match auth {
        Auth::None => {}
        Auth::Ascii => drop(command.args(auth_flags(auth, folder))),
        Auth::Sasl => {
            sasl_database(folder)?;
            command.args(["-S", "-B", "binary"]).env("SASL_CONF_PATH", folder);
        }
    }
    let node = Node::spawn(&mut command, port);
    node.await_port();
    Some(Servers { name: "memcached", write: port, read: port, nodes: vec![node] })
}

/// Two servers and a backup behind our proxy, all of them the real `program` or else ours.
fn behind_a_proxy(program: Option<&str>) -> Servers {
    let server = || match program {
        None => Node::plain(free_port(), &MEMORY),
        Some(program) => {
            let port = free_port();
            let mut command = Command::new(program);
            command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]);
            let node = Node::spawn(&mut command, port);
            node.await_port();
            node
        }
    };
    let mut nodes = vec![server(), server(), server()];
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.args(["proxy", "-D", "-u", "root", "-l", "127.0.0.1", "-p", &port.to_string()]);
    for (flag, node) in ["-s", "-s", "-b"].iter().zip(&nodes) {
        command.args([flag, &format!("127.0.0.1:{}", node.port)[..]]);
    }
    let proxy = Node::spawn(&mut command, port);
    proxy.await_port();
    nodes.push(proxy);
    Servers { name: "proxy", write: port, read: port, nodes }
}

/// Makes the database that the real memcached asks through the SASL library.
fn sasl_database(folder: &Path) -> Option<()> {
    let program = peer_program("saslpasswd2")?;
    let database = path_text(&folder.join("db"));
    let config = format!(
        "mech_list: plain\npwcheck_method: auxprop\nauxprop_plugin: sasldb\n\
         sasldb_path: {database}\n"
    );
    std::fs::write(folder.join("memcached.conf"), config).expect("memcached.conf");
    let line =
        format!("printf %s '{PASSWORD}' | {program} -p -c -f '{database}' -a memcached {USER}");
    let made = Command::new("sh").args(["-c", &line]).status().expect("sh runs").success();
    assert!(made, "{line}");
    Some(())
}

/// The Python of `.ci/run`'s virtual environment, or else the system's.
fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target");
    let ours = target.join("clients/bin/python3");
    if ours.exists() {
        ours
    } else {
        PathBuf::from("python3")
    }
}

/// The command that runs `script`, if the `library` it is about is installed.
fn command(script: &str, library: &str) -> Option<Command> {
    let python = python();
    let (program, probe) = match script.rsplit('.').next() {
        Some("py") => (python.to_str().expect("text"), ["-c".into(), format!("import {library}")]),
        Some("rb") => ("ruby", ["-e".into(), format!("require '{library}'")]),
        _ => ("php", ["-r".into(), format!("exit((int) !extension_loaded('{library}'));")]),
    };
    let probed = Command::new(program).args(probe).stderr(Stdio::null()).status();
    if !probed.is_ok_and(|status| status.success()) {
        skipped(&format!("{library} (for {program})"));
        return None;
    }
    let mut command = Command::new(program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
    Some(command)
}

/// Runs a script against some servers. The error holds what it printed.
fn run(script: &str, library: &str, servers: &Servers, auth: Auth) -> Result<(), String> {
    let Some(mut command) = command(script, library) else { return Ok(()) };
    command
        .env("CLIENT_WRITE", servers.write.to_string())
        .env("CLIENT_READ", servers.read.to_string())
        .env("CLIENT_SERVER", servers.name)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if auth != Auth::None {
        command.env("CLIENT_USER", USER).env("CLIENT_PASSWORD", PASSWORD);
    }
    if let Some(plugins) = sasl_plugins() {
        command.env("SASL_PATH", plugins);
    }
    let start = Instant::now();
    let mut script_run = Node::spawn(&mut command, 0);
    let ended = loop {
        match script_run.child.try_wait().expect("a child can be asked") {
            Some(status) => break status.to_string(),
            None if start.elapsed() > PATIENCE => break format!("still busy after {PATIENCE:?}"),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if ended == "exit status: 0" {
        return Ok(());
    }
    script_run.kill();
    let said = script_run.whole_log();
    let logs: Vec<String> = servers.nodes.iter().map(Node::log).collect();
    Err(format!("{script} on {}: {ended}\n{said}\nservers' logs: {logs:?}", servers.name))
}

/// Where the system keeps the plugins of its SASL library. A client that brings the library along
/// looks for them elsewhere.
fn sasl_plugins() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    folders.flatten().map(|entry| entry.path().join("sasl2")).find(|path| path.is_dir())
}

/// Runs a script against everything that speaks to it, all at once: they mostly wait.
fn check(script: &str, library: &str, auth: Auth) {
    let kind = ["plain", "sasl", "ascii"][auth as usize];
    let folder = |name: &str| folder(&format!("clients-{script}-{kind}-{name}"));
    let plain = auth == Auth::None;
    let servers = [
        plain.then(|| behind_a_proxy(None)),
        peer_program("memcached").filter(|_| plain).map(|real| behind_a_proxy(Some(real))),
        Some(ours(auth, &folder("ours"))),
        Some(our_pair(auth, &folder("pair"))),
        memcached(auth, &folder("memcached")),
    ];
    let failed: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = servers
            .iter()
            .flatten()
            .map(|servers| scope.spawn(|| run(script, library, servers, auth)))
            .collect();
        runs.into_iter().filter_map(|run| run.join().expect("no panic").err()).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn pymemcache() {
    check("use_pymemcache.py", "pymemcache", Auth::None);
}

#[test]
fn python_binary_memcached() {
    check("use_bmemcached.py", "bmemcached", Auth::None);
}

#[test]
fn python_binary_memcached_with_a_password() {
    check("use_bmemcached.py", "bmemcached", Auth::Sasl);
}

#[test]
fn pylibmc() {
    check("use_pylibmc.py", "pylibmc", Auth::None);
}

#[test]
fn pylibmc_with_a_password() {
    check("use_pylibmc.py", "pylibmc", Auth::Sasl);
}

#[test]
fn aiomcache() {
    check("use_aiomcache.py", "aiomcache", Auth::None);
}

#[test]
fn emcache() {
    check("use_emcache.py", "emcache", Auth::None);
}

#[test]
fn emcache_with_a_password() {
    check("use_emcache.py", "emcache", Auth::Ascii);
}

#[test]
fn meta_memcache() {
    check("use_meta_memcache.py", "meta_memcache", Auth::None);
}

#[test]
fn dalli() {
    check("use_dalli.rb", "dalli", Auth::None);
}

#[test]
fn dalli_with_a_password() {
    check("use_dalli.rb", "dalli", Auth::Sasl);
}

#[test]
fn php_memcached() {
    check("use_php.php", "memcached", Auth::None);
}

#[test]
fn php_memcached_with_a_password() {
    check("use_php.php", "memcached", Auth::Sasl);
}

/// libmemcached's conformance test, all of its checks in both protocols.
#[test]
fn memccapable() {
    let Some(program) = peer_program("memccapable") else { return };
    let nothing = folder("clients-memccapable");
    for servers in [ours(Auth::None, &nothing), our_pair(Auth::None, &nothing)] {
        let port = servers.write.to_string();
        let output = Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &port, "-t", "20"])
            .output()
            .expect("memccapable runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("All tests passed"),
            "{}: {text}\n{errors}",
            servers.name
        );
    }
}

/// libmemcached's small tools, in both protocols, through a pair.
#[test]
fn tools_of_libmemcached() {
    if peer_program("memccp").is_none() {
        return;
    }
    let folder = folder("clients-tools");
    let servers = our_pair(Auth::None, &folder);
    let at = |port: u16| format!("--servers=127.0.0.1:{port}");
    let (write, read) = (at(servers.write), at(servers.read));
    let tool = |name: &str, args: &[&str]| {
        let output = Command::new(name).args(args).output().expect("a tool of libmemcached");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (protocol, name) in [("--tcp-nodelay", "classic"), ("--binary", "binary")] {
        let file = folder.join(name);
        std::fs::write(&file, format!("value of {name}")).expect("a file");
        let copied = tool("memccp", &[&write, protocol, &path_text(&file)]);
        assert!(copied.0, "memccp {protocol}: {copied:?}");
        eventually("the other node has it", || {
            let (good, text) = tool("memccat", &[&read, protocol, name]);
            (good && text.contains(&format!("value of {name}"))).then_some(())
        });
        for (program, args) in [
            ("memcping", &[&write[..]][..]),
            ("memcstat", &[&write]),
            ("memctouch", &[&write, protocol, "--expire=1000", name]),
            ("memcexist", &[&write, protocol, name]),
            ("memcrm", &[&write, protocol, name]),
        ] {
            let done = tool(program, args);
            assert!(done.0, "{program} {protocol}: {done:?}");
        }
        eventually("it is removed there, too", || {
            (!tool("memcexist", &[&read, protocol, name]).0).then_some(())
        });
        assert!(tool("memcflush", &[&write, protocol]).0, "memcflush {protocol}");
    }
}
