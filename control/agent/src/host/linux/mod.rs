//! This machine as a [`Host`]: kernel tables through the loader, addresses and next hops over netlink, the
//! proxy as a supervised process.
//!
//! Runs on the engine's thread. What it reports of the kernel tables comes from a mirror of what the loader
//! wrote, read back from the maps when they are opened and after any failed write.

mod admin;
mod arp;
mod bird;
mod gratuitous;
mod netlink;
mod proxy;
pub mod watch;

pub use bird::Bird;
pub use proxy::{OnEnd, Supervisor};

use super::{Adoption, Host, HostError, Swept};
use crate::model::{Observed, Place, VipGoal};
use crate::plan::Step;
use sluice_api::check::types::VipAddress;
use sluice_api::placement::Protocol;
use sluice_api::proxy_admin::{Answer, Request};
use sluice_loader::{
    AttachMode, Balancer, Config, Counters, FiveTuple, Link, Mode, Node, NodeConfig, Proto, Trace, VipKey,
    VipSpec,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Mark (`IFA_PROTO`) of hidden addresses the agent added; `ip address` shows it as `proto 0x53`.
const MARK_HIDDEN: u8 = 0x53;
/// Mark of announced ones.
const MARK_ANNOUNCED: u8 = 0x54;
/// Characters kept of either end of a long error message.
const MESSAGE_PART_CHARS: usize = 400;
/// Interface index of loopback, in every network namespace.
const LOOPBACK: u32 = 1;
/// Routes are asked for again after this time even if no change was heard of: the watcher may have ended.
const HOPS_AGE_MAX: Duration = Duration::from_secs(30);

/// Where balanced VIP addresses are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// On the interface: ARP and neighbour discovery answer for them.
    Interface,
    /// On loopback: a router sends them here.
    Loopback,
}

/// How this machine is used.
pub struct LinuxConfig {
    /// Interface packets come in on.
    pub iface: Option<String>,
    /// Attach mode of XDP programs.
    pub attach: AttachMode,
    /// Balancer settings; its interfaces and mode come from the two above.
    pub balancer: Config,
    /// Directory for what must survive a restart.
    pub state: PathBuf,
    /// Where announced addresses go.
    pub announce: Announce,
    /// Proxies; `None`: this node runs none.
    pub proxies: Option<Supervisor>,
    /// Who tells routers of addresses; none: nobody.
    pub bird: Option<Bird>,
    /// Raised when routes, interfaces or addresses changed.
    pub routes_dirty: watch::Dirty,
}

/// The machine.
pub struct LinuxHost {
    config: LinuxConfig,
    balancer: Option<(Balancer, u32)>,
    node: Option<Node>,
    mirror: Observed,
    hops: Hops,
}

/// Where packets to backends leave, as last asked of the routing table.
#[derive(Default)]
struct Hops {
    by_address: BTreeMap<IpAddr, netlink::Hop>,
    interfaces: BTreeMap<u32, netlink::Interface>,
    asked: Option<Instant>,
}

fn loader_error(error: sluice_loader::Error) -> HostError {
    // The loader says so itself: only a busy interface passes by waiting.
    let retry = matches!(error, sluice_loader::Error::Busy { .. } | sluice_loader::Error::NoInterface(_));
    HostError { message: shortened(&error.to_string()), retry }
}

/// A verifier's log is a megabyte; its end says what was wrong, its beginning with what.
fn shortened(message: &str) -> String {
    let count = message.chars().count();
    if count <= 2 * MESSAGE_PART_CHARS {
        return message.to_owned();
    }
    let head: String = message.chars().take(MESSAGE_PART_CHARS).collect();
    let tail: String = message.chars().skip(count - MESSAGE_PART_CHARS).collect();
    format!("{head} [...] {tail}")
}

fn io_error(what: &str) -> impl Fn(std::io::Error) -> HostError {
    move |error| HostError::passing(format!("{what}: {error}"))
}

fn vip_key(vip: VipAddress) -> VipKey {
    let proto = match vip.protocol {
        Protocol::Tcp => Proto::Tcp,
        Protocol::Udp => Proto::Udp,
    };
    VipKey { addr: vip.address, port: vip.port, proto }
}

fn vip_address(key: &VipKey) -> VipAddress {
    let protocol = match key.proto {
        Proto::Tcp => Protocol::Tcp,
        Proto::Udp => Protocol::Udp,
    };
    VipAddress { address: key.addr, port: key.port, protocol }
}

