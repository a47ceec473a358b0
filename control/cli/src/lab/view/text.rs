//! A line a second, and a summary in sentences.

use super::View;
use crate::lab::observe::{Sample, nonzero};
use serde_json::Value;

/// Prints lines.
#[derive(Default)]
pub struct Lines;

impl View for Lines {
    fn sample(&mut self, sample: &Sample) {
        println!("{}", line(sample));
        for event in &sample.events {
            println!("       {event}");
        }
    }
}

/// Milliseconds of microseconds.
pub fn ms(us: Option<&f64>) -> String {
    us.map_or("-".into(), |us| format!("{:.1}", us / 1000.0))
}

fn line(s: &Sample) -> String {
    let mut text = format!("{:>4} s", s.t_s);
    if let Some(load) = &s.load {
        let p = |name: &str| ms(load.latency_us.get(name));
        text.push_str(&format!(
            "  {:>5} req/s  {} errors  p50 {} p99 {} p99.9 {} ms",
            load.requests,
            load.errors,
            p("p50"),
            p("p99"),
            p("p999")
        ));
        if let Some(ratio) = load.hit_ratio {
            text.push_str(&format!("  hits {:.0} %", ratio * 100.0));
        }
        let total: u64 = load.served_by.values().sum();
        for (node, n) in &load.served_by {
            text.push_str(&format!("  {node} {:.0} %", *n as f64 * 100.0 / total as f64));
        }
    }
    let drops = nonzero(&s.drops);
    text.push_str(&format!("  drops: {}", if drops.is_empty() { "none".into() } else { drops.join(", ") }));
    text.push_str(&format!("  {}", agents(s)));
    text
}

/// `all 5 agents at balancer 1, cache 1`, or which are not.
pub fn agents(s: &Sample) -> String {
    let behind: Vec<String> = s
        .agents
        .iter()
        .filter(|a| !a.reachable || !a.converged || a.documents.iter().any(|d| d.1 != d.2 || d.3))
        .map(|a| match (a.reachable, a.converged, a.documents.iter().find(|d| d.3)) {
            (false, ..) => format!("{} silent", a.node),
            (_, _, Some(d)) => format!("{} refuses a new {}", a.node, d.0),
            _ => format!("{} working", a.node),
        })
        .collect();
    if !behind.is_empty() {
        return behind.join(", ");
    }
    let documents = s.agents.first().map_or(&[][..], |a| &a.documents);
    let generations: Vec<String> = documents.iter().map(|d| format!("{} {}", d.0, d.2)).collect();
    format!("{} agents at {}", s.agents.len(), generations.join(", "))
}

/// The summary document in sentences.
pub fn summary(document: &Value) -> String {
    let number = |name: &str| document[name].as_u64().unwrap_or(0);
    let mut text = format!("{} requests, {} errors", number("requests"), number("errors"));
    if let Some(classes) = document["errors_by_class"].as_object().filter(|c| !c.is_empty()) {
        let classes: Vec<String> = classes.iter().map(|(class, n)| format!("{class} {n}")).collect();
        text.push_str(&format!(" ({})", classes.join(", ")));
    }
    if let Some(latency) = document["latency_us"].as_object() {
        let p = |name: &str| ms(latency.get(name).and_then(Value::as_f64).as_ref());
        text.push_str(&format!(
            "\nlatency p50 {} p90 {} p99 {} p99.9 {} max {} ms, from the intended send",
            p("p50"),
            p("p90"),
            p("p99"),
            p("p999"),
            p("max")
        ));
    }
    if let Some(ratio) = document["hit_ratio"].as_f64() {
        text.push_str(&format!("\nanswered from a store: {:.1} %", ratio * 100.0));
    }
    if let Some(nodes) = document["served_by"].as_object().filter(|n| !n.is_empty()) {
        let nodes: Vec<String> = nodes.iter().map(|(node, n)| format!("{node} {n}")).collect();
        text.push_str(&format!("\nserved by: {}", nodes.join(", ")));
    }
    for udp in document["udp"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "\nudp: {} sent, {} answered, {} lost, {} of {} flows moved",
            udp["requests"], udp["answered"], udp["lost"], udp["moved"], udp["flows"]
        ));
    }
    let drops: Vec<String> = document["drops"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, n)| n.as_u64() != Some(0))
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    text.push_str(&format!("\ndrops: {}\n", if drops.is_empty() { "none".into() } else { drops.join(", ") }));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::load::Interval;
    use crate::lab::observe::AgentSample;

    fn agent(observed: u64, refused: bool) -> AgentSample {
        AgentSample {
            node: "front".into(),
            reachable: true,
            converged: true,
            documents: vec![("balancer".into(), 2, observed, refused)],
            proxy_restarts: 0,
        }
    }

    #[test]
    fn a_line_tells_load_drops_and_agents() {
        let sample = Sample {
            t_s: 3,
            load: Some(Interval {
                requests: 2000,
                latency_us: [("p50".to_owned(), 1234.0)].into(),
                hit_ratio: Some(0.5),
                served_by: [("node1".to_owned(), 500), ("node2".to_owned(), 1500)].into(),
                ..Interval::default()
            }),
            drops: [("backend_unreachable".to_owned(), 4), ("truncated".to_owned(), 0)].into(),
            agents: vec![agent(2, false)],
            ..Sample::default()
        };
        assert_eq!(
            line(&sample),
            "   3 s   2000 req/s  0 errors  p50 1.2 p99 - p99.9 - ms  hits 50 %  node1 25 %  node2 75 %  \
             drops: backend_unreachable 4  1 agents at balancer 2"
        );
    }

    #[test]
    fn agents_that_are_behind_refuse_or_are_silent_are_named() {
        let with = |a: AgentSample| agents(&Sample { agents: vec![a], ..Sample::default() });
        assert_eq!(with(agent(1, false)), "front working");
        assert_eq!(with(agent(2, true)), "front refuses a new balancer");
        assert_eq!(with(AgentSample { node: "n".into(), ..AgentSample::default() }), "n silent");
    }
}
