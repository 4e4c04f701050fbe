//! What the user typed, made into a validated configuration or into text to print.
//!
//! ```text
//!  argv -> personality -> flag table -> Command
//!          magent, "proxy"   magent.rs      Proxy
//!          memcached, other  memcached.rs   Server
//!          "where"           lookup.rs      Where
//!          "verify"          verify.rs      Verify
//!          "demo"            (here)         Demo
//! ```
//!
//! Owns the flag tables and everything that follows from them. Never prints, never exits, never
//! looks at the machine: `main` does.

pub mod extended;
pub mod lookup;
pub mod magent;
pub mod man;
pub mod memcached;
pub mod table;
pub mod values;
pub mod verify;

use std::ffi::OsString;
use std::path::Path;

use crate::demo::DemoConfig;
use crate::platform::EX_USAGE;
use crate::server::config::Personality;
use crate::{proxy, server};
use table::{Flag, Page, Takes};

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Be a server.
    Server(Box<server::config::Config>),
    /// Be a proxy.
    Proxy(Box<proxy::config::Config>),
    /// Say where keys are.
    Where {
        /// As for a proxy.
        config: Box<proxy::config::Config>,
        /// Which keys; none: those on standard input.
        keys: Vec<Vec<u8>>,
    },
    /// Compare nodes.
    Verify(crate::verify::Config),
    /// Show off.
    Demo(DemoConfig),
    /// Print this on standard output and exit with status 0. Ends with a line end.
    Print(String),
    /// Say what is wrong with the command line and end.
    Usage {
        /// One line for standard error. No line end.
        line: String,
        /// The exit status.
        status: i32,
    },
}

/// memcached's build for tests, which knows `debugtime`.
const DEBUG_NAME: &str = "memcached-debug";

/// The licence, for `-i`.
const LICENSE: &str = include_str!("../../LICENSE");

/// Reads a command line, the program's name first.
pub fn parse<I, S>(argv: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: Into<OsString>,
{
    let words: Vec<OsString> = argv.into_iter().map(Into::into).collect();
    let name = match words.first().map(|word| Path::new(word).file_name()) {
        Some(Some(name)) => name.to_string_lossy().into_owned(),
        _ => "twincached".into(),
    };
    let outcome = parse_words(&name, words.get(1..).unwrap_or_default());
    outcome.unwrap_or_else(|Wrong { why, status }| Command::Usage {
        // One line, whatever was typed.
        line: format!("{name}: {why}").replace(char::is_control, "?"),
        status,
    })
}

fn parse_words(name: &str, words: &[OsString]) -> Result<Command, Wrong> {
    let is_proxy = name.starts_with("magent");
    let is_memcached = name.starts_with("memcached");
    if !is_proxy && !is_memcached {
        // Keys are bytes: these words need not be text.
        let proxy = usize::from(words.first().is_some_and(|word| word == "proxy"));
        if words.get(proxy).is_some_and(|word| word == "where") {
            return parse_where(name, &words[proxy + 1..]);
        }
    }
    let text = |word: &OsString| match word.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Wrong::from(format!("argument {} is not UTF-8", word.to_string_lossy()))),
    };
    let args = words.iter().map(text).collect::<Result<Vec<String>, Wrong>>()?;
    match (is_proxy, is_memcached) {
        (true, _) => parse_proxy(name, &args),
        (_, true) => parse_server(name, Personality::Memcached, &args),
        _ => parse_subcommand(name, &args),
    }
}

/// Why there is nothing to run: a sentence, and the exit status.
struct Wrong {
    why: String,
    status: i32,
}

impl From<String> for Wrong {
    fn from(why: String) -> Wrong {
        Wrong { why, status: EX_USAGE }
    }
}

impl From<table::Wrong> for Wrong {
    fn from(wrong: table::Wrong) -> Wrong {
        wrong.why.into()
    }
}

/// memcached ends with 1 where getopt finds fault, and for these flags; with 64 for all others.
const FAILS_WITH_1: &str = "cRfntDNo";

/// As memcached exits, where it would not take it either.
fn as_memcached(wrong: table::Wrong) -> Wrong {
    let one = wrong.flag.is_none_or(|flag| FAILS_WITH_1.contains(flag));
    Wrong { why: wrong.why, status: if one { 1 } else { EX_USAGE } }
}

fn parse_subcommand(name: &str, args: &[String]) -> Result<Command, Wrong> {
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some("proxy") => parse_proxy(&format!("{name} proxy"), rest),
        Some("verify") => parse_verify(&format!("{name} verify"), rest),
        Some("demo") => parse_demo(name, rest),
        Some("help") => match rest.first().map(String::as_str) {
            None => Ok(Command::Print(server_help(name, Personality::Twincached))),
            Some("proxy") => Ok(Command::Print(proxy_help(&format!("{name} proxy")))),
            Some("where") => Ok(Command::Print(where_help(name))),
            Some("verify") => Ok(Command::Print(verify_help(&format!("{name} verify")))),
            Some("demo") => Ok(Command::Print(demo_help(name))),
            Some(other) => {
                Err(format!("no help for '{other}'; there is proxy, where, verify and demo").into())
            }
        },
        Some("version") if rest.is_empty() => {
            Ok(Command::Print(line(Personality::Twincached.version_line())))
        }
        // For packagers: not in help.
        Some("man-page") if rest.is_empty() => Ok(Command::Print(man::page())),
        Some(word) if !word.starts_with('-') && !word.trim().is_empty() => Err(format!(
            "unknown command '{word}'; there is proxy, where, verify, demo and help, or flags for \
             a server"
        )
        .into()),
        _ => parse_server(name, Personality::Twincached, args),
    }
}

