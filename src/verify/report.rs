//! What `verify` says at the end.
//!
//! Owns the text on standard output: the differing keys by name, with what each node has, and a
//! last line that begins with `equal` or `different`. Pure.
//!
//! ```text
//!   user%3A17: missing on 10.0.0.2:11211
//!     10.0.0.1:11211: 5 bytes, crc 8f434346, flags 0, exptime 0, cas 42
//!     10.0.0.2:11211: missing
//!   different: 1 key of 200000 and 199999 items: 1 missing on 10.0.0.2:11211
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

use super::compare::{Different, State};

/// What a comparison has found.
#[derive(Debug)]
pub(super) struct Found {
    /// The nodes, as they were named.
    pub names: Vec<String>,
    /// How many items each had.
    pub items: Vec<u64>,
    /// The keys that differ, in the order of their ranges; all that were found.
    pub different: Vec<Different>,
    /// Keys that changed all the time.
    pub moving: usize,
    /// Ranges that differ and were not looked into any more.
    pub left: usize,
}

/// What to say, and whether it is good news.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub text: String,
    pub equal: bool,
}

/// The bits of the marks, by name.
const MARKS: [(u32, &str); 3] = [(1, "stale"), (2, "won"), (4, "base64")];

impl Found {
    /// The whole text, with up to `names_max` keys.
    pub fn report(&self, names_max: usize) -> Outcome {
        let mut text = String::new();
        for one in self.different.iter().take(names_max) {
            self.push_key(&mut text, one);
        }
        let equal = self.different.is_empty() && self.left == 0;
        let items = self.items();
        // Writing to a String cannot fail.
        let _ = if equal {
            writeln!(text, "equal: {} nodes, {items} items{}", self.names.len(), self.moving_note())
        } else {
            let (count, keys) = (self.different.len(), plural(self.different.len()));
            let least = if self.left > 0 { "at least " } else { "" };
            let left = match self.left {
                0 => String::new(),
                left => format!("; {left} ranges that differ were not looked into"),
            };
            let kinds = self.kinds();
            writeln!(text, "different: {least}{count} {keys} of {items} items: {kinds}{left}")
        };
        Outcome { text, equal }
    }

    fn items(&self) -> String {
        let all: Vec<String> = self.items.iter().map(u64::to_string).collect();
        if self.items.windows(2).all(|pair| pair[0] == pair[1]) {
            return all.first().cloned().unwrap_or_default();
        }
        all.join(" and ")
    }

    fn moving_note(&self) -> String {
        match self.moving {
            0 => String::new(),
            n => format!(" ({n} {} changed all the time)", plural(n)),
        }
    }

    /// What differs about a key, as words: `missing on NODE`, `value`, `flags`...
    fn kinds_of(&self, one: &Different) -> Vec<String> {
        let missing = one.states.iter().zip(&self.names).filter(|(state, _)| state.is_none());
        let mut kinds: Vec<String> =
            missing.map(|(_, name)| format!("missing on {name}")).collect();
        let there: Vec<&State> = one.states.iter().flatten().collect();
        let mut differ = |what: &str, get: fn(&State) -> u64| {
            if there.windows(2).any(|pair| get(pair[0]) != get(pair[1])) {
                kinds.push(what.to_owned());
            }
        };
        differ("value", |state| state.bytes.rotate_left(32) ^ u64::from(state.crc));
        differ("flags", |state| u64::from(state.flags));
        differ("exptime", |state| u64::from(state.exptime));
        differ("cas", |state| state.cas);
        differ("marks", |state| u64::from(state.marks));
        kinds
    }

    fn push_key(&self, text: &mut String, one: &Different) {
        let kinds = self.kinds_of(one);
        let differs = if one.states.iter().all(Option::is_some) { "differs in " } else { "" };
        let key = String::from_utf8_lossy(&one.key);
        let _ = writeln!(text, "{key}: {differs}{}", kinds.join(", "));
        for (name, state) in self.names.iter().zip(&one.states) {
            let _ = writeln!(text, "  {name}: {}", state.as_ref().map_or("missing".into(), shown));
        }
    }

    /// How many keys differ in what way. A key may count in several.
    fn kinds(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for kind in self.different.iter().flat_map(|one| self.kinds_of(one)) {
            *counts.entry(kind).or_default() += 1;
        }
        let (missing, other): (Vec<_>, Vec<_>) =
            counts.into_iter().partition(|(kind, _)| kind.starts_with("missing"));
        let missing = missing.into_iter().map(|(kind, count)| format!("{count} {kind}"));
        let other = other.into_iter().map(|(kind, count)| format!("{count} in {kind}"));
        missing.chain(other).collect::<Vec<_>>().join(", ")
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 {
        "key"
    } else {
        "keys"
    }
}

fn shown(state: &State) -> String {
    let State { bytes, crc, flags, exptime, cas, marks } = state;
    let mut text =
        format!("{bytes} bytes, crc {crc:08x}, flags {flags}, exptime {exptime}, cas {cas}");
    for (_, name) in MARKS.iter().filter(|(bit, _)| marks & bit != 0) {
        text.push_str(", ");
        text.push_str(name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: State =
        State { bytes: 5, crc: 0x8f43_4346, flags: 0, exptime: 0, cas: 42, marks: 0 };

    fn found(different: Vec<Different>) -> Found {
        let names = vec!["a:1".to_owned(), "b:2".to_owned()];
        Found { names, items: vec![7, 7], different, moving: 0, left: 0 }
    }

    fn one(key: &str, other: Option<State>) -> Different {
        Different { key: key.as_bytes().into(), states: vec![Some(STATE), other] }
    }

    #[test]
    fn equal_nodes_are_said_to_be_so() {
        let outcome = found(Vec::new()).report(10);
        assert_eq!(outcome, Outcome { text: "equal: 2 nodes, 7 items\n".into(), equal: true });
        let busy = Found { items: vec![7, 8], moving: 1, ..found(Vec::new()) }.report(10);
        let text = "equal: 2 nodes, 7 and 8 items (1 key changed all the time)\n";
        assert_eq!(busy, Outcome { text: text.into(), equal: true });
        assert!(!Found { left: 1, ..found(Vec::new()) }.report(10).equal);
    }

    #[test]
    fn differences_are_named() {
        let other = State { crc: 1, cas: 43, marks: 3, ..STATE };
        let outcome = found(vec![one("k%201", None), one("k2", Some(other))]).report(10);
        assert!(!outcome.equal);
        assert_eq!(
            outcome.text,
            "k%201: missing on b:2\n\
             \x20 a:1: 5 bytes, crc 8f434346, flags 0, exptime 0, cas 42\n\
             \x20 b:2: missing\n\
             k2: differs in value, cas, marks\n\
             \x20 a:1: 5 bytes, crc 8f434346, flags 0, exptime 0, cas 42\n\
             \x20 b:2: 5 bytes, crc 00000001, flags 0, exptime 0, cas 43, stale, won\n\
             different: 2 keys of 7 items: 1 missing on b:2, 1 in cas, 1 in marks, 1 in value\n"
        );
        let other = State { flags: 1, exptime: 2, ..STATE };
        let many = (0..5).map(|n| one(&format!("k{n}"), Some(other))).collect();
        let outcome = Found { left: 3, ..found(many) }.report(1);
        assert!(outcome.text.starts_with("k0: differs in flags, exptime\n"), "{}", outcome.text);
        assert!(outcome.text.ends_with(
            "different: at least 5 keys of 7 items: 5 in exptime, 5 in flags; 3 ranges that \
             differ were not looked into\n"
        ));
        assert!(!outcome.text.contains("k1"));
    }
}
