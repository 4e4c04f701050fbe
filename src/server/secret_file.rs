//! The file of `-o repl_secret_file`, and what else a challenge needs.
//!
//! Owns reading it, once, before the process gives up its rights: a changed file counts at the next
//! start. Says in words what is wrong with it, and never what is in it.

use super::config::Replication;
use crate::replication::secret::Secret;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// Longest secret, in bytes: many times what any key has, and small enough to be read at once.
const SECRET_MAX: usize = 1024;
/// Permission bits with which a file is open to all users of the machine.
const OTHERS: u32 = 0o006;
/// Where true randomness comes from.
const RANDOM: &str = "/dev/urandom";

/// Said once at the start where there is no secret.
const WITHOUT: &str =
    "replication works without a secret: who can connect from an address of a peer, \
    of repl_allow or of this host can read and write all items; -o repl_secret_file=PATH lets only \
    those link that know the secret";

/// What a node has for its challenges.
#[derive(Debug)]
pub struct Keys {
    /// What peers have to know.
    pub secret: Option<Arc<Secret>>,
    /// Makes the nonces and passes.
    pub nonce_key: [u8; 32],
    warning: Option<String>,
}

impl Keys {
    /// What the operator should hear of.
    pub fn warnings(&self) -> Vec<String> {
        self.warning.iter().cloned().collect()
    }
}

/// Reads the secret, if the settings name one. `None` where nothing replicates.
///
/// # Errors
/// A sentence for the user: the file is missing, unreadable, empty, too long; there is no
/// randomness.
pub fn find(replication: Option<&Replication>) -> Result<Option<Keys>, String> {
    let Some(replication) = replication else { return Ok(None) };
    let Some(path) = &replication.secret_file else {
        // It only makes passes then, and a node that has to do without randomness still replicates.
        let nonce_key = random_key().unwrap_or_default();
        return Ok(Some(Keys { secret: None, nonce_key, warning: Some(WITHOUT.to_owned()) }));
    };
    let (secret, warning) = load(path)?;
    let nonce_key = random_key().map_err(|why| {
        format!("-o repl_secret_file: no randomness for a challenge: {RANDOM}: {why}")
    })?;
    Ok(Some(Keys { secret: Some(Arc::new(secret)), nonce_key, warning }))
}

fn random_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    File::open(RANDOM)?.read_exact(&mut key)?;
    Ok(key)
}

/// The first line without its end, and a warning where others can read it.
fn load(path: &Path) -> Result<(Secret, Option<String>), String> {
    let name = path.display();
    let wrong = |why: &dyn Display| format!("-o repl_secret_file={name}: {why}");
    // Looked at first: opening a pipe would wait for its writer.
    let meta = fs::metadata(path).map_err(|why| wrong(&why))?;
    if !meta.is_file() {
        return Err(wrong(&"not a regular file"));
    }
    let file = File::open(path).map_err(|why| wrong(&why))?;
    let mut text = Vec::new();
    // A line of the longest secret, and its end.
    file.take(SECRET_MAX as u64 + 2).read_to_end(&mut text).map_err(|why| wrong(&why))?;
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > SECRET_MAX {
        let why = format!("its first line is longer than {SECRET_MAX} bytes");
        return Err(wrong(&why));
    }
    // Blanks are part of a secret; nothing but blanks is a mistake, and everybody's first guess.
    let blank = line.iter().all(u8::is_ascii_whitespace);
    let secret = Secret::new(line.to_vec()).filter(|_| !blank).ok_or_else(|| {
        wrong(&"its first line is empty: it has to be the secret that all nodes share")
    })?;
    let open = meta.permissions().mode() & OTHERS != 0;
    let warning = open.then(|| wrong(&"all users of this machine can read or change it"));
    Ok((secret, warning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, text: &[u8], mode: u32) -> Temporary {
            let name = format!("twincached-secret-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Temporary(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_first_line_is_the_secret_without_its_end() {
        let expected = Secret::new(b"a secret ".to_vec()).unwrap();
        for text in ["a secret ", "a secret \n", "a secret \r\n", "a secret \nnot this\n"] {
            let file = Temporary::new("ends", text.as_bytes(), 0o600);
            assert_eq!(load(&file.0), Ok((expected.clone(), None)), "{text:?}");
        }
        let longest = [b'x'; SECRET_MAX];
        for end in ["", "\n", "\r\n", "\r\nmore"] {
            let file = Temporary::new("long", &[&longest, end.as_bytes()].concat(), 0o600);
            assert_eq!(load(&file.0), Ok((Secret::new(longest.to_vec()).unwrap(), None)));
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_said_in_words() {
        let over = vec![b'x'; SECRET_MAX + 1];
        for (text, why) in [
            (&b""[..], "first line is empty"),
            (b"\nsecret\n", "first line is empty"),
            (b"\r\n", "first line is empty"),
            (b" \t \r\n", "first line is empty"),
            (&over, "longer than 1024 bytes"),
            (&[b'x'; 5000], "longer than 1024 bytes"),
        ] {
            let file = Temporary::new("wrong", text, 0o600);
            let said = load(&file.0).unwrap_err();
            assert!(said.contains(why) && said.starts_with("-o repl_secret_file="), "{said}");
            assert!(!said.contains("xxx"), "{said}");
        }
        let missing = load(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.contains("/no/such/file: No such file"), "{missing}");
        let folder = load(Path::new("/")).unwrap_err();
        assert!(folder.contains("not a regular file"), "{folder}");
    }

    #[test]
    fn a_file_that_others_can_read_is_worth_a_warning() {
        for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            let file = Temporary::new("mode", b"s", mode);
            assert_eq!(load(&file.0).unwrap().1.is_some(), warned, "{mode:o}");
        }
    }

    #[test]
    fn without_a_secret_there_is_one_warning_and_only_with_replication() {
        assert!(find(None).unwrap().is_none());
        let keys = find(Some(&Replication::default())).unwrap().unwrap();
        assert!(keys.secret.is_none() && keys.warnings().len() == 1);
        let file = Temporary::new("find", b"s", 0o600);
        let path = Some(file.0.clone());
        let settings = Replication { secret_file: path, ..Replication::default() };
        let draw = || find(Some(&settings)).unwrap().unwrap();
        assert!(draw().warnings().is_empty() && draw().secret.is_some());
        assert_ne!(draw().nonce_key, draw().nonce_key);
    }
}