impl LinuxHost {
    /// A machine not looked at yet.
    pub fn new(config: LinuxConfig) -> Self {
        LinuxHost { config, balancer: None, node: None, mirror: Observed::default(), hops: Hops::default() }
    }

    fn iface(&self) -> Result<&str, HostError> {
        let missing = || HostError::lasting("the agent was started without --iface, which balancing needs");
        self.config.iface.as_deref().ok_or_else(missing)
    }

    fn ifindex(&self) -> Result<u32, HostError> {
        let name = self.iface()?;
        ifindex_of(name).ok_or_else(|| HostError::passing(format!("there is no interface {name}")))
    }

    fn open_balancer(&mut self) -> Result<bool, HostError> {
        let ifindex = self.ifindex()?;
        let ifaces = vec![self.iface()?.to_owned()];
        let config = Config { ifaces, mode: self.config.attach, ..self.config.balancer.clone() };
        let (balancer, adopted) = Balancer::open_or_adopt(&config).map_err(loader_error)?;
        self.balancer = Some((balancer, ifindex));
        self.read_tables()?;
        Ok(adopted.maps)
    }

    /// Reads the kernel tables into the mirror.
    fn read_tables(&mut self) -> Result<(), HostError> {
        let Some((balancer, _)) = &mut self.balancer else { return Ok(()) };
        let state = balancer.state().map_err(loader_error)?;
        self.mirror.balancer = true;
        self.mirror.vips.clear();
        self.mirror.windows.clear();
        for vip in state.vips {
            let address = vip_address(&vip.spec.key);
            if vip.slots.iter().any(|slot| slot.window_open()) {
                self.mirror.windows.insert(address);
            }
            let owners = vip.slots.iter().map(|slot| slot.current()).collect();
            let VipSpec { mode, flow_idle_ms, options, .. } = vip.spec;
            let goal = VipGoal { mode, flow_idle_ms, options, owners };
            self.mirror.vips.insert(address, goal);
        }
        self.mirror.backends = state.backends.into_iter().map(|row| (row.id, row)).collect();
        Ok(())
    }

    fn open_node(&mut self) -> Result<(), HostError> {
        if self.node.is_none() {
            let config = NodeConfig {
                pin_dir: self.config.balancer.pin_dir.clone(),
                ifaces: vec![self.iface()?.to_owned()],
                mode: self.config.attach,
            };
            let (node, _) = Node::open_or_adopt(&config).map_err(loader_error)?;
            self.node = Some(node);
        }
        Ok(())
    }

    fn balancer(&mut self) -> Result<&mut Balancer, HostError> {
        let closed = || HostError::passing("the kernel tables are not open");
        self.balancer.as_mut().map(|(balancer, _)| balancer).ok_or_else(closed)
    }

    fn set_owners(&mut self, vip: VipAddress, goal: &VipGoal) -> Result<(), HostError> {
        let VipGoal { mode, flow_idle_ms, options, .. } = *goal;
        let spec = VipSpec { key: vip_key(vip), mode, flow_idle_ms, options };
        self.balancer()?.set_owners(&spec, &goal.owners).map(drop).map_err(loader_error)
    }

    fn balancer_step(&mut self, step: &Step) -> Result<(), HostError> {
        match step {
            Step::OpenBalancer => self.open_balancer().map(drop),
            Step::CloseBalancer => match self.balancer.take() {
                Some((balancer, _)) => balancer.detach_and_unpin().map_err(loader_error),
                None => sluice_loader::remove_pins(&self.config.balancer.pin_dir).map_err(loader_error),
            },
            Step::PutBackend(row) => self.balancer()?.set_backend(row).map_err(loader_error),
            Step::RemoveBackend(id) => self.balancer()?.remove_backend(*id).map_err(loader_error),
            Step::PutVip { vip, goal } => {
                // A VIP that turns local or back gives its table up.
                let was = self.mirror.vips.get(vip).map(|v| v.mode == Mode::Local);
                if was.is_some_and(|local| local != (goal.mode == Mode::Local)) {
                    self.balancer()?.remove_vip(&vip_key(*vip)).map_err(loader_error)?;
                }
                self.set_owners(*vip, goal)
            }
            Step::SetOwners { vip, owners } => {
                let now = self.mirror.vips.get(vip);
                let now = now.ok_or_else(|| HostError::passing(format!("VIP {vip} is not in the tables")))?;
                let goal = VipGoal { owners: owners.clone(), ..now.clone() };
                self.set_owners(*vip, &goal)
            }
            Step::RemoveVip(vip) => self.balancer()?.remove_vip(&vip_key(*vip)).map_err(loader_error),
            _ => Ok(()),
        }
    }

