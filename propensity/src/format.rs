//! A model as bytes: `{"format":1,"sha256":"…","model":{…}}`, where the checksum is over the text of `model`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Error, Model, Result};

/// The newest model format this crate reads, and the one it writes.
pub const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    sha256: String,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct Header {
    format: u32,
}

impl Model {
    /// # Errors
    /// A number that JSON cannot hold; training makes none.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let model = serde_json::value::to_raw_value(self)?;
        let envelope = Envelope { format: FORMAT, sha256: checksum(&model), model: &model };
        let mut bytes = serde_json::to_vec(&envelope)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// # Errors
    /// Bytes that are damaged, or of a newer format than [`FORMAT`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let found = serde_json::from_slice::<Header>(bytes)?.format;
        if found > FORMAT {
            return Err(Error::NewerFormat { found, supported: FORMAT });
        }
        let envelope: Envelope = serde_json::from_slice(bytes)?;
        if envelope.format != FORMAT {
            return Err(Error::Damaged("its format number is unknown"));
        }
        if envelope.sha256 != checksum(envelope.model) {
            return Err(Error::Damaged("its checksum does not match"));
        }
        Ok(serde_json::from_str(envelope.model.get())?)
    }
}

fn checksum(model: &RawValue) -> String {
    Sha256::digest(model.get()).iter().map(|byte| format!("{byte:02x}")).collect()
}
