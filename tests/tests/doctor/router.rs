//! A router of the tests' own that speaks UPnP-IGD, NAT-PMP and PCP, and writes down what it was asked.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_server::doctor::{Report, State};

use crate::commands::examine;
use crate::lab::{Netns, can};

/// What the router is and says.
#[derive(Clone, Copy)]
struct Spoken {
    upnp: bool,
    natpmp: bool,
    pcp: bool,
    external: Ipv4Addr,
    /// Our ports are forwarded to this host.
    forwards_to: Option<Ipv4Addr>,
}

struct Router {
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

impl Router {
    fn new(namespace: &Netns, spoken: Spoken) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        let tick = Some(Duration::from_millis(20));
        if spoken.natpmp || spoken.pcp {
            let socket = namespace.run(|| UdpSocket::bind((ADDRESS, 5351)).unwrap());
            socket.set_read_timeout(tick).unwrap();
            let (stop, asked) = (stop.clone(), asked.clone());
            threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 1100];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let answer = match &buffer[..length] {
                        [0, 0] if spoken.natpmp => {
                            asked.lock().unwrap().push("NAT-PMP address".to_owned());
                            let mut answer = vec![0, 128, 0, 0, 0, 0, 0, 9];
                            answer.extend_from_slice(&spoken.external.octets());
                            answer
                        }
                        [2, 0, ..] if length == 24 && spoken.pcp => {
                            asked.lock().unwrap().push("PCP ANNOUNCE".to_owned());
                            let mut answer = vec![0; 24];
                            answer[..2].copy_from_slice(&[2, 0x80]);
                            answer
                        }
                        [0, 0] => continue,
                        // RFC 6886 section 3.5: an unknown version gets version 0 and result 1.
                        [2, ..] => vec![0, 128, 0, 1, 0, 0, 0, 9],
                        other => {
                            asked.lock().unwrap().push(format!("unexpected {other:?}"));
                            continue;
                        }
                    };
                    socket.send_to(&answer, from).unwrap();
                }
            }));
        }
        if spoken.upnp {
            let (ssdp, http) = namespace.run(|| {
                let ssdp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 1900)).unwrap();
                ssdp.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &ADDRESS).unwrap();
                (ssdp, TcpListener::bind((ADDRESS, 0)).unwrap())
            });
            ssdp.set_read_timeout(tick).unwrap();
            http.set_nonblocking(true).unwrap();
            let location = format!("http://{}/desc.xml", http.local_addr().unwrap());
            let stopped = stop.clone();
            threads.push(std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !stopped.load(Ordering::Relaxed) {
                    let Ok((length, from)) = ssdp.recv_from(&mut buffer) else { continue };
                    let search = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if search.starts_with("M-SEARCH") && search.contains("InternetGatewayDevice:1") {
                        let answer = format!("HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: {location}\r\n\r\n");
                        ssdp.send_to(answer.as_bytes(), from).unwrap();
                    }
                }
            }));
            let (stopped, asked) = (stop.clone(), asked.clone());
            threads.push(std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Ok((mut stream, _)) = http.accept() else {
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    };
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let request = read_request(&mut stream);
                    let (status, body) = soap(&request, spoken, &asked);
                    let answer =
                        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }));
        }
        Self { stop, asked, threads }
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Head and body of a request with a `Content-Length`.
fn read_request(stream: &mut std::net::TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut all = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse::<usize>();
            if body.len() >= length.unwrap() {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => all.extend_from_slice(&buffer[..length]),
            _ => return text,
        }
    }
}

fn soap(request: &str, spoken: Spoken, asked: &Mutex<Vec<String>>) -> (u16, String) {
    const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
    if request.starts_with("GET /desc.xml ") {
        return (
            200,
            format!(
                "<root><device><serviceList><service><serviceType>{SERVICE}</serviceType><controlURL>/ctl</controlURL>\
                 </service></serviceList></device></root>"
            ),
        );
    }
    let action = request
        .lines()
        .find_map(|line| line.strip_prefix(&format!("SOAPAction: \"{SERVICE}#")))
        .map(|rest| rest.trim_end_matches('"').to_owned())
        .unwrap_or_default();
    asked.lock().unwrap().push(format!("UPnP {action}"));
    match action.as_str() {
        "GetExternalIPAddress" => {
            (200, format!("<a><NewExternalIPAddress>{}</NewExternalIPAddress></a>", spoken.external))
        }
        "GetSpecificPortMappingEntry" => match spoken.forwards_to {
            Some(to) => (
                200,
                format!(
                    "<a><NewInternalPort>8886</NewInternalPort><NewInternalClient>{to}</NewInternalClient>\
                     <NewEnabled>1</NewEnabled></a>"
                ),
            ),
            None => (500, "<s:Fault><errorCode>714</errorCode></s:Fault>".to_owned()),
        },
        _ => (500, String::new()),
    }
}

