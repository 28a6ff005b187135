//! Columns of which the lake gets a hash instead of the value.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::hex;

/// What is hashed before a value's text, so that nobody finds the value by hashing likely ones. It is a secret.
#[derive(Clone, Default)]
pub struct Salt(Arc<str>);

impl Salt {
    pub fn new(salt: impl Into<Arc<str>>) -> Self {
        Self(salt.into())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Lower-case hexadecimal SHA-256 of the salt and the value's text: what Postgres makes of
    /// `encode(sha256(convert_to(salt || value, 'UTF8')), 'hex')`.
    pub(crate) fn hash(&self, value: &[u8]) -> String {
        hex::encode(&Sha256::new_with_prefix(self.0.as_bytes()).chain_update(value).finalize())
    }

    /// Tells one salt from another: hashes of two are never compared.
    pub(crate) fn mark(&self) -> u32 {
        let digest = Sha256::digest(format!("the mark of {}", self.0));
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_salt_and_value() {
        // echo -n 'abc' | sha256sum
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Salt::new("a").hash(b"bc"), abc);
        assert_eq!(Salt::default().hash(b"abc"), abc);
        assert_ne!(Salt::new("a").mark(), Salt::new("b").mark());
        assert_eq!(format!("{:?}", Salt::new("secret")), "***");
    }
}
