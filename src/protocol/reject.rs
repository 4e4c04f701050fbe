//! Why a request is refused, with memcached's exact text and what becomes of the connection.
//!
//! Owns the texts of every refusal. Never decides when one is due: parsers and the server do.

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The line to answer, with its `\r\n`. Empty where memcached says nothing: an error of a
    /// command with `noreply`, and a line that is too long to be a command.
    pub line: &'static [u8],
    /// Data bytes that follow on the wire and must be dropped unread.
    pub swallow: u64,
    /// Close after the answer.
    pub close: bool,
}

impl Reject {
    /// Answer `line` and go on with the next command.
    pub const fn line(line: &'static [u8]) -> Reject {
        Reject { line, swallow: 0, close: false }
    }

    /// Answer `line`, then close: what follows cannot be told apart from commands.
    pub const fn close(line: &'static [u8]) -> Reject {
        Reject { line, swallow: 0, close: true }
    }

    /// The same refusal, said aloud only when the client wants replies. memcached keeps silent even
    /// about errors once it has understood `noreply`.
    #[must_use]
    pub const fn quiet_if(self, noreply: bool) -> Reject {
        if noreply {
            Reject { line: b"", ..self }
        } else {
            self
        }
    }
}

/// Unknown command, or a wrong number of arguments.
pub const ERROR: &[u8] = b"ERROR\r\n";
/// A key over 250 bytes, or an argument that is not the number it should be.
pub const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
/// The data block does not end where its length says.
pub const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
/// touch, gat, flush_all: exptime is not a number.
pub const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";
/// incr, decr: the delta is not an unsigned 64-bit number.
pub const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
/// incr, decr of a value that is not a number.
pub const NON_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
/// delete with arguments that are not the old `0` or `noreply`.
pub const BAD_DELETE: &[u8] =
    b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
/// `-Y`: anything but a login from a client that has not said who it is.
pub const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated\r\n";
/// `-Y`: the data block of a login is over 16 KiB.
pub const LOGIN_TOO_LONG: &[u8] = b"CLIENT_ERROR auth token too long\r\n";
/// `-Y`: the data block of a login does not end where its length says.
pub const LOGIN_UNENDED: &[u8] = b"CLIENT_ERROR bad command line termination\r\n";
/// `-Y`: the data block of a login is not a user, a blank and a password.
pub const LOGIN_FORMAT: &[u8] = b"CLIENT_ERROR bad authentication token format\r\n";
/// `-Y`: there is no such user, or the password is another one.
pub const LOGIN_FAILED: &[u8] = b"CLIENT_ERROR authentication failure\r\n";
/// shutdown with a mode other than `graceful`.
pub const BAD_SHUTDOWN: &[u8] = b"CLIENT_ERROR invalid shutdown mode\r\n";
/// shutdown without `-A`.
pub const SHUTDOWN_OFF: &[u8] = b"SERVER_ERROR: shutdown not enabled\r\n";
/// watch with `-W`.
pub const WATCH_OFF: &[u8] = b"CLIENT_ERROR watch commands not allowed\r\n";
/// watch behind commands whose answers are still to be sent.
pub const WATCH_PIPELINED: &[u8] = b"ERROR cannot pipeline other commands before watch\r\n";
/// watch when there are as many watchers as there may be.
pub const WATCH_TOO_MANY: &[u8] = b"WATCHER_TOO_MANY log watcher limit reached\r\n";
/// watch where lines cannot be sent whenever there are some.
pub const WATCH_FAILED: &[u8] = b"WATCHER_FAILED failed to add log watcher\r\n";
/// flush_all with `-F`.
pub const FLUSH_OFF: &[u8] = b"CLIENT_ERROR flush_all not allowed\r\n";
/// A value over `-I`.
pub const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
/// No room for a value and nothing to evict (`-M`).
pub const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
/// A change is made, and too few peers have acknowledged it in time (`-o repl_ack`).
pub const NOT_ACKNOWLEDGED: &[u8] = b"SERVER_ERROR not acknowledged by enough peers\r\n";
/// No room for the longer number of an incr.
pub const NO_MEMORY_ARITH: &[u8] = b"SERVER_ERROR out of memory\r\n";
/// Meta: the same flag twice, or a flag that is not ASCII.
pub const META_DUPLICATE: &[u8] = b"CLIENT_ERROR duplicate flag\r\n";
/// Meta: a flag this command does not know.
pub const META_FLAG: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
/// Meta: too many flags.
pub const META_TOO_MANY: &[u8] = b"CLIENT_ERROR options flags are too long\r\n";
/// Meta: the opaque token is over 31 bytes, its `O` not counted.
pub const META_OPAQUE: &[u8] = b"CLIENT_ERROR opaque token too long\r\n";
/// Meta: the key is not base64.
pub const META_KEY: &[u8] = b"CLIENT_ERROR error decoding key\r\n";
/// Meta: a flag's argument is not the number it should be.
pub const META_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";
/// ma: anything that is wrong with its words.
pub const META_ANY: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";
/// ms: a mode (`M`) it does not know.
pub const META_SET_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms M token\r\n";
/// ma: a mode (`M`) it does not know.
pub const META_ARITH_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma M token\r\n";
/// Meta: `J` is not an unsigned 64-bit number.
pub const META_INITIAL: &[u8] = b"CLIENT_ERROR invalid numeric initial value\r\n";
/// Meta: `D` is not an unsigned 64-bit number.
pub const META_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta value\r\n";
/// slabs automove window: out of range.
pub const BAD_WINDOW: &[u8] = b"CLIENT_ERROR automove window too low or too high\r\n";
/// lru tune: more than 80 percent together.
pub const BAD_LRU_SHARES: &[u8] = b"ERROR hot and warm pcts must not exceed 80\r\n";
/// lru tune: a factor that is not positive.
pub const BAD_LRU_FACTORS: &[u8] = b"ERROR hot/warm age factors must be greater than 0\r\n";
/// lru_crawler sleep: more than a second.
pub const BAD_SLEEP: &[u8] = b"CLIENT_ERROR sleep must be one second or less\r\n";
/// cache_memlimit: less than 8 megabytes.
pub const MEMLIMIT_TOO_SMALL: &[u8] = b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n";
/// cache_memlimit: so large that it must be bytes.
pub const MEMLIMIT_NOT_BYTES: &[u8] =
    b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n";
