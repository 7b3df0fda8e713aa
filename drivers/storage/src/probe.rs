//! What a server was asked and what it answered, in words for people.
//!
//! A driver asks its server on scratch keys that it removes, draws its own conclusions from the answers,
//! and reports both. Nothing here decides anything.

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The question as a few words: "create-only PUT", "rename onto a taken name is refused".
    pub question: &'static str,
    /// What the server did.
    pub answer: Answer,
    /// What follows, or what was seen; empty where the answer says it all.
    pub note: String,
}

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Yes,
    /// Not so; the note says what is done instead, or that nothing can be.
    No,
    /// The answer is a number or a word, and stands in the note.
    Told,
}

impl Answer {
    /// Returns the word a user sees.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Told => "",
        }
    }
}

/// Everything one probe found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeReport {
    /// How the server names itself, as far as it does.
    pub server: String,
    /// The answers, in the order in which they were sought.
    pub findings: Vec<Finding>,
}

impl ProbeReport {
    /// Adds an answer.
    pub fn add(&mut self, question: &'static str, answer: Answer, note: impl Into<String>) {
        self.findings.push(Finding { question, answer, note: note.into() });
    }
}
