//! CPU of a packet over its whole path: sent, balanced in the middle, received, over two veth hops.
//!
//! ```text
//! harness, live frames -> veth -> balancer (XDP, nftables, plain forwarding) -> veth -> counted and dropped
//! ```
//! Everything runs on the processor that the test run is pinned to: the softirq of each hop follows at once, in the
//! sending thread or in the processor's softirq thread. The figure is the CPU time of both divided by the frames;
//! that of the path which drops at the first hop is subtracted. Receive offloads merge nothing: every frame is a datagram of another flow than the last.

use super::ours::{Shape, fill};
use super::packets::datagram;
use super::run::{GROUP, Options};
use super::subject::{load, xdp};
use crate::netns::{End, Spaces};
use crate::suite::row::{Better, Case, Row};
use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, PerCpuArray, ProgramArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRunAttrs, Xdp};
use aya::{Ebpf, TestRun as _, TestRunOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sluice_loader::{Balancer, Config, Link, Mode};
use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

const CLIENT: &str = "sluice-bench-pc";
const MIDDLE: &str = "sluice-bench-pm";
const SERVER: &str = "sluice-bench-ps";
const MAC_C: &str = "02:00:00:94:00:01";
const MAC_IN: [u8; 6] = [2, 0, 0, 0x94, 0, 2];
const MAC_OUT: [u8; 6] = [2, 0, 0, 0x94, 1, 1];
const MAC_S: [u8; 6] = [2, 0, 0, 0x94, 1, 2];
/// Frames of one batch of the kernel, as of a NIC's poll.
const BATCH: u32 = 64;
/// Flows, a power of two; all of one source, see [`datagram`].
const FLOWS: u32 = 1 << 15;
const STRIDE: u32 = 0x9e37_79b1;
/// Backends that nftables spreads over.
const BACKENDS: u16 = 100;
/// Frames that may be lost on the way, of one thousand.
const LOST_ALLOWED: u64 = 20;
/// The last frames are through well within this.
const SETTLE: Duration = Duration::from_millis(20);

/// What stands in the middle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Drop,
    Direct,
    Ipip,
    Netdev,
    Forward,
    Dnat,
}

impl Way {
    const ALL: [(Way, &'static str); 6] = [
        (Way::Drop, "drop at the first hop"),
        (Way::Direct, "sluice, direct return"),
        (Way::Ipip, "sluice, IPIP"),
        (Way::Netdev, "nftables netdev direct return"),
        (Way::Forward, "ip_forward"),
        (Way::Dnat, "nftables DNAT"),
    ];
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Runs the rows.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>> {
    let spaces = Spaces::new(&[CLIENT, MIDDLE, SERVER]).context("make namespaces")?;
    wire(&spaces)?;
    let tmp = tempfile::tempdir().context("make a directory")?;
    let sink = enter(SERVER, || Sink::attach("sb-p3"))?;
    let sender = enter(CLIENT, || Sender::new(options))?;
    let frames = options.repeat.max(BATCH * 100);
    let mut case = Case::new("whole path over two hops, 32k UDP flows", "ns CPU/packet", Better::Lower);
    for round in 0..options.rounds {
        say(&format!("path: round {} of {}", round + 1, options.rounds));
        let mut first_hop = 0.0;
        for (way, name) in Way::ALL {
            let (ns, lost) = one(way, &spaces, &sender, &sink, tmp.path(), frames)?;
            if way == Way::Drop {
                first_hop = ns;
            } else if lost * 1000 > u64::from(frames) * LOST_ALLOWED {
                bail!("{name}: {lost} of {frames} frames were lost on the way");
            } else {
                case.push(name, ns - first_hop);
            }
        }
    }
    Ok(case.rows(GROUP, &["nftables DNAT"]))
}

fn wire(spaces: &Spaces) -> Result<()> {
    let (mac_in, mac_out, mac_s) = (text(MAC_IN), text(MAC_OUT), text(MAC_S));
    spaces.veth(
        End { space: CLIENT, device: "sb-p0", address: "10.94.0.1/24", mac: MAC_C },
        End { space: MIDDLE, device: "sb-p1", address: "10.94.0.2/24", mac: &mac_in },
    )?;
    spaces.veth(
        End { space: MIDDLE, device: "sb-p2", address: "10.94.1.1/24", mac: &mac_out },
        End { space: SERVER, device: "sb-p3", address: "10.94.1.2/24", mac: &mac_s },
    )?;
    spaces.ip(
        MIDDLE,
        &["neigh", "replace", "10.94.1.2", "lladdr", &mac_s, "dev", "sb-p2", "nud", "permanent"],
    )?;
    for net in ["10.0.0.0/24", "10.200.0.0/16"] {
        spaces.ip(MIDDLE, &["route", "add", net, "via", "10.94.1.2"])?;
    }
    // Clients are whatever the harness makes up: a way back that is never taken, so that none is a stray.
    spaces.ip(MIDDLE, &["route", "add", "10.100.0.0/16", "via", "10.94.0.1"])?;
    for knob in ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.sb-p1.rp_filter=0"]
    {
        spaces.exec(MIDDLE, &["sysctl", "-qw", knob])?;
    }
    Ok(())
}

/// Runs `work` on a thread that is in a namespace; file descriptors are the process's.
fn enter<T: Send>(space: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/run/netns/{space}");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let file = std::fs::File::open(&path).with_context(|| format!("open {path}"))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter {path}"))?;
            work()
        });
        thread.join().unwrap_or_else(|_| bail!("the thread in {space} panicked"))
    })
}

