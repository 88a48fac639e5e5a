//! Just enough HTTP/1.1 to ask a home router.

use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const TIME_OUT: Duration = Duration::from_millis(1500);
/// A description longer than this is no router's.
const MAX_ANSWER: u64 = 256 << 10;

/// Where a resource is: `http://192.168.1.1:5000/desc.xml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) host: SocketAddrV4,
    pub(super) path: String,
}

impl Url {
    /// Only of a host given by its address, since a router in the house needs no name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.trim().strip_prefix("http://")?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let host = match host.split_once(':') {
            Some((address, port)) => SocketAddrV4::new(address.parse().ok()?, port.parse().ok()?),
            None => SocketAddrV4::new(host.parse().ok()?, 80),
        };
        let clean = path.chars().all(|letter| letter.is_ascii_graphic());
        clean.then(|| Self { host, path: path.to_owned() })
    }

    /// Another resource of the same host.
    pub(super) fn join(&self, reference: &str) -> Option<Self> {
        if reference.starts_with("http://") {
            return Self::parse(reference).filter(|url| url.host.ip() == self.host.ip());
        }
        let path = if reference.starts_with('/') { reference.to_owned() } else { format!("/{reference}") };
        Self::parse(&format!("http://{}{path}", self.host))
    }
}

/// Sends a request; status and body of the answer.
pub(super) async fn request(
    own: std::net::Ipv4Addr,
    url: &Url,
    head: &str,
    body: Option<&str>,
) -> Option<(u16, String)> {
    let verb = if body.is_some() { "POST" } else { "GET" };
    let body = body.unwrap_or_default();
    let message = format!(
        "{verb} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n{body}",
        url.path,
        url.host,
        body.len()
    );
    let talk = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(own, 0).into())?;
        let mut stream: TcpStream = socket.connect(url.host.into()).await?;
        stream.write_all(message.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    parse(&tokio::time::timeout(TIME_OUT, talk).await.ok()?.ok()?)
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 48];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = response.parse(answer).ok()? else { return None };
    let chunked = response.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding") && header.value.eq_ignore_ascii_case(b"chunked")
    });
    let body = answer.get(end..)?;
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Some((response.code?, String::from_utf8_lossy(&body).into_owned()))
}

/// RFC 9112 section 7.1.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let httparse::Status::Complete((start, size)) = httparse::parse_chunk_size(rest).ok()? else {
            return None;
        };
        if size == 0 {
            return Some(out);
        }
        let size = usize::try_from(size).ok()?;
        out.extend_from_slice(rest.get(start..start.checked_add(size)?)?);
        rest = rest.get(start.checked_add(size)?.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_a_router_are_read_and_others_are_not() {
        let url = Url::parse("http://192.168.1.1:5000/a/desc.xml").unwrap();
        assert_eq!((url.host.to_string().as_str(), url.path.as_str()), ("192.168.1.1:5000", "/a/desc.xml"));
        assert_eq!(Url::parse("http://192.168.1.1").unwrap().path, "/");
        assert_eq!(url.join("/ctl").unwrap().path, "/ctl");
        assert_eq!(url.join("ctl").unwrap().path, "/ctl");
        assert_eq!(url.join("http://192.168.1.1:80/ctl").unwrap().host.port(), 80);
        assert_eq!(url.join("http://10.0.0.1/ctl"), None, "another host's");
        for bad in
            ["https://192.168.1.1/", "http://router.lan/", "http://192.168.1.1:x/", "http://1.1.1.1/a b", ""]
        {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn answers_are_read_whole_or_chunked() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(parse(plain), Some((200, "hello".to_owned())));
        let chunked = b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some((500, "hello".to_owned())));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nx"), None);
        assert_eq!(parse(b"SSH-2.0-x\r\n"), None);
    }
}
