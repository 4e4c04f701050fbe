//! What the fuzzer has found worth keeping, played again on every run of the tests.
//!
//! `fuzz/corpus` holds a folder for every target; its entry functions are in `tests/fuzz`. The
//! package does not have them: there is nothing to play then.

#[path = "fuzz/mod.rs"]
mod entries;

use std::path::PathBuf;

/// Most that all corpora may take together, so that the repository stays small.
const ALL_MAX: u64 = 200 * 1024;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The inputs of one target, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder(target)) else {
        assert!(!folder("").is_dir(), "no corpus for {target}");
        eprintln!("\n*** no fuzz/corpus here: nothing was played for {target} ***\n");
        return Vec::new();
    };
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("an entry of a corpus");
            let bytes = std::fs::read(entry.path()).expect("an input");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "an empty corpus for {target}");
    inputs
}

fn play(target: &str, run: impl Fn(&[u8])) {
    for (name, bytes) in inputs(target) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bytes)));
        assert!(outcome.is_ok(), "fuzz/corpus/{target}/{name}");
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                play(stringify!($name), entries::$name::run);
            }
        )*

        /// Every folder has a target, and every target a folder.
        const TARGETS: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! { auth binary classic conn front meta node udp wire }

#[test]
fn corpora_are_small_and_have_a_target() {
    let Ok(folders) = std::fs::read_dir(folder("")) else { return };
    let mut bytes = 0;
    for entry in folders {
        let name = entry.expect("a corpus").file_name().to_string_lossy().into_owned();
        assert!(TARGETS.contains(&name.as_str()), "fuzz/corpus/{name} has no target");
        bytes += inputs(&name).iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    }
    assert!(bytes <= ALL_MAX, "{bytes} bytes of corpora: run cargo fuzz cmin");
}
