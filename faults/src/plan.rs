//! What a site does at each visit, and how that is written.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::SITES;

/// `FAILPOINTS` is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("FAILPOINTS: {0:?} is not SITE=ACTIONS")]
    NoActions(String),
    #[error("FAILPOINTS: there is no failpoint {site:?}; there are {}", SITES.join(", "))]
    UnknownSite { site: String },
    #[error(
        "FAILPOINTS: {action:?} is no action of {site}: write off, return(kill), return(error) or \
         return(pause 500), with 2* before it for two times, and -> between actions"
    )]
    Action { site: String, action: String },
    #[error("FAILPOINTS: set already in this process")]
    Armed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Off,
    Kill,
    Error,
    Pause(Duration),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Kill => f.write_str("kill"),
            Self::Error => f.write_str("error"),
            Self::Pause(time) => write!(f, "pause {}", time.as_millis()),
        }
    }
}

/// Actions one after the other, each a number of times or (`None`) for good.
#[derive(Debug)]
pub(crate) struct Plan(Vec<(Option<u64>, Action)>);

impl Plan {
    /// What to do at this visit.
    pub(crate) fn next(&mut self) -> Option<Action> {
        let (left, action) = self.0.iter_mut().find(|(left, _)| *left != Some(0))?;
        if let Some(left) = left {
            *left -= 1;
        }
        Some(*action)
    }
}

pub(crate) fn parse(spec: &str) -> Result<BTreeMap<String, Plan>, SpecError> {
    let parts = spec.split(';').map(str::trim).filter(|part| !part.is_empty());
    parts.map(plan).collect()
}

fn plan(part: &str) -> Result<(String, Plan), SpecError> {
    let (site, actions) = part.split_once('=').ok_or_else(|| SpecError::NoActions(part.to_owned()))?;
    if !SITES.contains(&site) {
        return Err(SpecError::UnknownSite { site: site.to_owned() });
    }
    let wrong = |action: &str| SpecError::Action { site: site.to_owned(), action: action.to_owned() };
    let steps = actions.split("->").map(|action| step(action).ok_or_else(|| wrong(action)));
    Ok((site.to_owned(), Plan(steps.collect::<Result<_, _>>()?)))
}

/// `COUNT*ACTION` or `ACTION`.
fn step(text: &str) -> Option<(Option<u64>, Action)> {
    let (times, text) = match text.split_once('*') {
        Some((times, rest)) => (Some(times.parse().ok()?), rest),
        None => (None, text),
    };
    Some((times, action(text)?))
}

fn action(text: &str) -> Option<Action> {
    match text.strip_prefix("return(").and_then(|text| text.strip_suffix(')')) {
        None => (text == "off").then_some(Action::Off),
        Some("kill") => Some(Action::Kill),
        Some("error") => Some(Action::Error),
        Some(told) => {
            let milliseconds = told.strip_prefix("pause ")?.parse().ok()?;
            Some(Action::Pause(Duration::from_millis(milliseconds)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_does_what_it_was_told_and_then_nothing() {
        let spec = " file_put=2*off->1*return(error)->1*return(pause 700); commit_sent=return(kill);";
        let mut plans = parse(spec).expect("it is right");
        let [put, sent] = ["file_put", "commit_sent"].map(|site| {
            let plan = plans.get_mut(site).expect("it is told something");
            [0; 5].map(|_| plan.next())
        });
        let pause = Action::Pause(Duration::from_millis(700));
        assert_eq!(put, [Some(Action::Off), Some(Action::Off), Some(Action::Error), Some(pause), None]);
        assert_eq!(sent, [Some(Action::Kill); 5]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (spec, word) in [
            ("commit_sent", "SITE=ACTIONS"),
            ("comit_sent=return(kill)", "no failpoint"),
            ("commit_sent=return(kil)", "no action"),
            ("commit_sent=return", "no action"),
            ("commit_sent=return(pause)", "no action"),
            ("commit_sent=x*return(kill)", "no action"),
            ("file_put=off;commit_sent=off->explode", "\"explode\" is no action of commit_sent"),
        ] {
            let error = parse(spec).expect_err(spec).to_string();
            assert!(error.contains(word), "{spec}: {error}");
        }
    }
}
