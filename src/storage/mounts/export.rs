//! An NFS export as it is named in URLs, mount options, and the kernel's table.

use super::error::MountError;

const LONGEST: usize = 1024;
const MOST_OPTIONS: usize = 32;

/// A directory of an NFS server, checked, with the options to mount it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    host: String,
    directory: String,
    /// Sorted, without repetition.
    options: Vec<String>,
}

impl Export {
    /// `directory` loses the slash at its end; an IPv6 address may have brackets.
    pub fn new(host: &str, directory: &str, options: &[String]) -> Result<Export, MountError> {
        let error = || MountError::Export { text: format!("{host}:{directory}").chars().take(200).collect() };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        let named =
            !host.is_empty() && host.len() <= 255 && !host.starts_with('-') && host.chars().all(legal);
        let trimmed = match directory.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        };
        let rooted = directory.starts_with('/')
            && directory.len() <= LONGEST
            && !directory.split('/').any(|part| part == "..")
            && !directory.contains(char::is_control);
        if !named || !rooted {
            return Err(error());
        }
        if let Some(option) = options.iter().find(|option| !is_option(option)) {
            return Err(MountError::Option { option: option.chars().take(200).collect() });
        }
        let mut options: Vec<String> = options.iter().take(MOST_OPTIONS).cloned().collect();
        options.sort();
        options.dedup();
        Ok(Export { host: host.to_owned(), directory: trimmed.to_owned(), options })
    }

    /// Splits a pool detail `nfsmountopts` such as `vers=4.1, nconnect=4`.
    pub fn split_options(text: &str) -> Vec<String> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        text.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect()
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn directory(&self) -> &str {
        &self.directory
    }

    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// As `mount` takes it and the kernel shows it.
    pub fn source(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.directory)
        } else {
            format!("{}:{}", self.host, self.directory)
        }
    }
}

fn is_option(option: &str) -> bool {
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '=' | '.' | '_' | '-' | ':' | '/' | '@' | '+');
    !option.is_empty() && option.len() <= 255 && !option.starts_with('-') && option.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_named_as_the_kernel_names_them() {
        let options = Export::split_options(" vers=4.1, nconnect=4,,vers=4.1 ");
        let export = Export::new("10.0.0.1", "/export/primary/", &options).unwrap();
        assert_eq!(export.source(), "10.0.0.1:/export/primary");
        assert_eq!(export.options(), ["nconnect=4", "vers=4.1"]);
        assert_eq!(Export::new("[fd00::1]", "/", &[]).unwrap().source(), "[fd00::1]:/");
    }

    #[test]
    fn what_would_be_read_as_something_else_is_refused() {
        for (host, directory) in [
            ("", "/x"),
            ("-o", "/x"),
            ("h", "x"),
            ("h", ""),
            ("h", "/a/../b"),
            ("h", "/a\nb"),
            ("h x", "/x"),
            ("h,", "/x"),
        ] {
            assert!(
                matches!(Export::new(host, directory, &[]), Err(MountError::Export { .. })),
                "{host} {directory}"
            );
        }
        for option in ["", "-x", "a b", "a,b", "$(id)"] {
            let error = Export::new("h", "/x", &[option.to_owned()]).unwrap_err();
            assert!(matches!(error, MountError::Option { .. }), "{option}");
        }
    }
}
