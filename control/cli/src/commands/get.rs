//! `get` and `describe`.

use super::{print_json, segment};
use crate::args::{DescribeArgs, DescribeKind, GetArgs, GetKind, Global};
use crate::client::{AgentClient, ClientError};
use crate::exit::{self, CommandError, CommandResult};
use crate::table::Table;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice_api::placement::Document;
use sluice_api::rest::{DocumentList, Event, EventList};
use sluice_api::status::{NodeStatus, VipStatus};

/// Runs `sluice get`.
pub async fn get(args: &GetArgs, global: &Global) -> CommandResult {
    let client = AgentClient::new(&global.socket);
    match args.kind {
        GetKind::Documents => documents(&client, global).await?,
        GetKind::Vips => vips(&client, global).await?,
        GetKind::Backends => backends(&client, global).await?,
        GetKind::Sites => sites(&client, global).await?,
        GetKind::Status => status(&client, global).await?,
        GetKind::Events => events(&client, global).await?,
    }
    Ok(exit::OK)
}

async fn documents(client: &AgentClient, global: &Global) -> Result<(), CommandError> {
    let list: DocumentList = client.get("/v1/documents").await?;
    if global.json() {
        return Ok(print_json(&list)?);
    }
    let mut table = Table::new(&["name", "generation", "observed", "items"]);
    for d in &list.documents {
        let items: Vec<String> = d.items.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        table.row([
            d.name.clone(),
            d.generation.to_string(),
            d.observed_generation.to_string(),
            items.join(", "),
        ]);
    }
    table.print_or("no document");
    Ok(())
}

async fn vips(client: &AgentClient, global: &Global) -> Result<(), CommandError> {
    let status: NodeStatus = client.get("/v1/status").await?;
    if global.json() {
        return Ok(print_json(&status.vips)?);
    }
    let mut table = Table::new(&["name", "address", "backends", "serving"]);
    for v in &status.vips {
        let serving = v.backends.iter().filter(|b| b.share > 0.0).count();
        table.row([v.name.clone(), v.address.clone(), v.backends.len().to_string(), serving.to_string()]);
    }
    table.print_or("this node balances no VIP");
    Ok(())
}

async fn backends(client: &AgentClient, global: &Global) -> Result<(), CommandError> {
    let status: NodeStatus = client.get("/v1/status").await?;
    if global.json() {
        let all: Vec<Value> = status
            .vips
            .iter()
            .flat_map(|v| v.backends.iter().map(move |b| json!({"vip": v.name, "backend": b})))
            .collect();
        return Ok(print_json(&all)?);
    }
    backend_table(&status.vips).print_or("this node has no backend");
    Ok(())
}

fn backend_table(vips: &[VipStatus]) -> Table {
    let mut table = Table::new(&["vip", "backend", "health", "state", "weight", "share", "packets", "bytes"]);
    for v in vips {
        for b in &v.backends {
            table.row([
                v.name.clone(),
                b.name.clone(),
                b.health.clone(),
                b.state.clone(),
                b.weight.to_string(),
                format!("{:.1} %", b.share * 100.0),
                b.packets.to_string(),
                b.bytes.to_string(),
            ]);
        }
    }
    table
}

/// Every document in force, as placed.
async fn placed(client: &AgentClient) -> Result<Vec<Document>, CommandError> {
    let list: DocumentList = client.get("/v1/documents").await?;
    let mut documents = Vec::new();
    for info in &list.documents {
        let path = format!("/v1/documents/{}", segment(&info.name));
        let text = client.get_text(&path).await?;
        documents.push(parse(&path, &text)?);
    }
    Ok(documents)
}

fn parse<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, CommandError> {
    serde_norway::from_str(text)
        .map_err(|e| ClientError::Shape { what: path.to_owned(), message: e.to_string() }.into())
}

async fn sites(client: &AgentClient, global: &Global) -> Result<(), CommandError> {
    let documents = placed(client).await?;
    let all = documents.iter().flat_map(|d| d.sites.iter().map(move |s| (&d.name, s)));
    if global.json() {
        let list: Vec<Value> = all.map(|(d, s)| json!({"document": d, "site": s})).collect();
        return Ok(print_json(&list)?);
    }
    let mut table = Table::new(&["host", "group", "origin", "routes", "document"]);
    for (document, s) in all {
        table.row([&s.host, &s.group, &s.origin, &s.routes.len().to_string(), document]);
    }
    table.print_or("no site");
    Ok(())
}

async fn status(client: &AgentClient, global: &Global) -> Result<(), CommandError> {
    let status: NodeStatus = client.get("/v1/status").await?;
    if global.json() {
        return Ok(print_json(&status)?);
    }
    println!("node {}: {}", status.node, if status.converged { "converged" } else { "NOT converged" });
    if let Some(p) = &status.proxy {
        println!(
            "proxy: process {}, revision {}, {} sites, {} restarts",
            p.pid, p.revision, p.sites, p.restarts
        );
    }
    let mut table = Table::new(&["document", "generation", "observed", "newest version"]);
    for d in &status.documents {
        let refused = if d.refused.is_empty() { "in force" } else { "REFUSED" };
        table.row([
            d.name.clone(),
            d.generation.to_string(),
            d.observed_generation.to_string(),
            refused.into(),
        ]);
    }
    table.print_or("no document");
    for d in &status.documents {
        for e in &d.refused {
            println!("  {}: {}: {}", d.name, e.item, e.message);
        }
    }
    if !status.vips.is_empty() {
        print!("{}", backend_table(&status.vips));
    }
    for e in &status.errors {
        println!("error: {}: {}{}", e.item, e.message, if e.retry { " (tried again)" } else { "" });
    }
    Ok(())
}

