//! The words of `where`: the proxy's flags, and keys.
//!
//! Owns keys that are no text, which pass the flag parser as stand-ins.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::magent::{self, Draft};
use super::table::{self, Page};
use crate::proxy::config::Config;

/// What it does, for `-h`.
pub const ABOUT: &str = "\
Prints which server and which backup have a key, a line each: the key, the
server and the backup with tabs between. Takes the proxy's flags, and keys as
further words; without any it reads them from standard input, one a line.
Connects to nobody. Exits with 1 when memcached would refuse one of the keys.
";

/// What the words of `where` ask for.
pub enum Asked {
    /// Print a page instead.
    Page(Page),
    /// Where these keys are, or those on standard input where there are none.
    Keys(Box<Config>, Vec<Vec<u8>>),
}

/// A word that the flag parser would not take or would drop. No argument of a program can have a
/// zero byte in it, so that nothing else looks like one.
const STAND_IN: char = '\0';

/// Takes `words` apart, those behind `where`.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(words: &[OsString]) -> Result<Asked, table::Wrong> {
    let spell = |(number, word): (usize, &OsString)| match word.to_str() {
        Some(text) if !text.trim().is_empty() => text.to_owned(),
        _ => format!("{STAND_IN}{number}"),
    };
    let spelt: Vec<String> = words.iter().enumerate().map(spell).collect();
    let mut draft = Draft::default();
    let key = |draft: &mut Draft, word: &str| {
        draft.words.push(word.to_owned());
        Ok(())
    };
    let page = table::parse_words(magent::FLAGS, &spelt, &mut draft, key);
    let wrong = |why| table::Wrong { why, flag: None };
    let stand_in = |word: &&String| word.starts_with(STAND_IN);
    // Keys are set aside before any flag is looked at.
    let taken = draft.words.iter().filter(stand_in).count();
    if spelt.iter().filter(stand_in).count() > taken {
        return Err(wrong("the value of a flag is blank or not UTF-8".into()));
    }
    if let Some(page) = page? {
        return Ok(Asked::Page(page));
    }
    let bytes = |word: &String| match word.strip_prefix(STAND_IN).map(str::parse::<usize>) {
        Some(Ok(number)) => words[number].clone().into_vec(),
        _ => word.clone().into_bytes(),
    };
    let keys = draft.words.iter().map(bytes).collect();
    Ok(Asked::Keys(Box::new(draft.spread().map_err(wrong)?), keys))
}
