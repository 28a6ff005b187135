//! The model file: magic, format version, a JSON header that describes the model and its arrays, the arrays
//! (little-endian), and the SHA-256 of all before it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::als::Factors;
use crate::catalogue::Catalogue;
use crate::error::{RecommenderError, Result};
use crate::ids::Ids;
use crate::model::{Model, ModelInfo};
use crate::scorers::{FEATURES, Features};

/// The version this program writes, and the newest it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"LKWDREC\n";
const CHECKSUM: usize = 32;
/// Stands for "no factors" in the file.
const NO_ROW: u32 = u32::MAX;

/// The header: the arrays that follow are popularity, recent popularity and factor row (one value an item),
/// then factors (`items_with_factors` × `factors` values).
#[derive(Serialize, Deserialize)]
struct Header {
    info: ModelInfo,
    item_ids: Vec<String>,
}

fn damaged(problem: impl Into<String>) -> RecommenderError {
    RecommenderError::DamagedModel { problem: problem.into() }
}

impl Model {
    /// The model as a file's content. The same model gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header { info: self.info.clone(), item_ids: self.items().to_vec() };
        let header = serde_json::to_vec(&header).expect("text, numbers and lists become JSON");
        let catalogue = &self.catalogue;
        let mut bytes = Vec::with_capacity(header.len() + catalogue.len() * 12 + 64);
        bytes.extend_from_slice(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        bytes.extend(catalogue.purchases.iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend(catalogue.recent.iter().flat_map(|v| v.to_le_bytes()));
        let rows = catalogue.factor_rows.iter();
        bytes.extend(rows.flat_map(|row| row.unwrap_or(NO_ROW).to_le_bytes()));
        bytes.extend(catalogue.factors.values.iter().flat_map(|v| (*v as f32).to_le_bytes()));
        let checksum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads what [`Model::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RecommenderError::NewerModel`] for a format this program does not know yet,
    /// [`RecommenderError::DamagedModel`] for anything that is not a whole model.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { rest: bytes };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(damaged("not a recommender model"));
        }
        let found = reader.u32()?;
        if found > FORMAT_VERSION {
            return Err(RecommenderError::NewerModel { found, supported: FORMAT_VERSION });
        }
        let body = bytes.len().checked_sub(CHECKSUM).ok_or_else(|| damaged("too short"))?;
        let (content, checksum) = bytes.split_at(body);
        if Sha256::digest(content).as_slice() != checksum {
            return Err(damaged("checksum does not match"));
        }
        let mut reader = Reader { rest: content.get(MAGIC.len() + 4..).unwrap_or_default() };
        let length = usize::try_from(reader.u64()?).map_err(|_| damaged("header too long"))?;
        let header: Header = serde_json::from_slice(reader.take(length)?)
            .map_err(|error| damaged(format!("header: {error}")))?;
        let model = assemble(header, &mut reader)?;
        if !reader.rest.is_empty() {
            return Err(damaged("longer than its header says"));
        }
        Ok(model)
    }
}

fn assemble(header: Header, reader: &mut Reader<'_>) -> Result<Model> {
    let Header { info, item_ids } = header;
    info.parameters.check().map_err(|error| damaged(error.to_string()))?;
    let items = Ids::new(item_ids.iter().map(String::as_str));
    if items.names() != item_ids || items.len() != info.items {
        return Err(damaged("item ids do not fit the header"));
    }
    let mut weights: Features = [0.0; FEATURES.len()];
    for (weight, name) in weights.iter_mut().zip(FEATURES) {
        *weight = *info.blend.get(name).ok_or_else(|| damaged(format!("no weight for `{name}`")))?;
    }
    let purchases = reader.floats(items.len())?;
    let recent = reader.floats(items.len())?;
    let mut rows = 0;
    let mut factor_rows = Vec::with_capacity(items.len());
    for _ in 0..items.len() {
        factor_rows.push(match reader.u32()? {
            NO_ROW => None,
            row if row == rows => {
                rows += 1;
                Some(row)
            }
            _ => return Err(damaged("factor rows out of order")),
        });
    }
    if rows as usize != info.items_with_factors {
        return Err(damaged("factor rows do not fit the header"));
    }
    let dims = info.parameters.factors;
    let factors =
        Factors { dims, values: reader.floats(rows as usize * dims)?.into_iter().map(f64::from).collect() };
    let objective = info.parameters.objective();
    Ok(Model {
        catalogue: Catalogue::new(items, purchases, recent, factor_rows, factors, objective),
        weights,
        info,
    })
}

/// Reads bytes that may end anywhere.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| damaged("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| damaged("ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn floats(&mut self, count: usize) -> Result<Vec<f32>> {
        let length = count.checked_mul(4).ok_or_else(|| damaged("array too long"))?;
        let (chunks, _) = self.take(length)?.as_chunks();
        let values: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(damaged("a number is not finite")),
        }
    }
}
