//! The message body: a JSON array whose elements have exactly one member, the class name
//! (mirrors `com.cloud.agent.transport.ArrayTypeAdaptor`).
//!
//! Fields stay raw text ([`RawValue`]): numbers keep every digit, unknown members survive, and an
//! element of an unknown class does not disturb its neighbours.

use super::{gson, limits::MAX_ELEMENTS};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// One command or answer: its fully qualified class and its fields as a JSON object.
#[derive(Debug, Clone)]
pub struct Element {
    pub class: String,
    pub fields: Box<RawValue>,
}

impl Element {
    /// Serializes `fields` under `class`.
    pub fn new<T: Serialize + ?Sized>(class: &str, fields: &T) -> Result<Element, serde_json::Error> {
        let text = gson::to_string(fields)?;
        Ok(Element { class: class.to_owned(), fields: RawValue::from_string(text)? })
    }

    /// Reads the fields as `T`.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.fields.get())
    }

    /// Class name without its package.
    pub fn simple_name(&self) -> &str {
        simple_name(&self.class)
    }
}

/// `com.cloud.agent.api.PingCommand` → `PingCommand`.
pub fn simple_name(class: &str) -> &str {
    class.rsplit('.').next().unwrap_or(class)
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.class, &self.fields)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one member named by a class")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
                let Some(class) = map.next_key::<String>()? else {
                    return Err(de::Error::custom("element without a class name"));
                };
                let fields: Box<RawValue> = map.next_value()?;
                // Only the first member counts, as in the reference reader.
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Element { class, fields })
            }
        }
        deserializer.deserialize_map(One)
    }
}

/// A whole body, bounded in its number of elements.
#[derive(Debug)]
pub struct Body(pub Vec<Element>);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        struct Many;
        impl<'de> Visitor<'de> for Many {
            type Value = Body;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of commands or answers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Body, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == MAX_ELEMENTS {
                        return Err(de::Error::custom("more elements than allowed in one message"));
                    }
                    elements.push(element);
                }
                Ok(Body(elements))
            }
        }
        deserializer.deserialize_seq(Many)
    }
}

/// The fields that every command and every answer carries (mirrors `com.cloud.agent.api.Command`).
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub struct CommandTail {
    /// Log correlation: `logid`, `job`.
    #[serde(default, rename = "contextMap", deserialize_with = "super::lenient::or_default")]
    pub context: BTreeMap<String, String>,
    /// Seconds; 0 means the receiver's default.
    #[serde(default, deserialize_with = "super::lenient::int")]
    pub wait: i64,
}

impl CommandTail {
    /// The API call that this command belongs to, as the server's own log names it.
    pub fn logid(&self) -> &str {
        self.context.get("logid").map_or("", String::as_str)
    }
}

/// Adds the common tail to what is sent. Several server classes have no constructor, so that an
/// absent `contextMap` would be null there.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Sent<'a, T> {
    #[serde(flatten)]
    pub fields: &'a T,
    #[serde(rename = "contextMap")]
    context: Empty,
    wait: i32,
    #[serde(rename = "bypassHostMaintenance")]
    bypass_host_maintenance: bool,
}

impl<'a, T> Sent<'a, T> {
    pub fn new(fields: &'a T) -> Sent<'a, T> {
        Sent { fields, context: Empty {}, wait: 0, bypass_host_maintenance: false }
    }
}

#[derive(Debug, Clone, serde::Serialize)]
struct Empty {}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> Result<Body, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn only_the_first_member_of_an_element_counts() {
        let Body(elements) = body(r#"[{"a.B":{"n":9223372036854775807},"c.D":{}}]"#).unwrap();
        assert_eq!(elements.len(), 1);
        assert_eq!(elements[0].simple_name(), "B");
        assert_eq!(elements[0].fields.get(), r#"{"n":9223372036854775807}"#);
    }

    #[test]
    fn shapes_that_are_not_a_body_are_refused() {
        for json in ["{}", "[1]", "[{}]", "[{\"a\":{}}", "", "null"] {
            assert!(body(json).is_err(), "{json}");
        }
        let many = format!("[{}]", vec![r#"{"a":{}}"#; MAX_ELEMENTS + 1].join(","));
        assert!(body(&many).is_err());
    }

    #[test]
    fn deep_nesting_is_kept_raw_and_refused_when_read() {
        let deep = format!(r#"[{{"a.B":{}{}}}]"#, "[".repeat(100_000), "]".repeat(100_000));
        let Body(elements) = body(&deep).unwrap();
        assert!(elements[0].read::<serde_json::Value>().is_err());
    }

    #[test]
    fn a_tail_reads_nulls_as_absent() {
        let tail: CommandTail = serde_json::from_str(r#"{"contextMap":null,"wait":null,"x":1}"#).unwrap();
        assert_eq!((tail.logid(), tail.wait), ("", 0));
    }
}
