//! Host and path routing over a table made for 100,000 domains.
