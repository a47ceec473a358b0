//! The rules of the agent family, one function each.

use super::kernel::Kernel;
use crate::report::{Check, Violation};
use sluice_agent::ledger::Kept;
use sluice_api::placement::{Document, Protocol};
use sluice_api::rest::DrainRequest;
use sluice_api::status::NodeStatus;
use std::collections::{BTreeMap, BTreeSet};

/// What a node holds is a version that the operator wrote, of that number and with that content.
pub fn documents_are_the_operators(
    node: &str,
    kept: &BTreeMap<String, Kept>,
    versions: &BTreeMap<(String, u64), Vec<u8>>,
) -> Check {
    for (name, kept) in kept {
        if versions.get(&(name.clone(), kept.generation)) != Some(&kept.text) {
            return Err(Violation::new(
                "documents_are_the_operators",
                format!("{node} holds {name} {}: {}", kept.generation, String::from_utf8_lossy(&kept.text)),
            ));
        }
    }
    Ok(())
}

/// What was durable once is not lost, and no number goes back.
pub fn generations_grow(node: &str, durable: &BTreeMap<String, u64>, kept: &BTreeMap<String, Kept>) -> Check {
    for (name, before) in durable {
        let now = kept.get(name).map(|k| k.generation);
        if now.is_none_or(|now| now < *before) {
            return Err(Violation::new(
                "generations_grow",
                format!("{node} held {name} {before} durably and holds {now:?} now"),
            ));
        }
    }
    Ok(())
}

/// The status of one agent process never takes a generation back, and never reports one it does not hold.
pub fn status_grows(node: &str, reported: &mut BTreeMap<String, u64>, status: &NodeStatus) -> Check {
    for document in &status.documents {
        let before = reported.insert(document.name.clone(), document.observed_generation).unwrap_or(0);
        if document.observed_generation < before || document.observed_generation > document.generation {
            return Err(Violation::new(
                "status_grows",
                format!("{node} reported {before}, now {document:?}"),
            ));
        }
    }
    Ok(())
}

/// A ledger that held something opens after whatever befell its disk.
pub fn ledger_opens(node: &str, held_something: bool, error: &str) -> Check {
    if held_something { Err(Violation::new("ledger_opens", format!("{node}: {error}"))) } else { Ok(()) }
}

/// A drain that was acknowledged survives.
pub fn drains_survive(
    node: &str,
    acknowledged: &BTreeSet<DrainRequest>,
    in_force: &BTreeSet<DrainRequest>,
) -> Check {
    match acknowledged.difference(in_force).next() {
        None => Ok(()),
        Some(lost) => Err(Violation::new("drains_survive", format!("{node} lost {lost:?}"))),
    }
}

/// After the faults every agent holds the operator's newest documents and has carried them out.
pub fn converges(
    node: &str,
    status: &NodeStatus,
    converged: bool,
    newest: &BTreeMap<String, Document>,
) -> Check {
    let wrong = |what: String| Err(Violation::new("converges", format!("{node}: {what}; status {status:?}")));
    if !converged || !status.converged || !status.errors.is_empty() {
        return wrong("not in step".to_owned());
    }
    if status.documents.len() != newest.len() {
        return wrong(format!("{} documents are newest", newest.len()));
    }
    for document in &status.documents {
        let wanted = newest.get(&document.name).map(|d| d.generation);
        if wanted != Some(document.generation) || document.observed_generation != document.generation {
            return wrong(format!("{wanted:?} is newest of {}", document.name));
        }
        if !document.refused.is_empty() {
            return wrong(format!("{} is refused", document.name));
        }
    }
    Ok(())
}

/// The kernel tables and the proxy have what the documents say of this node, worked out without the agent.
pub fn tables_are_the_documents(node: &str, kernel: &Kernel, newest: &BTreeMap<String, Document>) -> Check {
    let wrong = |what: String| Err(Violation::new("tables_are_the_documents", format!("{node}: {what}")));
    let here = newest.values().flat_map(|d| &d.vips).filter(|v| v.nodes.iter().any(|n| n == node));
    let wanted: BTreeSet<String> = here
        .map(|v| {
            let address = v.address.parse().map(|a| std::net::SocketAddr::new(a, v.port));
            let protocol = if v.protocol == Protocol::Tcp { "tcp" } else { "udp" };
            address.map(|a| format!("{a}/{protocol}")).unwrap_or_default()
        })
        .collect();
    let held: BTreeSet<String> = kernel.fake.state.vips.keys().map(ToString::to_string).collect();
    if wanted != held {
        return wrong(format!("VIPs {held:?} in the tables, {wanted:?} in the documents"));
    }
    if let Some(vip) = kernel.unsettled() {
        return wrong(format!("a window of {vip} is open long after the last change"));
    }
    let group = newest.values().flat_map(|d| &d.groups).find(|g| g.members.iter().any(|m| m.name == node));
    let sites: BTreeSet<&str> = match group {
        Some(group) => newest
            .values()
            .flat_map(|d| &d.sites)
            .filter(|s| s.group == group.name)
            .map(|s| s.host.as_str())
            .collect(),
        None => BTreeSet::new(),
    };
    let served: BTreeSet<&str> = kernel.fake.proxy.sites.keys().map(String::as_str).collect();
    if sites != served || group.is_some() != kernel.fake.state.proxy.is_some() {
        return wrong(format!("the proxy serves {served:?}, the documents say {sites:?}"));
    }
    Ok(())
}

/// An agent that starts on a node in order carries out no step.
pub fn restart_changes_nothing(node: &str, before: usize, steps: &[String]) -> Check {
    if steps.len() == before {
        return Ok(());
    }
    Err(Violation::new("restart_changes_nothing", format!("{node}: {:?}", &steps[before..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(generation: u64) -> BTreeMap<String, Kept> {
        BTreeMap::from([("d".to_owned(), Kept { generation, file: String::new(), text: vec![1] })])
    }

    #[test]
    fn each_rule_can_fail() {
        let versions = BTreeMap::from([(("d".to_owned(), 2), vec![1])]);
        assert_eq!(documents_are_the_operators("n", &kept(2), &versions), Ok(()));
        assert!(documents_are_the_operators("n", &kept(3), &versions).is_err());
        let durable = BTreeMap::from([("d".to_owned(), 2)]);
        assert_eq!(generations_grow("n", &durable, &kept(3)), Ok(()));
        assert!(generations_grow("n", &durable, &kept(1)).is_err());
        assert!(generations_grow("n", &durable, &BTreeMap::new()).is_err());
        assert!(ledger_opens("n", true, "damaged").is_err());
        assert!(restart_changes_nothing("n", 0, &["a step".to_owned()]).is_err());
        assert!(converges("n", &NodeStatus::default(), false, &BTreeMap::new()).is_err());
    }
}
