//! What a flag is, and what follows from a table of them: the parser and the `-h` text.
//!
//! ```text
//!  memcached.rs, magent.rs      a table: one row a flag, one row a key of -o
//!         |-> parse()           argv -> the rows' handlers, in table order
//!         |-> help()            -h
//!         `-> man.rs            the manual page
//! ```
//!
//! Owns POSIX getopt's habits: clusters (`-vv`, `-p11211`), `--port=11211`, unambiguous beginnings
//! of long names, `--`. Never prints and never exits.

use std::ops::RangeInclusive;

use getopts::{Fail, HasArg, Occur, Options};

/// What a handler of a flag makes of a value; an error is a sentence for the user.
pub type Setter<D> = fn(&mut D, &str) -> Result<(), String>;
/// Whether a word goes on with the value before it.
pub type Check = fn(&str) -> bool;

/// A page of text to print instead of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `-h`.
    Help,
    /// `-V`.
    Version,
    /// `-i`.
    License,
}

/// What a flag takes and does.
pub enum Takes<D: 'static> {
    /// No value. A flag given twice is handled twice.
    Nothing(fn(&mut D)),
    /// A value, shown in help by this name.
    Value(&'static str, Setter<D>),
    /// The same; where the short flag ends a word and no value follows it, it stands alone and
    /// means the third.
    ValueOrAlone(&'static str, Setter<D>, fn(&mut D)),
    /// No value; what the long name is given by `=` means nothing, as in memcached.
    Count(fn(&mut D)),
    /// A comma list of `-o` keys.
    Keys(&'static [Key<D>]),
    /// Nothing: prints a page.
    Print(Page),
}

/// One row of a flag table.
pub struct Flag<D: 'static> {
    /// `-p`.
    pub short: Option<char>,
    /// `--port`: the names after the first are accepted and not shown.
    pub longs: &'static [&'static str],
    /// What it takes and does.
    pub takes: Takes<D>,
    /// For help and the manual. Empty: accepted but not shown, because there is nothing to have.
    pub help: &'static str,
}

