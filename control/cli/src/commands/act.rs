//! `drain`, `undrain`, `purge`, `upgrade-proxy`.

use super::print_json;
use crate::args::{DrainArgs, DrainKind, Global, PurgeArgs};
use crate::client::{AgentClient, ClientError};
use crate::exit::{self, CommandError, CommandResult};
use hyper::Method;
use serde_json::json;
use sluice_api::proxy_admin::Purge;
use sluice_api::rest::{self, DrainOrder, DrainReport, DrainRequest, Upgraded};

/// Runs `sluice drain` (`on`) and `sluice undrain`.
pub async fn drain(args: &DrainArgs, on: bool, global: &Global) -> CommandResult {
    let kind = match args.kind {
        DrainKind::Backend => rest::DrainKind::Backend,
        DrainKind::Member => rest::DrainKind::Member,
        DrainKind::Node => rest::DrainKind::Node,
    };
    let name = args.name.clone();
    let path = if on { "/v1/drain" } else { "/v1/undrain" };
    let body = match (on, args.deadline) {
        (true, deadline_ms) => serde_json::to_value(DrainOrder { kind, name, deadline_ms }),
        (false, None) => serde_json::to_value(DrainRequest { kind, name }),
        (false, Some(_)) => return Err(CommandError::Usage("taking a drain back has no deadline".into())),
    };
    let body = body.map_err(anyhow::Error::from)?;
    let answer = AgentClient::new(&global.socket).send(Method::POST, path, Some(&body)).await?;
    let report: DrainReport = serde_json::from_value(answer)
        .map_err(|e| ClientError::Shape { what: path.into(), message: e.to_string() })?;
    if global.json() {
        print_json(&report)?;
        return Ok(exit::OK);
    }
    for item in &report.affected {
        println!("{item}");
    }
    let names: Vec<&str> = report.drains.iter().map(|d| d.name.as_str()).collect();
    println!("drained now: {}", if names.is_empty() { "nothing".into() } else { names.join(", ") });
    Ok(exit::OK)
}

/// Runs `sluice purge`.
pub async fn purge(args: &PurgeArgs, global: &Global) -> CommandResult {
    let (purge, what) = match (&args.url, &args.host, args.all) {
        (Some(url), ..) => (Purge::Url { url: url.clone() }, url.clone()),
        (_, Some(host), _) => (Purge::Host { host: host.clone() }, format!("host {host}")),
        (_, _, true) => (Purge::All {}, "everything".to_owned()),
        _ => return Err(CommandError::Usage("give a URL, --host or --all".into())),
    };
    let body = serde_json::to_value(&purge).map_err(anyhow::Error::from)?;
    AgentClient::new(&global.socket).send(Method::POST, "/v1/purge", Some(&body)).await?;
    if global.json() {
        print_json(&json!({"purged": purge}))?;
    } else {
        println!("purged {what}: stored responses are not used any more");
    }
    Ok(exit::OK)
}

/// Runs `sluice upgrade-proxy`.
pub async fn upgrade_proxy(global: &Global) -> CommandResult {
    let path = "/v1/proxy/upgrade";
    let answer = AgentClient::new(&global.socket).send(Method::POST, path, None).await?;
    let upgraded: Upgraded = serde_json::from_value(answer)
        .map_err(|e| ClientError::Shape { what: path.into(), message: e.to_string() })?;
    if global.json() {
        print_json(&upgraded)?;
    } else {
        println!(
            "process {} serves now with revision {}; process {} finishes its connections and ends",
            upgraded.new_pid, upgraded.revision, upgraded.old_pid
        );
    }
    Ok(exit::OK)
}
