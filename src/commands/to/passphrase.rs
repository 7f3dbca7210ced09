//! The key of an encrypted volume: a JSON array of signed bytes on the wire.

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// Bytes of a passphrase, overwritten when dropped and never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A volume without one is not encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "***" })
    }
}

impl<'de> Deserialize<'de> for Passphrase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Passphrase, D::Error> {
        // Java's bytes are signed; unsigned ones are taken as well.
        let numbers = Zeroizing::new(Vec::<i16>::deserialize(deserializer)?);
        let mut bytes = Zeroizing::new(Vec::with_capacity(numbers.len()));
        for number in numbers.iter() {
            if !(-128..=255).contains(number) {
                return Err(serde::de::Error::custom("a byte of the passphrase is out of range"));
            }
            #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
            // two's complement, on purpose
            bytes.push(*number as u8);
        }
        Ok(Passphrase(bytes))
    }
}
