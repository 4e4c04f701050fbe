//! Binary packets: one request of a binary connection.
//!
//! Owns the way from a packet to the executor: a value is counted before it comes in, and one that
//! will be refused is dropped unread. Never keeps a parsed header: a request whose value is not
//! here yet is parsed again when it is.

use super::data::{self, First, Placeable};
use super::{Conn, State, LOGGED_LINE};
use crate::base::clock::Now;
use crate::protocol::binary::{
    self, encode, Command, Frame, Framed, Head, Refusal, Request, Status,
};
use crate::protocol::StoreVerb;
use crate::server::execute::{After, Executor};
use crate::server::watch::CloseReason;
use crate::store::Given;

impl Conn {
    /// Executes the request at the input's head. False when it is not complete.
    pub(super) fn binary_command(&mut self, exec: &mut Executor, first: First, now: Now) -> bool {
        let arrived = self.arrived.take();
        let input = self.input.data();
        let frame = match binary::parse(input) {
            Framed::Incomplete => return false,
            Framed::BadMagic => {
                log::info!("<{} not a binary request: {:#x}", self.id, input[0]);
                self.state = State::Closing;
                return true;
            }
            Framed::Frame(frame) => frame,
        };
        let (head, used) = (frame.head, frame.used);
        let asked = self.request(exec, &frame).and_then(|request| {
            let len = exec.binary_value(&request, now)?;
            Ok((request, used + len))
        });
        let (request, need) = match asked {
            Ok(asked) => asked,
            Err(refusal) => {
                self.refuse_binary(&head, refusal, used);
                return true;
            }
        };
        let value = match arrived {
            Some(value) => Some(Given::Placed(value)),
            None => input.get(used..need).map(Given::Bytes),
        };
        let Some(value) = value else {
            let placeable = Placeable { key: plain_key(&request), len: need - used, tail: 0 };
            if let Some((arriving, copied)) = placeable.place(input, used, &first, exec, now) {
                self.input.cut(used, copied);
                self.state = State::Value(arriving);
                return true;
            }
            match data::reserve(input.len(), need, exec, now) {
                Some(reserved) => self.state = State::Data { need, reserved },
                None => {
                    let refusal =
                        exec.binary_no_memory(&request, now).swallow((need - used) as u64);
                    self.refuse_binary(&head, refusal, used);
                }
            }
            return true;
        };
        log_request(self.id, &frame);
        let need = if let Given::Placed(_) = value { used } else { need };
        let out = self.replies.out();
        let mark = out.len();
        let after = exec.binary(&mut self.login, &request, value, now, out);
        log_response(self.id, &out[mark..]);
        self.input.consume(need);
        match after {
            After::Close => self.finish(CloseReason::Normal),
            After::Stream(producer) => self.state = State::Stream(producer),
            After::Next | After::NextTurn => self.state = State::Command,
        }
        true
    }

    /// What is asked, if it may be asked.
    fn request<'a>(&self, exec: &Executor, frame: &Frame<'a>) -> Result<Request<'a>, Refusal> {
        frame.check()?;
        if exec.shared.config.sasl && !self.login.authenticated && !frame.needs_no_login() {
            return Err(frame.closing(Status::AuthError));
        }
        frame.request()
    }

    /// Answers a refusal and drops what it covers.
    fn refuse_binary(&mut self, head: &Head, refusal: Refusal, used: usize) {
        let out = self.replies.out();
        let mark = out.len();
        encode::error(out, head, refusal.status, refusal.text);
        log_response(self.id, &out[mark..]);
        self.input.consume(used);
        self.state = match refusal {
            Refusal { close: true, swallow: 0, .. } => State::Closing,
            Refusal { close: true, swallow, .. } => State::Drain(swallow),
            Refusal { swallow: 0, .. } => State::Command,
            Refusal { swallow, .. } => State::Swallow(swallow),
        };
    }
}

/// The key of a storage command that does not look at what is there.
fn plain_key<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    match request.command {
        Command::Store(head) if head.verb == StoreVerb::Set && request.head.cas == 0 => {
            Some(head.key)
        }
        _ => None,
    }
}

/// Shows a request at `-vv`.
fn log_request(id: u64, frame: &Frame<'_>) {
    if log::log_enabled!(log::Level::Debug) {
        let (head, key) = (frame.head, frame.key().escape_ascii());
        log::debug!("<{id} binary {:#04x} \"{key}\", body {}", head.opcode, head.body_len);
    }
}

/// Shows the beginning of a response at `-vv`.
fn log_response(id: u64, response: &[u8]) {
    if log::log_enabled!(log::Level::Debug) && !response.is_empty() {
        let shown = &response[..response.len().min(LOGGED_LINE)];
        log::debug!(">{id} \"{}\"", shown.escape_ascii());
    }
}