/// Counts and drops at the end of the path.
struct Sink {
    _ebpf: Ebpf,
    came: PerCpuArray<MapData, u64>,
}

impl Sink {
    fn attach(device: &str) -> Result<Self> {
        let mut ebpf = load(1)?;
        let program = xdp(&mut ebpf, "sink")?;
        program.load().context("load sink")?;
        program.attach(device, XdpMode::Driver).with_context(|| format!("attach sink to {device}"))?;
        let came = PerCpuArray::try_from(ebpf.take_map("CAME").context("no map CAME")?)?;
        Ok(Self { _ebpf: ebpf, came })
    }

    fn count(&self) -> Result<u64> {
        Ok(self.came.get(&0, 0)?.iter().sum())
    }
}

/// Live frames out of the client's device.
struct Sender {
    harness: Ebpf,
    _targets: ProgramArray<MapData>,
    frame: Vec<u8>,
    context: Vec<u8>,
    cpu: usize,
    /// Process id of the processor's softirq thread.
    softirq: String,
}

/// CPU time of a task, ns.
fn schedstat(task: &str) -> Result<u64> {
    let path = format!("/proc/{task}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    text.split_whitespace().next().and_then(|n| n.parse().ok()).with_context(|| format!("no time in {path}"))
}

/// Process id of a processor's softirq thread.
fn softirq_thread(cpu: u32) -> Result<String> {
    let wanted = format!("ksoftirqd/{cpu}");
    let names = std::fs::read_dir("/proc").context("list /proc")?.flatten().map(|e| e.file_name());
    let mut pids = names.filter_map(|name| name.into_string().ok());
    let is_it = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == wanted)
    };
    pids.find(is_it).with_context(|| format!("no thread {wanted}"))
}

impl Sender {
    fn new(options: &Options) -> Result<Self> {
        let mut harness = load(1)?;
        // Its receive queue must be known to XDP for frames to be made on it.
        let own = xdp(&mut harness, "sink")?;
        own.load().context("load sink")?;
        own.attach("sb-p0", XdpMode::Driver).context("attach sink to sb-p0")?;
        let target = xdp(&mut harness, "floor_null")?;
        target.load().context("load floor_null")?;
        let fd = target.fd()?.try_clone()?;
        xdp(&mut harness, "harness")?.load().context("load the harness")?;
        let mut targets = ProgramArray::try_from(harness.take_map("TARGET").context("no map TARGET")?)?;
        targets.set(0, &fd, 0).context("put the program behind the harness")?;
        let frame = datagram(MAC_IN);
        let mut plan = [0u8; 24 + 64];
        let words = [FLOWS - 1, STRIDE, 0, frame.len() as u32, 0, 0];
        for (place, word) in plan.chunks_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        plan[24..].copy_from_slice(&frame[..64]);
        let mut plans: Array<_, [u8; 24 + 64]> =
            Array::try_from(harness.map_mut("PLAN").context("no map PLAN")?)?;
        plans.set(0, plan, 0).context("write PLAN")?;
        let index: u32 = std::fs::read_to_string("/proc/thread-self/net/dev_mcast")
            .context("read dev_mcast")?
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some("sb-p0"))
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .context("index of sb-p0")?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, index, 0, 0].iter().flat_map(|w| w.to_ne_bytes()).collect();
        Ok(Self {
            harness,
            _targets: targets,
            frame,
            context,
            cpu: options.cpu as usize,
            softirq: softirq_thread(options.cpu)?,
        })
    }

    /// Sends `count` frames; nanoseconds of CPU that this took with all that follows in softirq.
    fn send(&self, count: u32) -> Result<u64> {
        enter(CLIENT, || {
            crate::poll::pin(self.cpu)?;
            let program: &Xdp = self.harness.program("harness").context("no harness")?.try_into()?;
            let spent = || Ok::<_, anyhow::Error>(schedstat("thread-self")? + schedstat(&self.softirq)?);
            let before = spent()?;
            program.test_run(TestRunOptions {
                data_in: Some(&self.frame),
                ctx_in: Some(&self.context),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })?;
            std::thread::sleep(SETTLE);
            Ok(spent()? - before)
        })
    }
}

