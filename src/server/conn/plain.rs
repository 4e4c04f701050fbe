//! Plain requests: gets of one key and sets, one after the other.
//!
//! Owns the short way of nearly all traffic. What is pipelined is parsed and hashed a few requests
//! ahead, and the store is asked for all of their memory at once. Takes nothing that has not
//! arrived whole and is not exactly plain ([`classic::plain`]); whatever else there is goes the way
//! of every command, in its order.
//!
//! ```text
//! input   | get a | set b | set c | get d | ... | gets x y |
//!         '------- parse, hash, ask ahead ------'  not plain: the run ends here
//!         '------- execute, one by one ---------'
//! ```

use super::{log_line, log_reply, Conn, OUT_HIGH};
use crate::base::clock::Now;
use crate::protocol::classic::{self, encode, Plain};
use crate::protocol::Parsed;
use crate::server::execute::Executor;

/// Requests, or keys of a get, that are looked at before the first of them is executed: enough for
/// the memory of all to come at once, few enough for a cache of the first level to hold it.
pub(super) const AHEAD: usize = 8;

/// A request of a run.
#[derive(Clone, Copy)]
struct Request<'a> {
    plain: Plain<'a>,
    /// The data block of a set.
    value: &'a [u8],
    /// Length of its line.
    line: usize,
    /// Where it ends in the input.
    end: usize,
}

impl<'a> Request<'a> {
    const NONE: Request<'static> = Request { plain: Plain::Get(&[]), value: &[], line: 0, end: 0 };

    /// The one that begins at `at`, if it is plain and here.
    #[inline]
    fn at(input: &'a [u8], at: usize, exec: &Executor) -> Option<Request<'a>> {
        let rest = &input[at..];
        let (plain, line) = classic::plain(rest)?;
        let Plain::Store(head) = &plain else {
            return Some(Request { plain, value: &[], line, end: at + line });
        };
        match classic::parse_data(&rest[line..], head.len) {
            Parsed::Done { value, used } if exec.fits(head) => {
                Some(Request { plain, value, line, end: at + line + used })
            }
            _ => None,
        }
    }

    fn key(&self) -> &'a [u8] {
        match self.plain {
            Plain::Get(key) => key,
            Plain::Store(head) => head.key,
        }
    }

    /// Executes it. `input` begins with it, `hash` is its key's, `id` its connection's number.
    #[inline]
    fn execute(
        &self,
        input: &[u8],
        hash: u64,
        id: u64,
        exec: &mut Executor,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        log_line(id, input, self.line);
        match &self.plain {
            Plain::Get(key) => {
                exec.get_alone(hash, key, now, out);
                log_reply(id, encode::END);
            }
            Plain::Store(head) => {
                let mark = out.len();
                exec.set_plain(hash, head, self.value, now, out);
                log_reply(id, &out[mark..]);
            }
        }
    }
}

impl Conn {
    /// The hash of the key that the first request asks for, if that is plain.
    #[inline]
    pub fn first_hash(&self, exec: &Executor) -> Option<u64> {
        if !self.may_be_plain(exec) {
            return None;
        }
        let key = match classic::plain(self.input.data())?.0 {
            Plain::Get(key) => key,
            Plain::Store(head) => head.key,
        };
        Some(exec.store.hash(key))
    }

    /// Executes the plain requests at the input's head, at most `most` and a few at once. Returns
    /// how many: none where the first is not plain.
    pub(super) fn plain_run(&mut self, exec: &mut Executor, now: Now, most: u32) -> u32 {
        let (input, out) = (self.input.data(), self.replies.out());
        let Some(first) = Request::at(input, 0, exec) else { return 0 };
        if first.end < input.len() {
            return self.plain_batch(exec, now, most);
        }
        let used = first.end;
        first.execute(input, exec.store.hash(first.key()), self.id, exec, now, out);
        self.input.consume(used);
        1
    }

    /// The same where more than one request is here.
    #[inline(never)]
    fn plain_batch(&mut self, exec: &mut Executor, now: Now, most: u32) -> u32 {
        let (input, out) = (self.input.data(), self.replies.out());
        let (mut run, mut hashes) = ([Request::NONE; AHEAD], [0; AHEAD]);
        let (mut count, mut end) = (0, 0);
        while count < AHEAD.min(most as usize) {
            let Some(request) = Request::at(input, end, exec) else { break };
            (run[count], hashes[count]) = (request, exec.store.hash(request.key()));
            count += 1;
            end = request.end;
        }
        if count > 1 {
            exec.store.ahead(&hashes[..count]);
        }
        let full = out.len() + OUT_HIGH;
        let (mut done, mut used) = (0, 0);
        for (request, &hash) in run[..count].iter().zip(&hashes) {
            if out.len() + exec.lending.bytes() >= full {
                break;
            }
            request.execute(&input[used..], hash, self.id, exec, now, out);
            (done, used) = (done + 1, request.end);
        }
        self.input.consume(used);
        done
    }
}
