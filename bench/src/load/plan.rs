//! What a run sends, where and how fast: checked options, shared by all threads.

use super::response::NamedBy;
use crate::pattern;
use crate::rng::{Rng, Zipf};
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// Most keys of a template: the Zipf table takes eight bytes for each.
pub const KEYS_MAX: usize = 10_000_000;
/// Smallest and largest size of the `small` and `cdn` distributions, bytes.
const SMALL_BYTES: (f64, f64) = (128.0, 65_536.0);
const CDN_BYTES: (f64, f64) = (512.0, 16_777_216.0);

/// Why options make no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `http://host[:port]/path`.
    #[error("{0:?} is no http:// URL")]
    Url(String),
    /// The host has no address.
    #[error("{host}: {source}")]
    Resolve {
        /// Host and port.
        host: String,
        /// The resolver's reason.
        source: std::io::Error,
    },
    /// A `{name}` that stands for nothing.
    #[error("{0:?}: only {{key}}, {{size}} and {{n}} stand for something")]
    Placeholder(String),
    /// A size distribution that is none.
    #[error("{0:?} is no size: small, cdn, 4k or 1k..1m")]
    Sizes(String),
    /// A method list that is none.
    #[error("{0:?} is no method list: GET,HEAD or GET:9,HEAD:1")]
    Methods(String),
}

/// When requests start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// At intended times, whatever the answers do.
    Open {
        /// Requests a second, all threads together.
        rate: f64,
        /// Exponential gaps instead of equal ones.
        poisson: bool,
    },
    /// A connection sends when its last answer is in.
    Saturate,
}

/// A checked plan.
#[derive(Debug)]
pub struct Plan {
    /// Where to; connections take turns.
    pub targets: Vec<Target>,
    /// Local addresses; connections take turns. Empty: the kernel chooses.
    pub sources: Vec<SocketAddr>,
    /// When.
    pub mode: Mode,
    /// Connections, all threads together.
    pub connections: usize,
    /// Threads.
    pub threads: usize,
    /// No request starts after this.
    pub duration: Duration,
    /// No more requests than these.
    pub requests: Option<u64>,
    /// From assignment to a connection to the last byte; also for a connect.
    pub timeout: Duration,
    /// `Connection: close` on every request.
    pub new_connection: bool,
    /// Methods and their shares.
    pub methods: Vec<(String, u32)>,
    /// Further fields of every request.
    pub fields: Vec<(String, String)>,
    /// Body of methods that have one, bytes.
    pub request_body: usize,
    /// Compare bodies with the origin's pattern.
    pub verify: bool,
    /// Which field names the server.
    pub named_by: NamedBy,
    /// A lost connection stays lost and is counted.
    pub hold: bool,
    /// Send once more when a reused connection was closed before its answer began.
    pub retry_stale: bool,
    /// Further tries of a failed connect.
    pub connect_retries: u32,
    /// Wait before such a try, and before a failed connection is opened again.
    pub connect_backoff: Duration,
    /// Seed of arrivals, keys and methods.
    pub seed: u64,
    /// Pin threads to CPUs from this one on.
    pub cpu: Option<usize>,
    /// What `{key}` and `{size}` stand for.
    pub keys: Keys,
}

/// One address and its URLs, asked for in turn.
#[derive(Debug)]
pub struct Target {
    /// Connected to.
    pub address: SocketAddr,
    /// At least one.
    pub urls: Vec<Url>,
}

/// One URL or template.
#[derive(Clone, Debug, PartialEq)]
pub struct Url {
    /// `Host`.
    pub host: Template,
    /// Path and query.
    pub path: Template,
}

/// Text with places for the request's key.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Key,
    Size,
    Number,
}

/// The key drawn for one request.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its rank; `{key}` is `k` and the rank.
    pub rank: u64,
    /// Size of the object.
    pub size: u64,
    /// Number of the request.
    pub number: u64,
}

impl FromStr for Template {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| Error::Placeholder(text.to_owned()))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "key" => Piece::Key,
                "size" => Piece::Size,
                "n" => Piece::Number,
                _ => return Err(Error::Placeholder(text.to_owned())),
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }
}

impl Template {
    /// Appends the text for `key`.
    pub fn render(&self, key: Key, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Key => {
                    out.push(b'k');
                    decimal(key.rank, out);
                }
                Piece::Size => decimal(key.size, out),
                Piece::Number => decimal(key.number, out),
            }
        }
    }
}

fn decimal(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// Adds a URL to the targets; `connect` and `host` replace what the URL says.
pub fn add_url(
    targets: &mut Vec<Target>,
    url: &str,
    connect: Option<SocketAddr>,
    host: Option<&str>,
) -> Result<(), Error> {
    let bad = || Error::Url(url.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(bad)?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() || path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(bad());
    }
    let address = match connect {
        Some(address) => address,
        None => resolve(authority)?,
    };
    let url = Url { host: host.unwrap_or(authority).parse()?, path: path.parse()? };
    match targets.iter_mut().find(|t| t.address == address) {
        Some(target) => target.urls.push(url),
        None => targets.push(Target { address, urls: vec![url] }),
    }
    Ok(())
}

fn resolve(authority: &str) -> Result<SocketAddr, Error> {
    let bare_v6 = authority.starts_with('[') && authority.ends_with(']');
    let with_port =
        if bare_v6 || !authority.contains(':') { format!("{authority}:80") } else { authority.to_owned() };
    let failed = |source| Error::Resolve { host: authority.to_owned(), source };
    let mut addresses = with_port.to_socket_addrs().map_err(failed)?;
    addresses.next().ok_or_else(|| failed(std::io::Error::other("no address")))
}

/// Which keys are asked for and how large their objects are.
#[derive(Debug)]
pub struct Keys {
    zipf: Zipf,
    sizes: Sizes,
}

impl Keys {
    /// `count` keys whose popularity falls with `exponent`.
    pub fn new(count: usize, exponent: f64, sizes: Sizes) -> Self {
        Self { zipf: Zipf::new(count.min(KEYS_MAX), exponent), sizes }
    }

    /// Draws the key of request `number`.
    pub fn draw(&self, rng: &mut Rng, number: u64) -> Key {
        let rank = self.zipf.sample(rng) as u64;
        Key { rank, size: self.sizes.of(rank), number }
    }
}

/// Object sizes; the size of a key never changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sizes {
    /// All equal.
    Fixed(u64),
    /// Log-uniform between the two.
    Range(u64, u64),
    /// Log-normal, median 4 KiB: pages, style sheets, icons.
    Small,
    /// Log-normal, median 16 KiB, with a heavy tail up to 16 MiB.
    Cdn,
}

