//! Values that an answer gives back as they came, fields that this agent does not know included.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::fmt;

/// A value read as `T` together with all that was on the wire, but for passphrases: no server reads
/// those back.
#[derive(Clone)]
pub struct Echo<T> {
    pub value: T,
    raw: Value,
}

/// What was on the wire may have passwords, which the value's own type knows how to hide.
impl<T: fmt::Debug> fmt::Debug for Echo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Echo<T> {
    /// Gives a member of what goes back another value.
    pub fn set(&mut self, member: &str, value: impl Into<Value>) {
        if let Value::Object(members) = &mut self.raw {
            members.insert(member.to_owned(), value.into());
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Echo<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Echo<T>, D::Error> {
        let text = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        let value = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        let mut raw = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        blank(&mut raw);
        Ok(Echo { value, raw })
    }
}

impl<T> Serialize for Echo<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

/// Empties every passphrase. Bounded by the depth that the wire accepts.
fn blank(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::Array(bytes) if name == "passphrase" => bytes.clear(),
                    member => blank(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::to::DiskTo;

    #[test]
    fn unknown_members_go_back_and_passphrases_do_not() {
        let json = r#"{"diskSeq":1,"new":{"x":[1,"2"]},"data":{"a.B":{"passphrase":[1,2]}}}"#;
        let disk: Echo<DiskTo> = serde_json::from_str(json).unwrap();
        assert_eq!(disk.value.disk_seq, Some(1));
        let back = serde_json::to_value(&disk).unwrap();
        let expected: Value = serde_json::from_str(&json.replace("[1,2]", "[]")).unwrap();
        assert_eq!(back, expected);
        assert_eq!(format!("{disk:?}"), format!("{:?}", disk.value));
    }
}
