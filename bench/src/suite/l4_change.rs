//! From a document written to the kernel's slot table changed: an agent with a real XDP program in a namespace.
//!
//! The base is nftables doing the same work: a hash over the source, a map from it to the backend, the changed
//! rules given to `nft -f`. Its figure ends when the program does, ours when the pinned table reads differently.

use super::Context;
use super::process::Process;
use super::row::{Better, Case, Row};
use crate::netns::{End, Spaces};
use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const GROUP: &str = "control";
const SPACE: &str = "sluice-bench-l4";
const DEVICE: &str = "sb-l0";
const PEER: &str = "sb-l1";
const GATEWAY: &str = "10.92.0.254";
const GATEWAY_MAC: &str = "02:00:00:92:00:fe";
const TRIALS: usize = 40;
const TRIALS_QUICK: usize = 3;
/// Longest wait for one change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

const SLOTS: usize = sluice_abi::SLOTS as usize;
type Slots = Array<MapData, [u32; SLOTS]>;

/// Runs the cases.
pub fn run(context: &Context) -> Result<Vec<Row>> {
    println!("  L4 VIP change");
    if !rustix::process::geteuid().is_root() {
        context.note("L4 VIP change is not measured: needs root");
        return Ok(Vec::new());
    }
    let counts: &[usize] = if context.quick { &[10] } else { &[100, 1_000] };
    let mut rows = Vec::new();
    for &backends in counts {
        let spaces = Spaces::new(&[SPACE]).context("make a namespace")?;
        wire(&spaces)?;
        let mut agent = Agent::start(context, backends)?;
        let trials = if context.quick { TRIALS_QUICK } else { TRIALS };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for trial in 0..trials {
            context.check_stop()?;
            ours.push(agent.change(trial).with_context(|| format!("change {trial}"))?);
            theirs.push(nft_change(context, &spaces, backends, trial)?);
        }
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let name = format!("weight of one of {backends} backends to kernel tables, {label}");
            let mut case = Case::new(name, "ms", Better::Lower);
            case.push("sluice agent", at(&mut ours, quantile));
            case.push("nft -f", at(&mut theirs, quantile));
            rows.extend(case.rows(GROUP, &["nft -f"]));
        }
    }
    context
        .note("L4 VIP change: nft -f has no Maglev table, it writes one map of as many places as backends");
    Ok(rows)
}

fn at(times: &mut [f64], quantile: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() as f64 * quantile).ceil() as usize).clamp(1, times.len()) - 1]
}

fn wire(spaces: &Spaces) -> Result<()> {
    spaces.veth(
        End { space: SPACE, device: DEVICE, address: "10.92.0.1/24", mac: "02:00:00:92:00:01" },
        End { space: SPACE, device: PEER, address: "", mac: GATEWAY_MAC },
    )?;
    let gateway = ["neigh", "replace", GATEWAY, "lladdr", GATEWAY_MAC, "dev", DEVICE, "nud", "permanent"];
    spaces.ip(SPACE, &gateway)?;
    spaces.ip(SPACE, &["route", "add", "10.93.0.0/16", "via", GATEWAY])?;
    Ok(())
}

struct Agent {
    process: Process,
    placements: PathBuf,
    pins: PathBuf,
    backends: usize,
    slots: Slots,
    last: Box<[u32; SLOTS]>,
}

fn document(backends: usize, generation: usize, weight: usize) -> Value {
    let backend = |n: usize| {
        let weight = if n == 1 { weight } else { 100 };
        let address = format!("10.93.{}.{}", n / 250, n % 250 + 1);
        json!({"name": format!("b{n}"), "address": address, "weight": weight})
    };
    json!({
        "apiVersion": "sluice/v1", "name": "edge", "generation": generation,
        "networks": [{"name": "n", "cidr": "10.0.0.0/8"}],
        "pools": [{"name": "p", "backends": (0..backends).map(backend).collect::<Vec<_>>()}],
        "vips": [{"name": "v", "address": "10.92.0.10", "port": 80, "protocol": "tcp", "mode": "ipip",
                  "pool": "p", "nodes": ["bench"]}],
    })
}

