//! What these policies allowed before. A policy is a function of its input, so the same input has the same answer: a guest that
//! renews its token, or fetches its second secret, need not be judged by rego again. Everything that can change is in the input,
//! the record's standing included, and a changed policy is another [`crate::Policy`], which has allowed nothing yet.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

use crate::QuestionName;

/// How many answers are remembered. Past that it begins anew.
const MOST: usize = 16_384;

/// Digests of questions that were answered with yes. A refusal is asked again each time, and explained each time.
#[derive(Debug, Default)]
pub(crate) struct Allowed(RwLock<HashSet<[u8; 32]>>);

impl Allowed {
    /// What stands for one question.
    pub(crate) fn key(question: QuestionName, input: &str) -> [u8; 32] {
        Sha256::new().chain_update([question as u8]).chain_update(input).finalize().into()
    }

    pub(crate) fn has(&self, key: &[u8; 32]) -> bool {
        // A panic while inserting leaves a set without the one key.
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    pub(crate) fn keep(&self, key: [u8; 32]) {
        let mut allowed = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if allowed.len() >= MOST {
            allowed.clear();
        }
        allowed.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_a_bounded_number_and_keeps_questions_apart() {
        let allowed = Allowed::default();
        for n in 0..MOST * 2 {
            allowed.keep(Allowed::key(QuestionName::Token, &n.to_string()));
            assert!(allowed.0.read().unwrap().len() <= MOST);
        }
        let last = (MOST * 2 - 1).to_string();
        assert!(allowed.has(&Allowed::key(QuestionName::Token, &last)));
        assert!(!allowed.has(&Allowed::key(QuestionName::Release, &last)));
    }
}
