//! Group `control`: from a change written to traffic following it; the parts of that are in [`super::plan`] and
//! [`super::l4_change`].
//!
//! Each trial writes one new host and polls with requests until the host is answered for. The base is nginx:
//! its configuration written with the new host, then reloaded.

use super::Context;
use super::config;
use super::domains::{self, host, origin_row, site_row, wait_answer};
use super::process::free_address;
use super::row::{Better, Case, Row};
use super::subject::{Endpoint, Origin, start};
use anyhow::{Context as _, Result};
use sluice_api::placement::{API_VERSION, Document, Group, Member, Network};
use sluice_api::proxy_admin::Apply;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const GROUP: &str = "control";
/// One change at a time, so a document or a configuration of one new host each.
const TRIALS: usize = 30;
const TRIALS_QUICK: usize = 3;

/// Something that takes a new host.
trait Subject {
    /// Name in the rows.
    fn name(&self) -> &'static str;
    /// Where it serves.
    fn address(&self) -> SocketAddr;
    /// Writes the change; the clock runs from its start.
    fn add(&mut self, trial: usize) -> Result<()>;
}

/// Runs the group.
pub fn run(context: &Context) -> Result<Vec<Row>> {
    let origin = Origin::start(context)?;
    let counts: &[usize] = if context.quick { &[100] } else { &[1_000, 10_000] };
    let trials = if context.quick { TRIALS_QUICK } else { TRIALS };
    let mut rows = Vec::new();
    for &sites in counts {
        println!("  one host added to {sites}");
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        let mut add = |name: &str, subject: Result<Box<dyn Subject>>| match subject {
            Ok(subject) => subjects.push(subject),
            Err(e) => context.note(format!("{sites} sites: {name} is not measured: {e:#}")),
        };
        add("sluice agent", Agent::start(context, origin.address, sites).map(|s| Box::new(s) as _));
        add("sluice proxy row", AdminRow::start(context, origin.address, sites).map(|s| Box::new(s) as _));
        add("nginx reload", Nginx::start(context, origin.address, sites).map(|s| Box::new(s) as _));
        rows.extend(measure(context, &mut subjects, sites, trials)?);
    }
    context
        .note("each poll is a request over a connection of its own; the writer's own time is in the figure");
    for (name, part) in [("L4 VIP change", super::l4_change::run as Part), ("plan time", super::plan::run)] {
        match part(context) {
            Ok(new) => rows.extend(new),
            Err(e) => context.note(format!("{name} is not measured: {e:#}")),
        }
    }
    Ok(rows)
}

type Part = fn(&Context) -> Result<Vec<Row>>;

fn measure(
    context: &Context,
    subjects: &mut [Box<dyn Subject>],
    sites: usize,
    trials: usize,
) -> Result<Vec<Row>> {
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    for trial in 0..trials {
        for (subject, times) in subjects.iter_mut().zip(&mut times) {
            context.check_stop()?;
            let started = Instant::now();
            subject.add(trial)?;
            wait_answer(subject.address(), &new_host(trial)).with_context(|| subject.name())?;
            times.push(started.elapsed().as_secs_f64() * 1000.0);
        }
    }
    let mut rows = Vec::new();
    for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let name = format!("host added to {sites}, {label}");
        let mut case = Case::new(name, "ms", Better::Lower);
        for (subject, times) in subjects.iter().zip(&mut times) {
            times.sort_by(f64::total_cmp);
            let at = ((times.len() as f64 * quantile).ceil() as usize).clamp(1, times.len());
            case.push(subject.name(), times[at - 1]);
        }
        rows.extend(case.rows(GROUP, &["nginx reload"]));
    }
    Ok(rows)
}

fn new_host(trial: usize) -> String {
    format!("new-{trial}.example")
}

struct Nginx {
    dir: PathBuf,
    origin: SocketAddr,
    endpoint: Endpoint,
    cpu: usize,
    sites: usize,
    added: Vec<String>,
}

impl Nginx {
    fn start(context: &Context, origin: SocketAddr, sites: usize) -> Result<Self> {
        let dir = context.tmp.path().join(format!("nginx-control-{sites}"));
        std::fs::create_dir_all(&dir)?;
        let listen = free_address()?;
        let text = config::nginx_sites(&dir, context.subject_cpu, listen, origin, sites, &[]);
        let endpoint = start(context, "nginx-control", domains::nginx_command(&dir, &text)?, listen)?;
        Ok(Self { dir, origin, endpoint, cpu: context.subject_cpu, sites, added: Vec::new() })
    }
}

