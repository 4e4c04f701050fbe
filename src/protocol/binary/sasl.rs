//! SASL PLAIN (RFC 4616), the one mechanism there is.
//!
//! Owns the form of its message. Never decides whether a password is right.

/// The mechanisms, as a list of names parted by blanks.
pub const MECHANISMS: &[u8] = b"PLAIN";

/// Whether this is the name of [`MECHANISMS`]'s one entry, in whatever case.
pub fn is_plain(mechanism: &[u8]) -> bool {
    mechanism.eq_ignore_ascii_case(MECHANISMS)
}

/// User and password of `[authzid] NUL user NUL password`. None when it is something else, or when
/// the client wants to act for another user than the one it names.
pub fn plain(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = message.split(|&byte| byte == 0);
    let (acts_for, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let sane = parts.next().is_none() && !user.is_empty();
    (sane && (acts_for.is_empty() || acts_for == user)).then_some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_three_parts() {
        assert_eq!(plain(b"\0user\0pass"), Some((&b"user"[..], &b"pass"[..])));
        assert_eq!(plain(b"user\0user\0"), Some((&b"user"[..], &b""[..])));
        for wrong in [&b""[..], b"\0", b"user", b"\0user", b"\0\0pass", b"\0u\0p\0", b"other\0u\0p"]
        {
            assert_eq!(plain(wrong), None, "{}", wrong.escape_ascii());
        }
        assert!(is_plain(b"plain") && !is_plain(b"PLAI") && !is_plain(b"CRAM-MD5"));
    }
}
