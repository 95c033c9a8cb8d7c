//! What a store tells about what it is connected to.

use std::fmt;

/// What a store tells about what it is connected to, for people and for tools that look for the cause of trouble. It never
/// holds a credential.
///
/// What the store promises because of it is in [`Guarantees`](crate::Guarantees).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Where it is: a URL without its password, or a path.
    pub store: String,
    /// What was found, such as a version, a role and settings, under the names that the server's own manual uses.
    pub facts: Vec<Fact>,
    /// What about the settings weakens what is promised; empty if nothing does.
    pub weaknesses: Vec<Weakness>,
}

/// One thing that a store found out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fact {
    /// What it is.
    pub name: &'static str,
    /// How it is; `None` if the server does not tell this user.
    pub value: Option<String>,
}

/// A setting because of which less is promised.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Weakness {
    /// The setting's name.
    pub setting: &'static str,
    /// What it is now; `None` if this user may not ask.
    pub found: Option<String>,
    /// What can happen.
    pub consequence: &'static str,
    /// How to set it right.
    pub remedy: &'static str,
}

impl Report {
    /// A report about the store that is there. Backends make it.
    #[must_use]
    pub fn new(store: impl Into<String>) -> Self {
        Self { store: store.into(), facts: Vec::new(), weaknesses: Vec::new() }
    }

    /// With one more fact; `None` if the server does not tell.
    #[must_use]
    pub fn with_fact(mut self, name: &'static str, value: Option<String>) -> Self {
        self.facts.push(Fact { name, value });
        self
    }

    /// With these weaknesses.
    #[must_use]
    pub fn with_weaknesses(mut self, weaknesses: Vec<Weakness>) -> Self {
        self.weaknesses = weaknesses;
        self
    }

    /// The value of the fact of this name; `None` if there is no such fact or its value is unknown.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|fact| fact.name == name)?.value.as_deref()
    }
}

impl Weakness {
    /// A weakness of this setting, as it was found. Backends make it.
    #[must_use]
    pub fn new(
        setting: &'static str,
        found: Option<String>,
        consequence: &'static str,
        remedy: &'static str,
    ) -> Self {
        Self { setting, found, consequence, remedy }
    }
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some(found) => write!(f, "{} is {found}: {}", self.setting, self.consequence)?,
            None => write!(f, "{} is unknown, so perhaps {}", self.setting, self.consequence)?,
        }
        write!(f, "; {}", self.remedy)
    }
}
