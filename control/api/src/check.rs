//! From raw documents to a checked desired state.
