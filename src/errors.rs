//! Errors in words. Messages never repeat their causes, so whoever shows one shows the chain.

use std::error::Error;

/// An error and its causes in one line, joined by colons.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn causes_follow_the_error() {
        let error = crate::wire::message::EncodeError::Json(serde_json::from_str::<u8>("x").unwrap_err());
        assert_eq!(super::chain(&error), "Body cannot be written as JSON: expected value at line 1 column 1");
    }
}
