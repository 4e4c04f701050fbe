//! Files of users and passwords, and what clients say to log in.

use twincached::protocol::binary::sasl;
use twincached::protocol::classic::{parse_login, parse_login_data};
use twincached::protocol::Parsed;
use twincached::server::auth::{Credentials, Format};

/// Reads `data` as a file in both formats and as a login in both protocols.
pub fn run(data: &[u8]) {
    for format in [Format::AuthFile, Format::Pwdb] {
        let Ok(credentials) = Credentials::from_text(data, format, &"users") else { continue };
        for line in data.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'\r').next().unwrap_or_default();
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            let (user, password) = (&line[..colon], &line[colon + 1..]);
            assert!(credentials.check(user, password), "{:?}", line.escape_ascii());
            let wrong = [password, b"\r"].concat();
            assert!(!credentials.check(user, &wrong), "{:?}", line.escape_ascii());
        }
        assert!(!credentials.check(b"nobody:", b""));
    }
    if let Some((user, password)) = sasl::plain(data) {
        assert!(user.len() + password.len() <= data.len());
    }
    if let Parsed::Done { used, .. } | Parsed::Reject { used, .. } = parse_login(data) {
        assert!(used <= data.len());
    }
    if let Ok((user, password)) = parse_login_data(data) {
        assert!(user.len() + password.len() <= data.len());
    }
}
