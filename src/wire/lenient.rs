//! Scalars as the servers' reader takes them: `5`, `5.0` and `"5"` are the same integer, `"true"` is
//! a boolean, and an explicit `null` is the same as an absent field.
//!
//! For use as `#[serde(default, deserialize_with = "lenient::int")]`.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;

struct Int;

impl<'de> Visitor<'de> for Int {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, an integer in quotes, or null")
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Self::Value, E> {
        Ok(Some(v))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Self::Value, E> {
        i64::try_from(v).map(Some).map_err(|_| E::custom("integer does not fit 64 bits"))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Self::Value, E> {
        // 2^53: above it a double no longer names one integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if v.fract() == 0.0 && v.abs() <= EXACT {
            #[allow(clippy::cast_possible_truncation)] // checked by the line above
            return Ok(Some(v as i64));
        }
        Err(E::custom("number is not an integer"))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
        v.trim().parse().map(Some).map_err(|_| E::custom("text is not an integer"))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct Bool;

impl Visitor<'_> for Bool {
    type Value = Option<bool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, the same in quotes, or null")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Self::Value, E> {
        Ok(Some(v))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Some(v.eq_ignore_ascii_case("true")))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// `Option<i64>`: absent and null are `None`.
pub fn opt_int<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    d.deserialize_any(Int)
}

/// `i64`: absent and null are 0.
pub fn int<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    Ok(opt_int(d)?.unwrap_or_default())
}

/// `Option<bool>`: absent and null are `None`.
pub fn opt_flag<'de, D: Deserializer<'de>>(d: D) -> Result<Option<bool>, D::Error> {
    d.deserialize_any(Bool)
}

/// `bool`: absent and null are `false`.
pub fn flag<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Ok(opt_flag(d)?.unwrap_or_default())
}

/// A string, list or map whose explicit `null` reads as its default.
pub fn or_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Probe {
        #[serde(default, deserialize_with = "super::opt_int")]
        n: Option<i64>,
        #[serde(default, deserialize_with = "super::flag")]
        b: bool,
        #[serde(default, deserialize_with = "super::or_default")]
        l: Vec<String>,
    }

    fn probe(json: &str) -> Result<Probe, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn all_spellings_of_a_scalar_are_read() {
        for (json, n) in
            [(r#"{"n":5}"#, 5), (r#"{"n":"5"}"#, 5), (r#"{"n":5.0}"#, 5), (r#"{"n":1.6E7}"#, 16_000_000)]
        {
            assert_eq!(probe(json).unwrap().n, Some(n), "{json}");
        }
        assert_eq!(probe(r#"{"n":9223372036854775807}"#).unwrap().n, Some(i64::MAX));
        assert!(probe(r#"{"b":"true"}"#).unwrap().b);
        assert!(!probe(r#"{"b":"no"}"#).unwrap().b);
        assert_eq!(probe(r#"{"n":null,"b":null,"l":null}"#).unwrap(), Probe { n: None, b: false, l: vec![] });
        assert_eq!(probe("{}").unwrap(), Probe { n: None, b: false, l: vec![] });
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(probe(r#"{"n":"five"}"#).is_err());
        assert!(probe(r#"{"n":5.5}"#).is_err());
        assert!(probe(r#"{"n":18446744073709551615}"#).is_err());
    }
}
