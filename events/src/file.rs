//! A contract in a file, which may change while it is in use.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{Contract, ContractError, EventsError};

/// Of behaviour events, as it is shipped.
const SHIPPED: &str = include_str!("../../contracts/tracking.raw_user_behavior.yaml");
/// Of changes of the shop's table of events.
const SHIPPED_CHANGES: &str = include_str!("../../contracts/tracking_postgres_cdc.public.events.yaml");

/// A contract and the file that it came from.
#[derive(Debug, Clone)]
pub struct ContractFile {
    /// `None`: the shipped one.
    path: Option<PathBuf>,
    text: String,
    current: Arc<Contract>,
}

/// What became of a contract's file.
#[derive(Debug)]
pub enum Change {
    None,
    /// The new one is in use from now on.
    Taken,
    /// The new one cannot be used; that of before stays. Told once for each state of the file.
    Refused(ContractError),
}

impl ContractFile {
    /// The contract in `path`, or without one that of behaviour events as it is shipped.
    ///
    /// # Errors
    /// The file cannot be read, or is no contract that can be checked.
    pub fn open(path: Option<&Path>) -> Result<Self, EventsError> {
        Self::open_or(path, SHIPPED)
    }

    /// The same of changes of the shop's table of events.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_changes(path: Option<&Path>) -> Result<Self, EventsError> {
        Self::open_or(path, SHIPPED_CHANGES)
    }

    fn open_or(path: Option<&Path>, shipped: &str) -> Result<Self, EventsError> {
        let text = match path {
            Some(path) => fs::read_to_string(path)
                .map_err(|source| EventsError::File { path: path.to_owned(), source })?,
            None => shipped.to_owned(),
        };
        let current = Contract::parse(&text).map_err(|source| EventsError::Contract {
            path: path.unwrap_or(Path::new("the shipped contract")).to_owned(),
            source,
        })?;
        Ok(Self { path: path.map(Path::to_owned), text, current: Arc::new(current) })
    }

    pub fn contract(&self) -> &Arc<Contract> {
        &self.current
    }

    /// Reads the file again. One that cannot be read just now, as while it is replaced, is as before.
    pub fn refresh(&mut self) -> Change {
        let Some(text) = self.path.as_ref().and_then(|path| fs::read_to_string(path).ok()) else {
            return Change::None;
        };
        if text == self.text {
            return Change::None;
        }
        let parsed = Contract::parse(&text);
        self.text = text;
        match parsed {
            Ok(contract) => {
                self.current = Arc::new(contract);
                Change::Taken
            }
            Err(error) => Change::Refused(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_taken_and_a_broken_one_is_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("contract.yaml");
        fs::write(&path, SHIPPED).expect("it is written");
        let mut file = ContractFile::open(Some(&path)).expect("a contract");
        let version = file.contract().version().to_owned();
        assert!(matches!(file.refresh(), Change::None));
        fs::write(&path, "kind: [").expect("it is written");
        assert!(matches!(file.refresh(), Change::Refused(_)));
        assert!(matches!(file.refresh(), Change::None));
        assert_eq!(file.contract().version(), version);
        let newer = SHIPPED.replace(&format!("version: {version}"), "version: 99.0.0");
        fs::write(&path, newer).expect("it is written");
        assert!(matches!(file.refresh(), Change::Taken));
        assert_eq!(file.contract().version(), "99.0.0");
        fs::remove_file(&path).expect("it is removed");
        assert!(matches!(file.refresh(), Change::None));
    }
}