/// What a key of `-o` takes and does.
pub enum KeyTakes<D: 'static> {
    /// No value.
    Nothing(fn(&mut D)),
    /// A value, shown in help by this name.
    Value(&'static str, Setter<D>),
    /// A value, and every next word of the list that is no key and that the check takes: a list in
    /// the list.
    Values(&'static str, Setter<D>, Check),
    /// memcached has it, it has no meaning here: accepted with or without a value, and noted.
    Meaningless(fn(&mut D, &str)),
    /// The same, where memcached insists on a number from the first to the second; the sentence
    /// says so.
    MeaninglessNumber(fn(&mut D, &str), RangeInclusive<f64>, &'static str),
    /// The same, where memcached insists on one of these words.
    MeaninglessWord(fn(&mut D, &str), &'static [&'static str], &'static str),
    /// memcached has it and leaving it out would surprise: refused with this sentence.
    Refused(&'static str),
}

/// One row of an `-o` table.
pub struct Key<D: 'static> {
    /// Its name. A trailing `*` stands for any rest.
    pub name: &'static str,
    /// What it takes and does.
    pub takes: KeyTakes<D>,
    /// As for [`Flag::help`].
    pub help: &'static str,
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// One sentence.
    pub why: String,
    /// The flag whose value is wrong; None when the words themselves are.
    pub flag: Option<char>,
}

impl<D> Flag<D> {
    fn takes_value(&self) -> bool {
        matches!(self.takes, Takes::Value(..) | Takes::ValueOrAlone(..) | Takes::Keys(_))
    }

    /// The name that getopts knows it by.
    fn key(&self) -> String {
        self.short.map_or_else(|| self.longs[0].to_string(), String::from)
    }

    /// As in help: `-p, --port=<num>`.
    pub fn title(&self) -> String {
        let mut title = self.short.map(|c| format!("-{c}")).unwrap_or_default();
        if let Some(long) = self.longs.first() {
            let comma = if title.is_empty() { "" } else { ", " };
            title.push_str(&format!("{comma}--{long}"));
        }
        match (&self.takes, self.longs.is_empty()) {
            (Takes::Value(name, _), true) => title.push_str(&format!(" <{name}>")),
            (Takes::Value(name, _) | Takes::ValueOrAlone(name, ..), _) => {
                title.push_str(&format!("=<{name}>"));
            }
            (Takes::Keys(_), _) => title.push_str("=<key[=value],...>"),
            _ => {}
        }
        title
    }
}

/// Runs the handlers of `args` (without the program's name) over `draft`. A page wins over
/// everything that is well-formed.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse<D>(flags: &[Flag<D>], args: &[String], draft: &mut D) -> Result<Option<Page>, Wrong> {
    parse_words(flags, args, draft, |_, word| Err(format!("unexpected argument '{word}'")))
}

/// The same where words that belong to no flag mean something: each goes to `free`.
///
/// # Errors
/// As [`parse`].
pub fn parse_words<D>(
    flags: &[Flag<D>],
    args: &[String],
    draft: &mut D,
    free: Setter<D>,
) -> Result<Option<Page>, Wrong> {
    let words = |why| Wrong { why, flag: None };
    let Spelt { args, alone } = spell_out(flags, args).map_err(words)?;
    let mut options = Options::new();
    for flag in flags {
        let short = flag.short.map(String::from).unwrap_or_default();
        let long = flag.longs.first().copied().unwrap_or_default();
        let has_arg = if flag.takes_value() { HasArg::Yes } else { HasArg::No };
        options.opt(&short, long, "", "", has_arg, Occur::Multi);
    }
    let matches = options.parse(&args).map_err(|fail| words(sentence(&fail)))?;
    // An init script's "$OPTIONS" may be an empty word.
    for word in matches.free.iter().filter(|word| !word.trim().is_empty()) {
        free(draft, word).map_err(words)?;
    }
    alone.into_iter().for_each(|set| set(draft));
    let mut page = None;
    for flag in flags {
        let key = flag.key();
        let wrong = |why| Wrong { why, flag: flag.short };
        match &flag.takes {
            Takes::Nothing(set) | Takes::Count(set) => {
                (0..matches.opt_count(&key)).for_each(|_| set(draft));
            }
            Takes::Print(what) if matches.opt_present(&key) => page = page.or(Some(*what)),
            Takes::Print(_) => {}
            Takes::Value(_, set) | Takes::ValueOrAlone(_, set, _) => {
                for value in matches.opt_strs(&key) {
                    set(draft, value.trim()).map_err(wrong)?;
                }
            }
            Takes::Keys(keys) => {
                for value in matches.opt_strs(&key) {
                    parse_keys(keys, &value, draft).map_err(wrong)?;
                }
            }
        }
    }
    Ok(page)
}

/// getopts' complaints in getopt's words.
fn sentence(fail: &Fail) -> String {
    let dashed = |name: &str| match name.chars().count() {
        1 => format!("-{name}"),
        _ => format!("--{name}"),
    };
    match fail {
        Fail::ArgumentMissing(name) if name.chars().count() == 1 => {
            format!("option requires an argument -- '{name}'")
        }
        Fail::ArgumentMissing(name) => format!("option '--{name}' requires an argument"),
        Fail::UnrecognizedOption(name) if name.chars().count() == 1 => {
            format!("invalid option -- '{name}'")
        }
        Fail::UnrecognizedOption(name) => format!("unrecognized option '--{name}'"),
        Fail::UnexpectedArgument(name) => {
            format!("option '{}' doesn't allow an argument", dashed(name))
        }
        Fail::OptionMissing(name) | Fail::OptionDuplicated(name) => {
            format!("option '{}' must be given once", dashed(name))
        }
    }
}

/// What getopts understands, and the handlers of flags that stood alone.
struct Spelt<D> {
    args: Vec<String>,
    alone: Vec<fn(&mut D)>,
}

/// Replaces every beginning and second name of a long option by its first name, which is all that
/// getopts knows, and takes out the flags that could have a value and have none. Values of options
/// are left alone.
fn spell_out<D>(flags: &[Flag<D>], args: &[String]) -> Result<Spelt<D>, String> {
    let mut out = Vec::with_capacity(args.len());
    let mut alone = Vec::new();
    let mut words = args.iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            out.push(word.clone());
            out.extend(words.by_ref().cloned());
            break;
        }
        let mut value_follows = false;
        if let Some(rest) = word.strip_prefix("--") {
            let (name, value) = match rest.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (rest, None),
            };
            let (flag, full) = find_long(flags, name)?;
            value_follows = flag.takes_value() && value.is_none();
            match value {
                Some(value) if !matches!(flag.takes, Takes::Count(_)) => {
                    out.push(format!("--{full}={value}"));
                }
                _ => out.push(format!("--{full}")),
            }
        } else {
            let last = ends_with_taker(flags, word).map(|flag| &flag.takes);
            let no_value = words.peek().is_none_or(|next| next.starts_with('-'));
            match last {
                Some(Takes::ValueOrAlone(.., set)) if no_value => {
                    alone.push(*set);
                    let others = &word[..word.len() - 1];
                    if others != "-" {
                        out.push(others.to_owned());
                    }
                }
                _ => {
                    value_follows = last.is_some();
                    out.push(word.clone());
                }
            }
        }
        if value_follows {
            out.extend(words.next().cloned());
        }
    }
    Ok(Spelt { args: out, alone })
}

