//! The site's proxy, where this computer is configured with one: some sites let nothing out but through it. The tunnel that
//! is asked for (CONNECT, RFC 9110 section 9.3.6) goes to the very target, and it is the listener's own page that proves
//! that it gets there.
//!
//! It is tried once, only where no TCP connection has opened by itself, in a thread of its own: the environment names the
//! proxy, `https_proxy`, `all_proxy` and `no_proxy` as other programs read them, in small letters or capitals.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use probe_analysis::observation::ProxyTried;
use probe_net::clock;
use probe_protocol::target::Target;

use crate::engine::is_our_page;

/// When it is tried, since the start of the run: by then TCP has opened where it does.
const AFTER: Duration = Duration::from_secs(4);
/// Longest wait for each of its steps.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for its result when the run is over: all of its steps.
const PATIENCE: Duration = Duration::from_secs(6);
/// Bytes of an answer that are read at most.
const MAX_ANSWER: u64 = 8192;

/// A proxy that the environment names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proxy {
    /// `HOST:PORT`.
    address: String,
    /// Name and password, as HTTP's basic authentication wants them (RFC 7617).
    credentials: Option<String>,
}

/// The trial of a run's proxy.
#[derive(Debug)]
pub(crate) struct Trial {
    opened: Arc<AtomicBool>,
    result: Option<Receiver<ProxyTried>>,
}

impl Trial {
    /// Prepares it; without a proxy in the environment nothing will be tried.
    pub(crate) fn start(target: &Target) -> Self {
        let opened = Arc::new(AtomicBool::new(false));
        let proxy = from_environment(&|name| std::env::var(name).ok(), &target.host);
        let result = proxy.map(|proxy| {
            let (done, result) = channel();
            let (target, opened) = (target.to_string(), Arc::clone(&opened));
            std::thread::spawn(move || {
                std::thread::sleep(AFTER);
                if !opened.load(Ordering::Relaxed) {
                    // The run may have been stopped meanwhile.
                    let _ = done.send(proxy.connect(&target));
                }
            });
            result
        });
        Self { opened, result }
    }

