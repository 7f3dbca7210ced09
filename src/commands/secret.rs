//! Secrets among the fields of commands.
//!
//! For use as `#[serde(default = "secret::none", deserialize_with = "secret::text")]`.

use crate::config::Secret;
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::Value;

/// The default of absent fields.
pub fn none() -> Secret {
    Secret::new("")
}

/// A [`Secret`] from text; null is an empty one.
pub fn text<'de, D: Deserializer<'de>>(d: D) -> Result<Secret, D::Error> {
    match Option::<Value>::deserialize(d)? {
        None | Some(Value::Null) => Ok(none()),
        Some(Value::String(text)) => Ok(Secret::new(text)),
        // The usual error would quote the value, and errors get into logs and answers.
        Some(_) => Err(D::Error::custom("a secret is not text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Probe {
        #[serde(default = "none", deserialize_with = "text")]
        s: Secret,
    }

    #[test]
    fn neither_value_nor_error_shows_the_secret() {
        let probe: Probe = serde_json::from_str(r#"{"s":"canary"}"#).unwrap();
        assert_eq!(probe.s.expose(), "canary");
        assert!(!format!("{probe:?}").contains("canary"));
        let error = serde_json::from_str::<Probe>(r#"{"s":4711}"#).unwrap_err();
        assert!(!error.to_string().contains("4711"), "{error}");
        let error = serde_json::from_str::<Probe>(r#"{"s":["canary"]}"#).unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn nothing_is_an_empty_secret() {
        for json in ["{}", r#"{"s":null}"#] {
            assert_eq!(serde_json::from_str::<Probe>(json).unwrap().s.expose(), "");
        }
    }
}
