//! What thousands of health checks cost: TCP checks of 127.0.0.0/8 each second, CPU time of the probes' thread.
//!
//! `cargo run --release -p sluice-agent --example probe_cost -- 5000`

use sluice_agent::goal::{Check, Target};
use sluice_agent::health::Outcome;
use sluice_agent::probe::{Means, Report, Told, script, tls};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SECONDS: u64 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(5_000), |n| n.parse())?;
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let text = format!(
        "apiVersion: sluice/v1\nname: d\ngeneration: 1\npools:\n  - name: p\n    backends: [{{name: b, address: 10.0.0.1}}]\n    health: {{kind: tcp, port: {port}}}\n"
    );
    let document = sluice_api::check::parse_document(text.as_bytes()).map_err(|e| format!("{e:?}"))?;
    let health = document.pools()[0].health().ok_or("no health")?.clone();
    let target = |n: u32| {
        let address = SocketAddr::from((Ipv4Addr::from(0x7f01_0000 + n), port));
        let check = Check { address, health: health.clone(), path: None };
        (Target::Backend { pool: "p".into(), name: format!("b{n}") }, check)
    };
    let list: BTreeMap<Target, Check> = (0..count).map(target).collect();
    let (good, bad, waited) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counts = (Arc::clone(&good), Arc::clone(&bad), Arc::clone(&waited));
    let report: Report = Arc::new(move |told| {
        let count = match told {
            Told::Result(_, Outcome::Good) => &counts.0,
            Told::Result(..) => &counts.1,
            Told::Waited => &counts.2,
        };
        count.fetch_add(1, Ordering::Relaxed);
        true
    });
    let means = Means { tls: tls::Clients::new(None)?, scripts: script::Scripts::new(None)? };
    let (tell, targets) = tokio::sync::watch::channel((1, list));
    let (send_tid, tid) = std::sync::mpsc::channel();
    let prober = std::thread::spawn(move || -> std::io::Result<()> {
        // Somebody waits for it.
        let _ = send_tid.send(rustix::thread::gettid().as_raw_nonzero());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(sluice_agent::probe::run(targets, means, report));
        Ok(())
    });
    let tid = tid.recv()?;
    let cpu_ns = || -> Result<u64, Box<dyn std::error::Error>> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat"))?;
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    };
    std::thread::sleep(Duration::from_secs(2));
    let (before, done) = (cpu_ns()?, good.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(SECONDS));
    let (spent, probes) = (cpu_ns()? - before, good.load(Ordering::Relaxed) - done);
    drop(tell);
    prober.join().map_err(|_| "the prober panicked")??;
    println!(
        "{count} targets: {} probes/s, {:.1} us CPU each, {:.1} % of a core; {} bad, {} waited",
        probes / SECONDS,
        spent as f64 / 1e3 / probes.max(1) as f64,
        spent as f64 / 1e7 / SECONDS as f64,
        bad.load(Ordering::Relaxed),
        waited.load(Ordering::Relaxed)
    );
    Ok(())
}
