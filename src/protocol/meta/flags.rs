//! The flags of a meta command.
//!
//! Owns what a flag's argument must be, and which fault of a command is the one to report. All
//! commands know all flags; each makes use of some.

use super::line::unsigned64;
use super::{words, BinaryKey, Key, Verb};
use crate::protocol::classic::admin::{signed32, unsigned32};
use crate::protocol::reject::{self, Reject};

/// Words one line may have (memcached's MFLAG_MAX_OPT_LENGTH).
const WORDS_MAX: usize = 20;

/// Longest opaque, with its `O` (memcached's MFLAG_MAX_OPAQUE_LENGTH).
const OPAQUE_MAX: usize = 32;

/// A meta command's key and flags, understood.
#[derive(Clone, Debug)]
pub struct Meta<'a> {
    /// The key.
    pub key: Key<'a>,
    /// `v`: the value is wanted.
    pub value: bool,
    /// `q`: say nothing when the outcome is the usual one: a miss of mg, `HD` of the others.
    pub quiet: bool,
    /// `u`: the item does not become more recent and does not count as fetched.
    pub no_update: bool,
    /// `I`: md marks the item as stale instead; ms stores a value that is too old as stale.
    pub stale: bool,
    /// `x`: md leaves the item, without its value.
    pub remove_value: bool,
    /// `T`: the exptime to give the item, as the client wrote it.
    pub touch: Option<i64>,
    /// `N`: make the item when there is none, with this exptime.
    pub vivify: Option<i64>,
    /// `R`: the client wants to renew an item that has less than this to live.
    pub recache: Option<i64>,
    /// `C`: the CAS unique the item must have (for mg: must not have, or the value is left out).
    pub compare: Option<u64>,
    /// `E`: the CAS unique that the item gets.
    pub cas: Option<u64>,
    /// `F`: the client's flags of the item.
    pub client_flags: u32,
    /// `J`: what ma begins with where there is no item.
    pub initial: u64,
    /// `D`: by how much ma counts.
    pub delta: u64,
    /// The opaque is too long. memcached finds that out when it answers: the verbs differ in what
    /// has happened by then.
    pub opaque_too_long: bool,
    mode: u8,
    words: &'a [u8],
}

/// What `M` makes of an ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    /// `S`, or no mode.
    Set,
    /// `E`: only where there is no item.
    Add,
    /// `A`
    Append,
    /// `P`
    Prepend,
    /// `R`: only where there is an item.
    Replace,
}

/// What `M` makes of an ma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArithMode {
    /// `I`, `+`, or no mode.
    Incr,
    /// `D`, `-`
    Decr,
}

