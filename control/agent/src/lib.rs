//! The node agent: ledger, plan, apply, observe.
