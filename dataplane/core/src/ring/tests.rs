//! Golden vectors, balance, disruption, bounded load.

use super::*;
use proptest::prelude::*;

fn members(n: usize) -> Vec<RingMember> {
    (0..n).map(|i| RingMember { name: format!("n{i}"), weight: 100, up: true }).collect()
}

fn key(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd134_2543_de82_ef95)
}

/// Two machines must agree: these values are part of the protocol and never change. They were computed by another
/// implementation of SipHash-2-4-128 and a linear search.
#[test]
fn golden_vectors() {
    let points: Vec<u64> = member_points("n1", 3).collect();
    assert_eq!(points, GOLDEN_POINTS);
    let ring = Ring::new(members(5)).unwrap();
    let owners: Vec<Vec<usize>> = (0..4).map(|n| ring.owners(key(n)).collect()).collect();
    assert_eq!(owners, GOLDEN_OWNERS);
}

const GOLDEN_POINTS: [u64; 3] = [10652643056533636301, 14746814596992634063, 4556161779563971215];
const GOLDEN_OWNERS: [[usize; 5]; 4] = [[0, 4, 2, 3, 1], [1, 2, 4, 3, 0], [4, 3, 0, 2, 1], [2, 3, 4, 0, 1]];

#[test]
fn order_of_rows_does_not_matter() {
    let ring = Ring::new(members(7)).unwrap();
    let mut turned = members(7);
    turned.rotate_left(3);
    let turned = Ring::new(turned).unwrap();
    for n in 0..2000 {
        let name = |ring: &Ring, m: usize| ring.members()[m].name.clone();
        let a: Vec<_> = ring.owners(key(n)).map(|m| name(&ring, m)).collect();
        let b: Vec<_> = turned.owners(key(n)).map(|m| name(&turned, m)).collect();
        assert_eq!(a, b);
    }
}

#[test]
fn shares_follow_weights() {
    let mut list = members(20);
    list[3].weight = 300;
    list[4].weight = 10;
    let ring = Ring::new(list).unwrap();
    let total: f64 = ring.members().iter().map(|m| f64::from(m.weight)).sum();
    let mut got = [0f64; 20];
    (0..200_000).for_each(|n| got[ring.owner(key(n)).unwrap()] += 1.0 / 200_000.0);
    for (member, got) in ring.members().iter().zip(got) {
        let fair = f64::from(member.weight) / total;
        // Four standard deviations of a share of k points: 4 / sqrt(k).
        let slack = 4.0 / f64::from(member.weight * POINTS_PER_WEIGHT).sqrt();
        assert!((got / fair - 1.0).abs() < slack, "{} has {got}, fair is {fair}", member.name);
    }
}

#[test]
fn losing_a_member_moves_its_keys_only() {
    for n in [3, 10, 50] {
        let before = Ring::new(members(n)).unwrap();
        let after = Ring::new(members(n - 1)).unwrap();
        let mut down = members(n);
        down[n - 1].up = false;
        let down = Ring::new(down).unwrap();
        let mut moved = 0;
        for k in (0..20_000).map(key) {
            let owner = before.owner(k).unwrap();
            assert_eq!(after.owner(k), down.owner(k), "down and gone send keys to the same places");
            if owner == n - 1 {
                moved += 1;
                assert_eq!(after.owner(k), before.owners(k).nth(1), "to the next owner");
            } else {
                assert_eq!(after.owner(k), Some(owner));
            }
        }
        let share = f64::from(moved) * n as f64 / 20_000.0;
        assert!((0.8..1.2).contains(&share), "{share} of a fair share moved");
    }
}

#[test]
fn no_member_up_means_no_owner() {
    assert_eq!(Ring::new(vec![]).unwrap().owner(1), None);
    let mut list = members(3);
    list.iter_mut().for_each(|m| m.up = false);
    let ring = Ring::new(list).unwrap();
    assert_eq!((ring.owner(1), ring.pick(1, 125, |_| 0)), (None, None));
    assert_eq!(ring.all_owners(1).count(), 3);
}

#[test]
fn bad_members_are_refused() {
    let mut list = members(2);
    list[1].name = "n0".into();
    assert_eq!(Ring::new(list.clone()).unwrap_err(), RingError::Twice("n0".into()));
    list[0].weight = 0;
    assert_eq!(Ring::new(list).unwrap_err(), RingError::Weight("n0".into(), 0));
    assert_eq!(Ring::new(members(257)).unwrap_err(), RingError::TooMany(257));
}

proptest! {
    #[test]
    fn the_cap_is_never_exceeded_and_someone_is_always_below_it(
        rows in prop::collection::vec((1u32..1000, prop::bool::weighted(0.8)), 1..30),
        percent in 101u32..400,
        keys in prop::collection::vec((0u64..20, any::<bool>()), 1..600),
    ) {
        let list: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(i, (weight, up))| RingMember { name: format!("m{i}"), weight: *weight, up: *up })
            .collect();
        let any_up = list.iter().any(|m| m.up);
        let ring = Ring::new(list).unwrap();
        let mut load = vec![0u64; rows.len()];
        for (k, leave) in keys {
            let total: u64 = load.iter().sum();
            let Some(member) = ring.pick(key(k), percent, |m| load[m]) else {
                prop_assert!(!any_up);
                continue;
            };
            prop_assert!(ring.members()[member].up);
            load[member] += 1;
            prop_assert!(load[member] <= ring.cap(member, percent, total));
            let skipped = ring.owners(key(k)).take_while(|m| *m != member);
            for earlier in skipped {
                prop_assert!(load[earlier] >= ring.cap(earlier, percent, total), "an earlier owner had room");
            }
            if leave {
                // A request ends: any member's load may fall.
                let busiest = (0..load.len()).max_by_key(|m| load[*m]).unwrap();
                load[busiest] -= 1;
            }
        }
    }

    #[test]
    fn every_member_is_an_owner_once(n in 1usize..40, k in any::<u64>()) {
        let ring = Ring::new(members(n)).unwrap();
        let mut all: Vec<_> = ring.owners(k).collect();
        prop_assert_eq!(ring.owner(k), all.first().copied());
        all.sort_unstable();
        prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn jumping_agrees_with_searching(points in prop::collection::btree_set(any::<u64>(), 0..300), hash in any::<u64>()) {
        let points: Vec<u64> = points.into_iter().collect();
        let jump = Jump::new(&points);
        for hash in points.iter().copied().chain([hash, 0, u64::MAX]) {
            prop_assert_eq!(jump.find(&points, hash), points.partition_point(|p| *p < hash));
        }
    }
}
