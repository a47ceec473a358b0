//! Where a console's bytes go and come from: standard input and output, or a UNIX socket with scroll-back.
//!
//! Output never blocks a vCPU: what a socket's client does not take is kept in the scroll-back and counted as dropped
//! for that client. One thread for each console reads the input and accepts clients.

use crate::config::ConsoleTo;
use crate::sys;
use crate::threads::Threads;
use crate::virtio::fault::Counters;
use crate::wiring::wait_readable;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of output kept for a client that comes later: a few screens.
pub const SCROLL_BACK: usize = 64 << 10;
/// How long input waits for a guest whose buffer is full.
const INPUT_RETRY: Duration = Duration::from_millis(10);

/// Takes input; says how much of it was taken.
pub type Input = Box<dyn Fn(&[u8]) -> usize + Send>;

#[derive(Debug)]
enum Sink {
    Stdout,
    Socket(Option<UnixStream>),
}

#[derive(Debug)]
struct Shared {
    sink: Sink,
    recent: VecDeque<u8>,
}

/// The output side: cheap to clone, may be used from any thread.
#[derive(Clone, Debug)]
pub struct Output {
    shared: Arc<Mutex<Shared>>,
    dropped: Arc<AtomicU64>,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that no client took.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut shared = self.lock();
        let Shared { sink, recent } = &mut *shared;
        match sink {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()?;
            }
            Sink::Socket(client) => {
                let room = SCROLL_BACK.saturating_sub(bytes.len());
                recent.drain(..recent.len().saturating_sub(room));
                recent.extend(bytes.iter().rev().take(SCROLL_BACK).rev());
                let taken = client.as_mut().map_or(0, |client| client.write(bytes).unwrap_or(0));
                Counters::add(&self.dropped, (bytes.len() - taken) as u64);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A console: its output and the thread of its input. Dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub struct Console {
    output: Output,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    socket: Option<PathBuf>,
    _raw: Option<RawTerminal>,
    listener: Option<UnixListener>,
    stdio: bool,
}

impl Console {
    /// Opens what `to` names; `None` if there is to be no console.
    pub(crate) fn open(to: &ConsoleTo) -> io::Result<Option<Self>> {
        let (sink, listener, socket, raw) = match to {
            ConsoleTo::None => return Ok(None),
            ConsoleTo::Stdio => (Sink::Stdout, None, None, RawTerminal::enter()),
            ConsoleTo::Unix(path) => {
                let listener = listen(path)?;
                listener.set_nonblocking(true)?;
                (Sink::Socket(None), Some(listener), Some(path.clone()), None)
            }
        };
        let shared = Arc::new(Mutex::new(Shared { sink, recent: VecDeque::new() }));
        Ok(Some(Self {
            output: Output { shared, dropped: Arc::default() },
            stop: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            thread: None,
            socket,
            _raw: raw,
            stdio: listener.is_none(),
            listener,
        }))
    }

    /// The output side.
    pub fn output(&self) -> Output {
        self.output.clone()
    }

    /// Starts to pass input on.
    pub fn attach(&mut self, threads: &Threads, name: &str, input: Input) -> io::Result<()> {
        let (stop, output) = (self.stop.clone(), self.output.clone());
        let listener = self.listener.as_ref().map(UnixListener::try_clone).transpose()?;
        let stdin =
            if self.stdio { Some(File::from(io::stdin().as_fd().try_clone_to_owned()?)) } else { None };
        self.thread = Some(threads.spawn(name, move || {
            // A console that fails leaves the guest running without input.
            let ended = match (stdin, listener) {
                (Some(stdin), _) => pass_stdin(stdin, &stop, &input),
                (None, Some(listener)) => serve_socket(&listener, &stop, &output, &input),
                (None, None) => Ok(()),
            };
            if let Err(error) = ended {
                eprintln!("sluice-vmm: console input ended: {error}");
            }
        })?);
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Makes a socket for this user only. A socket that nobody listens on any more is replaced; anything else is left.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn pass_stdin(mut stdin: File, stop: &EventFd, input: &Input) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        let ready = wait_readable(&[sys::borrow(stop), stdin.as_fd()], None)?;
        if ready[0] {
            return Ok(());
        }
        let n = stdin.read(&mut buffer)?;
        if n == 0 || !feed(&buffer[..n], stop, input)? {
            return Ok(());
        }
    }
}

/// Passes bytes on as the guest takes them. False: stopped.
fn feed(mut bytes: &[u8], stop: &EventFd, input: &Input) -> io::Result<bool> {
    while !bytes.is_empty() {
        let n = input(bytes);
        bytes = &bytes[n..];
        if n == 0 && wait_readable(&[sys::borrow(stop)], Some(INPUT_RETRY.as_millis() as u32))?[0] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn serve_socket(listener: &UnixListener, stop: &EventFd, output: &Output, input: &Input) -> io::Result<()> {
    let mut client: Option<UnixStream> = None;
    let mut buffer = [0; 256];
    loop {
        let mut fds = vec![sys::borrow(stop), listener.as_fd()];
        fds.extend(client.iter().map(AsFd::as_fd));
        let ready = wait_readable(&fds, None)?;
        if ready[0] {
            return Ok(());
        }
        if ready[1]
            && let Ok((stream, _)) = listener.accept()
        {
            // The newest client wins: an operator whose old session hangs somewhere still gets in.
            client = welcome(stream, output).ok();
            continue;
        }
        if ready.get(2) != Some(&true) {
            continue;
        }
        let got = client.as_mut().map_or(Ok(0), |c| c.read(&mut buffer));
        match got {
            Ok(n) if n > 0 => {
                if !feed(&buffer[..n], stop, input)? {
                    return Ok(());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                client = None;
                output.lock().sink = Sink::Socket(None);
            }
        }
    }
}

/// Gives a new client the scroll-back and makes it the one that gets output.
fn welcome(stream: UnixStream, output: &Output) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    let mut writer = stream.try_clone()?;
    let mut shared = output.lock();
    let (front, back) = shared.recent.as_slices();
    for part in [front, back] {
        let taken = writer.write(part).unwrap_or(0);
        Counters::add(&output.dropped, (part.len() - taken) as u64);
    }
    shared.sink = Sink::Socket(Some(writer));
    Ok(stream)
}

/// A terminal on standard input in raw mode for as long as this lives: keys go to the guest one by one. Signals still
/// work, so that the operator can end the VMM.
#[derive(Debug)]
struct RawTerminal(rustix::termios::Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = io::stdin();
        let before = rustix::termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.local_modes |= rustix::termios::LocalModes::ISIG;
        raw.output_modes |= rustix::termios::OutputModes::OPOST;
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_socket_gives_scroll_back_then_live_output_and_takes_input() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("console");
        let mut console = Console::open(&ConsoleTo::Unix(path.clone())).expect("open").expect("console");
        let mut output = console.output();
        output.write_all(b"before ").expect("write");
        assert_eq!(output.dropped(), 7);
        let (said, heard) = channel();
        // Takes two bytes at a time, as a full serial buffer would.
        let input = move |bytes: &[u8]| {
            let n = bytes.len().min(2);
            said.send(bytes[..n].to_vec()).expect("receiver");
            n
        };
        console.attach(&Threads::default(), "console", Box::new(input)).expect("thread");
        let mut client = UnixStream::connect(&path).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let mut text = [0; 7];
        client.read_exact(&mut text).expect("scroll-back");
        assert_eq!(&text, b"before ");
        output.write_all(b"after").expect("write");
        client.read_exact(&mut text[..5]).expect("live");
        assert_eq!(&text[..5], b"after");
        client.write_all(b"hello").expect("input");
        let mut got = Vec::new();
        while got.len() < 5 {
            got.extend(heard.recv_timeout(Duration::from_secs(10)).expect("input"));
        }
        assert_eq!(got, b"hello");
        assert!(Console::open(&ConsoleTo::Unix(path.clone())).is_err(), "the socket is in use");
        drop(console);
        assert!(!path.exists());
    }

    #[test]
    fn scroll_back_is_bounded_and_keeps_the_newest() {
        let folder = tempfile::tempdir().expect("folder");
        let to = ConsoleTo::Unix(folder.path().join("console"));
        let console = Console::open(&to).expect("open").expect("console");
        let mut output = console.output();
        for i in 0..100_000_u32 {
            output.write_all(&i.to_le_bytes()).expect("write");
        }
        let shared = output.lock();
        assert_eq!(shared.recent.len(), SCROLL_BACK);
        let last: Vec<u8> = shared.recent.iter().rev().take(4).rev().copied().collect();
        assert_eq!(last, 99_999_u32.to_le_bytes());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "mine").expect("file");
        assert!(listen(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("file"), "mine");
    }
}