    /// A TCP connection opened by itself: no proxy is needed.
    pub(crate) fn direct_works(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    /// What came of it, where it was tried.
    pub(crate) fn result(&mut self) -> Option<ProxyTried> {
        let result = self.result.take()?;
        if self.opened.load(Ordering::Relaxed) {
            return result.try_recv().ok();
        }
        result.recv_timeout(PATIENCE).ok()
    }
}

/// The proxy that the environment names for a target.
fn from_environment(variable: &dyn Fn(&str) -> Option<String>, host: &str) -> Option<Proxy> {
    let either = |name: &str| {
        let found = variable(name).or_else(|| variable(&name.to_uppercase()));
        found.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let excepted = either("no_proxy").unwrap_or_default();
    let is_excepted = excepted.split(',').map(str::trim).filter(|name| !name.is_empty()).any(|name| {
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        let suffix = host.len().checked_sub(name.len()).map(|at| host.split_at_checked(at));
        name == "*"
            || host.eq_ignore_ascii_case(name)
            || suffix.flatten().is_some_and(|(before, end)| {
                before.ends_with('.')
                    && end.eq_ignore_ascii_case(name)
                    && host.parse::<std::net::IpAddr>().is_err()
            })
    });
    if is_excepted {
        return None;
    }
    read(&either("https_proxy").or_else(|| either("all_proxy"))?)
}

/// Reads `http://[NAME:PASSWORD@]HOST[:PORT]`; none of another kind, which would be spoken to otherwise.
fn read(url: &str) -> Option<Proxy> {
    let rest = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some(_) => return None,
        None => url,
    };
    let authority = rest.split(['/', '?', '#']).next().filter(|authority| !authority.is_empty())?;
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(Proxy {
        address: if has_port { host.to_owned() } else { format!("{host}:80") },
        credentials: user.map(|user| data_encoding::BASE64.encode(unescaped(user).as_bytes())),
    })
}

/// Percent-encoding undone (RFC 3986 section 2.1).
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let coded = match rest {
            [b'%', high, low, ..] => {
                let digit = |c: &u8| char::from(*c).to_digit(16);
                digit(high).zip(digit(low)).map(|(high, low)| (high * 16 + low) as u8)
            }
            _ => None,
        };
        out.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Proxy {
    fn connect(&self, target: &str) -> ProxyTried {
        let (through, says) = match self.tunnel(target) {
            Ok(says) => says,
            Err(error) => (false, format!("it did not answer: {error}")),
        };
        ProxyTried { at: clock::now(), proxy: self.address.clone(), through, says }
    }

    /// Whether the listener answers through it, and in words what came.
    fn tunnel(&self, target: &str) -> io::Result<(bool, String)> {
        let address = self.address.to_socket_addrs()?.next();
        let address = address.ok_or_else(|| io::Error::other("its name leads nowhere"))?;
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let credentials = self.credentials.as_ref();
        let credentials =
            credentials.map(|c| format!("Proxy-Authorization: Basic {c}\r\n")).unwrap_or_default();
        stream.write_all(
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n").as_bytes(),
        )?;
        let answer = head(&mut stream)?;
        let status = answer.split_whitespace().nth(1).unwrap_or_default().to_owned();
        if !answer.starts_with("HTTP/") || !status.starts_with('2') {
            let status: String = status.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
            return Ok((false, format!("it refused the connection to the listener (HTTP {status})")));
        }
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let page = head(&mut stream)?;
        Ok(if is_our_page(page.as_bytes()) {
            (true, "the listener's own page came through it".to_owned())
        } else {
            (false, "something else than the listener answered through it".to_owned())
        })
    }
}

/// The head of an HTTP answer.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut one = [0; 1];
    let mut limited = stream.take(MAX_ANSWER);
    // Byte by byte: what follows the head is the tunnel's.
    while !bytes.ends_with(b"\r\n\r\n") {
        if limited.read(&mut one)? == 0 {
            break;
        }
        bytes.push(one[0]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_of(variables: &[(&str, &str)], host: &str) -> Option<Proxy> {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        from_environment(&value, host)
    }

    #[test]
    fn the_environment_names_a_proxy_as_for_other_programs() {
        let plain = |address: &str| Some(Proxy { address: address.to_owned(), credentials: None });
        assert_eq!(proxy_of(&[], "192.0.2.1"), None);
        assert_eq!(proxy_of(&[("https_proxy", "http://gate:3128/")], "192.0.2.1"), plain("gate:3128"));
        assert_eq!(proxy_of(&[("HTTPS_PROXY", "gate")], "192.0.2.1"), plain("gate:80"));
        assert_eq!(
            proxy_of(&[("all_proxy", "http://[2001:db8::1]:8080")], "a.example"),
            plain("[2001:db8::1]:8080")
        );
        // Another kind of proxy is not spoken to.
        assert_eq!(proxy_of(&[("https_proxy", "socks5://gate:1080")], "192.0.2.1"), None);
        assert_eq!(proxy_of(&[("https_proxy", "  ")], "192.0.2.1"), None);
        let named = proxy_of(&[("https_proxy", "http://me:a%40b@gate:3128")], "192.0.2.1");
        assert_eq!(named.and_then(|p| p.credentials).as_deref(), Some("bWU6YUBi"));
    }

    #[test]
    fn exceptions_are_whole_names_and_what_is_below_them() {
        let with = |excepted: &str, host: &str| {
            proxy_of(&[("https_proxy", "http://gate:3128"), ("no_proxy", excepted)], host).is_some()
        };
        assert!(!with("a.example, 192.0.2.1", "192.0.2.1"));
        assert!(!with(".example", "a.example") && !with("example", "A.EXAMPLE") && !with("*", "b.test"));
        assert!(with("ample", "a.example") && with("2.1", "192.0.2.1") && with("", "a.example"));
    }
}