    fn add_address(&self, address: IpAddr, place: Place) -> Result<(), HostError> {
        let failed = |e| HostError::passing(format!("add address {address}: {e}"));
        if place == Place::Hidden {
            arp::hide(&self.config.state, self.config.iface.as_deref()).map_err(io_error("silence ARP"))?;
            return netlink::add_address(address, LOOPBACK, MARK_HIDDEN, true).map_err(failed);
        }
        // A node without an interface of its own to name serves on loopback.
        let on_iface = self.config.announce == Announce::Interface && self.config.iface.is_some();
        let ifindex = if on_iface { self.ifindex()? } else { LOOPBACK };
        netlink::add_address(address, ifindex, MARK_ANNOUNCED, false).map_err(failed)?;
        if ifindex != LOOPBACK {
            let told = netlink::interface(ifindex).and_then(|i| gratuitous::tell(address, ifindex, i.mac));
            if let Err(error) = told {
                tracing::warn!(%address, %error, "neighbours were not told of the address; they find out by asking");
            }
        }
        Ok(())
    }

    fn remove_address(&self, address: IpAddr) -> Result<(), HostError> {
        let failed = |e| HostError::passing(format!("remove address {address}: {e}"));
        let marked = netlink::addresses_marked(&[MARK_HIDDEN, MARK_ANNOUNCED]).map_err(failed)?;
        for found in marked.iter().filter(|a| a.address == address) {
            netlink::remove_address(address, found.ifindex).map_err(failed)?;
        }
        Ok(())
    }

    fn address_step(&mut self, step: &Step) -> Result<(), HostError> {
        match step {
            Step::AddAddress { address, place } => self.add_address(*address, *place),
            Step::RemoveAddress(address) => self.remove_address(*address),
            Step::SetDecap(Some(decap)) => {
                self.open_node()?;
                let node =
                    self.node.as_mut().ok_or_else(|| HostError::passing("no decapsulation program"))?;
                node.set_local(decap).map_err(loader_error)
            }
            Step::SetDecap(None) => match self.node.take() {
                Some(node) => node.detach_and_unpin().map_err(loader_error),
                None => Node::remove_pins(&self.config.balancer.pin_dir).map_err(loader_error),
            },
            _ => Ok(()),
        }
    }

    fn route_step(&mut self, step: &Step) -> Result<(), HostError> {
        let none = || HostError::lasting("the agent was started without --bird-include");
        let bird = self.config.bird.as_mut().ok_or_else(none)?;
        match step {
            Step::Withdraw(routes) | Step::Announce(routes) => bird.announce(routes),
            _ => Ok(()),
        }
    }

    fn proxy_step(&mut self, step: &Step) -> Result<(), HostError> {
        let none = || HostError::lasting("the agent was started with --no-proxy");
        let proxies = self.config.proxies.as_mut().ok_or_else(none)?;
        match step {
            Step::StartProxy(spec) => proxies.start(spec, false).map(drop),
            Step::UpgradeProxy(spec) => proxies.start(spec, true).map(drop),
            Step::ApplyRows { apply, .. } => {
                match proxies.ask(&Request::Apply(Box::new(apply.as_ref().clone())))? {
                    Answer::Applied { revision, .. } if revision == apply.revision => Ok(()),
                    other => Err(HostError::passing(format!("the proxy answered a change with {other:?}"))),
                }
            }
            Step::DrainProxy(on) => proxies.ask(&Request::Drain { on: *on }).map(drop),
            Step::StopProxy => proxies.stop(false),
            _ => Ok(()),
        }
    }

    /// Asks the routing table for every address when it changed, or has not been asked for long.
    fn refresh_hops(&mut self, addresses: &BTreeSet<IpAddr>) {
        let dirty = self.config.routes_dirty.swap(false, Ordering::AcqRel);
        let old = self.hops.asked.is_none_or(|asked| asked.elapsed() > HOPS_AGE_MAX);
        if dirty || old {
            self.hops = Hops { asked: Some(Instant::now()), ..Hops::default() };
        }
        for address in addresses {
            if !self.hops.by_address.contains_key(address)
                && let Some(hop) = netlink::route(*address).ok().flatten()
            {
                self.hops.by_address.insert(*address, hop);
            }
        }
        for hop in self.hops.by_address.values() {
            if !self.hops.interfaces.contains_key(&hop.ifindex)
                && let Ok(interface) = netlink::interface(hop.ifindex)
            {
                self.hops.interfaces.insert(hop.ifindex, interface);
            }
        }
    }

