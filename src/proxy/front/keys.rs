//! The keys of a get: all at once, or in portions.
//!
//! Owns the part of a long get that has not been submitted. Never knows where a key lives.

use super::{Front, State, Then, COST_MAX, KEY_COST, PORTION_KEYS, REQUEST_COST, UNSUPPORTED};
use crate::base::clock::Now;
use crate::protocol::classic::{self, Keys};
use crate::protocol::{GetVerb, Parsed};
use crate::proxy::fanout::Fanout;
use crate::proxy::relay::{Client, Portion, Relay};

/// A get of more keys than may be in flight at once.
#[derive(Debug)]
pub(super) struct LongGet {
    verb: GetVerb,
    exptime: i64,
    /// Keys at hand that have not been submitted, from `at` on.
    keys: Vec<u8>,
    at: usize,
    /// The line goes on in the input.
    more: bool,
}

impl Front {
    /// How many more keys may be asked for now.
    fn portion(&self) -> usize {
        (COST_MAX.saturating_sub(self.cost) / (self.hint + KEY_COST)).clamp(1, PORTION_KEYS)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn get(
        &mut self,
        now: Now,
        me: Client,
        relay: &mut Relay,
        verb: GetVerb,
        exptime: i64,
        keys: Keys<'_>,
        more: bool,
    ) {
        let portion = self.portion();
        let mut ahead = keys.clone();
        if let (false, Some(Ok(key)), None) = (more, ahead.next(), ahead.next()) {
            return self.get_one(now, me, relay, verb, exptime, key);
        }
        let mut fan = Fanout::new();
        let mut count = 0;
        for key in keys.clone() {
            match key {
                Err(reject) => return self.refuse(reject),
                Ok(key) if count < portion => {
                    fan.push(key);
                }
                Ok(_) => {}
            }
            count += 1;
        }
        if count == 0 && !more {
            return self.say(UNSUPPORTED);
        }
        if count <= portion && !more {
            return self.submit_get(now, me, relay, (verb, exptime), fan, Portion::Whole);
        }
        self.reached = false;
        let keys = keys.as_bytes().to_vec();
        self.state = State::Keys(LongGet { verb, exptime, keys, at: 0, more });
    }

    fn get_one(
        &mut self,
        now: Now,
        me: Client,
        relay: &mut Relay,
        verb: GetVerb,
        exptime: i64,
        key: &[u8],
    ) {
        if matches!(verb, GetVerb::Gat | GetVerb::Gats) {
            let mut fan = Fanout::new();
            fan.push(key);
            return self.submit_get(now, me, relay, (verb, exptime), fan, Portion::Whole);
        }
        let expected = if self.learned { self.hint } else { 0 };
        let cost = REQUEST_COST + self.hint + KEY_COST;
        self.in_flight += 1;
        self.cost += cost;
        let ticket = self.replies.defer();
        let fetched = relay.submit_get_one(now, me, ticket, cost, verb, key, expected);
        self.wait_for_fetched(fetched);
    }

    fn submit_get(
        &mut self,
        now: Now,
        me: Client,
        relay: &mut Relay,
        (verb, exptime): (GetVerb, i64),
        fan: Fanout,
        portion: Portion,
    ) {
        let cost = REQUEST_COST + fan.len() * (self.hint + KEY_COST);
        self.in_flight += 1;
        self.cost += cost;
        let ticket = self.replies.defer();
        let fetched = relay.submit_get(now, me, ticket, cost, verb, exptime, fan, portion);
        self.wait_for_fetched(fetched);
    }

    /// What is fetched when its turn comes must not be overtaken by a write behind it.
    fn wait_for_fetched(&mut self, fetched: bool) {
        if fetched && matches!(self.state, State::Command) {
            self.state = State::Barrier(Then::Nothing);
        }
    }

    /// The next portion of a long get. `false`: more input is needed first.
    pub(super) fn long_get(&mut self, now: Now, me: Client, relay: &mut Relay) -> bool {
        let portion = self.portion();
        let State::Keys(get) = &mut self.state else { return false };
        let mut fan = Fanout::new();
        let mut keys = Keys::new(&get.keys[get.at..]);
        while fan.len() < portion {
            let Some(Ok(key)) = keys.next() else { break };
            fan.push(key);
        }
        get.at = get.keys.len() - keys.as_bytes().len();
        if !fan.is_empty() {
            let how = (get.verb, get.exptime);
            self.submit_get(now, me, relay, how, fan, Portion::Part);
            return true;
        }
        if !get.more {
            self.state = State::Barrier(Then::EndGet);
            return true;
        }
        match classic::parse_more_keys(self.input.data()) {
            Parsed::Incomplete => false,
            Parsed::Reject { reject, .. } => {
                self.refuse(reject);
                true
            }
            Parsed::Done { value, used } => {
                if let Some(reject) = value.keys.clone().find_map(Result::err) {
                    self.refuse(reject);
                    return true;
                }
                get.keys = value.keys.as_bytes().to_vec();
                get.at = 0;
                get.more = value.more;
                self.input.consume(used);
                true
            }
        }
    }
}
