//! What something that is not a listener of ours looks like, from its first bytes.

/// What bytes look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looks {
    /// In words: `HTTP 302 to http://portal.example/ (nginx)`, `SSH`, ...
    pub(super) like: String,
    pub(super) http: bool,
    /// An HTTP answer of a probe-server.
    pub(super) ours: bool,
}

/// Tells a known protocol by its first bytes; none where they are not known.
pub(super) fn looks(bytes: &[u8]) -> Option<Looks> {
    let plain = |like: &str| Some(Looks { like: like.to_owned(), http: false, ours: false });
    if bytes.starts_with(b"HTTP/") {
        return Some(http(bytes));
    }
    if bytes.starts_with(b"SSH-") {
        return plain("an SSH server");
    }
    if bytes.starts_with(b"220") {
        return plain("a mail or FTP server");
    }
    // What a simple server answers to a request line that it cannot read: HTTP/0.9 has no headers (RFC 9112 appendix C).
    let begins = |text: &[u8]| bytes.get(..text.len()).is_some_and(|b| b.eq_ignore_ascii_case(text));
    if begins(b"<!doctype html") || begins(b"<html") {
        return plain("a web server (a page without HTTP headers)");
    }
    // RFC 8446 section 5.1: alert (21) or handshake (22) with a legacy version of 3.x.
    if let [21 | 22, 3, 0..=4, ..] = bytes {
        return plain("a TLS server");
    }
    None
}

/// Longest piece of a foreign header that is quoted.
const MAX_QUOTE: usize = 120;

fn http(bytes: &[u8]) -> Looks {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split_whitespace().nth(1)).unwrap_or("answer");
    let (mut location, mut server) = (None, None);
    for line in lines {
        if let Some((name, value)) = line.split_once(':') {
            match name.trim().to_ascii_lowercase().as_str() {
                "location" => location = Some(quote(value)),
                "server" => server = Some(quote(value)),
                _ => {}
            }
        }
    }
    let ours = server.as_deref().is_some_and(|s| s.starts_with("probe-server"));
    let to = location.map(|l| format!(" to {l}")).unwrap_or_default();
    let by = server.map(|s| format!(" ({s})")).unwrap_or_default();
    Looks { like: format!("HTTP {}{to}{by}", quote(status)), http: true, ours }
}

/// Foreign text for people's eyes: no control characters, bounded.
fn quote(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(MAX_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_servers_are_recognised() {
        let portal =
            looks(b"HTTP/1.1 302 Found\r\nServer: gw\x1b[31m\r\nLocation: http://login/\r\n\r\n").unwrap();
        assert_eq!(portal.like, "HTTP 302 to http://login/ (gw[31m)");
        assert!(portal.http && !portal.ours);
        assert!(looks(b"HTTP/1.1 200 OK\r\nserver: probe-server/0.1\r\n\r\n").unwrap().ours);
        assert!(looks(b"<!DOCTYPE HTML>\n<html>").unwrap().like.starts_with("a web server"));
        assert_eq!(looks(b"<!DOCTYPE svg>"), None);
        assert_eq!(looks(b"SSH-2.0-x").unwrap().like, "an SSH server");
        assert_eq!(looks(&[21, 3, 3, 0, 2]).unwrap().like, "a TLS server");
        assert_eq!(looks(&[0x91, 0, 0]), None);
        assert_eq!(looks(b"HTTP/").unwrap().like, "HTTP answer");
    }
}
