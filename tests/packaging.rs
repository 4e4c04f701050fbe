//! What is packaged, run as it will be: the configuration files, the start script, the init
//! scripts.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};

use twincached::cli::{self, Command};

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file)
}

/// A folder of our own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("twincached-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("scratch folder");
        Scratch(dir)
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.0.join(file);
        fs::write(&path, text).expect("written");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The words that the start script runs a program with, for the configuration file `conf`.
fn words(conf: &Path, before: &[&str]) -> Vec<String> {
    let out = Process::new(packaging("twincached-start"))
        .arg(conf)
        .args(["printf", "%s\\n"])
        .args(before)
        .output()
        .expect("the start script runs");
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn the_start_script_reads_one_flag_a_line() {
    let scratch = Scratch::new("start");
    let conf = scratch.write(
        "conf",
        "# memcached default config file\n-d\nlogfile /var/log/memcached.log\n\n# -v\n-m 64\n\
         \t-p 11211   # the port\n-M # no evictions\n-l 127.0.0.1\n-l ::1  \n-vv\nnonsense\n-k",
    );
    let expected = [
        "before",
        "-o",
        "log_file=/var/log/memcached.log",
        "-m",
        "64",
        "-p",
        "11211",
        "-M",
        "-l",
        "127.0.0.1",
        "-l",
        "::1",
        "-vv",
        "-k",
    ];
    assert_eq!(words(&conf, &["before"]), expected);
    let out = Process::new(packaging("twincached-start")).args(["/no/such", "true"]).output();
    assert_eq!(out.expect("runs").status.code(), Some(66));
}

#[test]
fn packaged_configurations_parse() {
    let mut server = vec!["twincached".to_string()];
    server.extend(words(&packaging("twincached.conf"), &[]));
    let Command::Server(config) = cli::parse(&server) else { panic!("{server:?}") };
    assert_eq!(config.user.as_deref(), Some("twincached"));
    assert!(config.notes.is_empty() && config.warnings.is_empty() && !config.daemon);
    let mut proxy = vec!["twincached".to_string()];
    proxy.extend(words(&packaging("magent.conf"), &["proxy"]));
    let Command::Proxy(config) = cli::parse(&proxy) else { panic!("{proxy:?}") };
    assert!(config.servers.len() == 1 && !config.foreground);
    // Every example in a comment, too.
    for file in ["twincached.conf", "magent.conf"] {
        let text = fs::read_to_string(packaging(file)).expect("readable");
        let text = text.replace("\n# -", "\n-").replace("\n# logfile", "\nlogfile");
        let scratch = Scratch::new(&format!("examples-{file}"));
        let before: &[&str] = if file == "magent.conf" { &["proxy"] } else { &[] };
        let mut argv = vec!["twincached".to_string()];
        argv.extend(words(&scratch.write("conf", &text), before));
        let command = cli::parse(&argv);
        assert!(matches!(command, Command::Server(_) | Command::Proxy(_)), "{command:?}");
    }
    let text = fs::read_to_string(packaging("rpm/twincached.sysconfig")).expect("readable");
    let value = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(&format!("{name}="))).expect(name);
        line.split('"').nth(1).expect("quoted").to_string()
    };
    let line = format!(
        "twincached -p {} -u {} -m {} -c {} {}",
        value("PORT"),
        value("USER"),
        value("CACHESIZE"),
        value("MAXCONN"),
        value("OPTIONS")
    );
    assert!(matches!(cli::parse(line.split_whitespace()), Command::Server(_)), "{line}");
}

/// Runs an init script over files of our own.
fn init(script: &str, scratch: &Scratch, action: &str) -> Output {
    Process::new(packaging(script))
        .arg(action)
        .env("DAEMON", env!("CARGO_BIN_EXE_twincached"))
        .env("START", packaging("twincached-start"))
        .env("CONF", scratch.0.join("conf"))
        .env("PIDFILE", scratch.0.join("pid"))
        .stdin(Stdio::null())
        .output()
        .expect("the init script runs")
}

/// Stops whatever the test has left running.
struct Stop<'a>(&'a str, &'a Scratch);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        init(self.0, self.1, "stop");
    }
}

fn lives_a_day(script: &str, conf: &str) {
    let scratch = Scratch::new(script);
    let port = common::free_port();
    scratch.write("conf", &format!("-u root\n-l 127.0.0.1\n-p {port}\n{conf}"));
    let _stop = Stop(script, &scratch);
    let status = |action| {
        let out = init(script, &scratch, action);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(status("status"), (Some(3), String::new()));
    assert_eq!(status("start"), (Some(0), String::new()));
    assert_eq!(status("start"), (Some(0), String::new()), "a second start finds the first");
    assert_eq!(status("status"), (Some(0), String::new()));
    common::eventually("the daemon accepts", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let pid = fs::read_to_string(scratch.0.join("pid")).expect("pid file");
    assert_eq!(status("reload"), (Some(0), String::new()));
    assert_eq!(status("restart"), (Some(0), String::new()));
    assert_ne!(fs::read_to_string(scratch.0.join("pid")).expect("pid file"), pid);
    assert_eq!(status("stop"), (Some(0), String::new()));
    assert!(!scratch.0.join("pid").exists());
    assert_eq!(status("status"), (Some(3), String::new()));
    assert_eq!(status("nonsense").0, Some(2));
}

#[test]
fn the_init_script_starts_and_stops_a_server() {
    lives_a_day("twincached.init", "-m 1\n");
}

#[test]
fn the_init_script_starts_and_stops_a_proxy() {
    lives_a_day("magent.init", "-s 127.0.0.1:1\n");
}

#[test]
fn a_start_that_fails_says_why() {
    let scratch = Scratch::new("fails");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    scratch.write("conf", &format!("-u root\n-l 127.0.0.1\n-p {port}\n"));
    let out = init("twincached.init", &scratch, "start");
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(text, "failed to listen on 127.0.0.1: Address already in use\n");
}
