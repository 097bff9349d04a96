//! Hostile input: a target for each thing that reads what comes from outside, and what must hold whatever it reads.
//!
//! A target takes any bytes, and fails by a panic. `tests/fuzz` looks for such bytes; what it has found, and what people wrote
//! for it to begin with, lies in `tests/fuzz/corpus` and is played by a test here.

mod access_tokens;
mod answers;
mod bodies;
mod callers;
mod configuration;
mod look_ups;
mod processor;
mod requests;
mod tables;
mod texts;
mod theirs;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// Each with its name, which is its folder's in the corpus, too.
pub const TARGETS: &[(&str, Target)] = &[
    ("bearer_tokens", callers::bearer_tokens),
    ("code_tables", tables::code_tables),
    ("configurations", configuration::configurations),
    ("request_bodies", bodies::request_bodies),
    ("requests", requests::requests),
    ("texts", texts::texts),
    ("upstream_answers", answers::upstream_answers),
    ("upstream_look_ups", look_ups::upstream_look_ups),
    ("upstream_tokens", access_tokens::upstream_tokens),
    ("verification_keys", callers::verification_keys),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn corpus() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"))
    }

    #[test]
    fn every_target_has_its_corpus() {
        let folders = fs::read_dir(corpus()).expect("the corpus");
        let folders = folders.map(|folder| folder.expect("readable").file_name());
        let folders: BTreeSet<_> = folders.filter_map(|name| name.into_string().ok()).collect();
        let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(folders, targets);
    }

    #[test]
    fn what_was_found_before_is_withstood() {
        for (name, target) in TARGETS {
            let mut count = 0;
            for file in fs::read_dir(corpus().join(name)).expect("its corpus") {
                let path = file.expect("readable").path();
                // Seen in the output if the target panics.
                println!("{}", path.display());
                target(&fs::read(&path).expect("read"));
                count += 1;
            }
            assert!(count > 0, "{name}");
            target(b"");
        }
    }
}
