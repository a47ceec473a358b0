//! Flows of which the lab knows the node: TCP connections kept open and UDP sockets, asked before and after a
//! failure. Sockets are made inside the client's namespace and stay in it.

use super::netns::in_netns;
use super::plan::SITE_HOST;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// An answer on an idle machine takes well below a millisecond; loaded, this is still an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// A UDP answer may be lost with its datagram: ask again.
const UDP_TRIES: u32 = 4;
const UDP_TIMEOUT: Duration = Duration::from_millis(300);
/// Longest response head read.
const HEAD_MAX: usize = 8 << 10;
/// Object asked for: small, and stored after the first time.
const PROBE_TARGET: &str = "/obj/probe?size=64&ttl=600";

/// What became of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Same node as before.
    Stayed,
    /// Another node answered.
    Moved(String),
    /// The server said `Connection: close` with its last answer, or closed between requests.
    ClosedPolitely,
    /// No answer, or the connection broke inside one.
    Broken(String),
}

/// Fates of some flows, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Same node as before.
    pub stayed: usize,
    /// Another node answered.
    pub moved: usize,
    /// Closed between two requests.
    pub closed_politely: usize,
    /// Not answered.
    pub broken: usize,
}

impl Fates {
    /// All flows counted.
    pub fn total(&self) -> usize {
        self.stayed + self.moved + self.closed_politely + self.broken
    }

    /// Counts fates.
    pub fn of<'a>(fates: impl IntoIterator<Item = &'a Fate>) -> Self {
        let mut all = Fates::default();
        for fate in fates {
            *match fate {
                Fate::Stayed => &mut all.stayed,
                Fate::Moved(_) => &mut all.moved,
                Fate::ClosedPolitely => &mut all.closed_politely,
                Fate::Broken(_) => &mut all.broken,
            } += 1;
        }
        all
    }
}

impl std::fmt::Display for Fates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fates { stayed, moved, closed_politely, broken } = self;
        write!(
            f,
            "{stayed} stayed, {moved} moved, {closed_politely} closed between requests, {broken} broken"
        )
    }
}

/// Kept TCP connections.
pub struct TcpFlows {
    flows: Vec<(TcpStream, String)>,
}

/// UDP sockets.
pub struct UdpFlows {
    flows: Vec<(UdpSocket, String)>,
}

impl TcpFlows {
    /// Opens `count` connections to `target` and learns who answers each.
    pub fn open(netns: &str, target: SocketAddr, count: usize) -> Result<Self> {
        let connect = || -> std::io::Result<Vec<TcpStream>> {
            (0..count)
                .map(|_| {
                    let stream = TcpStream::connect_timeout(&target, ANSWER_TIMEOUT)?;
                    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                })
                .collect()
        };
        let streams = in_netns(netns, connect)?.with_context(|| format!("connect to {target}"))?;
        let mut flows = Vec::new();
        for mut stream in streams {
            match ask(&mut stream) {
                Answer::Good { node, .. } => flows.push((stream, node)),
                other => bail!("a fresh connection to {target} was not answered: {other:?}"),
            }
        }
        Ok(TcpFlows { flows })
    }

    /// Asks over each connection again; the node before and the fate.
    pub fn fates(&mut self) -> Vec<(String, Fate)> {
        self.flows
            .iter_mut()
            .map(|(stream, before)| {
                let fate = match ask(stream) {
                    Answer::Good { node, .. } if node == *before => Fate::Stayed,
                    Answer::Good { node, .. } => Fate::Moved(node),
                    Answer::ClosedBefore => Fate::ClosedPolitely,
                    Answer::Broken(why) => Fate::Broken(why),
                };
                (before.clone(), fate)
            })
            .collect()
    }

    /// Connections by node.
    pub fn nodes(&self) -> BTreeMap<String, usize> {
        count(self.flows.iter().map(|(_, node)| node))
    }
}

impl UdpFlows {
    /// Opens `count` flows to `target` and learns who answers each.
    pub fn open(netns: &str, target: SocketAddr, count: usize) -> Result<Self> {
        let any: SocketAddr = if target.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let bind = || -> std::io::Result<Vec<UdpSocket>> {
            (0..count)
                .map(|_| {
                    let socket = UdpSocket::bind(any)?;
                    socket.connect(target)?;
                    socket.set_read_timeout(Some(UDP_TIMEOUT))?;
                    Ok(socket)
                })
                .collect()
        };
        let sockets = in_netns(netns, bind)?.with_context(|| format!("open UDP sockets to {target}"))?;
        let mut flows = Vec::new();
        for (number, socket) in sockets.into_iter().enumerate() {
            let node = ask_udp(&socket, number as u64)
                .with_context(|| format!("a fresh UDP flow to {target} was not answered"))?;
            flows.push((socket, node));
        }
        Ok(UdpFlows { flows })
    }

