//! What the lab builds, as data: namespaces, addresses, VIPs, and the `ip` batch lines that make them.
//!
//! ```text
//!            10.7.0.0/24, fd07::/64, one bridge in the namespace `fabric`
//!   client ──┬── front (balancer) ──┬── node1 node2 node3 ──┬── parent ──┬── origin
//!            │  route to VIPs here  │  VIP on lo, answer    │            │
//!            └──────────────────────┴── the client directly ┴────────────┘
//! ```
//!
//! Pure: nothing here runs a command. Everything in one layer-2 segment, so a node's answer does not pass the
//! balancer again (direct return), and the client reaches VIPs only through `front`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Frames of 1500 bytes and an outer header of up to 40 bytes (6in6) fit, with room to see that they do.
pub const FABRIC_MTU: u32 = 1600;
/// What a client sends at most.
pub const CLIENT_MTU: u32 = 1500;
/// Name of every host's interface.
pub const IFACE: &str = "eth0";
/// Port of the HTTP VIPs, of the proxies and of the origin.
pub const HTTP_PORT: u16 = 80;
/// Port of the UDP VIP.
pub const ECHO_PORT: u16 = 7777;
/// Host name the lab's site answers for.
pub const SITE_HOST: &str = "www.lab.test";
/// Interface names hold 15 bytes (`IFNAMSIZ` less the NUL); so does `ve-` and a role.
pub const MAX_PREFIX_BYTES: usize = 24;

/// What a host of the lab is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sends the load.
    Client,
    /// Balances.
    Front,
    /// Proxy and cache, by number from 1.
    Node(u8),
    /// Parent tier.
    Parent,
    /// Origin server.
    Origin,
}

impl Role {
    /// Name in namespaces, interfaces and documents.
    pub fn name(self) -> String {
        match self {
            Role::Client => "client".into(),
            Role::Front => "front".into(),
            Role::Node(n) => format!("node{n}"),
            Role::Parent => "parent".into(),
            Role::Origin => "origin".into(),
        }
    }

    fn host_number(self) -> u8 {
        match self {
            Role::Client => 2,
            Role::Front => 10,
            Role::Node(n) => 20 + n,
            Role::Parent => 30,
            Role::Origin => 40,
        }
    }

    /// IPv4 address.
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 7, 0, self.host_number())
    }

    /// IPv6 address.
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, u16::from(self.host_number()))
    }

    /// End of its cable in the fabric.
    pub fn fabric_iface(self) -> String {
        format!("ve-{}", self.name())
    }

    /// Runs an agent.
    pub fn has_agent(self) -> bool {
        matches!(self, Role::Front | Role::Node(_) | Role::Parent)
    }

    /// MTU of its interface.
    pub fn mtu(self) -> u32 {
        if self == Role::Client { CLIENT_MTU } else { FABRIC_MTU }
    }
}

/// A virtual IP of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabVip {
    /// Name in the placement.
    pub name: &'static str,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Forwarding mode.
    pub mode: &'static str,
}

impl LabVip {
    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

const fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, last))
}

/// All VIPs of the lab.
pub const VIPS: [LabVip; 5] = [
    LabVip { name: "web4", address: v4(1), port: HTTP_PORT, protocol: "tcp", mode: "l2_direct" },
    LabVip {
        name: "web6",
        address: IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1)),
        port: HTTP_PORT,
        protocol: "tcp",
        mode: "l2_direct",
    },
    LabVip { name: "web4-ipip", address: v4(2), port: HTTP_PORT, protocol: "tcp", mode: "ipip" },
    LabVip { name: "echo", address: v4(3), port: ECHO_PORT, protocol: "udp", mode: "l2_direct" },
    LabVip { name: "echo-ipip", address: v4(4), port: ECHO_PORT, protocol: "udp", mode: "ipip" },
];

/// The lab to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabPlan {
    /// Instance name.
    pub prefix: String,
    /// Nodes behind the balancer.
    pub nodes: u8,
}