fn write_document(dir: &Path, document: &Value) -> Result<()> {
    let partial = dir.join(".edge.tmp");
    std::fs::write(&partial, document.to_string()).context("write a document")?;
    std::fs::rename(&partial, dir.join("edge.json")).context("rename a document")
}

impl Agent {
    fn start(context: &Context, backends: usize) -> Result<Self> {
        let dir = context.tmp.path().join(format!("l4-{backends}"));
        let (placements, pins) = (dir.join("placements"), dir.join("pins"));
        std::fs::create_dir_all(&placements)?;
        write_document(&placements, &document(backends, 1, 100))?;
        // nsenter keeps the mounts, so that the pins are seen from here.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{SPACE}")).arg(context.bin("sluice-agent"));
        command.args(["--node", "bench", "--no-proxy", "--iface", DEVICE, "--backends-max", "4096"]);
        command.arg("--placements").arg(&placements).arg("--state").arg(dir.join("state"));
        command.arg("--socket").arg(dir.join("agent.sock")).arg("--pin-dir").arg(&pins);
        let log = context.tmp.path().join("l4-agent.log");
        let process = Process::start("sluice-agent", command, context.subject_cpu, &log)?;
        let started = Instant::now();
        loop {
            match slots(&pins) {
                Ok(slots) => {
                    let last = Box::new(slots.get(&0, 0)?);
                    if last.iter().all(|slot| *slot != 0) {
                        return Ok(Self { process, placements, pins, backends, slots, last });
                    }
                }
                Err(e) if started.elapsed() > CHANGE_TIMEOUT => {
                    return Err(e).with_context(|| format!("no table: {}", process.last_words()));
                }
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Milliseconds from the document to a table that reads differently.
    fn change(&mut self, trial: usize) -> Result<f64> {
        let document = document(self.backends, trial + 2, if trial.is_multiple_of(2) { 50 } else { 100 });
        let started = Instant::now();
        write_document(&self.placements, &document)?;
        loop {
            let now = self.slots.get(&0, 0)?;
            if now != *self.last {
                let took = started.elapsed().as_secs_f64() * 1000.0;
                *self.last = self.settled(now)?;
                return Ok(took);
            }
            if started.elapsed() > CHANGE_TIMEOUT {
                bail!("the table did not change: {}", self.process.last_words());
            }
        }
    }

    /// The table once it no longer changes.
    fn settled(&self, mut now: [u32; SLOTS]) -> Result<[u32; SLOTS]> {
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let next = self.slots.get(&0, 0)?;
            if next == now {
                return Ok(now);
            }
            now = next;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.stop();
        if let Err(e) = sluice_loader::remove_pins(&self.pins) {
            eprintln!("remove {}: {e}", self.pins.display());
        }
    }
}

/// The slots of the only VIP.
fn slots(pins: &Path) -> Result<Slots> {
    let pin = pins.join("maps").join(sluice_abi::layout::map::TABLES);
    let tables: ArrayOfMaps<MapData, Slots> = Map::from_map_data(MapData::from_pin(&pin)?)?.try_into()?;
    tables.get(&1, 0).context("no table of the first VIP")
}

/// Milliseconds that `nft -f` takes for the same change.
fn nft_change(context: &Context, spaces: &Spaces, backends: usize, trial: usize) -> Result<f64> {
    // Emptied first, so that each file is the whole rule set. A place more or less for the backend whose weight
    // changes.
    let owner = |n: usize| if n == 2 && trial.is_multiple_of(2) { 1 } else { n };
    let places: Vec<String> = (0..backends)
        .map(owner)
        .zip(0..)
        .map(|(o, n): (usize, usize)| format!("{n} : 10.93.{}.{}", o / 250, o % 250 + 1))
        .collect();
    let text = format!(
        "table ip bench {{ }}\ndelete table ip bench\ntable ip bench {{\n chain pre {{ type nat hook prerouting \
         priority -100;\n ip daddr 10.92.0.11 tcp dport 80 dnat to jhash ip saddr . tcp sport mod {backends} map {{ \
         {} }}\n }}\n}}\n",
        places.join(", ")
    );
    let path = context.tmp.path().join("l4.nft");
    std::fs::write(&path, text).context("write rules")?;
    let path = path.to_str().context("a path in UTF-8")?;
    let started = Instant::now();
    spaces.exec(SPACE, &["nft", "-f", path])?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}
