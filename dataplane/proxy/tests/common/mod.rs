//! A proxy process, a scripted origin and a plain client, on loopback with real sockets.

#![allow(dead_code, reason = "each test file uses a part")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Any step that takes this long is a hang; nothing waits for it when all is well.
pub const HANG: Duration = Duration::from_secs(20);

/// A request as the origin saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Connection it came on, counted from 0.
    pub connection: usize,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

type Script = dyn Fn(&Seen, &mut TcpStream) -> bool + Send + Sync;

/// An origin that answers by a script: it writes the response and says whether the connection stays.
pub struct Origin {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
}

impl Origin {
    pub fn new(script: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let script: Arc<Script> = Arc::new(script);
        let (log, ended) = (seen.clone(), stop.clone());
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (script, log) = (script.clone(), log.clone());
                let ended = ended.clone();
                std::thread::spawn(move || serve(connection, stream, &*script, &log, &ended));
            }
        });
        Self { addr, seen, stop }
    }

    /// Answers every request with 200, these field lines (each with CRLF) and a body naming the target.
    pub fn fixed(fields: &'static str) -> Self {
        Self::new(move |seen, stream| {
            let body = format!("body of {}", seen.target);
            respond(stream, "200 OK", fields, body.as_bytes());
            true
        })
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Accepts no more: new connections are refused.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        // The listener is closed by its thread; until then a connect would succeed.
        while TcpStream::connect(self.addr).is_ok() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
    }
}

/// Writes a response with Content-Length.
pub fn respond(stream: &mut TcpStream, status: &str, fields: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
}

fn serve(
    connection: usize,
    mut stream: TcpStream,
    script: &Script,
    log: &Mutex<Vec<Seen>>,
    ended: &AtomicBool,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(mut seen) = read_request(&mut reader) {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        seen.connection = connection;
        log.lock().unwrap().push(seen.clone());
        if !script(&seen, &mut stream) {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut parts = line.split_whitespace();
    let mut seen = Seen { method: parts.next()?.into(), target: parts.next()?.into(), ..Seen::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        seen.fields.push((name.into(), value.trim().into()));
    }
    if let Some(length) = seen.field("content-length") {
        let mut body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        seen.body = body;
    } else if seen.field("transfer-encoding").is_some() {
        seen.body = read_chunked(reader).ok()?.0;
    }
    Some(seen)
}

/// Body and trailer lines of a chunked message.
pub fn read_chunked(reader: &mut impl BufRead) -> std::io::Result<(Vec<u8>, Vec<String>)> {
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim_end(), 16)
            .map_err(|_| std::io::Error::new(ErrorKind::UnexpectedEof, format!("chunk size {line:?}")))?;
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk[..size]);
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim_end().is_empty() {
            return Ok((body, trailers));
        }
        trailers.push(line.trim_end().to_owned());
    }
}

/// A running proxy.
pub struct Proxy {
    pub addr: SocketAddr,
    pub pid: u32,
    pub admin: PathBuf,
    child: Child,
    _dir: Option<tempfile::TempDir>,
}

impl Proxy {
    /// With these arguments besides listener and admin socket.
    pub fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let admin = dir.path().join("admin.sock");
        let mut proxy = Self::start_at(&admin, &[&["--listen", "127.0.0.1:0"], args].concat());
        proxy._dir = Some(dir);
        proxy
    }

    /// In front of one origin, two workers, a cache of 64 MiB.
    pub fn to(origin: &Origin, args: &[&str]) -> Self {
        let to = format!("http://{}", origin.addr);
        Self::start(&[&["--to", &to, "--workers", "2", "--no-pin", "--cache", "64M"], args].concat())
    }

    /// With this admin socket; returns once the process says that it is ready.
    pub fn start_at(admin: &Path, args: &[&str]) -> Self {
        let (mut child, mut lines) = Self::spawn(admin, args);
        let ready = Self::await_ready(&mut child, &mut lines);
        // What it says later (a panic, say) belongs to the test's output.
        std::thread::spawn(move || {
            lines.lines().map_while(Result::ok).for_each(|line| eprintln!("proxy: {line}"))
        });
        Self { addr: ready, pid: child.id(), admin: admin.into(), child, _dir: None }
    }

    pub fn spawn(admin: &Path, args: &[&str]) -> (Child, impl BufRead + Send + use<>) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-proxy"))
            .args(["--admin", admin.to_str().unwrap()])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        (child, lines)
    }

    pub fn await_ready(child: &mut Child, lines: &mut impl BufRead) -> SocketAddr {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                panic!("the proxy ended: {:?}: {said}", child.wait());
            }
            if let Some((_, rest)) = line.split_once("listen=") {
                return rest.split([' ', ',', '\n']).next().unwrap().parse().unwrap();
            }
            said += &line;
        }
    }

    pub fn from_child(addr: SocketAddr, admin: &Path, child: Child) -> Self {
        Self { addr, pid: child.id(), admin: admin.into(), child, _dir: None }
    }

    /// One admin request.
    pub fn admin(&self, request: &Value) -> Value {
        admin_at(&self.admin, request)
    }

    pub fn stats(&self) -> Value {
        self.admin(&serde_json::json!({"op": "stats"}))["ok"].clone()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.stats()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    pub fn refused(&self, name: &str) -> u64 {
        self.stats()["refused"][name].as_u64().unwrap_or(0)
    }

    pub fn signal(&self) {
        let status = Command::new("kill").arg(self.pid.to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits until the process ends by itself.
    pub fn ended(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    pub fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn admin_at(path: &Path, request: &Value) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

/// A response as the client read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn cache_status(&self) -> &str {
        let value = self.field("cache-status").unwrap_or("(none)");
        value.split_once("; ").map_or(value, |(_, rest)| rest)
    }
}

/// A client connection.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.write(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        self.read("GET")
    }

    /// With field lines, each with CRLF.
    pub fn get_with(&mut self, target: &str, fields: &str) -> Response {
        self.write(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
        self.read("GET")
    }

    /// Reads one whole response.
    pub fn read(&mut self, method: &str) -> Response {
        self.try_read(method).unwrap()
    }

    pub fn try_read(&mut self, method: &str) -> std::io::Result<Response> {
        let mut response = self.read_head()?;
        let length = response.field("content-length").and_then(|v| v.parse::<usize>().ok());
        if method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304) {
            return Ok(response);
        }
        if response.field("transfer-encoding").is_some() {
            (response.body, response.trailers) = read_chunked(&mut self.reader)?;
        } else if let Some(length) = length {
            response.body = vec![0; length];
            self.reader.read_exact(&mut response.body)?;
        } else {
            self.reader.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    pub fn read_head(&mut self) -> std::io::Result<Response> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let mut response =
            Response { status: status.unwrap_or_else(|| panic!("{line:?}")), ..Response::default() };
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(response);
            }
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
            response.fields.push((name.into(), value.into()));
        }
    }

    pub fn read_exact(&mut self, bytes: &mut [u8]) {
        self.reader.read_exact(bytes).unwrap();
    }

    /// The other side closed, and sent nothing more.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// How often each target was asked for.
pub fn by_target(seen: &[Seen]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for one in seen {
        *counts.entry(one.target.clone()).or_default() += 1;
    }
    counts
}

/// Repeats until `done`, or panics: for effects that come a moment after their cause.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