fn line(mut text: String) -> String {
    text.push('\n');
    text
}

fn parse_server(name: &str, who: Personality, args: &[String]) -> Result<Command, Wrong> {
    let mut draft = memcached::Draft::default();
    draft.config.personality = who;
    draft.config.debug_clock = name == DEBUG_NAME;
    let page = table::parse(memcached::FLAGS, args, &mut draft).map_err(as_memcached)?;
    let who = draft.config.personality;
    Ok(match page {
        Some(Page::Help) => Command::Print(server_help(name, who)),
        Some(Page::Version) => Command::Print(line(who.version_line())),
        Some(Page::License) => Command::Print(format!("{}\n\n{LICENSE}", who.version_line())),
        None => Command::Server(Box::new(draft.finish()?)),
    })
}

fn parse_proxy(name: &str, args: &[String]) -> Result<Command, Wrong> {
    let mut draft = magent::Draft::default();
    Ok(match table::parse(magent::FLAGS, args, &mut draft)? {
        Some(Page::Help) => Command::Print(proxy_help(name)),
        Some(Page::Version) => Command::Print(line(proxy_version())),
        Some(Page::License) => Command::Print(LICENSE.into()),
        None => Command::Proxy(Box::new(draft.finish()?)),
    })
}

fn parse_where(name: &str, words: &[OsString]) -> Result<Command, Wrong> {
    Ok(match lookup::parse(words)? {
        lookup::Asked::Page(Page::Help) => Command::Print(where_help(name)),
        lookup::Asked::Page(_) => Command::Print(line(proxy_version())),
        lookup::Asked::Keys(config, keys) => Command::Where { config, keys },
    })
}

fn parse_verify(name: &str, args: &[String]) -> Result<Command, Wrong> {
    let mut draft = verify::Draft::default();
    Ok(match table::parse_words(verify::FLAGS, args, &mut draft, verify::node)? {
        Some(_) => Command::Print(verify_help(name)),
        None => Command::Verify(draft.finish()?),
    })
}

static DEMO_FLAGS: &[Flag<DemoConfig>] = &[
    Flag {
        short: None,
        longs: &["stay"],
        takes: Takes::Nothing(|d| d.stay = true),
        help: "keep a pair and a proxy running, until ctrl-C, and print the ports to telnet to",
    },
    Flag {
        short: Some('h'),
        longs: &["help"],
        takes: Takes::Print(Page::Help),
        help: "print this help and exit",
    },
];

fn parse_demo(name: &str, args: &[String]) -> Result<Command, Wrong> {
    let mut config = DemoConfig::default();
    Ok(match table::parse(DEMO_FLAGS, args, &mut config)? {
        Some(_) => Command::Print(demo_help(name)),
        None => Command::Demo(config),
    })
}

fn proxy_version() -> String {
    format!("memcached agent v0.6 (twincached {})", env!("CARGO_PKG_VERSION"))
}

fn server_help(name: &str, who: Personality) -> String {
    let mut out = line(who.version_line());
    out.push_str(&table::help(memcached::FLAGS));
    if who == Personality::Twincached {
        out.push_str(&format!(
            "\n{name} proxy -h   the proxy's flags (also when called magent)\n\
             {name} where -h   which server and backup have a key\n\
             {name} verify -h  whether nodes hold the same\n\
             {name} demo       a replicated pair and a proxy before your eyes\n"
        ));
    }
    out
}

fn proxy_help(name: &str) -> String {
    format!(
        "{}\nusage: {name} -s host[:port] [-s ...] [-b host[:port] ...] [flags]\n{}",
        proxy_version(),
        table::help(magent::FLAGS)
    )
}

fn where_help(name: &str) -> String {
    format!(
        "usage: {name} where -s host[:port] [-s ...] [proxy's flags] [key ...]\n{}{}",
        lookup::ABOUT,
        table::help(magent::FLAGS)
    )
}

fn verify_help(name: &str) -> String {
    format!(
        "usage: {name} host[:port] host[:port] [...] [flags]\n{}{}",
        verify::ABOUT,
        table::help(verify::FLAGS)
    )
}

fn demo_help(name: &str) -> String {
    format!(
        "usage: {name} demo [--stay]\n\
         Plays a replicated pair and a proxy on free loopback ports: what is typed, what answers,\n\
         who was killed, who took over. Leaves nothing behind.\n{}",
        table::help(DEMO_FLAGS)
    )
}
