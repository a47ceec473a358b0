//! Weighted Maglev (Eisenbud et al., NSDI 2016, section 3.4) over [`sluice_abi::SLOTS`] slots.
//!
//! A table is a function of the names and weights alone: every balancer of a group computes the same owners,
//! whatever order it learned the backends in and whatever ids it gave them.
//!
//! Each backend has a permutation of the slots; backends take turns, and in its turn one takes the first slot
//! of its permutation that is still free. Weights say how many turns: in a round a backend earns its weight
//! and spends the largest weight a turn. Shares are within a few slots of exact; a change of one backend moves
//! its own slots and few others (the tests state the bounds).

use sluice_abi::SLOTS;
use sluice_abi::hash::mix64;

/// A backend as the table sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member<'a> {
    /// What its permutation is made from.
    pub name: &'a str,
    /// Share; 0 takes no slot.
    pub weight: u32,
    /// What its slots hold.
    pub id: u16,
}

/// A backend taking turns.
struct Taker {
    at: u32,
    skip: u32,
    weight: u64,
    credit: u64,
    id: u16,
}

impl Taker {
    fn new(member: &Member<'_>) -> Self {
        let hash = name_hash(member.name);
        // SLOTS is prime, so every skip from 1 to SLOTS - 1 gives a permutation.
        let at = (hash >> 32) as u32 % SLOTS;
        let skip = mix64(hash) as u32 % (SLOTS - 1) + 1;
        Self { at, skip, weight: u64::from(member.weight), credit: 0, id: member.id }
    }

    /// Takes its next free slot; there is one.
    fn take(&mut self, owners: &mut [u16]) {
        while owners[self.at as usize] != 0 {
            self.advance();
        }
        owners[self.at as usize] = self.id;
        self.advance();
    }

    fn advance(&mut self) {
        self.at += self.skip;
        if self.at >= SLOTS {
            self.at -= SLOTS;
        }
    }
}

/// Hash of a name: eight little-endian bytes at a time, then the length.
fn name_hash(name: &str) -> u64 {
    let mut x = 0x736c_7569_6365_0001;
    for chunk in name.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        x = mix64(x ^ u64::from_le_bytes(word));
    }
    mix64(x ^ name.len() as u64)
}

/// The owner of every slot; 0 everywhere when nobody has weight. Ids are not 0 and names not given twice.
pub fn owners(members: &[Member<'_>]) -> Vec<u16> {
    let mut owners = vec![0u16; SLOTS as usize];
    let mut sorted: Vec<&Member<'_>> = members.iter().filter(|m| m.weight > 0).collect();
    sorted.sort_by_key(|m| m.name);
    let Some(largest) = sorted.iter().map(|m| u64::from(m.weight)).max() else { return owners };
    let mut takers: Vec<Taker> = sorted.into_iter().map(Taker::new).collect();
    let mut free = SLOTS;
    loop {
        for taker in &mut takers {
            taker.credit += taker.weight;
            if taker.credit < largest {
                continue;
            }
            taker.credit -= largest;
            taker.take(&mut owners);
            free -= 1;
            if free == 0 {
                return owners;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("backend-{i}")).collect()
    }

    fn table(names: &[String], weight: impl Fn(usize) -> u32) -> Vec<u16> {
        let members: Vec<Member<'_>> = names
            .iter()
            .enumerate()
            .map(|(i, name)| Member { name, weight: weight(i), id: i as u16 + 1 })
            .collect();
        owners(&members)
    }

    fn counts(owners: &[u16], n: usize) -> Vec<usize> {
        let mut counts = vec![0; n + 1];
        owners.iter().for_each(|&o| counts[usize::from(o)] += 1);
        counts
    }

    #[test]
    fn nobody_owns_the_slots_of_an_empty_table() {
        assert!(owners(&[]).iter().all(|&o| o == 0));
        assert!(table(&names(3), |_| 0).iter().all(|&o| o == 0));
    }

    #[test]
    fn golden_vectors() {
        assert_eq!(name_hash(""), mix64(0x736c_7569_6365_0001));
        let t = table(&names(3), |_| 100);
        let digest = t.iter().fold(0u64, |x, &o| mix64(x ^ u64::from(o)));
        assert_eq!((&t[..8], digest), (GOLDEN_HEAD, GOLDEN_DIGEST), "two versions in a group would disagree");
    }
    const GOLDEN_HEAD: &[u16] = &[3, 3, 2, 1, 1, 3, 1, 1];
    const GOLDEN_DIGEST: u64 = 12_133_906_622_562_291_902;

    #[test]
    fn equal_weights_differ_by_one_slot() {
        for n in [1, 2, 3, 7, 100, 1000] {
            let c = counts(&table(&names(n), |_| 100), n);
            let (low, high) = (c[1..].iter().min().unwrap(), c[1..].iter().max().unwrap());
            assert!(c[0] == 0 && high - low <= 1, "{n} backends: {low}..={high}");
        }
    }

    #[test]
    fn losing_one_of_many_moves_little_else() {
        for n in [3usize, 10, 100, 1000] {
            let names = names(n);
            let before = table(&names, |_| 100);
            let after = table(&names, |i| if i == n / 2 { 0 } else { 100 });
            let gone = (n / 2) as u16 + 1;
            let moved = before.iter().zip(&after).filter(|(b, a)| b != a && **b != gone).count();
            let share = moved as f64 / f64::from(SLOTS);
            // The paper's figure 12: some percent beyond the slots of the lost backend.
            assert!(share < 0.06, "{n} backends: {share} of all slots moved without need");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(0u32..=1000, 1..40)) {
            let names = names(weights.len());
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            prop_assume!(total > 0);
            let c = counts(&table(&names, |i| weights[i]), names.len());
            for (i, &w) in weights.iter().enumerate() {
                let exact = f64::from(w) / total as f64 * f64::from(SLOTS);
                // A round gives each backend at most one turn too few, so all together are up to a turn a
                // backend short of exact, and what they lack goes to everyone by weight.
                let bound = 2.0 + weights.len() as f64 * f64::from(w) / total as f64;
                let off = (c[i + 1] as f64 - exact).abs();
                prop_assert!(off <= bound, "weight {w}: {} slots, exact {exact}, bound {bound}", c[i + 1]);
            }
        }

        #[test]
        fn order_and_ids_do_not_matter(seed in any::<u64>(), n in 1usize..30) {
            let names = names(n);
            let plain = table(&names, |i| (i as u32 % 5) * 50 + 50);
            let mut shuffled: Vec<Member<'_>> = names.iter().enumerate()
                .map(|(i, name)| Member { name, weight: (i as u32 % 5) * 50 + 50, id: 900 - i as u16 }).collect();
            shuffled.sort_by_key(|m| mix64(seed ^ u64::from(m.id)));
            let other = owners(&shuffled);
            prop_assert!(plain.iter().zip(&other).all(|(a, b)| 901 - a == *b));
        }
    }
}
