//! Plays the transcripts in `tests/wire` against our server in all its shapes and against the real
//! memcached. wire/README.md has the format.
//!
//! Never checks a server's figures against the clock of the machine it runs on.

#[path = "wire/binary.rs"]
mod binary;
#[path = "wire/differential.rs"]
mod differential;
#[path = "wire/in_process.rs"]
mod in_process;
#[path = "wire/meta_differential.rs"]
mod meta_differential;
#[path = "wire/packet.rs"]
mod packet;
#[path = "wire/pair.rs"]
mod pair;
#[path = "wire/rng.rs"]
mod rng;
#[path = "wire/script.rs"]
mod script;
#[path = "wire/stories.rs"]
mod stories;
#[path = "wire/streams.rs"]
mod streams;
#[path = "wire/transport.rs"]
mod transport;

use rng::Rng;
use script::{Kind, Script, Transport};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use transport::Process;

/// All files, in the order of their names; the ones that `WIRE` names if it is set.
fn scripts() -> Vec<Script> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let wanted = std::env::var("WIRE").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("tests/wire can be read")
        .map(|entry| entry.expect("an entry of tests/wire").path())
        .filter(|path| path.extension().is_some_and(|end| end == "txt"))
        .collect();
    files.sort();
    let scripts: Vec<Script> = files
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).expect("a transcript can be read");
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            Script::parse(&name.unwrap_or_default(), &text)
        })
        .filter(|script| script.name.contains(&wanted))
        .collect();
    assert!(!scripts.is_empty(), "no transcripts in {}", folder.display());
    scripts
}

/// Files played at the same time. Some of them mostly wait for a second to pass.
const AT_ONCE: usize = 4;

/// Plays all files, each against a fresh server, and reports every one that failed.
fn play_all(kind: Kind, start: impl Fn(&Script) -> Box<dyn Transport> + Sync) {
    let scripts: Vec<Script> = scripts().into_iter().filter(|s| s.plays(kind)).collect();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut server = start(script);
                    if let Err(error) = script.play(kind, &mut *server) {
                        failed.lock().expect("no thread panicked").push(error);
                    }
                }
            });
        }
    });
    println!("{} transcripts played", scripts.len());
    let mut failed = failed.into_inner().expect("no thread panicked");
    failed.sort();
    assert!(failed.is_empty(), "{} transcripts failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn ours_in_process() {
    play_all(Kind::InProcess, |script| Box::new(in_process::Server::start(&script.args)));
}

#[test]
fn our_program_over_tcp() {
    let program = env!("CARGO_BIN_EXE_twincached");
    play_all(Kind::Ours, |script| Box::new(Process::tcp(program, &script.args)));
}

#[test]
fn our_program_over_a_unix_socket() {
    let program = env!("CARGO_BIN_EXE_twincached");
    play_all(Kind::Ours, |script| Box::new(Process::unix(program, &script.args)));
}

/// Which memcached is here: [`Kind::Real`] or [`Kind::Old`]. Says so loudly when there is none.
fn memcached() -> Option<Kind> {
    if let Ok(output) = std::process::Command::new("memcached").arg("-V").output() {
        let text = String::from_utf8_lossy(&output.stdout);
        let patch = text.trim_end().rsplit('.').next().and_then(|n| n.parse::<u32>().ok());
        let new = patch.is_some_and(|patch| patch >= 45);
        return Some(if new { Kind::Real } else { Kind::Old });
    }
    let bar = "*".repeat(78);
    eprintln!("{bar}\nmemcached IS NOT INSTALLED: what we believe of it WAS NOT CHECKED\n{bar}");
    assert!(
        std::env::var_os("TWINCACHED_REQUIRE_PEERS").is_none(),
        "TWINCACHED_REQUIRE_PEERS is set, so memcached must be installed"
    );
    None
}

#[test]
fn real_memcached() {
    let Some(kind) = memcached() else { return };
    play_all(kind, |script| {
        let args = [&script.args[..], &script.real_args].concat();
        Box::new(Process::unix("memcached", &args))
    });
}

/// So many seeds, from `WIRE_SEED` on.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let first = std::env::var("WIRE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let count = std::env::var("WIRE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(count);
    first..first + count
}