async fn events(client: &AgentClient, global: &Global) -> Result<(), CommandError> {
    let list: EventList = client.get("/v1/events").await?;
    if global.json() {
        return Ok(print_json(&list)?);
    }
    let mut table = Table::new(&["time (UTC)", "kind", "item", "message"]);
    for e in &list.events {
        table.row([clock(e.at_us), e.kind.clone(), e.item.clone(), message(e)]);
    }
    table.print_or("nothing has happened");
    Ok(())
}

/// The message with its numbers.
pub fn message(event: &Event) -> String {
    let values: Vec<String> = event.values.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if values.is_empty() {
        event.message.clone()
    } else {
        format!("{} ({})", event.message, values.join(" "))
    }
}

/// Time of day.
pub fn clock(at_us: u64) -> String {
    let s = at_us / 1_000_000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", s / 3600, s / 60 % 60, s % 60, at_us / 1000 % 1000)
}

/// Runs `sluice describe`.
pub async fn describe(args: &DescribeArgs, global: &Global) -> CommandResult {
    let client = AgentClient::new(&global.socket);
    if args.kind == DescribeKind::Document {
        let text = client.get_text(&format!("/v1/documents/{}", segment(&args.name))).await?;
        if global.json() {
            print_json(&parse::<Value>("document", &text)?)?;
        } else {
            print!("{text}");
        }
        return Ok(exit::OK);
    }
    let status: NodeStatus = client.get("/v1/status").await?;
    let found = find(&placed(&client).await?, &status, args.kind, &args.name)?;
    if found.is_empty() {
        let kind = format!("{:?}", args.kind).to_lowercase();
        return Err(CommandError::Invalid(format!("there is no {kind} {:?} on {}", args.name, status.node)));
    }
    if global.json() {
        print_json(&found)?;
    } else {
        for part in &found {
            print!("{}", serde_norway::to_string(part).map_err(anyhow::Error::from)?);
        }
    }
    Ok(exit::OK)
}

/// What was placed under the name, with what the node reports of it.
fn find(
    documents: &[Document],
    status: &NodeStatus,
    kind: DescribeKind,
    name: &str,
) -> Result<Vec<Value>, CommandError> {
    let mut found = Vec::new();
    for d in documents {
        let mut add = |item: Value, seen: Value| {
            found.push(
                json!({"document": d.name, "generation": d.generation, "placed": item, "observed": seen}),
            );
        };
        match kind {
            DescribeKind::Vip => {
                for v in d.vips.iter().filter(|v| v.name == name) {
                    add(value(v)?, value(&status.vips.iter().find(|s| s.name == name))?);
                }
            }
            DescribeKind::Backend => {
                for p in &d.pools {
                    for b in p
                        .backends
                        .iter()
                        .filter(|b| b.name == name || format!("{}/{}", p.name, b.name) == name)
                    {
                        add(json!({"pool": p.name, "backend": b}), observed_backend(status, &b.name));
                    }
                }
            }
            DescribeKind::Pool => {
                for p in d.pools.iter().filter(|p| p.name == name) {
                    let vips: Vec<&str> = documents
                        .iter()
                        .flat_map(|d| &d.vips)
                        .filter(|v| v.pool.as_deref() == Some(name))
                        .map(|v| v.name.as_str())
                        .collect();
                    add(value(p)?, json!({"used_by_vips": vips}));
                }
            }
            DescribeKind::Group => {
                for g in d.groups.iter().filter(|g| g.name == name) {
                    add(value(g)?, value(&status.proxy)?);
                }
            }
            DescribeKind::Site => {
                for s in d.sites.iter().filter(|s| s.host == name) {
                    add(value(s)?, Value::Null);
                }
            }
            DescribeKind::Document => {}
        }
    }
    Ok(found)
}

fn value(item: &impl serde::Serialize) -> Result<Value, CommandError> {
    Ok(serde_json::to_value(item).map_err(anyhow::Error::from)?)
}

fn observed_backend(status: &NodeStatus, name: &str) -> Value {
    let by_vip: serde_json::Map<String, Value> = status
        .vips
        .iter()
        .filter_map(|v| Some((v.name.clone(), json!(v.backends.iter().find(|b| b.name == name)?))))
        .collect();
    Value::Object(by_vip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents() -> Vec<Document> {
        let text = "apiVersion: sluice/v1\nname: web\ngeneration: 3\npools:\n  - name: web\n    backends: [{name: n1, address: 10.0.0.1}]\n\
                    vips:\n  - {name: v, address: 10.9.0.1, port: 80, protocol: tcp, mode: l2_direct, pool: web, nodes: [front]}\n";
        vec![serde_norway::from_str(text).unwrap()]
    }

    #[test]
    fn things_are_found_by_name_with_their_document() {
        let status = NodeStatus::default();
        let vip = find(&documents(), &status, DescribeKind::Vip, "v").unwrap();
        assert_eq!((vip[0]["document"].as_str(), vip[0]["generation"].as_u64()), (Some("web"), Some(3)));
        let pool = find(&documents(), &status, DescribeKind::Pool, "web").unwrap();
        assert_eq!(pool[0]["observed"]["used_by_vips"][0], "v");
        for name in ["n1", "web/n1"] {
            assert_eq!(find(&documents(), &status, DescribeKind::Backend, name).unwrap().len(), 1);
        }
        assert!(find(&documents(), &status, DescribeKind::Vip, "w").unwrap().is_empty());
    }

    #[test]
    fn times_are_of_the_day() {
        assert_eq!(clock(1_700_000_000_123_456), "22:13:20.123");
    }
}
