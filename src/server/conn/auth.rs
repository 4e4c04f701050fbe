//! Before a text client has said who it is (`-Y`).
//!
//! Owns the way from a login to the credentials. Executes nothing: whatever is not a login is
//! refused, and its data block is read as lines. Binary clients are held back where their packets
//! are read.

use super::data;
use super::{log_line, log_reply, Conn, State};
use crate::base::clock::Now;
use crate::base::counters::Counter;
use crate::protocol::classic::{self, encode};
use crate::protocol::reject::{self, Reject};
use crate::protocol::Parsed;
use crate::server::execute::Executor;

impl Conn {
    /// Takes what stands at the input's head for a login. False when it is not complete.
    pub(super) fn text_login(&mut self, exec: &mut Executor, now: Now) -> bool {
        let input = self.input.data();
        let (used, length) = match classic::parse_login(input) {
            Parsed::Incomplete => return false,
            Parsed::Reject { reject, used } => {
                log_line(self.id, input, used);
                self.refuse(reject, used);
                return true;
            }
            Parsed::Done { value, used } => (used, value),
        };
        let need = used + length;
        let Some(block) = input.get(used..need) else {
            match data::reserve(input.len(), need, exec, now) {
                Some(reserved) => self.state = State::Data { need, reserved },
                None => self.refuse(Reject::close(reject::NO_MEMORY), used),
            }
            return true;
        };
        log_line(self.id, input, used);
        match classic::parse_login_data(block) {
            Ok((user, password)) => {
                self.login.authenticated = exec.log_in(user, password);
                let right = self.login.authenticated;
                let reply = if right { encode::STORED } else { reject::LOGIN_FAILED };
                log_reply(self.id, reply);
                self.replies.out().extend_from_slice(reply);
                self.input.consume(need);
            }
            Err(reject) => self.refuse(reject, need),
        }
        true
    }
}

impl Executor {
    /// Whether there is such a user with such a password; counts the attempt.
    pub fn log_in(&self, user: &[u8], password: &[u8]) -> bool {
        let right = self.shared.credentials(user, password);
        let counters = self.store.counters();
        counters.add(Counter::AuthCmds, 1);
        counters.add(Counter::AuthErrors, u64::from(!right));
        right
    }
}
