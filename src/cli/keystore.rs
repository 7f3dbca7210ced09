//! `keystore-setup` and `keystore-cert-import`: called by management servers over ssh, by the paths of
//! cloudstack-common. Arguments are positional, as those scripts have them.

use std::path::PathBuf;

use clap::Args;

use super::out;
use super::setup::RootArg;
use crate::config::Secret;
use crate::errors::chain;
use crate::service::exit;
use crate::setup::keystore::{ImportRequest, SetupRequest, import, setup};

/// What the scripts return when they fail.
const FAILED: u8 = 1;

#[derive(Debug, Args)]
pub struct KeystoreSetupArgs {
    #[command(flatten)]
    root: RootArg,
    /// agent.properties: has the keystore's password, or gets it
    properties: PathBuf,
    /// cloud.jks
    keystore: PathBuf,
    /// Password for a keystore that has none yet
    #[arg(value_parser = secret)]
    passphrase: Secret,
    /// Days that the certificate is to hold; the management server decides
    #[arg(allow_hyphen_values = true)]
    validity: String,
    /// cloud.csr, which is printed too
    csr: PathBuf,
}

#[derive(Debug, Args)]
pub struct KeystoreImportArgs {
    #[command(flatten)]
    root: RootArg,
    /// agent.properties: has the keystore's password
    properties: PathBuf,
    /// Not used: the password in agent.properties counts
    #[arg(value_parser = secret)]
    passphrase: Secret,
    /// cloud.jks
    keystore: PathBuf,
    /// Who calls: ssh or agent
    mode: String,
    /// cloud.crt
    certificate_file: PathBuf,
    /// The certificate, with ^ for line ends and ~ for blanks; empty: the file has it
    #[arg(allow_hyphen_values = true)]
    certificate: String,
    /// cloud.ca.crt
    ca_file: PathBuf,
    /// The CA certificates, written likewise
    #[arg(allow_hyphen_values = true)]
    ca: String,
    /// cloud.key
    key_file: PathBuf,
    /// The private key, written likewise; empty: that of the last keystore-setup
    #[arg(allow_hyphen_values = true, value_parser = secret, default_value = "", hide_default_value = true)]
    key: Secret,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// Names given by hand may be relative.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Prints the certificate request and returns the exit code.
pub async fn run_setup(args: KeystoreSetupArgs) -> u8 {
    let request = SetupRequest {
        properties: absolute(args.properties),
        keystore: absolute(args.keystore),
        passphrase: args.passphrase,
        csr: absolute(args.csr),
    };
    match setup(&args.root.root(), &request).await {
        Ok(csr) => {
            out::show(&csr);
            exit::OK
        }
        Err(error) => failed(&chain(&error)),
    }
}

/// Installs the certificate and returns the exit code.
pub async fn run_import(args: KeystoreImportArgs) -> u8 {
    let request = ImportRequest {
        properties: absolute(args.properties),
        keystore: absolute(args.keystore),
        certificate_file: absolute(args.certificate_file),
        certificate: args.certificate,
        ca_file: absolute(args.ca_file),
        ca: args.ca,
        key_file: absolute(args.key_file),
        key: args.key,
    };
    match import(&args.root.root(), &request).await {
        Ok(imported) => {
            for problem in &imported.problems {
                out::complain(&format!("libvirt does not use the certificate: {problem}"));
            }
            if let Some(error) = imported.libvirt.filter(|_| imported.problems.is_empty()) {
                out::complain(&format!("libvirt does not use the certificate: {}", chain(&error)));
            }
            exit::OK
        }
        Err(error) => failed(&chain(&error)),
    }
}

fn failed(text: &str) -> u8 {
    out::complain(text);
    FAILED
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Import {
        #[command(flatten)]
        args: KeystoreImportArgs,
    }

    #[test]
    fn the_line_of_a_management_server_is_understood() {
        let line = [
            "keystore-cert-import",
            "/etc/cloudstack/agent/agent.properties",
            "canary",
            "/etc/cloudstack/agent/cloud.jks",
            "ssh",
            "/etc/cloudstack/agent/cloud.crt",
            "-----BEGIN~CERTIFICATE-----^x^",
            "/etc/cloudstack/agent/cloud.ca.crt",
            "-----BEGIN~CERTIFICATE-----^y^",
            "/etc/cloudstack/agent/cloud.key",
            "",
        ];
        let args = Import::try_parse_from(line).unwrap().args;
        assert_eq!(args.certificate, "-----BEGIN~CERTIFICATE-----^x^");
        assert_eq!((args.mode.as_str(), args.key.expose()), ("ssh", ""));
        assert!(!format!("{args:?}").contains("canary"));
        let without_key = Import::try_parse_from(&line[..10]).unwrap().args;
        assert_eq!(without_key.key.expose(), "");
        Import::try_parse_from(&line[..9]).unwrap_err();
    }
}
