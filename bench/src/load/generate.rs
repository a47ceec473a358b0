//! Request bytes, one request after another.

use super::plan::{Plan, expected};
use super::response::Asked;
use crate::rng::Rng;

/// Draws requests for one thread.
#[derive(Debug)]
pub struct Generator {
    rng: Rng,
    number: u64,
    turns: Vec<usize>,
    shares: u32,
}

/// What the connection has to know of a request beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// For the reader.
    pub asked: Asked,
    /// May be sent twice (RFC 9110 section 9.2.2).
    pub idempotent: bool,
}

impl Generator {
    /// A stream of its own for each thread.
    pub fn new(plan: &Plan, thread: usize) -> Self {
        let rng = Rng::new(crate::rng::mix(plan.seed ^ ((thread as u64 + 1) << 32)));
        let shares = plan.methods.iter().map(|(_, share)| share).sum();
        // Each thread starts at another URL and number, so that few requests do not all ask for the first.
        Self { rng, number: thread as u64, turns: vec![thread; plan.targets.len()], shares }
    }

    /// Writes the next request for a target.
    pub fn next(&mut self, plan: &Plan, target: usize, out: &mut Vec<u8>) -> Sent {
        let urls = &plan.targets[target].urls;
        let url = &urls[self.turns[target] % urls.len()];
        self.turns[target] += 1;
        let key = plan.keys.draw(&mut self.rng, self.number);
        self.number += plan.threads as u64;
        let method = self.method(plan);

        out.clear();
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        let path_at = out.len();
        url.path.render(key, out);
        let expected = if plan.verify { expected(&out[path_at..]) } else { None };
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        url.host.render(key, out);
        out.extend_from_slice(b"\r\n");
        for (name, value) in &plan.fields {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if plan.new_connection {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        let has_body = matches!(method, "POST" | "PUT" | "PATCH");
        if has_body {
            out.extend_from_slice(format!("Content-Length: {}\r\n", plan.request_body).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if has_body {
            out.resize(out.len() + plan.request_body, b'.');
        }
        let idempotent = !matches!(method, "POST" | "PATCH");
        Sent { asked: Asked { head: method == "HEAD", expected }, idempotent }
    }

    /// Time to the next arrival, ns.
    pub fn gap_ns(&mut self, rate: f64, poisson: bool) -> f64 {
        let mean = 1e9 / rate;
        if poisson { mean * self.rng.exponential() } else { mean }
    }

    fn method<'a>(&mut self, plan: &'a Plan) -> &'a str {
        let mut point = match self.shares {
            0 | 1 => 0,
            shares => (self.rng.next_u64() % u64::from(shares)) as u32,
        };
        for (name, share) in &plan.methods {
            if point < *share {
                return name;
            }
            point -= share;
        }
        "GET"
    }
}
