//! Hands what libFuzzer makes up to the target that `HOSTILE_TARGET` names: one build for all of them.
#![no_main]

use std::sync::LazyLock;

use sandbox::hostile::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("HOSTILE_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    let (_, target) = found.expect("HOSTILE_TARGET names a folder of the corpus");
    *target
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
