//! A cache that cannot grow: two generations, of which the older is dropped as a whole.
//!
//! What is looked up stays; what nobody asked for during one generation goes. That is nearly least-recently-used, and costs a
//! reader one hash look-up and no write.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

/// At most `2 × capacity` weight of values by key.
pub struct Bounded<K, V> {
    generations: RwLock<Generations<K, V>>,
    capacity: usize,
}

struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// Of `young`.
    weight: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Bounded<K, V> {
    /// Holds values of at least `capacity` and at most twice that weight, in whatever unit [`Self::insert`] is told.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new(), weight: 0 };
        Self { generations: RwLock::new(generations), capacity }
    }

    /// The value, if it is still here. `weight` is needed again because finding an old value makes it young.
    #[must_use]
    pub fn get(&self, key: &K, weight: impl FnOnce(&V) -> usize) -> Option<V> {
        let value = {
            // Poisoned or not, the maps are whole: nothing that can panic happens between their changes.
            let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(value) = generations.young.get(key) {
                return Some(value.clone());
            }
            generations.old.get(key)?.clone()
        };
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have cleared it meanwhile: what is gone does not come back.
        let (key, _) = generations.old.remove_entry(key)?;
        generations.put(key, value.clone(), weight(&value), self.capacity);
        Some(value)
    }

    /// Puts a value of some weight in. One heavier than the whole cache is not kept.
    pub fn insert(&self, key: K, value: V, weight: usize) {
        self.generations.write().unwrap_or_else(PoisonError::into_inner).put(key, value, weight, self.capacity);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        *generations = Generations { young: HashMap::new(), old: HashMap::new(), weight: 0 };
    }

    /// How many values there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        generations.young.len() + generations.old.len()
    }
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn put(&mut self, key: K, value: V, weight: usize, capacity: usize) {
        if weight > capacity {
            return;
        }
        if self.weight + weight > capacity {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        // Counted even where it replaces one of the same key: the sum is a bound, not an inventory.
        self.weight += weight;
        self.young.insert(key, value);
    }
}

impl<K, V> fmt::Debug for Bounded<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bounded(at most 2 x {})", self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_twice_its_capacity() {
        let cache = Bounded::new(100);
        for key in 0..10_000_u32 {
            cache.insert(key, key, 10);
            assert!(cache.len() <= 20, "{} values of weight 10", cache.len());
        }
        cache.insert(10_000, 0, 101);
        assert_eq!(cache.get(&10_000, |_| 101), None);
        assert_eq!(cache.get(&9_999, |_| 10), Some(9_999));
        for _ in 0..1000 {
            cache.insert(1, 1, 10);
        }
        assert!(cache.len() <= 20);
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let cache = Bounded::new(10);
        cache.insert("asked", 0, 1);
        cache.insert("not asked", 0, 1);
        for n in 0..100 {
            cache.insert("other", n, 1);
            assert_eq!(cache.get(&"asked", |_| 1), Some(0));
        }
        assert_eq!(cache.get(&"not asked", |_| 1), None);
        cache.clear();
        assert_eq!((cache.len(), cache.get(&"asked", |_| 1)), (0, None));
    }
}
