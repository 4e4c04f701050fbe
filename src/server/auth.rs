//! Who may use the server: users and passwords of a file.
//!
//! ```text
//!   -Y FILE, or with -S the file of MEMCACHED_SASL_PWDB
//!        |  at the start: a bad file ends the start
//!        |  on SIGHUP:    a bad file leaves what was there
//!        v
//!   Credentials <--check(user, password)-- a `set` of a text client, SASL PLAIN of a binary one
//! ```
//!
//! Owns the format of the file and the comparison, which takes the same time whichever user or byte
//! is wrong. Never knows a protocol, never logs a user or a password, and never reads the file
//! while a client waits.

use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Longest user and password together, in bytes: memcached reads lines of up to 255, and one of
/// them is the colon.
const USER_AND_PASSWORD_MAX: usize = 254;

/// Most users of a file. memcached silently takes the first eight; every one costs each login a
/// comparison, a few microseconds for all of them.
const USERS_MAX: usize = 256;

/// Longest file that is read: [`USERS_MAX`] lines of full length and as much again for what is
/// skipped.
const FILE_MAX: u64 = 2 * USERS_MAX as u64 * (USER_AND_PASSWORD_MAX as u64 + 3);

/// How lines that are not `user:password` are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `-Y`: every line is `user:password`, the password up to the line's end.
    AuthFile,
    /// `MEMCACHED_SASL_PWDB`: the password may end at a further colon, and lines without a colon
    /// mean nothing.
    Pwdb,
}

/// Why a file gives no [`Credentials`]. Displays as a sentence, memcached's where it has one.
#[derive(Debug)]
pub struct LoadError(String);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One user with its password, at its full width whatever their lengths.
#[derive(Clone)]
struct Entry {
    bytes: [u8; USER_AND_PASSWORD_MAX],
    user_len: u8,
    password_len: u8,
}

impl Entry {
    /// None where they are too long for an entry.
    fn new(user: &[u8], password: &[u8]) -> Option<Entry> {
        let both = user.len() + password.len();
        let mut bytes = [0; USER_AND_PASSWORD_MAX];
        bytes.get_mut(..user.len())?.copy_from_slice(user);
        bytes.get_mut(user.len()..both)?.copy_from_slice(password);
        let user_len = u8::try_from(user.len()).ok()?;
        Some(Entry { bytes, user_len, password_len: u8::try_from(password.len()).ok()? })
    }

    /// Whether both are equal, found out without a branch on any of their bytes: the sum of all
    /// differences is hidden from the compiler, which therefore needs all of them.
    fn equals(&self, other: &Entry) -> bool {
        let lengths = (self.user_len ^ other.user_len) | (self.password_len ^ other.password_len);
        let bytes = self.bytes.iter().zip(&other.bytes);
        black_box(bytes.fold(lengths, |sum, (ours, theirs)| sum | (ours ^ theirs))) == 0
    }
}

/// Users and their passwords. Has no `Debug`, so that none of them ends up in a log.
#[derive(Clone, Default)]
pub struct Credentials {
    entries: Vec<Entry>,
}

impl Credentials {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or a line of it is not what the format says.
    pub fn load(path: &Path, format: Format) -> Result<Credentials, LoadError> {
        let name = path.display();
        let failed = |what: &str, why: &dyn fmt::Display| {
            LoadError(format!("Could not {what} authfile [{name}] for reading, error {why}"))
        };
        // Looked at first: opening a pipe would wait for its writer.
        let meta = std::fs::metadata(path).map_err(|why| failed("open", &why))?;
        if !meta.is_file() {
            return Err(failed("open", &"not a regular file"));
        }
        let file = File::open(path).map_err(|why| failed("open", &why))?;
        let mut text = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut text).map_err(|why| failed("read", &why))?;
        if text.len() as u64 > FILE_MAX {
            return Err(failed("read", &format_args!("it is longer than {FILE_MAX} bytes")));
        }
        Credentials::from_text(&text, format, &name)
    }

    /// Takes the text of a file that is called `name`.
    ///
    /// # Errors
    /// A line of it is not what the format says, or there are too many.
    pub fn from_text(
        text: &[u8],
        format: Format,
        name: &dyn fmt::Display,
    ) -> Result<Credentials, LoadError> {
        Credentials::parse(text, format).map_err(|fault| {
            LoadError(match fault {
                Fault::Malformed(line) => format!(
                    "Authfile [{name}] has a malformed entry in line {line}. Should be \
                     'user:password'"
                ),
                Fault::TooMany => format!("Authfile [{name}] has more than {USERS_MAX} entries"),
            })
        })
    }

    fn parse(text: &[u8], format: Format) -> Result<Credentials, Fault> {
        let mut entries = Vec::new();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let lines = text.split(|&byte| byte == b'\n').enumerate();
        for (number, line) in lines.filter(|_| !text.is_empty()) {
            // memcached ends a password at a carriage return, wherever it stands.
            let line = line.split(|&byte| byte == b'\r').next().unwrap_or_default();
            let malformed = Fault::Malformed(number + 1);
            let colon = line.iter().position(|&byte| byte == b':');
            let (user, rest) = match colon {
                Some(colon) => (&line[..colon], &line[colon + 1..]),
                None if format == Format::Pwdb => continue,
                None => return Err(malformed),
            };
            if line.contains(&0) {
                return Err(malformed);
            }
            entries.push(Entry::new(user, rest).ok_or(malformed)?);
            if format == Format::Pwdb {
                let colons = rest.iter().enumerate().filter(|(_, &byte)| byte == b':');
                entries.extend(colons.filter_map(|(at, _)| Entry::new(user, &rest[..at])));
            }
            if entries.len() > USERS_MAX {
                return Err(Fault::TooMany);
            }
        }
        Ok(Credentials { entries })
    }

    /// Whether there is such a user with such a password. Takes as long for a right one as for a
    /// wrong one, first or last.
    pub fn check(&self, user: &[u8], password: &[u8]) -> bool {
        let asked = Entry::new(user, password);
        let known = asked.is_some();
        // What is too long for an entry is compared too, as nobody.
        let asked = asked.unwrap_or(Entry {
            bytes: [0; USER_AND_PASSWORD_MAX],
            user_len: 0,
            password_len: 0,
        });
        let found = self.entries.iter().fold(false, |found, entry| found | entry.equals(&asked));
        found & known
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What is wrong with a file's text.
enum Fault {
    /// In this line, counted from 1.
    Malformed(usize),
    TooMany,
}

/// The credentials of a running server and the file they come from.
pub struct Auth {
    file: Option<(PathBuf, Format)>,
    /// Read at logins only; written on SIGHUP.
    current: RwLock<Credentials>,
}

impl Auth {
    /// Reads the file. Without one nobody can log in.
    ///
    /// # Errors
    /// As [`Credentials::load`].
    pub fn load(file: Option<(PathBuf, Format)>) -> Result<Auth, LoadError> {
        let current = match &file {
            Some((path, format)) => Credentials::load(path, *format)?,
            None => Credentials::default(),
        };
        Ok(Auth { file, current: RwLock::new(current) })
    }

    /// The users of a text, which does not change.
    ///
    /// # Errors
    /// As [`Credentials::from_text`].
    pub fn of(text: &[u8], format: Format) -> Result<Auth, LoadError> {
        let users = Credentials::from_text(text, format, &"users")?;
        Ok(Auth { file: None, current: RwLock::new(users) })
    }

    /// Reads the file again; gives the number of users. Who is logged in stays so.
    ///
    /// # Errors
    /// As [`Credentials::load`]; then the credentials stay what they were.
    pub fn reload(&self) -> Result<usize, LoadError> {
        let Some((path, format)) = &self.file else { return Ok(0) };
        let fresh = Credentials::load(path, *format)?;
        let users = fresh.len();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(users)
    }

    /// As [`Credentials::check`], of the credentials as they are now.
    pub fn check(&self, user: &[u8], password: &[u8]) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).check(user, password)
    }
}

