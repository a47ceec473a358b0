//! BIRD 2 as the speaker that tells routers which VIPs are here: one included file of static routes, and its control
//! socket to have it read.
//!
//! The agent owns that file and nothing else of BIRD's configuration. BIRD answers line by line: four digits,
//! then `-` when more follows or a space when not; 8xxx and 9xxx are refusals (BIRD's programmer's guide, "CLI").
//! Calls block the engine's thread, bounded by [`TIMEOUT`].

use crate::host::HostError;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// BIRD answers while it works on the change, so at once.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer: a refusal names one place of one file.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
const HEAD: &str =
    "# Made by sluice-agent, anew with every change. Export what these two protocols hold to BGP only.\n";

/// The speaker of this machine.
pub struct Bird {
    socket: PathBuf,
    include: PathBuf,
    /// BIRD read the file since this agent started.
    loaded: bool,
}

impl Bird {
    /// A speaker by its control socket and the file it includes for us.
    pub const fn new(socket: PathBuf, include: PathBuf) -> Self {
        Bird { socket, include, loaded: false }
    }

    /// What is announced; none when that is not known: not told yet, BIRD is gone, or the file is not as it was left.
    pub fn announced(&self) -> Option<BTreeSet<IpAddr>> {
        if !self.loaded || self.connect().is_err() {
            return None;
        }
        parse(&std::fs::read_to_string(&self.include).ok()?)
    }

    /// Announces exactly these addresses.
    ///
    /// # Errors
    /// The file cannot be written, or BIRD is gone or refuses; it then goes on as before.
    pub fn announce(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), HostError> {
        let failed = |what: &str, path: &Path, error: io::Error| {
            HostError::passing(format!("{what} {}: {error}", path.display()))
        };
        let before = std::fs::read(&self.include).ok();
        let text = render(addresses);
        if before.as_deref() != Some(text.as_bytes()) {
            replace(&self.include, text.as_bytes()).map_err(|e| failed("write", &self.include, e))?;
        }
        self.loaded = false;
        let answer = self.configure().map_err(|e| failed("ask BIRD at", &self.socket, e))?;
        if answer.refused() {
            // A configuration BIRD refuses must not be there when it starts again.
            let back = before.unwrap_or_default();
            replace(&self.include, &back).map_err(|e| failed("write", &self.include, e))?;
            return Err(HostError::passing(format!("BIRD refuses its configuration: {}", answer.text)));
        }
        self.loaded = true;
        Ok(())
    }

    fn connect(&self) -> io::Result<BufReader<io::Take<UnixStream>>> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut reader = BufReader::new(stream.take(ANSWER_BYTES_MAX));
        let welcome = Answer::read(&mut reader)?;
        if welcome.code != 1 {
            return Err(io::Error::other(format!("{} {}", welcome.code, welcome.text)));
        }
        Ok(reader)
    }

    fn configure(&self) -> io::Result<Answer> {
        let mut reader = self.connect()?;
        reader.get_mut().get_mut().write_all(b"configure\n")?;
        Answer::read(&mut reader)
    }
}

/// An answer of BIRD.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    /// Number of its last line.
    code: u16,
    /// What the lines said, joined.
    text: String,
}

impl Answer {
    fn read(reader: &mut impl BufRead) -> io::Result<Answer> {
        let mut parts: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            let number = line.get(..4).and_then(|digits| digits.parse::<u16>().ok());
            // A line that begins with a space belongs to the number before it.
            parts.push(line.get(if number.is_some() { 5 } else { 1 }..).unwrap_or_default().to_owned());
            if let Some(code) = number.filter(|_| line.as_bytes().get(4) != Some(&b'-')) {
                return Ok(Answer { code, text: parts.join("; ") });
            }
        }
    }

    /// 3: read; 4, 5: being read, or after the one that is. Everything else says no.
    const fn refused(&self) -> bool {
        !matches!(self.code, 3..=5)
    }
}

fn render(addresses: &BTreeSet<IpAddr>) -> String {
    let mut text = HEAD.to_owned();
    for (family, name, wanted) in [("ipv4", "sluice4", true), ("ipv6", "sluice6", false)] {
        let _ = write!(text, "protocol static {name} {{\n\t{family};\n");
        for address in addresses.iter().filter(|a| a.is_ipv4() == wanted) {
            let bits = if wanted { 32 } else { 128 };
            let _ = writeln!(text, "\troute {address}/{bits} blackhole;");
        }
        text.push_str("}\n");
    }
    text
}

