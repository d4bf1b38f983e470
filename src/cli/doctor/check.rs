//! The result of one check.

use std::fmt;

use serde::Serialize;

/// Outcome of a check, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Nothing to fix.
    Good,
    /// A router runs, but slower or with a feature missing.
    Limited,
    /// A router cannot run.
    Missing,
}

/// One check with its outcome.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// What was found, in plain text.
    pub(super) found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<Remedy>,
}

/// How to fix a problem in each environment: an option, configuration lines or a command to paste.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Remedy {
    pub(super) docker: &'static str,
    pub(super) compose: &'static str,
    pub(super) kubernetes: &'static str,
    pub(super) systemd: &'static str,
    pub(super) host: &'static str,
}

impl Check {
    pub(super) fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Check { name, verdict, found: found.into(), remedy: None }
    }

    pub(super) fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Good, found)
    }

    pub(super) fn limited(name: &'static str, found: impl Into<String>, remedy: Remedy) -> Self {
        Check { remedy: Some(remedy), ..Self::new(name, Verdict::Limited, found) }
    }

    pub(super) fn missing(name: &'static str, found: impl Into<String>, remedy: Remedy) -> Self {
        Check { remedy: Some(remedy), ..Self::new(name, Verdict::Missing, found) }
    }
}

/// Prints a check: its verdict and, unless `told` names an earlier check with the same remedy, how to fix it.
pub(super) struct Text<'c> {
    pub(super) check: &'c Check,
    pub(super) told: Option<&'static str>,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text { check, told } = self;
        let verdict = match check.verdict {
            Verdict::Good => "good",
            Verdict::Limited => "limited",
            Verdict::Missing => "missing",
        };
        writeln!(f, "{verdict:8} {:20} {}", check.name, check.found)?;
        let Some(Remedy { docker, compose, kubernetes, systemd, host }) = check.remedy else { return Ok(()) };
        if let Some(told) = told {
            return writeln!(f, "{:9}{:20} as for {told}", "", "");
        }
        let places = [
            ("Docker", docker),
            ("Compose", compose),
            ("Kubernetes", kubernetes),
            ("systemd", systemd),
            ("host", host),
        ];
        for (place, what) in places {
            writeln!(f, "{:9}{:20} {place}: {what}", "", "")?;
        }
        Ok(())
    }
}
