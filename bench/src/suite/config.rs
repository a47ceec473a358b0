//! Configurations of the public programs, tuned as their own documents advise for this work: one worker,
//! no logs, pooled upstream connections, no limit on requests of a connection.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// Idle upstream connections kept; more than the load generator has connections.
const POOL: usize = 256;
/// Connections a worker may hold.
const CONNECTIONS: usize = 30_000;
/// Descriptors HAProxy needs beside those of its connections.
const SPARE_DESCRIPTORS: usize = 500;

/// Where a program listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Proxies and stores nothing.
    pub proxy: SocketAddr,
    /// Stores what it may.
    pub cache: SocketAddr,
}

fn nginx_head(dir: &Path, cpu: usize) -> String {
    let dir = dir.display();
    let mask = format!("{:b}", 1u64 << cpu.min(63));
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\nworker_cpu_affinity {mask};\nworker_rlimit_nofile 65536;\n\
         pid {dir}/nginx.pid;\nerror_log {dir}/nginx-error.log crit;\n\
         events {{ worker_connections {CONNECTIONS}; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n  server_tokens off;\n\
         \x20 keepalive_timeout 3600s;\n  keepalive_requests 1000000000;\n  reset_timedout_connection on;\n\
         \x20 client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n\
         \x20 fastcgi_temp_path {dir}/fastcgi;\n  uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n\
         \x20 proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n  proxy_set_header Host $host;\n\
         \x20 open_file_cache max=10000 inactive=3600s;\n  open_file_cache_valid 3600s;\n\
         \x20 server_names_hash_max_size 2097152;\n  server_names_hash_bucket_size 128;\n"
    )
}

fn nginx_upstream(origin: SocketAddr) -> String {
    format!(
        "  upstream origin {{ server {origin}; keepalive {POOL}; keepalive_requests 1000000000; \
         keepalive_timeout 3600s; }}\n"
    )
}

/// nginx as reverse proxy on one port and as cache on another.
pub fn nginx(dir: &Path, cpu: usize, ports: Ports, origin: SocketAddr) -> String {
    let mut text = nginx_head(dir, cpu);
    text.push_str(&nginx_upstream(origin));
    let store = dir.join("store");
    // Writing into a string cannot fail.
    let _ok = writeln!(
        text,
        "  proxy_cache_path {} levels=1:2 keys_zone=store:16m inactive=1d max_size=1g use_temp_path=off;",
        store.display()
    );
    let _ok = writeln!(
        text,
        "  server {{ listen {} reuseport backlog=4096; location / {{ proxy_pass http://origin; }} }}",
        ports.proxy
    );
    let _ok = writeln!(
        text,
        "  server {{ listen {} reuseport backlog=4096; location / {{ proxy_pass http://origin; proxy_cache store; \
         proxy_cache_lock on; }} }}\n}}",
        ports.cache
    );
    text
}

/// nginx with one server block for each of `sites` hosts, `site-{n}.example`, and more as asked.
pub fn nginx_sites(
    dir: &Path,
    cpu: usize,
    listen: SocketAddr,
    origin: SocketAddr,
    sites: usize,
    extra: &[String],
) -> String {
    let mut text = nginx_head(dir, cpu);
    text.push_str(&nginx_upstream(origin));
    let _ok = writeln!(text, "  server {{ listen {listen} default_server backlog=4096; return 404; }}");
    let names = (0..sites).map(|n| format!("site-{n}.example")).chain(extra.iter().cloned());
    for name in names {
        let _ok = writeln!(
            text,
            "  server {{ listen {listen}; server_name {name}; location / {{ proxy_pass http://origin; }} }}"
        );
    }
    text.push_str("}\n");
    text
}

/// HAProxy as reverse proxy on one port and as cache on another.
pub fn haproxy(cpu: usize, ports: Ports, origin: SocketAddr) -> String {
    // It refuses to start when both sides of every connection do not fit below the limit of descriptors.
    let connections =
        (crate::poll::descriptor_limit().saturating_sub(SPARE_DESCRIPTORS) / 2).min(CONNECTIONS);
    format!(
        "global\n  nbthread 1\n  cpu-map 1 {cpu}\n  maxconn {connections}\n\
         defaults\n  mode http\n  http-reuse always\n  option http-keep-alive\n  timeout connect 5s\n\
         \x20 timeout client 1h\n  timeout server 1h\n  timeout http-keep-alive 1h\n\
         cache store\n  total-max-size 16\n  max-object-size 4194304\n  max-age 3600\n\
         frontend proxy\n  bind {proxy}\n  default_backend origin\n\
         frontend cached\n  bind {cache}\n\
         \x20 default_backend cached_origin\n\
         backend origin\n  server o1 {origin} pool-max-conn {POOL} pool-purge-delay 1h\n\
         backend cached_origin\n  http-request cache-use store\n  http-response cache-store store\n\
         \x20 server o1 {origin} pool-max-conn {POOL} pool-purge-delay 1h\n",
        proxy = ports.proxy,
        cache = ports.cache,
    )
}