/// The addresses of a file as [`render`] makes it; none for any other.
fn parse(text: &str) -> Option<BTreeSet<IpAddr>> {
    let routes = text.lines().filter_map(|line| line.strip_prefix("\troute ")?.split_once('/'));
    let addresses: Option<BTreeSet<IpAddr>> = routes.map(|(address, _)| address.parse().ok()).collect();
    addresses.filter(|addresses| render(addresses) == text)
}

/// BIRD reads the old file or the new one, never half of it.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Not matched by an include of `*.conf`.
    name.push(".new");
    let fresh = path.with_file_name(name);
    std::fs::write(&fresh, text)?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|a| a.parse().expect("address")).collect()
    }

    #[test]
    fn the_file_says_what_it_was_made_from_and_nothing_else_passes() {
        for addresses in [set(&[]), set(&["192.0.2.1"]), set(&["192.0.2.1", "2001:db8::1", "192.0.2.9"])] {
            assert_eq!(parse(&render(&addresses)), Some(addresses));
        }
        let text = render(&set(&["192.0.2.1"]));
        assert!(text.contains("\troute 192.0.2.1/32 blackhole;\n"));
        for edited in
            [text.replace("/32", "/24"), text.replace("blackhole", "unreachable"), format!("{text}#")]
        {
            assert_eq!(parse(&edited), None, "{edited}");
        }
    }

    #[test]
    fn answers_end_with_the_line_that_says_so() {
        let read = |text: &str| Answer::read(&mut text.as_bytes()).map_err(|e| e.kind());
        let good =
            read("0002-Reading configuration from /etc/bird/bird.conf\n0003 Reconfigured\n").expect("answer");
        assert_eq!((good.code, good.refused()), (3, false));
        let bad = read("0002-Reading\n more\n8002 /etc/bird/sluice.conf:3:7 syntax error\n").expect("answer");
        assert!(bad.refused() && bad.text.ends_with("syntax error"), "{bad:?}");
        assert_eq!(read("0002-Reading\n"), Err(io::ErrorKind::UnexpectedEof));
    }

    /// A speaker that answers each `configure` with the next of these.
    fn speaker(dir: &Path, answers: &'static [&'static str]) -> PathBuf {
        let path = dir.join("bird.ctl");
        let listener = UnixListener::bind(&path).expect("bind");
        std::thread::spawn(move || {
            let mut answers = answers.iter();
            for stream in listener.incoming() {
                let mut stream = stream.expect("connection");
                // The client may have gone after the welcome: it only looked.
                let _ = stream.write_all(b"0001 BIRD 2.0.12 ready.\n");
                let mut line = String::new();
                let read = BufReader::new(stream.try_clone().expect("clone")).read_line(&mut line);
                if read.is_ok_and(|n| n > 0) {
                    assert_eq!(line, "configure\n");
                    let answer = answers.next().expect("one answer for each");
                    stream.write_all(answer.as_bytes()).expect("answer");
                }
            }
        });
        path
    }

    #[test]
    fn a_refused_file_is_put_back_and_a_changed_one_is_not_believed() {
        let dir = tempfile::tempdir().expect("directory");
        let include = dir.path().join("sluice.conf");
        let socket =
            speaker(dir.path(), &["0003 Reconfigured\n", "8002 no\n", "0004 Reconfiguration in progress\n"]);
        let mut bird = Bird::new(socket, include.clone());
        assert_eq!(bird.announced(), None, "not told yet");
        bird.announce(&set(&["192.0.2.1"])).expect("announce");
        assert_eq!(bird.announced(), Some(set(&["192.0.2.1"])));
        let error = bird.announce(&set(&["192.0.2.2"])).expect_err("refused");
        assert!(error.message.contains("8002") || error.message.ends_with(": no"), "{error}");
        assert_eq!(parse(&std::fs::read_to_string(&include).expect("file")), Some(set(&["192.0.2.1"])));
        assert_eq!(bird.announced(), None, "what BIRD has is not known after a refusal");
        bird.announce(&set(&["192.0.2.3", "2001:db8::3"])).expect("announce");
        std::fs::write(&include, "# edited\n").expect("edit");
        assert_eq!(bird.announced(), None);
    }

    #[test]
    fn without_bird_it_fails_and_is_worth_another_try() {
        let dir = tempfile::tempdir().expect("directory");
        let mut bird = Bird::new(dir.path().join("none.ctl"), dir.path().join("sluice.conf"));
        assert!(bird.announce(&set(&["192.0.2.1"])).expect_err("nobody there").retry);
        assert_eq!(bird.announced(), None);
    }
}