/// A host behind a router: what the doctor says, and what it asked the router.
fn behind(spoken: Spoken) -> (Report, Vec<String>) {
    let (host, router) = (Netns::new(), Netns::new());
    host.join("eth0", &router, "lan");
    router.sh("ip addr add 192.168.1.1/24 dev lan; ip route add 239.0.0.0/8 dev lan");
    host.sh("ip addr add 192.168.1.20/24 dev eth0; ip route add default via 192.168.1.1");
    let speaks = Router::new(&router, spoken);
    let report = examine(&host);
    (report, speaks.asked())
}

const SILENT: Spoken = Spoken {
    upnp: false,
    natpmp: false,
    pcp: false,
    external: Ipv4Addr::new(203, 0, 113, 9),
    forwards_to: None,
};

#[test]
fn a_router_is_asked_in_each_of_its_languages_and_nothing_is_changed() {
    if !can("a_router_is_asked_in_each_of_its_languages_and_nothing_is_changed", &["ip"]) {
        return;
    }
    const UPNP: [&str; 2] = ["UPnP GetExternalIPAddress", "UPnP GetSpecificPortMappingEntry"];
    for (spoken, words, questions) in [
        (Spoken { upnp: true, ..SILENT }, "UPnP-IGD", UPNP.to_vec()),
        (Spoken { natpmp: true, ..SILENT }, "NAT-PMP", vec!["NAT-PMP address"]),
        (
            Spoken { natpmp: true, pcp: true, ..SILENT },
            "NAT-PMP, PCP",
            vec!["NAT-PMP address", "PCP ANNOUNCE"],
        ),
    ] {
        let (report, asked) = behind(spoken);
        assert_eq!(asked, questions, "{words}");
        let router = report.check("router").unwrap();
        assert_eq!(router.state, State::Ok, "{}", report.text());
        assert!(
            router.says.contains(&format!("({words})")) && router.says.contains("203.0.113.9"),
            "{}",
            router.says
        );
        let addresses = report.check("addresses").unwrap();
        assert!(
            addresses.says.contains(
                "forward TCP 8886 and UDP 8886 of 203.0.113.9 on the router 192.168.1.1 to 192.168.1.20, port 8886"
            ),
            "{}",
            addresses.says
        );
        assert!(report.check("invite").unwrap().says.ends_with("probe-client check 203.0.113.9:8886"));
        assert!(report.findings.iter().all(|finding| finding.cause != Cause::CarrierNat));
    }
    let (report, asked) = behind(Spoken { pcp: true, ..SILENT });
    assert_eq!(asked, ["PCP ANNOUNCE"]);
    assert_eq!(report.check("router").unwrap().state, State::Unknown);
    let (report, asked) = behind(SILENT);
    assert!(asked.is_empty());
    assert_eq!(report.check("router").unwrap().state, State::Unknown);
    assert_eq!(report.check("invite").unwrap().state, State::Unknown);
}

#[test]
fn a_mapping_that_is_there_is_read() {
    if !can("a_mapping_that_is_there_is_read", &["ip"]) {
        return;
    }
    let (report, _) = behind(Spoken { upnp: true, forwards_to: Some(HOST), ..SILENT });
    assert_eq!(report.check("addresses").unwrap().state, State::Ok, "{}", report.text());
    let (report, _) =
        behind(Spoken { upnp: true, forwards_to: Some(Ipv4Addr::new(192, 168, 1, 33)), ..SILENT });
    assert_eq!(report.check("addresses").unwrap().state, State::Problem, "{}", report.text());
}

#[test]
fn carrier_nat_is_named_by_the_routers_address() {
    if !can("carrier_nat_is_named_by_the_routers_address", &["ip"]) {
        return;
    }
    for (external, carrier) in [
        ([100, 64, 1, 2], true),
        ([100, 127, 255, 254], true),
        ([10, 1, 2, 3], true),
        ([100, 128, 0, 1], false),
    ] {
        let (report, _) = behind(Spoken { natpmp: true, external: external.into(), ..SILENT });
        let named = report.findings.iter().any(|finding| finding.cause == Cause::CarrierNat);
        assert_eq!(named, carrier, "{external:?}: {}", report.text());
    }
}