    /// Next hops as known; with `ask`, the kernel is made to find or confirm those it is not sure of.
    fn links(&mut self, addresses: &BTreeSet<IpAddr>, ask: bool) -> BTreeMap<IpAddr, Link> {
        if addresses.is_empty() {
            return BTreeMap::new();
        }
        self.refresh_hops(addresses);
        let known = match netlink::neighbours() {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "neighbours cannot be read");
                return BTreeMap::new();
            }
        };
        let known: HashMap<(IpAddr, u32), netlink::Neighbour> =
            known.into_iter().map(|n| ((n.address, n.ifindex), n)).collect();
        let mut asked: BTreeSet<(IpAddr, u32)> = BTreeSet::new();
        let mut links = BTreeMap::new();
        for address in addresses {
            let Some(hop) = self.hops.by_address.get(address) else { continue };
            let next = (hop.gateway.unwrap_or(*address), hop.ifindex);
            let neighbour = known.get(&next);
            // An entry that is not confirmed is asked for before it is needed: a replaced machine's new MAC is
            // learnt, and a machine that is gone is noticed.
            if ask
                && neighbour.is_none_or(|n| !n.confirmed)
                && asked.insert(next)
                && let Err(error) = netlink::ask_neighbour(next.0, next.1)
            {
                tracing::debug!(next = %next.0, %error, "neighbour not asked for");
            }
            let (Some(dst_mac), Some(interface)) =
                (neighbour.and_then(|n| n.mac), self.hops.interfaces.get(&hop.ifindex))
            else {
                continue;
            };
            let mtu = u16::try_from(interface.mtu).unwrap_or(u16::MAX);
            links.insert(*address, Link { ifindex: hop.ifindex, dst_mac, src_mac: interface.mac, mtu });
        }
        links
    }

    /// The interface may have been made anew, with the program gone from it.
    fn check_attached(&mut self) {
        let now = self.config.iface.as_deref().and_then(ifindex_of);
        if self.balancer.as_ref().is_some_and(|(_, ifindex)| now.is_some() && Some(*ifindex) != now) {
            self.balancer = None;
            self.mirror.apply(&Step::CloseBalancer);
        }
    }
}

