//! What a capture has to say besides its result: in whole sentences, for people.
//!
//! The user sees all of it, even with `--quiet`. It is in the result for programs too, and is kept in the snapshot's
//! note.

/// What was found on the way that does not stop the capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What was asked for and is not in the snapshot, and why.
    pub missing: Vec<String>,
    /// What the user should know although everything he asked for is there.
    pub warnings: Vec<String>,
}

impl Findings {
    /// Adds what another part has found.
    pub fn extend(&mut self, other: Self) {
        self.missing.extend(other.missing);
        self.warnings.extend(other.warnings);
    }

    /// Tells whether everything that was asked for is there.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Returns every sentence: what is missing first.
    pub fn sentences(&self) -> Vec<String> {
        self.missing.iter().chain(&self.warnings).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_first_and_makes_the_whole_incomplete() {
        let mut findings = Findings { missing: Vec::new(), warnings: vec!["a".into()] };
        assert!(findings.is_complete());
        findings.extend(Findings { missing: vec!["b".into()], warnings: vec!["c".into()] });
        assert!(!findings.is_complete());
        assert_eq!(findings.sentences(), ["b", "a", "c"]);
    }
}