impl Sizes {
    /// Size of the object of a key, bytes.
    pub fn of(self, rank: u64) -> u64 {
        let mut rng = Rng::new(rank ^ 0x0b1e_c75e);
        let log_normal = |rng: &mut Rng, median: f64, sigma: f64, (min, max): (f64, f64)| {
            (median * (sigma * rng.normal()).exp()).clamp(min, max) as u64
        };
        match self {
            Self::Fixed(size) => size,
            Self::Range(min, max) => {
                let (low, high) = ((min.max(1) as f64).ln(), (max.max(1) as f64).ln());
                ((low + (high - low) * rng.unit()).exp() as u64).clamp(min, max)
            }
            Self::Small => log_normal(&mut rng, 4096.0, 1.0, SMALL_BYTES),
            Self::Cdn => log_normal(&mut rng, 16_384.0, 1.8, CDN_BYTES),
        }
    }
}

impl FromStr for Sizes {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Sizes(text.to_owned());
        Ok(match text {
            "small" => Self::Small,
            "cdn" => Self::Cdn,
            _ => match text.split_once("..") {
                Some((min, max)) => {
                    let (min, max) = (bytes(min).ok_or_else(bad)?, bytes(max).ok_or_else(bad)?);
                    if min > max {
                        return Err(bad());
                    }
                    Self::Range(min, max)
                }
                None => Self::Fixed(bytes(text).ok_or_else(bad)?),
            },
        })
    }
}

/// `17`, `4k`, `1m`, `2g` as bytes.
fn bytes(text: &str) -> Option<u64> {
    let (digits, factor) = match text.chars().last()?.to_ascii_lowercase() {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// `GET,HEAD` or `GET:9,HEAD:1`.
pub fn methods(text: &str) -> Result<Vec<(String, u32)>, Error> {
    let bad = || Error::Methods(text.to_owned());
    let list = text.split(',').map(|item| {
        let (name, share) = item.split_once(':').unwrap_or((item, "1"));
        let share = share.parse().ok().filter(|s| (1..=1_000_000).contains(s)).ok_or_else(bad)?;
        let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase());
        if token { Ok((name.to_owned(), share)) } else { Err(bad()) }
    });
    list.collect()
}

/// What the origin must answer to a rendered path.
pub fn expected(path: &[u8]) -> Option<pattern::Expected> {
    pattern::expected(std::str::from_utf8(path).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_render() {
        let template: Template = "/obj/{key}?size={size}&n={n}".parse().expect("a template");
        let mut out = Vec::new();
        template.render(Key { rank: 12, size: 4096, number: 0 }, &mut out);
        assert_eq!(out, b"/obj/k12?size=4096&n=0");
        assert!("/{other}".parse::<Template>().is_err());
        assert!("/{key".parse::<Template>().is_err());
    }

    #[test]
    fn urls_gather_by_address() {
        let mut targets = Vec::new();
        for url in ["http://127.0.0.1:81/a", "http://127.0.0.1:81/b", "http://[::1]/", "http://127.0.0.1"] {
            add_url(&mut targets, url, None, None).expect("a URL");
        }
        assert_eq!(targets.len(), 3);
        assert_eq!(targets[0].urls.len(), 2);
        assert_eq!(targets[1].address, "[::1]:80".parse().expect("an address"));
        assert!(add_url(&mut targets, "https://127.0.0.1/", None, None).is_err());
        assert!(add_url(&mut targets, "http://127.0.0.1/a b", None, None).is_err());
    }

    #[test]
    fn sizes_keep_to_their_bounds() {
        assert_eq!("16k".parse::<Sizes>().ok(), Some(Sizes::Fixed(16_384)));
        assert_eq!("1k..1m".parse::<Sizes>().ok(), Some(Sizes::Range(1024, 1 << 20)));
        for bad in ["", "x", "5..2", "99999999999g"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
        for rank in 0..10_000 {
            assert!((512..=16_777_216).contains(&Sizes::Cdn.of(rank)));
            assert!((1024..=4096).contains(&Sizes::Range(1024, 4096).of(rank)));
            assert_eq!(Sizes::Cdn.of(rank), Sizes::Cdn.of(rank));
        }
    }

    #[test]
    fn method_lists() {
        assert_eq!(methods("GET:9,HEAD").ok(), Some(vec![("GET".to_owned(), 9), ("HEAD".to_owned(), 1)]));
        for bad in ["", "get", "GET:0", "GET:x", "GET,"] {
            assert!(methods(bad).is_err(), "{bad}");
        }
    }
}
