//! The byte buffer between a socket and a parser.
//!
//! Owns bytes that were received and not yet consumed: filled at the tail, consumed at the head.
//! Never reads a socket itself; the caller fills [`Buf::space`] and says how much arrived.

/// A growable buffer with a consumed head.
#[derive(Debug, Default)]
pub struct Buf {
    bytes: Vec<u8>,
    head: usize,
    /// Bytes `head..tail` are valid; `tail..bytes.len()` is zeroed room to read into.
    tail: usize,
}

impl Buf {
    /// An empty buffer that holds no memory.
    pub const fn new() -> Buf {
        Buf { bytes: Vec::new(), head: 0, tail: 0 }
    }

    /// What was received and not yet consumed.
    #[inline]
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.head..self.tail]
    }

    /// Number of bytes in [`Buf::data`].
    #[inline]
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Whether nothing is waiting.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Memory held, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Drops the first `n` bytes of [`Buf::data`]. Panics if there are fewer.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len(), "consumed more than was received");
        self.head += n;
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
        }
    }

    /// Drops `n` bytes of [`Buf::data`] behind the first `at`, which move up. Panics if there are
    /// fewer.
    pub fn cut(&mut self, at: usize, n: usize) {
        assert!(at + n <= self.len(), "cut more than was received");
        self.bytes.copy_within(self.head..self.head + at, self.head + n);
        self.consume(n);
    }

    /// Room for at least `n` more bytes, to read into; then call [`Buf::filled`].
    pub fn space(&mut self, n: usize) -> &mut [u8] {
        if self.bytes.len() - self.tail < n {
            if self.head > 0 {
                self.bytes.copy_within(self.head..self.tail, 0);
                self.tail -= self.head;
                self.head = 0;
            }
            if self.bytes.len() - self.tail < n {
                self.bytes.resize(self.tail + n, 0);
            }
        }
        &mut self.bytes[self.tail..]
    }

    /// Says that the first `n` bytes of the last [`Buf::space`] are now data.
    pub fn filled(&mut self, n: usize) {
        assert!(self.tail + n <= self.bytes.len(), "filled more than there was room");
        self.tail += n;
    }

    /// Appends `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Gives the memory back where an empty buffer holds more than `keep` bytes.
    pub fn shrink_idle(&mut self, keep: usize) {
        if self.is_empty() && self.bytes.capacity() > keep {
            *self = Buf::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_over_moves_and_growth() {
        let mut buf = Buf::new();
        buf.extend(b"abc");
        buf.consume(2);
        buf.extend(b"defgh");
        assert_eq!(buf.data(), b"cdefgh");
        buf.space(10)[..2].copy_from_slice(b"ij");
        buf.filled(2);
        assert_eq!(buf.data(), b"cdefghij");
        buf.cut(2, 3);
        assert_eq!(buf.data(), b"cdhij");
        buf.cut(0, 1);
        buf.consume(4);
        assert!(buf.is_empty());
        buf.shrink_idle(0);
        assert_eq!(buf.capacity(), 0);
    }
}
