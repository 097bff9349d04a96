//! Tokens verified lately, so that a signature is checked once per token and not once per request.

use std::collections::HashMap;
use std::hash::Hash;

/// A bounded map of two generations: at most twice `generation_max` entries, and what is in use survives.
///
/// At the bound the older generation is dropped: those tokens are verified once more.
#[derive(Debug)]
pub(super) struct TokenCache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation_max: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> TokenCache<K, V> {
    pub(super) fn new(generation_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max,
        }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(*key, value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let mut cache = TokenCache::new(4);
        cache.insert(0, 0);
        for key in 1..100 {
            cache.insert(key, key);
            assert_eq!(cache.get(&0), Some(0), "used in every round");
            assert!(cache.young.len() + cache.old.len() <= 8);
        }
        assert_eq!(cache.get(&1), None, "long unused");
        cache.clear();
        assert_eq!(cache.get(&0), None);
    }
}