/// Nanoseconds of a frame, and frames that did not arrive.
fn one(
    way: Way,
    spaces: &Spaces,
    sender: &Sender,
    sink: &Sink,
    dir: &Path,
    frames: u32,
) -> Result<(f64, u64)> {
    let middle = Middle::new(way, spaces, dir)?;
    sender.send(frames / 4).context("send live frames")?;
    let before = sink.count()?;
    let took = sender.send(frames).context("send live frames")?;
    let came = sink.count()? - before;
    middle.end(spaces)?;
    Ok((took as f64 / f64::from(frames), u64::from(frames).saturating_sub(came)))
}

enum Middle {
    Sink(#[expect(dead_code, reason = "detaches when dropped")] Box<Sink>),
    Balancer(Box<Balancer>),
    Nft,
    Plain,
}

impl Middle {
    fn new(way: Way, spaces: &Spaces, dir: &Path) -> Result<Self> {
        match way {
            Way::Drop => Ok(Self::Sink(Box::new(enter(MIDDLE, || Sink::attach("sb-p1"))?))),
            Way::Direct => balance(spaces, dir, Mode::L2Direct),
            Way::Ipip => balance(spaces, dir, Mode::Ipip),
            Way::Forward => Ok(Self::Plain),
            Way::Netdev | Way::Dnat => {
                let path = dir.join("rules.nft");
                std::fs::write(&path, rules(way)).context("write rules")?;
                spaces.exec(MIDDLE, &["nft", "-f", path.to_str().context("a path in UTF-8")?])?;
                Ok(Self::Nft)
            }
        }
    }

    fn end(self, spaces: &Spaces) -> Result<()> {
        match self {
            Self::Balancer(balancer) => balancer.detach_and_unpin().context("take the balancer off"),
            Self::Nft => spaces.exec(MIDDLE, &["nft", "flush", "ruleset"]).map(drop),
            Self::Sink(_) | Self::Plain => Ok(()),
        }
    }
}

fn balance(spaces: &Spaces, dir: &Path, mode: Mode) -> Result<Middle> {
    let out = spaces.index(MIDDLE, "sb-p2")?;
    let pins = dir.join("pins");
    std::fs::create_dir_all(&pins)?;
    enter(MIDDLE, || {
        let mut config = Config::new(&pins, vec!["sb-p1".to_owned()]);
        config.flow_buckets = 1 << 10;
        let (mut balancer, _) = Balancer::open_or_adopt(&config).context("load our balancer")?;
        let shape = Shape { mode, ..Shape::default() };
        fill(&mut balancer, &shape, Link { ifindex: out, dst_mac: MAC_S, src_mac: MAC_OUT, mtu: 1500 })?;
        Ok(Middle::Balancer(Box::new(balancer)))
    })
}

/// The same work in nftables: a hash over the source, a map to the backend.
fn rules(way: Way) -> String {
    let mut rules = String::new();
    let elements = |value: &dyn Fn(u16) -> String| {
        (0..BACKENDS).map(|n| format!("{n} : {}", value(n))).collect::<Vec<_>>().join(", ")
    };
    // Writing into a string cannot fail.
    let _ok = if way == Way::Netdev {
        let macs = elements(&|_| text(MAC_S));
        write!(
            rules,
            "table netdev bench {{\n chain in {{ type filter hook ingress device \"sb-p1\" priority 0;\n ip daddr \
             10.200.1.1 udp dport 80 ether daddr set jhash ip saddr . udp sport mod {BACKENDS} map {{ {macs} }} ether \
             saddr set {} fwd to \"sb-p2\"\n }}\n}}\n",
            text(MAC_OUT)
        )
    } else {
        let addresses = elements(&|n| format!("10.0.0.{}", n + 1));
        write!(
            rules,
            "table ip bench {{\n chain pre {{ type nat hook prerouting priority -100;\n ip daddr 10.200.1.1 udp dport \
             80 dnat to jhash ip saddr . udp sport mod {BACKENDS} map {{ {addresses} }}\n }}\n}}\n"
        )
    };
    rules
}
