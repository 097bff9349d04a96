//! Runs the simulators, or the whole local stack.

fn main() {}
