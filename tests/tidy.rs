//! The rules of ARCHITECTURE.md, checked over the sources.
//!
//! Each test reads the tree as text and lists every place that breaks a rule. Comments do not count
//! where a rule is about code.

use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// Path below the project's root, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, out: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("readable folder").map(|e| e.expect("entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("readable source");
            let path = path.strip_prefix(root()).expect("below the root");
            out.push(Source { path: path.to_string_lossy().into_owned(), text });
        }
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut out = Vec::new();
    for folder in folders {
        let dir = root().join(folder);
        if dir.is_dir() {
            collect(&dir, &mut out);
        }
    }
    assert!(out.len() > 10, "found only {} sources below {folders:?}", out.len());
    out
}

/// The code of a line: without a comment that takes the whole line.
fn code(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") {
        ""
    } else {
        line
    }
}

fn must_be_empty(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Whether `path` belongs to the parts that get time, randomness and bytes handed in.
fn is_pure(path: &str) -> bool {
    let proxy = ["ring", "route", "fanout", "guard", "missed", "cold", "relay", "front", "backend"];
    path.starts_with("src/store/")
        || path.starts_with("src/protocol/")
        || path.starts_with("src/replication/")
        || path.starts_with("src/server/conn")
        || proxy.iter().any(|part| {
            path == format!("src/proxy/{part}.rs")
                || path.starts_with(&format!("src/proxy/{part}/"))
        })
}

#[test]
fn pure_parts_name_no_sockets_threads_or_clocks() {
    let forbidden =
        ["mio::", "use mio", "std::net", "std::thread", "thread::spawn", "Instant", "SystemTime"];
    let mut found = Vec::new();
    for source in sources(&["src"]).iter().filter(|s| is_pure(&s.path)) {
        // A unit test may run threads against the store; the code above it may not.
        for (number, line) in source.text.lines().enumerate() {
            if line.starts_with("#[cfg(test)]") {
                break;
            }
            for word in forbidden {
                if code(line).contains(word) {
                    found.push(format!("{}:{}: {word}", source.path, number + 1));
                }
            }
        }
    }
    must_be_empty("pure layers must not name sockets, threads or real clocks", &found);
}

#[test]
fn layers_depend_one_way() {
    // What each layer may name besides itself and `base`.
    let allowed: &[(&str, &[&str])] = &[
        ("base", &[]),
        ("protocol", &[]),
        ("store", &[]),
        ("net", &[]),
        ("platform", &[]),
        ("replication", &["store"]),
        ("proxy", &["protocol", "net", "platform"]),
        ("server", &["replication", "store", "protocol", "net", "platform"]),
        ("demo", &["net", "platform"]),
        ("verify", &[]),
        ("cli", &["server", "proxy", "verify", "demo", "platform"]),
    ];
    let layers: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        let Some((layer, may)) = allowed.iter().find(|(name, _)| {
            source.path.starts_with(&format!("src/{name}/"))
                || source.path == format!("src/{name}.rs")
        }) else {
            continue;
        };
        for (number, line) in source.text.lines().enumerate() {
            for other in &layers {
                let named = code(line).contains(&format!("crate::{other}::"))
                    || code(line).contains(&format!("crate::{other};"));
                if named && other != layer && *other != "base" && !may.contains(other) {
                    found.push(format!("{}:{}: {layer} -> {other}", source.path, number + 1));
                }
            }
        }
    }
    must_be_empty("dependencies must follow the layers", &found);
}

#[test]
fn unsafe_stays_where_it_is_allowed() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        if source.path == "src/store/arena.rs" || source.path.starts_with("src/platform/") {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            let line = code(line);
            if line.contains("unsafe {")
                || line.contains("unsafe fn")
                || line.contains("unsafe impl")
                || line.contains("allow(unsafe_code)")
            {
                let names_it =
                    source.path.ends_with("mod.rs") && line.contains("allow(unsafe_code)");
                if !names_it {
                    found.push(format!("{}:{}", source.path, number + 1));
                }
            }
        }
    }
    must_be_empty("unsafe is for store/arena.rs and platform/", &found);
}

#[test]
fn files_open_with_what_they_own_and_stay_readable() {
    let mut found = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        if !source.text.starts_with("//!") {
            found.push(format!("{}: does not open with //!", source.path));
        }
        let lines = source.text.lines().count();
        if lines > 800 {
            found.push(format!("{}: {lines} lines, over 800", source.path));
        }
        for (number, line) in source.text.lines().enumerate() {
            if line.chars().count() > 100 {
                found.push(format!("{}:{}: over 100 columns", source.path, number + 1));
            }
        }
    }
    must_be_empty("files must be readable", &found);
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = ["todo!(", "unimplemented!(", concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut found = Vec::new();
    for source in sources(&["src", "benches"]) {
        for (number, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    must_be_empty("no stubs", &found);
}

#[test]
fn every_dependency_has_a_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut section = "";
    let mut found = Vec::new();
    let mut seen = 0;
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies") && line.contains('=') {
            let name = line.split('=').next().unwrap_or_default().trim();
            seen += 1;
            if !architecture.contains(&format!("| `{name}` |")) {
                found.push(name.to_string());
            }
        }
    }
    assert!(seen >= 5, "the manifest's dependencies were not found");
    must_be_empty("dependencies without a row in ARCHITECTURE.md", &found);
}

#[test]
fn every_source_folder_is_on_the_map() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        let name = source.path.trim_start_matches("src/");
        if !architecture.contains(name) {
            found.push(source.path);
        }
    }
    must_be_empty("sources that ARCHITECTURE.md does not name", &found);
}