fn ifindex_of(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

impl Host for LinuxHost {
    fn adopt(&mut self) -> Result<Adoption, HostError> {
        let mut adoption = Adoption::default();
        let pins = &self.config.balancer.pin_dir;
        let (balancer, node) = (pins.join("maps").exists(), pins.join("node").exists());
        if balancer {
            adoption.maps = self.open_balancer()?;
        }
        if node {
            self.open_node()?;
            // Which addresses it has is not read back: they are written again.
            self.mirror.decap = Some(crate::model::Decap::default());
        }
        adoption.proxy_pid = self.config.proxies.as_mut().and_then(Supervisor::adopt);
        Ok(adoption)
    }

    fn observe(&mut self) -> Result<Observed, HostError> {
        self.check_attached();
        let mut observed = self.mirror.clone();
        let marked =
            netlink::addresses_marked(&[MARK_HIDDEN, MARK_ANNOUNCED]).map_err(io_error("read addresses"))?;
        let place = |a: &netlink::Addr| if a.proto == MARK_HIDDEN { Place::Hidden } else { Place::Announced };
        observed.addresses = marked.iter().map(|a| (a.address, place(a))).collect();
        observed.routes = self.config.bird.as_ref().and_then(Bird::announced);
        observed.proxy = match &mut self.config.proxies {
            Some(proxies) => proxies.observe()?,
            None => None,
        };
        Ok(observed)
    }

    fn apply(&mut self, step: &Step) -> Result<(), HostError> {
        let result = match step.lane() {
            _ if matches!(step, Step::Withdraw(_) | Step::Announce(_)) => self.route_step(step),
            crate::plan::Lane::Balancer => self.balancer_step(step),
            crate::plan::Lane::Addresses => self.address_step(step),
            crate::plan::Lane::Proxy => self.proxy_step(step),
            crate::plan::Lane::Routes => Ok(()),
        };
        match &result {
            // Opening read the tables already.
            Ok(()) if *step == Step::OpenBalancer => {}
            Ok(()) => self.mirror.apply(step),
            Err(_) if step.lane() == crate::plan::Lane::Balancer && self.balancer.is_some() => {
                // Part of the step may be in the maps: what is there is what counts.
                if let Err(error) = self.read_tables() {
                    tracing::warn!(%error, "kernel tables cannot be read back");
                }
            }
            Err(_) => {}
        }
        result
    }

    fn speaks(&self) -> bool {
        self.config.bird.is_some()
    }

    fn resolve(&mut self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Link> {
        self.links(addresses, true)
    }

    fn look(&mut self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Link> {
        self.links(addresses, false)
    }

    fn close_window(&mut self, vip: VipAddress) -> Result<(), HostError> {
        self.balancer()?.close_window(&vip_key(vip)).map_err(loader_error)?;
        self.mirror.windows.remove(&vip);
        Ok(())
    }

    fn sweep(&mut self) -> Result<Swept, HostError> {
        let swept = self.balancer()?.sweep().map_err(loader_error)?;
        let nat = self.balancer()?.nat_sweep().map_err(loader_error)?;
        Ok(Swept {
            nat_live: nat.live,
            nat_expired: nat.expired,
            live: swept.live,
            expired: swept.expired,
            asking_slots: swept.asking_slots - swept.settled_slots,
        })
    }

    fn ids_in_use(&mut self) -> Result<BTreeSet<u16>, HostError> {
        match &mut self.balancer {
            Some((balancer, _)) => balancer.ids_in_use().map_err(loader_error),
            None => Ok(BTreeSet::new()),
        }
    }

    fn backend_id_max(&self) -> u16 {
        let rows = self.balancer.as_ref().map_or(self.config.balancer.backends, |(b, _)| b.config().backends);
        u16::try_from(rows.saturating_sub(1)).unwrap_or(u16::MAX).min(sluice_abi::BACKEND_ID_MAX)
    }

    fn counters(&mut self) -> Result<Option<Counters>, HostError> {
        let balancer = self.balancer.as_ref().map(|(b, _)| b.counters().map_err(loader_error)).transpose()?;
        let node = self.node.as_ref().map(|n| n.counters().map_err(loader_error)).transpose()?;
        let Some((drops, events)) = node else { return Ok(balancer) };
        let mut all = balancer.unwrap_or_default();
        for (reason, packets) in drops {
            *all.drops.entry((None, reason)).or_default() += packets;
        }
        for (event, packets) in events {
            *all.events.entry(event).or_default() += packets;
        }
        Ok(Some(all))
    }

    fn trace(&mut self, flow: &FiveTuple) -> Result<Option<Trace>, HostError> {
        self.balancer.as_ref().map(|(balancer, _)| balancer.trace(flow).map_err(loader_error)).transpose()
    }

    fn ask_proxy(&mut self, request: &Request) -> Result<Answer, HostError> {
        match &self.config.proxies {
            Some(proxies) => proxies.ask(request),
            None => Err(HostError::lasting("the agent was started with --no-proxy")),
        }
    }

    fn release(&mut self) -> Vec<HostError> {
        let mut errors = Vec::new();
        let mut note = |result: Result<(), HostError>| errors.extend(result.err());
        // Routers first: nothing comes here while the rest goes.
        if let Some(bird) = &mut self.config.bird {
            note(bird.announce(&BTreeSet::new()));
        }
        if let Some(proxies) = &mut self.config.proxies {
            note(proxies.stop(true));
        }
        note(self.balancer_step(&Step::CloseBalancer));
        note(self.address_step(&Step::SetDecap(None)));
        match netlink::addresses_marked(&[MARK_HIDDEN, MARK_ANNOUNCED]) {
            Ok(marked) => {
                for found in marked {
                    let failed = |e| HostError::passing(format!("remove address {}: {e}", found.address));
                    note(netlink::remove_address(found.address, found.ifindex).map_err(failed));
                }
            }
            Err(error) => note(Err(HostError::passing(format!("read addresses: {error}")))),
        }
        note(arp::show(&self.config.state).map_err(io_error("give ARP settings back")));
        self.mirror = Observed::default();
        errors
    }
}
