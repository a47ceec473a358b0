//! What the lab says once it is up: one JSON document for programs, commands to type for people.

use super::Lab;
use super::plan::{IFACE, Role, SITE_HOST, VIPS};
use crate::args::{Global, LabArgs};
use serde_json::{Value, json};

/// Prints where everything is.
pub fn announce(lab: &Lab, args: &LabArgs, global: &Global) {
    if global.json() {
        println!("{}", document(lab));
    } else {
        print!("{}", sentences(lab, args));
    }
}

fn host(lab: &Lab, role: Role) -> Value {
    let name = role.name();
    let mut host = json!({
        "name": name,
        "netns": lab.plan.netns(role),
        "interface": IFACE,
        "fabric_interface": role.fabric_iface(),
        "address": role.v4(),
        "address6": role.v6(),
        "mtu": role.mtu(),
    });
    if role.has_agent() {
        host["agent_socket"] = json!(lab.run.agent_socket(&name));
        host["agent_pid"] = json!(lab.processes.pid(&format!("agent {name}")));
        host["pin_dir"] = json!(lab.run.pins(&name));
    }
    if let Role::Node(_) = role {
        host["echo_pid"] = json!(lab.processes.pid(&format!("echo {name}")));
    }
    if role == Role::Origin {
        host["port"] = json!(super::plan::HTTP_PORT);
        host["pid"] = json!(lab.processes.pid("origin"));
    }
    host
}

/// The document of `--output json`.
pub fn document(lab: &Lab) -> Value {
    let roles = lab.plan.roles();
    let namespaces: serde_json::Map<String, Value> =
        std::iter::once(("fabric".to_owned(), json!(lab.plan.fabric())))
            .chain(roles.iter().map(|r| (r.name(), json!(lab.plan.netns(*r)))))
            .collect();
    let sockets: serde_json::Map<String, Value> =
        lab.agents().iter().map(|r| (r.name(), json!(lab.run.agent_socket(&r.name())))).collect();
    let pids: serde_json::Map<String, Value> =
        lab.state.processes.iter().map(|p| (p.name.clone(), json!(p.pid))).collect();
    let vips: Vec<Value> = VIPS
        .iter()
        .map(|v| {
            json!({"name": v.name, "address": v.address, "port": v.port, "protocol": v.protocol, "mode": v.mode})
        })
        .collect();
    json!({
        "event": "ready",
        "prefix": lab.plan.prefix,
        "pid": std::process::id(),
        "run_dir": lab.run.path(),
        "placements_dir": lab.run.placements(),
        "log_dir": lab.run.logs(),
        "site_host": SITE_HOST,
        "namespaces": namespaces,
        "vips": vips,
        "client": host(lab, Role::Client),
        "front": host(lab, Role::Front),
        "nodes": lab.nodes.iter().map(|n| host(lab, Role::Node(*n))).collect::<Vec<_>>(),
        "parent": host(lab, Role::Parent),
        "origin": host(lab, Role::Origin),
        "sockets": sockets,
        "pids": pids,
    })
}

/// Where to look, and commands that work as they stand.
pub fn sentences(lab: &Lab, args: &LabArgs) -> String {
    let client = lab.plan.netns(Role::Client);
    let front = lab.run.agent_socket("front").display().to_string();
    let node = lab.run.agent_socket("node1").display().to_string();
    let mut text = format!(
        "lab {:?} is up: client, front (balancer), {} nodes, parent, origin\n\
         placements   {}\n\
         logs         {}\n",
        lab.plan.prefix,
        lab.nodes.len(),
        lab.run.placements().display(),
        lab.run.logs().display(),
    );
    for v in &VIPS {
        text.push_str(&format!("VIP {:<10} {} {} ({})\n", v.name, v.protocol, v.socket(), v.mode));
    }
    if !args.no_load {
        return text;
    }
    text.push_str("\ntry:\n");
    for v in VIPS.iter().filter(|v| v.protocol == "tcp") {
        text.push_str(&format!(
            "  ip netns exec {client} curl -sS -o /dev/null -D - 'http://{}/obj/a?size=2048&ttl=60'\n",
            v.socket()
        ));
    }
    text.push_str(&format!(
        "  sluice --socket {front} get status\n  \
           sluice --socket {front} get backends\n  \
           sluice --socket {front} trace --packet 'tcp {}:40000 {}'\n  \
           sluice --socket {node} trace 'http://{SITE_HOST}/obj/a?size=2048&ttl=60'\n  \
           sluice --socket {node} stats\n  \
           sluice --socket {front} drain backend node1\n  \
           sluice --socket {front} undrain backend node1\n\nCtrl-C ends the lab and leaves nothing behind.\n",
        Role::Client.v4(),
        VIPS[0].socket(),
    ));
    text
}
