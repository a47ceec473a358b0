//! Properties of the planner: it ends, it repeats nothing, and any prefix of its steps may be the last.

use proptest::prelude::*;
use sluice_agent::host::Host;
use sluice_agent::host::fake::FakeHost;
use sluice_agent::model::{Decap, Goal, Place, ProxyGoal, ProxyRows, ProxySpec, VipGoal};
use sluice_agent::plan::{Step, plan};
use sluice_api::check::types::VipAddress;
use sluice_api::check::{check_set, parse_document};
use sluice_api::placement::Protocol;
use sluice_api::proxy_admin::GroupView;
use sluice_loader::{BackendSpec, Mode, Tracking, VipOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SLOTS: usize = 7;

fn backend(id: u16, alive: bool) -> BackendSpec {
    BackendSpec { id, addr4: Some([10, 0, 0, id as u8].into()), addr6: None, link: None, alive }
}

fn rows(sites: &BTreeSet<u8>, origins: u8) -> Arc<ProxyRows> {
    let mut text = String::from(
        "apiVersion: sluice/v1\nname: d\ngeneration: 1\nnetworks: [{name: n, cidr: 10.0.0.0/8}]\n\
         groups: [{name: g, listen: [\"0.0.0.0:80\"], members: [{name: m, address: \"10.0.0.1:80\"}]}]\norigins:\n",
    );
    for o in 0..=origins {
        text.push_str(&format!("  - {{name: o{o}, addresses: [\"10.0.0.{}:80\"]}}\n", o + 1));
    }
    text.push_str("sites:\n  - {host: fixed.example, origin: o0, group: g}\n");
    for s in sites {
        text.push_str(&format!("  - {{host: s{s}.example, origin: o{}, group: g}}\n", s % (origins + 1)));
    }
    let document = parse_document(text.as_bytes()).expect("document");
    let desired = check_set([&document]).expect("set");
    let named: BTreeSet<&str> = desired.sites().iter().map(|s| s.raw().origin.as_str()).collect();
    let view = GroupView {
        own_name: "m".into(),
        members: Vec::new(),
        parents: Vec::new(),
        bounded_load_percent: 125 + u32::from(origins),
        down: Vec::new(),
    };
    let origins = named.into_iter().map(|name| desired.origins()[name].clone()).collect();
    Arc::new(ProxyRows { own_group: "g".into(), view, origins, sites: desired.sites().to_vec() })
}

fn proxy() -> impl Strategy<Value = Option<ProxyGoal>> {
    let some = (prop::collection::btree_set(0..6u8, 0..5), 0..3u8, any::<bool>(), 0..2u64).prop_map(
        |(sites, origins, drain, cache)| ProxyGoal {
            spec: ProxySpec { listen: Vec::new(), cache_bytes: cache },
            rows: rows(&sites, origins),
            drain,
            revision_floor: 3,
        },
    );
    prop::option::of(some)
}

fn goal() -> impl Strategy<Value = Goal> {
    let backends = prop::collection::btree_map(1..6u16, any::<bool>(), 0..5);
    let vips = prop::collection::btree_map(1..4u16, (0..4u8, 1..3u32, any::<prop::sample::Selector>()), 0..3);
    let addresses = prop::collection::btree_map(1..4u8, any::<bool>(), 0..3);
    let routes = prop::option::of(prop::collection::btree_set(1..4u8, 0..3));
    (backends, vips, addresses, prop::option::of(1..4u8), proxy(), routes).prop_map(
        |(backends, vips, addresses, decap, proxy, routes)| {
            let ids: Vec<u16> = backends.keys().copied().chain([0]).collect();
            let vip = |(port, (mode, idle, pick)): (u16, (u8, u32, prop::sample::Selector))| {
                let key = VipAddress { address: [192, 0, 2, 1].into(), port, protocol: Protocol::Tcp };
                let mode =
                    [Mode::L2Direct, Mode::Ipip, Mode::Local, Mode::Gue { port: 6080 }][usize::from(mode)];
                let tracking = [Tracking::Window, Tracking::Always, Tracking::Never][usize::from(port) % 3];
                let options = VipOptions { tracking };
                let owners: Vec<u16> = match mode {
                    Mode::Local => Vec::new(),
                    _ => (0..SLOTS).map(|_| *pick.select(&ids)).collect(),
                };
                (key, VipGoal { mode, flow_idle_ms: idle, options, owners: owners.into() })
            };
            let vips: BTreeMap<_, _> = vips.into_iter().map(vip).collect();
            let place = |hidden| if hidden { Place::Hidden } else { Place::Announced };
            Goal {
                backends: if vips.is_empty() {
                    BTreeMap::new()
                } else {
                    backends.into_iter().map(|(id, alive)| (id, backend(id, alive))).collect()
                },
                vips,
                addresses: addresses.into_iter().map(|(a, h)| ([192, 0, 2, a].into(), place(h))).collect(),
                decap: decap.map(|a| Decap {
                    ipip: BTreeSet::from([[10, 0, 0, a].into()]),
                    inner: BTreeSet::from([[192, 0, 2, a].into()]),
                    ..Decap::default()
                }),
                proxy,
                routes: routes.map(|all| all.into_iter().map(|a| [192, 0, 2, a].into()).collect()),
            }
        },
    )
}

/// Carries out steps on a node that checks them, keeping what the agent believes in step.
fn carry_out(host: &mut FakeHost, observed: &mut sluice_agent::model::Observed, steps: &[Step]) {
    for step in steps {
        host.apply(step).unwrap_or_else(|e| panic!("{step}: {e}"));
        observed.apply(step);
    }
    if let (Some(mine), Some(real)) = (&mut observed.proxy, &host.state.proxy) {
        mine.pid = real.pid;
    }
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(goals in prop::collection::vec(goal(), 1..4)) {
        let mut host = FakeHost::new();
        let mut observed = host.observe().expect("observe");
        for goal in &goals {
            let steps = plan(goal, &observed);
            prop_assert_eq!(&steps, &plan(goal, &observed), "deterministic");
            carry_out(&mut host, &mut observed, &steps);
            prop_assert_eq!(plan(goal, &observed), Vec::new());
            prop_assert_eq!(&observed, &host.state);
        }
    }

    #[test]
    fn a_crash_after_any_step_is_mended_by_the_next_plan(
        first in goal(), second in goal(), at in any::<prop::sample::Index>()
    ) {
        let mut host = FakeHost::new();
        let mut observed = host.observe().expect("observe");
        let steps = plan(&first, &observed);
        carry_out(&mut host, &mut observed, &steps);
        let steps = plan(&second, &observed);
        let done = at.index(steps.len() + 1);
        carry_out(&mut host, &mut observed, &steps[..done]);
        // A new agent knows what it sees, and not what the proxy's rows are.
        let mut observed = host.observe().expect("observe");
        let steps = plan(&second, &observed);
        carry_out(&mut host, &mut observed, &steps);
        prop_assert_eq!(plan(&second, &observed), Vec::new());
    }
}