impl LabPlan {
    /// Hosts in the order they are made.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::Client, Role::Front];
        roles.extend((1..=self.nodes).map(Role::Node));
        roles.extend([Role::Parent, Role::Origin]);
        roles
    }

    /// Name of a host's namespace.
    pub fn netns(&self, role: Role) -> String {
        format!("{}{}", netns_prefix(&self.prefix), role.name())
    }

    /// Name of the namespace that holds the bridge.
    pub fn fabric(&self) -> String {
        format!("{}fabric", netns_prefix(&self.prefix))
    }

    /// `ip -batch` lines for the machine's own namespace.
    pub fn namespace_batch(&self) -> String {
        let mut batch = format!("netns add {}\n", self.fabric());
        for role in self.roles() {
            batch.push_str(&format!("netns add {}\n", self.netns(role)));
        }
        batch
    }

    /// `ip -batch` lines for the fabric: the bridge.
    pub fn bridge_batch(&self) -> String {
        format!(
            "link set lo up\n\
             link add br0 mtu {FABRIC_MTU} type bridge stp_state 0 mcast_snooping 0 forward_delay 0\n\
             link set br0 up\n"
        )
    }

    /// `ip -batch` lines for the fabric: the cable to one host.
    pub fn cable_batch(&self, role: Role) -> String {
        let (end, netns) = (role.fabric_iface(), self.netns(role));
        format!(
            "link add {end} mtu {FABRIC_MTU} type veth peer name {IFACE} mtu {FABRIC_MTU} netns {netns}\n\
             link set {end} master br0\n\
             link set {end} up\n"
        )
    }

    /// `ip -batch` lines inside one host.
    pub fn host_batch(&self, role: Role) -> String {
        let mut batch = format!(
            "link set lo up\n\
             addr add {}/24 dev {IFACE}\n\
             addr add {}/64 dev {IFACE} nodad\n\
             link set {IFACE} mtu {} up\n",
            role.v4(),
            role.v6(),
            role.mtu()
        );
        if role == Role::Client {
            batch.push_str(&format!("route add 10.9.0.0/24 via {}\n", Role::Front.v4()));
            batch.push_str(&format!("route add fd09::/64 via {}\n", Role::Front.v6()));
        }
        batch
    }

    /// Kernel settings inside one host, `net.` names.
    pub fn sysctls(&self, role: Role) -> Vec<(&'static str, &'static str)> {
        let mut set = vec![("net.ipv6.conf.all.accept_ra", "0"), ("net.ipv6.conf.default.accept_ra", "0")];
        match role {
            // VIPs live on the nodes' loopback: they must not be announced on the segment, and the echo service
            // binds them before the agent has added them.
            Role::Node(_) => set.extend([
                ("net.ipv4.conf.all.arp_ignore", "1"),
                ("net.ipv4.conf.all.arp_announce", "2"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
                ("net.ipv4.ip_nonlocal_bind", "1"),
                ("net.ipv6.ip_nonlocal_bind", "1"),
            ]),
            // Many short connections from few addresses.
            Role::Client => set.push(("net.ipv4.ip_local_port_range", "1024 65000")),
            Role::Front | Role::Parent | Role::Origin => {}
        }
        set
    }
}

/// Start of every namespace name of an instance.
pub fn netns_prefix(prefix: &str) -> String {
    format!("sluice-{prefix}-")
}

/// Why an instance name is refused.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    let ok = !prefix.is_empty()
        && prefix.len() <= MAX_PREFIX_BYTES
        && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if ok {
        return Ok(());
    }
    Err(format!("--prefix must be 1 to {MAX_PREFIX_BYTES} of a-z and 0-9, not {prefix:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn plan(nodes: u8) -> LabPlan {
        LabPlan { prefix: "lab".into(), nodes }
    }

    #[test]
    fn every_host_has_its_own_addresses_and_names_fit_the_kernel() {
        let roles = plan(8).roles();
        let v4: BTreeSet<_> = roles.iter().map(|r| r.v4()).collect();
        let v6: BTreeSet<_> = roles.iter().map(|r| r.v6()).collect();
        assert_eq!((v4.len(), v6.len()), (roles.len(), roles.len()));
        assert!(roles.iter().all(|r| r.fabric_iface().len() <= 15));
    }

    #[test]
    fn encapsulated_client_frames_fit_the_fabric() {
        const { assert!(CLIENT_MTU + 40 <= FABRIC_MTU) };
        assert!(plan(1).host_batch(Role::Client).contains("mtu 1500"));
        assert!(plan(1).host_batch(Role::Node(1)).contains("mtu 1600"));
    }

    #[test]
    fn only_the_client_routes_vips_and_only_through_the_front() {
        for role in plan(3).roles() {
            let routed = plan(3).host_batch(role).contains("10.9.0.0/24 via 10.7.0.10");
            assert_eq!(routed, role == Role::Client, "{role:?}");
        }
    }

    #[test]
    fn prefixes_that_could_reach_outside_the_run_directory_are_refused() {
        for bad in ["", "a/b", "..", "A", "x y", "aaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
        assert!(check_prefix("lab2").is_ok());
    }
}
