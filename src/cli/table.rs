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

use getopts::{Fail, HasArg, Occur, Options};

/// What a handler of a flag makes of a value; an error is a sentence for the user.
pub type Setter<D> = fn(&mut D, &str) -> Result<(), String>;

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
    /// memcached has it, it has no meaning here: accepted with or without a value, and noted.
    Meaningless(fn(&mut D, &str)),
    /// The same, where memcached insists on a number.
    MeaninglessNumber(fn(&mut D, &str)),
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

impl<D> Flag<D> {
    fn takes_value(&self) -> bool {
        matches!(self.takes, Takes::Value(..) | Takes::Keys(_))
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
            (Takes::Value(name, _), false) => title.push_str(&format!("=<{name}>")),
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
/// One sentence about the first thing that is wrong.
pub fn parse<D>(flags: &[Flag<D>], args: &[String], draft: &mut D) -> Result<Option<Page>, String> {
    let args = spell_out(flags, args)?;
    let mut options = Options::new();
    for flag in flags {
        let short = flag.short.map(String::from).unwrap_or_default();
        let long = flag.longs.first().copied().unwrap_or_default();
        let has_arg = if flag.takes_value() { HasArg::Yes } else { HasArg::No };
        options.opt(&short, long, "", "", has_arg, Occur::Multi);
    }
    let matches = options.parse(&args).map_err(|fail| sentence(&fail))?;
    // An init script's "$OPTIONS" may be an empty word.
    if let Some(extra) = matches.free.iter().find(|word| !word.trim().is_empty()) {
        return Err(format!("unexpected argument '{extra}'"));
    }
    let mut page = None;
    for flag in flags {
        let key = flag.key();
        match &flag.takes {
            Takes::Nothing(set) => (0..matches.opt_count(&key)).for_each(|_| set(draft)),
            Takes::Print(what) if matches.opt_present(&key) => page = page.or(Some(*what)),
            Takes::Print(_) => {}
            Takes::Value(_, set) => {
                for value in matches.opt_strs(&key) {
                    set(draft, value.trim())?;
                }
            }
            Takes::Keys(keys) => {
                for value in matches.opt_strs(&key) {
                    parse_keys(keys, &value, draft)?;
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

/// Replaces every beginning and second name of a long option by its first name, which is all that
/// getopts knows. Values of options are left alone.
fn spell_out<D>(flags: &[Flag<D>], args: &[String]) -> Result<Vec<String>, String> {
    let mut out = Vec::with_capacity(args.len());
    let mut words = args.iter();
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
                Some(value) => out.push(format!("--{full}={value}")),
                None => out.push(format!("--{full}")),
            }
        } else {
            if let Some(cluster) = word.strip_prefix('-') {
                let flag_of = |c: char| flags.iter().find(|flag| flag.short == Some(c));
                let taking = cluster
                    .char_indices()
                    .find(|(_, c)| flag_of(*c).is_some_and(Flag::takes_value));
                value_follows = taking.is_some_and(|(at, c)| at + c.len_utf8() == cluster.len());
            }
            out.push(word.clone());
        }
        if value_follows {
            out.extend(words.next().cloned());
        }
    }
    Ok(out)
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
    for word in list.split(',').map(str::trim) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let matching = |key: &&Key<D>| match key.name.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => key.name == name,
        };
        let key =
            keys.iter().find(matching).ok_or_else(|| format!("Illegal suboption \"{word}\""))?;
        let missing = || format!("Missing argument for suboption \"{name}\"");
        match &key.takes {
            KeyTakes::Nothing(set) if value.is_none() => set(draft),
            KeyTakes::Nothing(_) => {
                return Err(format!("Suboption \"{name}\" takes no argument"));
            }
            KeyTakes::Value(_, set) => {
                set(draft, value.filter(|v| !v.is_empty()).ok_or_else(missing)?)?;
            }
            KeyTakes::Meaningless(note) => note(draft, name),
            KeyTakes::MeaninglessNumber(note) => {
                let value = value.ok_or_else(|| format!("Missing numeric argument for {name}"))?;
                if value.parse::<f64>().is_err() {
                    return Err(format!("Suboption \"{name}\" wants a number, not \"{value}\""));
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
        KeyTakes::Value(value, _) => format!("{}=<{value}>", key.name),
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
