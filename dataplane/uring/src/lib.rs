//! The io_uring driver, the Io trait and its simulated twin.