/// The flag of a cluster of short ones that takes a value, if that is to be the next word.
fn ends_with_taker<'a, D>(flags: &'a [Flag<D>], word: &str) -> Option<&'a Flag<D>> {
    let cluster = word.strip_prefix('-')?;
    let flag_of = |c: char| flags.iter().find(|flag| flag.short == Some(c));
    let (at, flag) = cluster
        .char_indices()
        .filter_map(|(at, c)| Some((at, flag_of(c)?)))
        .find(|(_, flag)| flag.takes_value())?;
    let letter = cluster[at..].chars().next()?;
    (at + letter.len_utf8() == cluster.len()).then_some(flag)
}

fn find_long<'a, D>(
    flags: &'a [Flag<D>],
    name: &str,
) -> Result<(&'a Flag<D>, &'static str), String> {
    let unknown = || format!("unrecognized option '--{name}'");
    if let Some(flag) = flags.iter().find(|flag| flag.longs.contains(&name)) {
        return Ok((flag, flag.longs[0]));
    }
    let mut found: Option<&Flag<D>> = None;
    for flag in flags {
        if name.is_empty() || !flag.longs.iter().any(|long| long.starts_with(name)) {
            continue;
        }
        if let Some(other) = found {
            let (a, b) = (other.longs[0], flag.longs[0]);
            return Err(format!("option '--{name}' is ambiguous: '--{a}' or '--{b}'"));
        }
        found = Some(flag);
    }
    found.map(|flag| (flag, flag.longs[0])).ok_or_else(unknown)
}

fn parse_keys<D>(keys: &[Key<D>], list: &str, draft: &mut D) -> Result<(), String> {
    let mut open: Option<(Setter<D>, Check)> = None;
    // A list may end in a comma, or be empty, as for getsubopt.
    for word in list.strip_suffix(',').unwrap_or(list).split(',').map(str::trim) {
        if list.trim().is_empty() {
            break;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let matching = |key: &&Key<D>| match key.name.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => key.name == name,
        };
        let Some(key) = keys.iter().find(matching) else {
            match open.filter(|(_, takes)| takes(word)) {
                Some((set, _)) => set(draft, word)?,
                None => return Err(format!("Illegal suboption \"{word}\"")),
            }
            continue;
        };
        open = None;
        let missing = || format!("Missing argument for suboption \"{name}\"");
        match &key.takes {
            // What it is given by "=" means nothing, as in memcached.
            KeyTakes::Nothing(set) => set(draft),
            KeyTakes::Value(_, set) => {
                set(draft, value.filter(|v| !v.is_empty()).ok_or_else(missing)?)?;
            }
            KeyTakes::Values(_, set, takes) => {
                set(draft, value.filter(|v| !v.is_empty()).ok_or_else(missing)?)?;
                open = Some((*set, *takes));
            }
            KeyTakes::Meaningless(note) => note(draft, name),
            KeyTakes::MeaninglessNumber(note, range, why) => {
                let value = value.ok_or_else(|| format!("Missing numeric argument for {name}"))?;
                let number = value
                    .parse::<f64>()
                    .map_err(|_| format!("Suboption \"{name}\" wants a number, not \"{value}\""))?;
                if !range.contains(&number) {
                    return Err((*why).to_string());
                }
                note(draft, name);
            }
            KeyTakes::MeaninglessWord(note, words, why) => {
                let value = value.ok_or_else(|| format!("Missing {name} argument"))?;
                if !words.contains(&value) {
                    return Err((*why).to_string());
                }
                note(draft, name);
            }
            KeyTakes::Refused(why) => return Err((*why).to_string()),
        }
    }
    Ok(())
}

/// Where help's second column starts, and the line width it keeps to.
const HELP_COLUMN: usize = 26;
const HELP_WIDTH: usize = 80;

/// The flags' part of `-h`.
pub fn help<D>(flags: &[Flag<D>]) -> String {
    let mut out = String::new();
    for flag in flags.iter().filter(|flag| !flag.help.is_empty()) {
        push_row(&mut out, &flag.title(), flag.help);
        if let Takes::Keys(keys) = flag.takes {
            for key in keys.iter().filter(|key| !key.help.is_empty()) {
                push_row(&mut out, &format!("   - {}:", key_title(key)), key.help);
            }
        }
    }
    out
}

/// As in help: `log_file=<path>`.
pub fn key_title<D>(key: &Key<D>) -> String {
    match key.takes {
        KeyTakes::Value(value, _) | KeyTakes::Values(value, ..) => {
            format!("{}=<{value}>", key.name)
        }
        _ => key.name.to_string(),
    }
}

fn push_row(out: &mut String, title: &str, text: &str) {
    let mut line = title.to_string();
    if line.len() >= HELP_COLUMN {
        out.push_str(&line);
        out.push('\n');
        line.clear();
    }
    let mut at_start = true;
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > HELP_WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line.clear();
            at_start = true;
        }
        while at_start && line.len() < HELP_COLUMN {
            line.push(' ');
        }
        if !at_start {
            line.push(' ');
        }
        line.push_str(word);
        at_start = false;
    }
    out.push_str(&line);
    out.push('\n');
}
