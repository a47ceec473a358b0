//! Consistent hashing with bounded load over the members of a group.
