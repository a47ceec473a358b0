//! Consistent hashing with bounded load over the members of a group.
//!
//! Every machine of a group builds the same ring from the same member rows, whatever their order: points follow
//! from names and weights alone. After D. Karger et al., "Consistent hashing and random trees" (STOC 1997), and
//! V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent hashing with bounded loads" (SODA 2018).
//!
//! What must stay true:
//! * Adding, removing or weighing one member moves only keys that it gains or loses.
//! * A member that is down or drains keeps its points and is stepped over: its keys go to their next owners, and come
//!   back to it when it does.
//! * [`Ring::pick`] never names a member at its cap while another is below its own, and there always is one.

mod hot;
mod points;

pub use hot::HotKeys;

use points::{Jump, member_points};

/// Members of a ring: a set of them is four words.
pub const MEMBERS_MAX: usize = 256;
/// Points per unit of weight. At the usual weight of 100 a member has 400: the shares of equal members then differ by
/// 5 % (standard deviation), and bounded load takes off the rest.
pub const POINTS_PER_WEIGHT: u32 = 4;

/// A member as the ring sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// Its name: the only thing its points follow from.
    pub name: String,
    /// Share of the keys, 1..=1000.
    pub weight: u32,
    /// Takes keys: active and not down.
    pub up: bool,
}

/// Why a ring cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Too many members.
    #[error("{0} members are more than {MEMBERS_MAX}")]
    TooMany(usize),
    /// A name is there twice.
    #[error("member {0:?} is there twice")]
    Twice(String),
    /// A weight is out of range.
    #[error("weight {1} of member {0:?} is not within 1..=1000")]
    Weight(String, u32),
}

/// A set of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct MemberSet([u64; MEMBERS_MAX / 64]);

impl MemberSet {
    fn insert(&mut self, member: u16) -> bool {
        let word = &mut self.0[usize::from(member) / 64];
        let bit = 1 << (member % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn len(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }
}

/// A group's ring.
#[derive(Clone, Debug)]
pub struct Ring {
    members: Vec<RingMember>,
    /// Points in ascending order.
    points: Vec<u64>,
    /// Member of each point.
    owners: Vec<u16>,
    jump: Jump,
    /// Members that do not take keys.
    skipped: MemberSet,
    weight_up: u64,
}

impl Ring {
    /// Builds a ring. Member indexes in all answers are those of the list given.
    pub fn new(members: Vec<RingMember>) -> Result<Self, RingError> {
        if members.len() > MEMBERS_MAX {
            return Err(RingError::TooMany(members.len()));
        }
        let mut points = Vec::new();
        let mut skipped = MemberSet::default();
        for (index, member) in members.iter().enumerate() {
            if !(1..=1000).contains(&member.weight) {
                return Err(RingError::Weight(member.name.clone(), member.weight));
            }
            if members[..index].iter().any(|m| m.name == member.name) {
                return Err(RingError::Twice(member.name.clone()));
            }
            let count = member.weight * POINTS_PER_WEIGHT;
            points.extend(member_points(&member.name, count).map(|point| (point, index as u16)));
            if !member.up {
                skipped.insert(index as u16);
            }
        }
        // Equal points (one in 2^64 pairs) are ordered by name, which all machines agree on.
        points.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| members[usize::from(a.1)].name.cmp(&members[usize::from(b.1)].name))
        });
        let (points, owners): (Vec<u64>, Vec<u16>) = points.into_iter().unzip();
        let weight_up = members.iter().filter(|m| m.up).map(|m| u64::from(m.weight)).sum();
        Ok(Self { jump: Jump::new(&points), members, points, owners, skipped, weight_up })
    }

    /// The members, in the order given.
    pub fn members(&self) -> &[RingMember] {
        &self.members
    }

    /// The first owner of a key that is up.
    #[inline]
    pub fn owner(&self, key_hash: u64) -> Option<usize> {
        let first = *self.owners.get(self.first_point(key_hash))?;
        if self.skipped == MemberSet::default() {
            return Some(usize::from(first));
        }
        self.owners(key_hash).next()
    }

    /// Members that are up, in ring order for a key, each once.
    pub fn owners(&self, key_hash: u64) -> Owners<'_> {
        Owners { ring: self, at: self.first_point(key_hash), seen: self.skipped }
    }

    /// All members in ring order for a key, those that are down or drain too: for showing where a key would go.
    pub fn all_owners(&self, key_hash: u64) -> Owners<'_> {
        Owners { ring: self, at: self.first_point(key_hash), seen: MemberSet::default() }
    }

    /// The first owner below its cap, `load_percent` of its fair share of the load with one more request counted.
    ///
    /// `load_of` gives the requests in flight at each member as far as this machine knows. `None` only when no member
    /// is up.
    pub fn pick(&self, key_hash: u64, load_percent: u32, load_of: impl Fn(usize) -> u64) -> Option<usize> {
        let total = self.total_load(&load_of);
        self.owners(key_hash).find(|&m| load_of(m) < self.cap(m, load_percent, total))
    }

    /// Requests that a member may have in flight when `total` are in flight at all members that are up: the next one
    /// counts, and the cap is rounded up, so that caps always add up to more than the load.
    pub fn cap(&self, member: usize, load_percent: u32, total: u64) -> u64 {
        let percent = u128::from(load_percent.max(100));
        let share = u128::from(total + 1) * percent * u128::from(self.members[member].weight);
        share.div_ceil(100 * u128::from(self.weight_up.max(1))) as u64
    }

    /// Load of all members that are up.
    pub fn total_load(&self, load_of: impl Fn(usize) -> u64) -> u64 {
        self.members.iter().enumerate().filter(|(_, m)| m.up).map(|(i, _)| load_of(i)).sum()
    }

    /// Index of the first point at or behind a hash; 0 behind the last.
    #[inline]
    fn first_point(&self, key_hash: u64) -> usize {
        let at = self.jump.find(&self.points, key_hash);
        if at == self.points.len() { 0 } else { at }
    }
}

/// Iterator of [`Ring::owners`].
#[derive(Clone, Debug)]
pub struct Owners<'a> {
    ring: &'a Ring,
    at: usize,
    seen: MemberSet,
}

impl Iterator for Owners<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while (self.seen.len() as usize) < self.ring.members.len() {
            let member = self.ring.owners[self.at];
            self.at = if self.at + 1 == self.ring.owners.len() { 0 } else { self.at + 1 };
            if self.seen.insert(member) {
                return Some(usize::from(member));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