#[test]
fn administrative_lines_are_answered_as_memcached_does() {
    if memcached().is_none() {
        return;
    }
    let mut real = Process::unix("memcached", &[]);
    let mut ours = in_process::Server::start(&[]);
    let outcome = differential::administration(&mut *ours.open(), &mut *real.open());
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Conversations of [`differential`].
const CONVERSATIONS: u64 = 100;

#[test]
fn random_commands_are_answered_as_memcached_does() {
    let Some(kind) = memcached() else { return };
    // Its background threads change when numbers are rewritten in place (see arith.txt).
    let args = ["-o", "no_lru_maintainer,no_lru_crawler,slab_automove=0"].map(str::to_owned);
    let mut real = Process::unix("memcached", &args);
    let mut ours = in_process::Server::start(&[]);
    for seed in seeds(CONVERSATIONS) {
        let (ours, real) = (&mut *ours.open(), &mut *real.open());
        let outcome = differential::converse(seed, kind == Kind::Old, ours, real);
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Conversations of [`streams`].
const STREAMS: u64 = 60;

#[test]
fn random_streams_are_answered_as_memcached_does() {
    let Some(kind) = memcached() else { return };
    // With room for the large values of all conversations: what is evicted differs.
    let args =
        ["-m", "1024", "-o", "no_lru_maintainer,no_lru_crawler,slab_automove=0"].map(str::to_owned);
    let mut real = Process::unix("memcached", &args);
    let mut ours = in_process::Server::start(&[]);
    let old = kind == Kind::Old;
    let mut open = || (ours.open(), real.open());
    for seed in seeds(STREAMS) {
        streams::converse(seed, old, &mut open).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Conversations of [`meta_differential`].
const META_CONVERSATIONS: u64 = 300;

#[test]
fn random_meta_commands_are_answered_as_memcached_does() {
    let Some(kind) = memcached() else { return };
    let args = ["-o", "no_lru_maintainer,no_lru_crawler,slab_automove=0"].map(str::to_owned);
    let mut real = Process::unix("memcached", &args);
    let mut ours = in_process::Server::start(&[]);
    // A node that tells peers what it does must not tell clients anything else.
    let mut twin = in_process::Server::start(&["-x".to_owned(), "peer".to_owned()]);
    for seed in seeds(META_CONVERSATIONS) {
        let ours = if seed % 4 < 2 { &mut ours } else { &mut twin };
        let (ours, real) = (&mut *ours.open(), &mut *real.open());
        let outcome = meta_differential::converse(seed, kind, false, ours, real);
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Conversations of [`binary`].
const BINARY_CONVERSATIONS: u64 = 60;

#[test]
fn random_packets_are_answered_as_memcached_does() {
    if memcached().is_none() {
        return;
    }
    let args = ["-o", "no_lru_maintainer,no_lru_crawler,slab_automove=0"].map(str::to_owned);
    let mut real = Process::unix("memcached", &args);
    let mut ours = in_process::Server::start(&[]);
    let mut open = || (ours.open(), real.open());
    for seed in seeds(BINARY_CONVERSATIONS) {
        binary::converse(seed, false, &mut open).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Conversations of each kind that are held with a pair.
const PAIR_CONVERSATIONS: u64 = 4;

#[test]
fn a_pair_answers_as_one_memcached() {
    let Some(kind) = memcached() else { return };
    let args = ["-o", "no_lru_maintainer,no_lru_crawler"].map(str::to_owned);
    let mut real = Process::unix("memcached", &args);
    let range = seeds(PAIR_CONVERSATIONS);
    let mut pair = pair::Pair::start(range.start);
    for seed in range {
        let outcome =
            meta_differential::converse(seed, kind, true, &mut *pair.open(), &mut *real.open());
        outcome.unwrap_or_else(|error| panic!("{error}"));
        let old = kind == Kind::Old;
        let outcome = differential::converse(seed, old, &mut *pair.open(), &mut *real.open());
        outcome.unwrap_or_else(|error| panic!("{error}"));
        let mut open = || (pair.open(), real.open());
        binary::converse(seed, true, &mut open).unwrap_or_else(|error| panic!("{error}"));
    }
}

type Story = fn(&mut dyn Transport);

/// The memcached that is installed may be built without SASL; what is told here is what one says
/// that has it.
const LOGINS: (&[&str], Story) = (&["-Y", "tests/wire/users", "-S"], stories::logins);

/// Tells every story of [`stories`], and `more`, to a server of its own.
fn tell_all(more: &[(&[&str], Story)], start: impl Fn(&[String]) -> Box<dyn Transport>) {
    let stories: [(&[&str], Story); 11] = [
        (&[], stories::uniques),
        (&[], stories::numbers),
        (&[], stories::quiet),
        (&[], stories::too_large),
        (&[], stories::nonsense),
        (&[], stories::statistics),
        (&[], stories::detail),
        (&["-C"], stories::without_cas),
        (&["-F"], stories::without_flush),
        (&["-B", "binary"], stories::binary_only),
        (&["-B", "ascii"], stories::text_only),
    ];
    for (args, story) in stories.iter().chain(more) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        story(&mut *start(&args));
    }
}

#[test]
fn packets_in_process() {
    tell_all(&[LOGINS], |args| Box::new(in_process::Server::start(args)));
}

#[test]
fn packets_to_our_program() {
    tell_all(&[LOGINS], |args| Box::new(Process::unix(env!("CARGO_BIN_EXE_twincached"), args)));
}

#[test]
fn packets_to_the_real_memcached() {
    if memcached().is_some() {
        tell_all(&[], |args| Box::new(Process::unix("memcached", args)));
    }
}