    /// Asks each flow again; the node before and the fate.
    pub fn fates(&self) -> Vec<(String, Fate)> {
        let ask = |(number, (socket, before)): (usize, &(UdpSocket, String))| {
            let fate = match ask_udp(socket, number as u64) {
                Some(node) if node == *before => Fate::Stayed,
                Some(node) => Fate::Moved(node),
                None => Fate::Broken("no answer".into()),
            };
            (before.clone(), fate)
        };
        self.flows.iter().enumerate().map(ask).collect()
    }

    /// Flows by node.
    pub fn nodes(&self) -> BTreeMap<String, usize> {
        count(self.flows.iter().map(|(_, node)| node))
    }
}

fn count<'a>(nodes: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for node in nodes {
        *all.entry(node.clone()).or_default() += 1;
    }
    all
}

fn ask_udp(socket: &UdpSocket, number: u64) -> Option<String> {
    let mut buffer = [0; 512];
    for attempt in 0..UDP_TRIES {
        let question = format!("{number}/{attempt}");
        if socket.send(question.as_bytes()).is_err() {
            continue;
        }
        // A late answer to an earlier question tells the node as well.
        if let Ok(len) = socket.recv(&mut buffer) {
            let answer = String::from_utf8_lossy(&buffer[..len]);
            if let Some((node, _)) = answer.split_once('\n') {
                return Some(node.to_owned());
            }
        }
    }
    None
}

#[derive(Debug, PartialEq)]
enum Answer {
    Good { node: String },
    ClosedBefore,
    Broken(String),
}

fn ask(stream: &mut TcpStream) -> Answer {
    let request = format!("GET {PROBE_TARGET} HTTP/1.1\r\nHost: {SITE_HOST}\r\n\r\n");
    if let Err(e) = stream.write_all(request.as_bytes()) {
        return closed_or_broken(&e);
    }
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) if head.is_empty() => return Answer::ClosedBefore,
            Ok(0) => return Answer::Broken("closed inside a response head".into()),
            Ok(_) => head.push(byte[0]),
            Err(e) if head.is_empty() => return closed_or_broken(&e),
            Err(e) => return Answer::Broken(e.to_string()),
        }
        if head.len() > HEAD_MAX {
            return Answer::Broken("endless response head".into());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let Some(parsed) = parse_head(&head) else {
        return Answer::Broken(format!("no good response: {head:?}"));
    };
    let mut body = vec![0; parsed.length];
    match stream.read_exact(&mut body) {
        Ok(()) => Answer::Good { node: parsed.node },
        Err(e) => Answer::Broken(format!("inside a response body: {e}")),
    }
}

/// A server may close a kept connection between two requests (RFC 9112 section 9.5): the request that meets
/// this was not looked at.
fn closed_or_broken(error: &std::io::Error) -> Answer {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Answer::ClosedBefore,
        _ => Answer::Broken(error.to_string()),
    }
}

struct Head {
    node: String,
    length: usize,
}

/// Node and body length of a 200 response.
fn parse_head(head: &str) -> Option<Head> {
    let mut lines = head.split("\r\n");
    if !lines.next()?.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    let (mut length, mut node) = (None, None);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok(),
            // The last entry is the proxy next to the client: `1.1 node2`.
            "via" => {
                node = value.rsplit(',').next().and_then(|v| v.split_whitespace().nth(1)).map(str::to_owned)
            }
            _ => {}
        }
    }
    Some(Head { node: node?, length: length? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_node_next_to_the_client_is_the_last_via_entry() {
        let head = parse_head(
            "HTTP/1.1 200 OK\r\nVia: 1.1 parent, 1.1 node2 (sluice)\r\nContent-Length: 64\r\n\r\n",
        )
        .unwrap();
        assert_eq!((head.node.as_str(), head.length), ("node2", 64));
        assert!(parse_head("HTTP/1.1 502 Bad Gateway\r\nVia: 1.1 a\r\nContent-Length: 1\r\n\r\n").is_none());
    }

    #[test]
    fn a_close_between_requests_is_polite_and_one_inside_an_answer_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["", "HTTP/1.1 200 OK\r\nVia: 1.1 n\r\nContent-Length: 5\r\n\r\nab"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut first = TcpStream::connect(address).unwrap();
        assert_eq!(ask(&mut first), Answer::ClosedBefore);
        let mut second = TcpStream::connect(address).unwrap();
        assert!(matches!(ask(&mut second), Answer::Broken(_)));
        server.join().unwrap();
    }
}
