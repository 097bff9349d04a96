//! The product's own binary.

fn main() {}
