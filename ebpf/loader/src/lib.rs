//! Loads, pins, adopts, fills and reads the XDP and tc programs.