impl<'a> Meta<'a> {
    /// Reads the flags of a line that was parsed as one of the `Request::Meta*`, and with `b` among
    /// them decodes the key. Of several faults memcached's choice is reported. An ms that is
    /// refused still has its data block on the wire: the caller drops it.
    pub fn parse(verb: Verb, key: &'a [u8], flags: &'a [u8]) -> Result<Meta<'a>, Reject> {
        let before = if verb == Verb::Set { 3 } else { 2 };
        let meta = match Meta::preparse(before, key, flags) {
            Ok(meta) => meta,
            Err(_) if verb == Verb::Arith => return Err(Reject::line(reject::META_ANY)),
            Err(line) => return Err(Reject::line(line)),
        };
        if verb == Verb::Set && set_mode(meta.mode).is_none() {
            return Err(Reject::line(reject::META_SET_MODE));
        }
        if verb == Verb::Arith && arith_mode(meta.mode).is_none() {
            return Err(Reject::line(reject::META_ARITH_MODE));
        }
        if verb == Verb::Delete && meta.opaque_too_long {
            return Err(Reject::line(reject::META_OPAQUE));
        }
        Ok(meta)
    }

    fn new(key: &'a [u8], words: &'a [u8]) -> Meta<'a> {
        Meta {
            key: Key::Text(key),
            value: false,
            quiet: false,
            no_update: false,
            stale: false,
            remove_value: false,
            touch: None,
            vivify: None,
            recache: None,
            compare: None,
            cas: None,
            client_flags: 0,
            initial: 0,
            delta: 1,
            opaque_too_long: false,
            mode: 0,
            words,
        }
    }

    /// Reads the flags, behind `before` other words. A flag that is twice there or unknown is
    /// reported at once; one that cannot be read only when no later one is bad.
    fn preparse(before: usize, key: &'a [u8], flags: &'a [u8]) -> Result<Meta<'a>, &'static [u8]> {
        if before + words(flags).count() > WORDS_MAX {
            return Err(reject::META_TOO_MANY);
        }
        let mut meta = Meta::new(key, flags);
        let (mut seen, mut failed) = (0u128, None);
        for word in words(flags) {
            let flag = word[0];
            if flag >= 127 || seen >> flag & 1 == 1 {
                return Err(reject::META_DUPLICATE);
            }
            seen |= 1 << flag;
            match meta.flag(word) {
                Ok(()) => {}
                Err(reject::META_FLAG) => return Err(reject::META_FLAG),
                // memcached has no text of its own for F, and so leaves what was there.
                Err(reject::BAD_FORMAT) => failed = failed.or(Some(reject::BAD_FORMAT)),
                Err(line) => failed = Some(line),
            }
        }
        failed.map_or(Ok(meta), Err)
    }

    /// Takes in one flag.
    fn flag(&mut self, word: &'a [u8]) -> Result<(), &'static [u8]> {
        let argument = &word[1..];
        let exptime = || signed32(argument).map(i64::from).ok_or(reject::META_TOKEN);
        let unique = || unsigned64(argument).ok_or(reject::META_TOKEN);
        match word[0] {
            b'b' => {
                let Key::Text(text) = self.key else { return Ok(()) };
                self.key = BinaryKey::decode(text).map(Key::Binary).ok_or(reject::META_KEY)?;
            }
            b'v' => self.value = true,
            b'q' => self.quiet = true,
            b'u' => self.no_update = true,
            b'I' => self.stale = true,
            b'x' => self.remove_value = true,
            b'T' => self.touch = Some(exptime()?),
            b'N' => self.vivify = Some(exptime()?),
            b'R' => self.recache = Some(exptime()?),
            b'C' => self.compare = Some(unique()?),
            b'E' => self.cas = Some(unique()?),
            b'F' => self.client_flags = unsigned32(argument).ok_or(reject::BAD_FORMAT)?,
            b'J' => self.initial = unsigned64(argument).ok_or(reject::META_INITIAL)?,
            b'D' => self.delta = unsigned64(argument).ok_or(reject::META_DELTA)?,
            // memcached looks one byte on, which behind a bare M is a blank or the line's end.
            b'M' => self.mode = argument.first().copied().unwrap_or(b' '),
            b'O' => self.opaque_too_long = word.len() > OPAQUE_MAX,
            // P and L are for proxies; a server passes them over.
            b'c' | b'f' | b'h' | b'k' | b'l' | b's' | b't' | b'P' | b'L' => {}
            _ => return Err(reject::META_FLAG),
        }
        Ok(())
    }

    /// Which kind of ms this is.
    pub fn set_mode(&self) -> SetMode {
        set_mode(self.mode).unwrap_or(SetMode::Set)
    }

    /// Whether this ms does not look at what is there.
    pub fn is_plain_set(&self) -> bool {
        self.set_mode() == SetMode::Set && self.compare.is_none()
    }

    /// Which kind of ma this is.
    pub fn arith_mode(&self) -> ArithMode {
        arith_mode(self.mode).unwrap_or(ArithMode::Incr)
    }

    /// Whether the command has `flag`.
    pub fn has(&self, flag: u8) -> bool {
        self.words().any(|word| word[0] == flag)
    }

    /// Whether `first` stands before `second`; also when there is no `second`.
    pub fn in_order(&self, first: u8, second: u8) -> bool {
        let mut flags = self.words().map(|word| word[0]);
        flags.find(|&flag| flag == first || flag == second) == Some(first)
    }

    /// Whether memcached comes to `flag` when it answers an mg or ma, flag by flag: an opaque that
    /// is too long ends that.
    pub fn reaches(&self, flag: u8) -> bool {
        !self.opaque_too_long || self.in_order(flag, b'O')
    }

    /// The flags with their arguments, as they came.
    pub fn words(&self) -> impl Iterator<Item = &'a [u8]> {
        words(self.words)
    }
}

fn set_mode(letter: u8) -> Option<SetMode> {
    Some(match letter {
        0 | b'S' => SetMode::Set,
        b'E' => SetMode::Add,
        b'A' => SetMode::Append,
        b'P' => SetMode::Prepend,
        b'R' => SetMode::Replace,
        _ => return None,
    })
}

fn arith_mode(letter: u8) -> Option<ArithMode> {
    Some(match letter {
        0 | b'I' | b'+' => ArithMode::Incr,
        b'D' | b'-' => ArithMode::Decr,
        _ => return None,
    })
}
