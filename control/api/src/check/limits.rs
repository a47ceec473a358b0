//! Bounds of a document and of a set of documents. Each is refused by name when passed.

/// Bytes of a JSON document: half a million sites at about 120 bytes each.
pub const JSON_BYTES_MAX: usize = 64 << 20;
/// Bytes of a YAML document. The YAML parser holds all events of a document at once, about 60 bytes for
/// each byte at worst, so this bounds it near 1 GiB for hostile input and 200 MiB for honest one.
pub const YAML_BYTES_MAX: usize = 16 << 20;
/// Net depth of `[` and `{`. The schema needs 5; YAML scanning costs tokens times depth.
pub const BRACKET_DEPTH_MAX: usize = 64;
/// Depth of YAML block indentation, in columns. The schema needs fewer than 40 at usual indents.
pub const INDENT_COLUMNS_MAX: usize = 1024;
/// Documents of a set: the directory is listed and compared as a whole.
pub const DOCUMENTS_MAX: usize = 4096;
/// Networks of a set: each address is looked up among them.
pub const NETWORKS_MAX: usize = 1024;
/// Pools of a set.
pub const POOLS_MAX: usize = 16_384;
/// Backends of a pool: a quarter of the 65,537 Maglev slots, so that each backend can own some.
pub const POOL_BACKENDS_MAX: usize = 16_384;
/// VIPs of a set; the kernel tables of one node may hold fewer and then say so.
pub const VIPS_MAX: usize = 16_384;
/// Nodes that balance one VIP.
pub const VIP_NODES_MAX: usize = 1024;
/// Source addresses of a VIP of mode nat on one node: what the kernel's row has room for.
pub const NAT_SOURCES_MAX: usize = 8;
/// Groups of a set.
pub const GROUPS_MAX: usize = 4096;
/// Members of a group and its parents: each member probes all others.
pub const GROUP_MEMBERS_MAX: usize = 256;
/// Client addresses of a group.
pub const GROUP_LISTEN_MAX: usize = 64;
/// Origins of a set.
pub const ORIGINS_MAX: usize = 131_072;
/// Addresses of an origin.
pub const ORIGIN_ADDRESSES_MAX: usize = 64;
/// Sites of a set: ten times the 100,000 the tables are made for.
pub const SITES_MAX: usize = 1_000_000;
/// Routes of a site.
pub const SITE_ROUTES_MAX: usize = 256;
/// Bytes of a route or probe path.
pub const PATH_BYTES_MAX: usize = 1024;
/// Bytes of a host name (RFC 1035 section 2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// Bytes of a name: one DNS label, so that names fit file names, metrics and host names.
pub const NAME_BYTES_MAX: usize = 63;
/// Weight of a backend or member: enough for a share in thousandths.
pub const WEIGHT_MAX: u32 = 1000;
/// Shortest health interval, ms: twenty probes a second at most.
pub const INTERVAL_MS_MIN: u64 = 50;
/// Longest health interval, ms: ten minutes.
pub const INTERVAL_MS_MAX: u64 = 600_000;
/// Probes in a row that change health.
pub const RISE_FALL_MAX: u32 = 100;
/// Jitter of an interval to either side, percent: at half, two probes never touch.
pub const JITTER_PERCENT_MAX: u32 = 50;
/// Bytes of a probe's datagram or of what it expects: one unfragmented datagram on any path.
pub const PROBE_BYTES_MAX: usize = 512;
/// Longest slow start, ms: an hour.
pub const SLOW_START_MS_MAX: u64 = 3_600_000;
/// Shortest memory of a slot's previous owner, ms.
pub const FLOW_IDLE_MS_MIN: u64 = 1000;
/// Longest memory of a slot's previous owner, ms: a day.
pub const FLOW_IDLE_MS_MAX: u64 = 86_400_000;
/// Smallest cache of a member, bytes: one slab.
pub const CACHE_BYTES_MIN: u64 = 1 << 20;
/// Largest cache of a member, bytes: 64 TiB, beyond any machine's RAM.
pub const CACHE_BYTES_MAX: u64 = 64 << 40;
/// Smallest load bound, percent: at 100 a ring could not place the last key.
pub const LOAD_PERCENT_MIN: u32 = 101;
/// Largest load bound, percent: ten times the mean is no bound any more.
pub const LOAD_PERCENT_MAX: u32 = 1000;
/// Longest default freshness, ms: a year (RFC 9111 caches treat more as that).
pub const DEFAULT_TTL_MS_MAX: u64 = 365 * 86_400_000;
/// Errors reported at once; a reader fixes the first few anyway.
pub const ERRORS_MAX: usize = 100;
