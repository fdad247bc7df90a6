//! The bert4rs program.
fn main() {}