impl Subject for Nginx {
    fn name(&self) -> &'static str {
        "nginx reload"
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    fn add(&mut self, trial: usize) -> Result<()> {
        self.added.push(new_host(trial));
        let text = config::nginx_sites(
            &self.dir,
            self.cpu,
            self.endpoint.address,
            self.origin,
            self.sites,
            &self.added,
        );
        domains::nginx_command(&self.dir, &text)?;
        domains::nginx_reload(&self.endpoint.process)
    }
}

/// A row given straight to a proxy: what of the time is the proxy's.
struct AdminRow {
    endpoint: Endpoint,
    admin: domains::Admin,
    revision: u64,
}

impl AdminRow {
    fn start(context: &Context, origin: SocketAddr, sites: usize) -> Result<Self> {
        let (endpoint, mut admin) = domains::sluice_with_admin(context, &format!("sluice-row-{sites}"))?;
        admin.apply(Apply { revision: 1, origins: vec![origin_row(origin)], ..Apply::default() })?;
        let revision = admin.load_sites(2, 0..sites)?;
        Ok(Self { endpoint, admin, revision })
    }
}

impl Subject for AdminRow {
    fn name(&self) -> &'static str {
        "sluice proxy row"
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    fn add(&mut self, trial: usize) -> Result<()> {
        let sites = vec![site_row(new_host(trial))];
        self.admin.apply(Apply { revision: self.revision, sites, ..Apply::default() })?;
        self.revision += 1;
        Ok(())
    }
}

/// Documents in the directory an agent watches; the agent runs the proxy.
struct Agent {
    endpoint: Endpoint,
    placements: PathBuf,
}

impl Agent {
    fn start(context: &Context, origin: SocketAddr, sites: usize) -> Result<Self> {
        let dir = context.tmp.path().join(format!("agent-{sites}"));
        let placements = dir.join("placements");
        std::fs::create_dir_all(&placements)?;
        let address = free_address()?;
        write_document(&placements, &base_document(address, origin, sites))?;
        let mut command = Command::new(context.bin("sluice-agent"));
        command.args(["--node", "bench", "--workers", "1"]);
        command.arg("--placements").arg(&placements).arg("--state").arg(dir.join("state"));
        command.arg("--socket").arg(dir.join("agent.sock")).arg("--pin-dir").arg(dir.join("pins"));
        command.arg("--proxy-bin").arg(context.bin("sluice-proxy"));
        let endpoint = start(context, &format!("sluice-agent-{sites}"), command, address)?;
        wait_answer(address, &host(sites - 1))?;
        Ok(Self { endpoint, placements })
    }
}

impl Subject for Agent {
    fn name(&self) -> &'static str {
        "sluice agent"
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    fn add(&mut self, trial: usize) -> Result<()> {
        let sites = vec![site_row(new_host(trial))];
        write_document(&self.placements, &Document { sites, ..empty_document(&format!("new-{trial}")) })
    }
}

fn empty_document(name: &str) -> Document {
    Document {
        api_version: API_VERSION.to_owned(),
        name: name.to_owned(),
        generation: 1,
        networks: Vec::new(),
        pools: Vec::new(),
        vips: Vec::new(),
        groups: Vec::new(),
        origins: Vec::new(),
        sites: Vec::new(),
    }
}

fn base_document(listen: SocketAddr, origin: SocketAddr, sites: usize) -> Document {
    let member = Member {
        name: "bench".to_owned(),
        address: listen.to_string(),
        weight: sluice_api::placement::default_weight(),
        state: Default::default(),
    };
    let group = Group {
        name: "bench".to_owned(),
        members: vec![member],
        parents: Vec::new(),
        listen: vec![listen.to_string()],
        cache_bytes: 64 << 20,
        bounded_load_percent: 125,
    };
    Document {
        networks: vec![Network { name: "loopback".to_owned(), cidr: "127.0.0.0/8".to_owned() }],
        groups: vec![group],
        origins: vec![origin_row(origin)],
        sites: (0..sites).map(|n| site_row(host(n))).collect(),
        ..empty_document("base")
    }
}

/// As an operator's tool writes: beside the name, then renamed over it.
fn write_document(dir: &Path, document: &Document) -> Result<()> {
    let path = dir.join(format!("{}.json", document.name));
    let partial = dir.join(format!(".{}.tmp", document.name));
    std::fs::write(&partial, serde_json::to_vec(document)?).context("write a document")?;
    std::fs::rename(&partial, &path).with_context(|| format!("rename to {}", path.display()))
}
