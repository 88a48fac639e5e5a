//! The short page for the person who opens the port in a browser.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest request head that is read.
const MAX_HEAD: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

/// Reads one request and answers it; then the connection is to be closed.
///
/// # Errors
/// Those of the connection.
pub(crate) async fn serve<S>(
    stream: &mut S,
    mut head: Vec<u8>,
    from: SocketAddr,
    port: u16,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = loop {
        if let Some(answer) = answer(&head, from, port) {
            break answer;
        }
        let mut more = [0; 1024];
        match stream.read(&mut more).await? {
            0 => return Ok(()),
            n => head.extend_from_slice(&more[..n]),
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The answer to a request; none until its head is whole.
fn answer(head: &[u8], from: SocketAddr, port: u16) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => return None,
        Ok(httparse::Status::Partial) => {
            return Some(respond("431 Request Header Fields Too Large", "", false));
        }
        Err(_) => return Some(respond("400 Bad Request", "", false)),
    }
    let host = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("host"));
    let place = host.and_then(|h| std::str::from_utf8(h.value).ok()).and_then(|h| place(h, port));
    Some(respond("200 OK", &page(from, place.as_deref().unwrap_or("HOST")), request.method == Some("HEAD")))
}

/// The Host header as a target, where it is one and nothing else: it is shown on the page.
fn place(host: &str, port: u16) -> Option<String> {
    let target: probe_protocol::target::Target = host.parse().ok()?;
    let ascii = target.host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b));
    // Browsers leave out the port of their scheme, and never port 8886.
    let target = probe_protocol::target::Target { port, invite: None, ..target };
    ascii.then(|| target.to_string())
}

fn page(from: SocketAddr, place: &str) -> String {
    let ip = from.ip().to_canonical();
    let port = from.port();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>probe-server</title>\
         <body style=\"font:1.1em/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em\">\
         <h1>It works.</h1>\
         <p>This is probe-server, and TCP reaches it from where you are. It sees you as <b>{ip}</b>, port {port}.</p>\
         <p>TCP is one half. To learn whether UDP and QUIC get through too, and what the path does to them, run this \
         where the traffic will come from:</p>\
         <pre>probe-client check {place}</pre>\
         <p>With the invite that the admin of this host has (<code>probe-server invite</code>) in place of \
         <code>{place}</code> the check is complete; without it, short.</p></body></html>\n"
    )
}

/// The server's name tells a client that cannot open a flow that it is one of us that answers.
fn respond(status: &str, body: &str, head_only: bool) -> String {
    let body_sent = if head_only { "" } else { body };
    format!(
        "HTTP/1.1 {status}\r\nServer: probe-server\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\nConnection: close\r\n\r\n{body_sent}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from() -> SocketAddr {
        "[::ffff:192.0.2.9]:1234".parse().unwrap()
    }

    #[test]
    fn a_whole_request_gets_the_page_with_the_callers_address_and_the_host() {
        let whole = b"GET / HTTP/1.1\r\nHost: example.org:8886\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(answer(&whole[..cut], from(), 8886), None);
        }
        let answer_whole = answer(whole, from(), 8886).unwrap();
        assert!(answer_whole.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(
            answer_whole.contains("<b>192.0.2.9</b>") && answer_whole.contains("check example.org:8886<")
        );
        let head = answer(b"HEAD / HTTP/1.1\r\n\r\n", from(), 8886).unwrap();
        assert!(head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn nothing_of_a_strangers_reaches_the_page_unread() {
        for host in ["<script>", "q\"q", "q q", "q'q", "&lt;q"] {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let page = answer(request.as_bytes(), from(), 8886).unwrap();
            assert!(!page.contains(host), "{host}");
        }
        let long = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
        assert!(answer(long.as_bytes(), from(), 8886).unwrap().starts_with("HTTP/1.1 431"));
        assert!(answer(b"GET / nonsense\r\n\r\n", from(), 1).unwrap().starts_with("HTTP/1.1 400"));
    }

    proptest! {
        #[test]
        fn any_bytes_wait_or_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut request = b"GET ".to_vec();
            request.extend_from_slice(&bytes);
            if let Some(answer) = answer(&request, from(), 8886) {
                prop_assert!(answer.starts_with("HTTP/1.1 "));
            }
        }
    }
}