/// Who is behind a connection, as far as it has said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Login {
    /// It has named a user with its password.
    pub authenticated: bool,
    /// The next SASL step is the answer to an empty first one.
    pub started: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, format: Format) -> Result<Credentials, String> {
        Credentials::parse(text.as_bytes(), format).map_err(|fault| match fault {
            Fault::Malformed(line) => format!("line {line}"),
            Fault::TooMany => "too many".into(),
        })
    }

    #[test]
    fn a_file_has_a_user_a_line() {
        let all = parse("foo:bar\nbaaaz:quux\r\nempty:\n:nobody\nlong:a:b c", Format::AuthFile);
        let all = all.expect("well-formed");
        for (user, password) in
            [("foo", "bar"), ("baaaz", "quux"), ("empty", ""), ("", "nobody"), ("long", "a:b c")]
        {
            assert!(all.check(user.as_bytes(), password.as_bytes()), "{user}");
            for wrong in [format!("{password}x"), format!("{password}\0"), "quu".into()] {
                assert!(!all.check(user.as_bytes(), wrong.as_bytes()), "{user} {wrong}");
            }
        }
        for (user, password) in [("foo", "quux"), ("fooba", "r"), ("", ""), ("long", "a")] {
            assert!(!all.check(user.as_bytes(), password.as_bytes()), "{user} {password}");
        }
        let long = "x".repeat(USER_AND_PASSWORD_MAX - 1);
        let one = parse(&format!("u:{long}"), Format::AuthFile).expect("fits");
        assert!(one.check(b"u", long.as_bytes()));
        assert!(!one.check(b"u", format!("{long}x").as_bytes()));
        assert!(!one.check(b"u", &[b'x'; 100_000]));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let why = |text: &str| parse(text, Format::AuthFile).err();
        assert_eq!(why("foo"), Some("line 1".into()));
        assert_eq!(why("foo:bar\n\n"), Some("line 2".into()));
        assert_eq!(why("\n"), None, "an empty file has no users");
        assert_eq!(why(""), None);
        assert_eq!(why("foo:bar\nb\0b:c\n"), Some("line 2".into()));
        assert_eq!(why(&format!("u:{}", "x".repeat(254))), Some("line 1".into()));
        let many: String = (0..=USERS_MAX).map(|n| format!("user{n}:x\n")).collect();
        assert_eq!(why(&many), Some("too many".into()));
        let text = |path: &str| {
            let loaded = Credentials::load(Path::new(path), Format::AuthFile);
            loaded.err().map(|why| why.to_string()).unwrap_or_default()
        };
        assert!(text("/nowhere/at/all").starts_with("Could not open authfile [/nowhere/at/all]"));
        assert_eq!(text("/"), "Could not open authfile [/] for reading, error not a regular file");
    }

    #[test]
    fn a_password_database_of_memcached_is_more_lenient() {
        let all = parse("# users\nfoo:bar:\n\nbaz:a:b\n", Format::Pwdb).expect("lenient");
        for (user, password, right) in [
            ("foo", "bar", true),
            ("foo", "bar:", true),
            ("baz", "a", true),
            ("baz", "a:b", true),
            ("baz", "a:", false),
            ("# users", "", false),
        ] {
            assert_eq!(all.check(user.as_bytes(), password.as_bytes()), right, "{user} {password}");
        }
    }
}
