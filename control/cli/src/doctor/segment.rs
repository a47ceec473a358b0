//! Which interfaces share a layer-2 segment: veth ends and bridge ports, across namespaces.

use super::facts::{Facts, Place};
use std::collections::BTreeMap;

/// Interfaces by segment.
#[derive(Debug, Default)]
pub struct Segments {
    of: BTreeMap<Place, usize>,
    members: Vec<Vec<Place>>,
}

impl Segments {
    /// Follows cables and bridges.
    pub fn of(facts: &Facts) -> Self {
        let mut edges: BTreeMap<Place, Vec<Place>> = BTreeMap::new();
        for (place, link) in facts.places() {
            let neighbours = edges.entry(place.clone()).or_default();
            neighbours.extend(link.peer.clone());
            if let Some(master) = &link.master {
                let bridge = Place { netns: place.netns.clone(), iface: master.clone() };
                neighbours.push(bridge.clone());
                edges.entry(bridge).or_default().push(place);
            }
        }
        let mut segments = Segments::default();
        for start in edges.keys() {
            if segments.of.contains_key(start) {
                continue;
            }
            let number = segments.members.len();
            let mut members = Vec::new();
            let mut to_visit = vec![start.clone()];
            while let Some(place) = to_visit.pop() {
                if segments.of.insert(place.clone(), number).is_none() {
                    to_visit.extend(edges.get(&place).into_iter().flatten().cloned());
                    members.push(place);
                }
            }
            members.sort();
            segments.members.push(members);
        }
        segments
    }

    /// Everything in the segment of `place`, itself too.
    pub fn members(&self, place: &Place) -> impl Iterator<Item = &Place> {
        self.of.get(place).and_then(|n| self.members.get(*n)).into_iter().flatten()
    }
}
