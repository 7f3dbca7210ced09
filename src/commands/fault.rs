//! How a handler says that it failed.

use crate::errors::chain;
use crate::journal::JournalError;

/// Why a command failed: one line for the server's operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

impl Fault {
    /// A fault in the given words; line breaks become blanks, length is bounded.
    pub fn new(message: impl AsRef<str>) -> Fault {
        const LONGEST: usize = 2_000;
        let line: String = message.as_ref().split_whitespace().collect::<Vec<_>>().join(" ");
        Fault(line.chars().take(LONGEST).collect())
    }

    /// The error and its causes, joined by colons.
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Fault {
        Fault::new(chain(error))
    }

    /// A fault in exactly these words.
    pub(super) fn verbatim(text: String) -> Fault {
        Fault(text)
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Lets handlers use `?` on the error enums of other modules.
macro_rules! fault_from {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Fault {
                Fault::from_error(&error)
            }
        }
    )*};
}
pub(super) use fault_from;

fault_from!(std::io::Error, serde_json::Error, JournalError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_one_bounded_line_with_their_causes() {
        let error = std::io::Error::other(serde_json::from_str::<i32>("x").unwrap_err());
        assert!(!Fault::from_error(&error).text().contains('\n'));
        assert_eq!(Fault::new("x ".repeat(5_000)).text().len(), 2_000);
    }
}
